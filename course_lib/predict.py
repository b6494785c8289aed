"""Run a trained model: over examples, to logits; over texts, to labels; over a file, to a file or a score."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from course_lib import CourseError
from course_lib.bert import BertModel
from course_lib.cache import compiled, enable_compile_cache
from course_lib.checkpoint import load_pretrained
from course_lib.data import (
    TICKETS_NAME,
    Batch,
    Examples,
    batches,
    bucket_lengths,
    class_indices,
    load_tickets,
    load_tokenizer,
    read_table,
    tokenize,
)
from course_lib.evaluate import Evaluation, evaluate
from course_lib.files import check_target, write_csv, write_text


def buckets_for(model: nnx.Module, examples: Examples) -> tuple[int, ...]:
    """The padded lengths that suit these examples and that the model has positions for."""
    return bucket_lengths(examples.lengths, longest=model.config.max_position_embeddings)


LENGTHS = (16, 24, 32, 40, 48, 64, 128, 256, 512)  # padded lengths, in tokens, as far as the model takes them


def _apart(model: nnx.Module) -> tuple:
    """(graph, tree, leaves): what stays as it is, and the parameters as a plain list, which JAX passes on quickest."""
    graph, params = nnx.split(model, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    return graph, tree, leaves


def _logits(graph, tree, leaves: list[jax.Array], batch: Batch) -> jax.Array:
    model = nnx.merge(graph, jax.tree.unflatten(tree, leaves))
    return model(batch.input_ids, batch.attention_mask)  # no rngs: no dropout


def predict_logits(
    model: nnx.Module, examples: Examples, batch_size: int = 32, buckets: Sequence[int] | None = None
) -> np.ndarray:
    """float32 [n, classes], in the order of `examples`, all of them: rows that only fill a batch are dropped here."""
    if buckets is None:
        buckets = buckets_for(model, examples) if len(examples) else ()
    return _run(_apart(model), examples, batch_size, buckets, len(model.config.labels))


def _run(parts: tuple, examples: Examples, batch_size: int, buckets: Sequence[int], classes: int) -> np.ndarray:
    logits = np.zeros((len(examples), classes), np.float32)
    if len(examples) == 0:
        return logits
    logits_of = compiled(_logits, ("graph", "tree"))
    results = [(batch, logits_of(*parts, batch)) for batch in batches(examples, batch_size, buckets)]
    for batch, values in results:
        real = batch.index >= 0
        logits[batch.index[real]] = np.asarray(values)[real]
    return logits


def embed(model: BertModel, examples: Examples, batch_size: int = 32) -> np.ndarray:
    """One vector a text, float32 [n, H] of length 1: the mean of its tokens' vectors, scaled.

    Sentence-BERT's mean pooling (Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3), which the
    course's pretrained model was trained for: the dot product of two such vectors says how alike two texts are.
    """
    graph, params = nnx.split(model, nnx.Param)
    vectors_of = compiled(_mean_vectors, "graph")
    vectors = np.zeros((len(examples), model.config.hidden_size), np.float32)
    for batch in batches(examples, batch_size, buckets_for(model, examples)):
        real = batch.index >= 0
        vectors[batch.index[real]] = np.asarray(vectors_of(graph, params, batch))[real]
    return vectors


def _mean_vectors(graph, params, batch: Batch) -> jax.Array:
    hidden = nnx.merge(graph, params)(batch.input_ids, batch.attention_mask)  # [B, T, H]
    total = (hidden * batch.attention_mask[:, :, None]).sum(axis=1)  # [B, H]; the mean's divisor cancels below
    return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Prediction:
    """The most probable label of one text, and how probable the model holds it to be (0 to 1)."""

    label: str
    probability: float


class Predictor:
    """A fine-tuned model with its tokenizer and labels: texts in, predictions out, in the same order.

    Padded lengths are fixed when it is made (`LENGTHS`, up to the longest the model takes), so that a given batch
    size compiles once a length and never again.
    """

    def __init__(self, folder: str | Path, batch_size: int = 32):
        """Load from a folder in Hugging Face layout. CourseError where it holds no fine-tuned classifier."""
        enable_compile_cache()
        self.folder = Path(folder)
        self.model = load_pretrained(folder)
        self.tokenizer = load_tokenizer(folder, self.model.config.vocab_size)
        self.labels = self.model.config.labels
        self.batch_size = batch_size
        longest = self.model.config.max_position_embeddings
        self.max_length = min(longest, self.tokenizer.model_max_length)
        self.buckets = (*(length for length in LENGTHS if length < longest), longest)
        self._parts = _apart(self.model)  # once, not for each message: it takes longer than reading one

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, classes]. CourseError where the model's weights are so large that there is no number."""
        examples = tokenize(self.tokenizer, texts, self.max_length)
        logits = _run(self._parts, examples, self.batch_size, self.buckets, len(self.labels))
        if not np.isfinite(logits).all():
            raise CourseError(f"{self.folder}: this model answers with NaN or infinity; fine-tune it again")
        return logits

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction a text."""
        probabilities = np.asarray(jax.nn.softmax(self.logits(texts)))
        return [Prediction(self.labels[row.argmax()], float(row.max())) for row in probabilities]


def evaluate_folder(folder: str | Path, data: str, text: str, label: str) -> Evaluation:
    """Score the model in `folder` on the labelled texts of a file, or of the tickets' test split.

    Raises CourseError for a label that the model does not know.
    """
    table = load_tickets("test", label, text) if data == TICKETS_NAME else read_table(data, text, label)
    predictor = Predictor(folder)
    true = class_indices(table, predictor.labels)
    return evaluate(true, predictor.logits(table.texts).argmax(-1), predictor.labels)


def predict_file(folder: str | Path, source: Path, target: Path, text: str) -> int:
    """Label the column `text` of `source`; write text, label and probability to `target`, in order → rows written.

    `target` ends in .csv, .tsv or .jsonl and is another file. Raises CourseError; nothing is written then. Only .jsonl
    holds every text exactly: see `write_csv`.
    """
    if target.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise CourseError(f"{target}: the name must end in .csv, .tsv or .jsonl")
    if os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise CourseError(f"{target}: is the file with the texts itself; give another name for the answers")
    check_target(target)
    table = read_table(source, text)
    predictions = Predictor(folder)(table.texts)
    rows = [
        {"text": row, "label": prediction.label, "probability": round(prediction.probability, 6)}
        for row, prediction in zip(table.texts, predictions, strict=True)
    ]
    if target.suffix.lower() == ".jsonl":
        write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        delimiter = "\t" if target.suffix.lower() == ".tsv" else ","
        write_csv(target, [list(rows[0]), *(list(row.values()) for row in rows)], delimiter)
    return len(rows)
