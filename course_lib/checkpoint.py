"""Between a folder in Hugging Face layout and the model in `bert.py`, in both directions, and strictly.

A folder holds config.json, model.safetensors and the tokenizer's files. `load_pretrained` copies nothing before every
name and every shape has been held against the model; what does not fit is refused, with all that is wrong in one
error. `save_pretrained` writes what `transformers.AutoModelForSequenceClassification` opens.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from course_lib import CourseError, shown
from course_lib.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from course_lib.config_json import config_to_json, read_config
from course_lib.files import move_into

log = logging.getLogger(__name__)

# Hugging Face key → path in bert.py. PyTorch keeps a dense layer's weight as [out, in] and Flax its kernel as
# [in, out], so whatever ends up as a `kernel` is transposed. {i} counts the layers.
ENCODER_KEYS = {
    "embeddings.word_embeddings.weight": "embeddings.word.embedding",
    "embeddings.position_embeddings.weight": "embeddings.position.embedding",
    "embeddings.token_type_embeddings.weight": "embeddings.token_type.embedding",
    "embeddings.LayerNorm.weight": "embeddings.norm.scale",
    "embeddings.LayerNorm.bias": "embeddings.norm.bias",
}
LAYER_KEYS = {
    "attention.self.query.weight": "attention.query.kernel",
    "attention.self.query.bias": "attention.query.bias",
    "attention.self.key.weight": "attention.key.kernel",
    "attention.self.key.bias": "attention.key.bias",
    "attention.self.value.weight": "attention.value.kernel",
    "attention.self.value.bias": "attention.value.bias",
    "attention.output.dense.weight": "attention.output.kernel",
    "attention.output.dense.bias": "attention.output.bias",
    "attention.output.LayerNorm.weight": "attention_norm.scale",
    "attention.output.LayerNorm.bias": "attention_norm.bias",
    "intermediate.dense.weight": "intermediate.kernel",
    "intermediate.dense.bias": "intermediate.bias",
    "output.dense.weight": "output.kernel",
    "output.dense.bias": "output.bias",
    "output.LayerNorm.weight": "output_norm.scale",
    "output.LayerNorm.bias": "output_norm.bias",
}
POOLER_KEYS = {"pooler.dense.weight": "pooler.kernel", "pooler.dense.bias": "pooler.bias"}
HEAD_KEYS = {
    BertModel: {},
    BertForSequenceClassification: {"classifier.weight": "classifier.kernel", "classifier.bias": "classifier.bias"},
    BertForMaskedLM: {
        "cls.predictions.transform.dense.weight": "transform.kernel",
        "cls.predictions.transform.dense.bias": "transform.bias",
        "cls.predictions.transform.LayerNorm.weight": "transform_norm.scale",
        "cls.predictions.transform.LayerNorm.bias": "transform_norm.bias",
        "cls.predictions.bias": "vocab_bias",
    },
}
# In a file but in no model here: a buffer, the word table and vocabulary bias under their second names, and the head
# for BERT's other pretraining task, "does this sentence follow that one?".
NOT_IN_MODELS = ("embeddings.position_ids", "cls.predictions.decoder.", "cls.seq_relationship.")
# Parts that a checkpoint may lack (they are then newly initialised) or have over (they are then left out).
OPTIONAL_PARTS = {"pooler.": "pooler", "classifier.": "classifier", "cls.predictions.": "masked-word head"}

FINETUNE_FIRST = "fine-tune it first: course finetune (in Python, labels=[…] gives it a new classifier)"

Model = BertModel | BertForSequenceClassification | BertForMaskedLM


def load_pretrained(
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    num_labels: int | None = None,
    architecture: type[Model] = BertForSequenceClassification,
    dtype: jnp.dtype | None = None,
    seed: int = 0,
) -> Model:
    """A model with the weights in `folder`.

    `labels` names the classes; `num_labels` only counts them. Where the folder has a classifier for just these classes
    it is loaded; otherwise a new one is initialised from `seed`, and a log line says so, as it does for a pooler. With
    neither, the folder's own classifier is meant, and must be there with its pooler.

    Weights stored in float16 or bfloat16 become float32 parameters; `dtype` is what the model computes in.

    Raises CourseError, listing every problem at once: no or broken config.json, not a BERT, missing or unknown keys,
    wrong shapes, weights that are not numbers, a truncated file, a missing shard, only pickled weights.
    """
    folder = Path(folder)
    config, stored_labels = read_config(folder)
    tensors = _open_tensors(folder)
    if architecture is BertForSequenceClassification:
        if not stored_labels and "classifier.weight" in tensors:
            # transformers writes no names where they are LABEL_0 and LABEL_1, its defaults
            stored_labels = _numbered_labels((tensors["classifier.weight"].get_shape() or [0])[0])
        wanted = _choose_labels(folder, stored_labels, labels, num_labels)
        if wanted != stored_labels:  # another task: its classifier is of no use here
            tensors = {key: value for key, value in tensors.items() if not key.startswith("classifier.")}
        config = BertConfig(**{**vars(config), "labels": wanted})

    # Laid out with no more layers than the file holds: to find that a thousand are missing must not take minutes.
    laid_out = BertConfig(**{**vars(config), "num_hidden_layers": min(config.num_hidden_layers, _layers(tensors))})
    graph, state = nnx.split(nnx.eval_shape(lambda: architecture(laid_out, dtype=dtype, rngs=nnx.Rngs(seed))))
    flat = {_dotted(path): value for path, value in nnx.to_flat_state(state)}
    table = key_table(architecture, config)
    new_parts = _compare(folder, tensors, table, flat)
    if new_parts and architecture is BertForSequenceClassification and labels is None and num_labels is None:
        raise CourseError(f"{folder}: no weights of a {' and a '.join(new_parts)} there; {FINETUNE_FIRST}")
    new_paths = tuple(path for key, path in table.items() if key not in tensors)
    values = _initial_values(jax.random.key(seed), architecture, config, new_paths) if new_paths else {}
    damaged = []
    for key in table.keys() & tensors.keys():
        with np.errstate(over="ignore"):  # a float64 that is too large becomes infinite, which is said below
            array, path = tensors[key][:].astype(np.float32), table[key]
        values[path] = jnp.array(array.T if path.endswith("kernel") else array)
        if not np.isfinite(array).all():
            damaged.append(key)
    if damaged:  # training cannot repair them: one NaN makes every gradient NaN
        raise CourseError(f"{folder}: NaN or infinite weights in {', '.join(sorted(damaged))}; fetch or train it again")
    name = shown(folder.name, 100)
    for part in new_parts:
        log.warning("%s: no fitting %s in the checkpoint, newly initialised; train it before use", name, part)
    filled = [(path, value.replace(values[_dotted(path)])) for path, value in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def save_pretrained(model: Model, folder: str | Path, tokenizer=None) -> Path:
    """Write `model`, and the `tokenizer` of transformers that goes with it, to `folder` in Hugging Face layout.

    All files are written in full beside their final names first and renamed last, so a full disk or an interruption
    while writing leaves what was there before; killed while it renames, it leaves a folder without config.json, which
    nobody opens. Raises CourseError where it cannot write.
    """
    folder = Path(folder)
    prefix = "" if isinstance(model, BertModel) else "bert."
    flat, head_keys, tensors = _arrays(model), HEAD_KEYS[type(model)], {}
    for key, path in key_table(type(model), model.config).items():
        array = np.asarray(flat[path], np.float32)
        array = np.ascontiguousarray(array.T) if path.endswith("kernel") else array
        tensors[key if key in head_keys else prefix + key] = array
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
            temporary = Path(temporary)
            config, weights = temporary / "config.json", temporary / "model.safetensors"
            config.write_text(json.dumps(config_to_json(model), indent=2) + "\n", "utf-8", newline="\n")
            save_file(tensors, weights, metadata={"format": "pt"})
            weights.chmod(config.stat().st_mode)  # safetensors writes files that only their owner may read
            if tokenizer is not None:
                try:
                    tokenizer.save_pretrained(temporary)
                except Exception as error:  # of a full disk, tokenizers says no more than Exception
                    raise OSError(f"tokenizer: {error}") from error
            for path in temporary.iterdir():
                with path.open("r+b") as file:  # Windows flushes only what is open for writing
                    os.fsync(file.fileno())
            move_into(folder, temporary, first=weights.name, last=config.name)
    except (OSError, SafetensorError) as error:
        raise CourseError(f"{folder}: could not save the model ({error}); what was there is unchanged") from error
    return folder


def key_table(architecture: type[Model], config: BertConfig) -> dict[str, str]:
    """Every parameter of a model: Hugging Face key (without `bert.`) → path in the NNX model."""
    encoder = dict(ENCODER_KEYS)
    for i in range(config.num_hidden_layers):
        encoder |= {f"encoder.layer.{i}.{key}": f"layers.{i}.{path}" for key, path in LAYER_KEYS.items()}
    if architecture is not BertForMaskedLM:
        encoder |= POOLER_KEYS
    prefix = "" if architecture is BertModel else "bert."
    return {key: prefix + path for key, path in encoder.items()} | HEAD_KEYS[architecture]


def _choose_labels(folder, stored, labels, num_labels) -> tuple[str, ...]:
    if labels is None and num_labels is not None:
        labels = stored if len(stored) == num_labels else _numbered_labels(num_labels)
    if labels is not None:
        if len(set(labels)) != len(labels) or len(labels) < 2:
            raise CourseError(f"a classifier needs at least two different labels, got {list(labels)}")
        return tuple(labels)
    if not stored:
        raise CourseError(f"{folder}: this model has no labels of its own; {FINETUNE_FIRST}")
    return stored


def _numbered_labels(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(count))


def _open_tensors(folder: Path) -> dict:
    """{key without `bert.`, new LayerNorm names: tensor, read when it is sliced}, from one file or from shards."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif index.is_file():
        names = _shards(index)
    elif pickles := [path.name for path in sorted(folder.glob("*.bin"))]:
        raise CourseError(
            f"{folder}: only pickled weights ({', '.join(pickles)}), refused: opening a pickle runs code in it; if "
            "you trust it, PyTorch transformers opens it, and its save_pretrained writes model.safetensors"
        )
    else:
        raise CourseError(f"{folder}: no model.safetensors there; check the path, or run: course model")
    tensors, problems = {}, []
    for name in names:
        try:
            file = safe_open(folder / name, framework="numpy")
            for key in file.keys():
                if _plain(key) in tensors:
                    problems.append(f"{name} has {_plain(key)} a second time")
                tensors[_plain(key)] = file.get_slice(key)
        except OSError as error:
            problems.append(f"{name} cannot be read ({error})")
        except SafetensorError as error:
            problems.append(f"{name} is truncated or not a safetensors file ({error})")
    if problems:
        raise CourseError(f"{folder}: {'; '.join(problems)}; fetch it again")
    return tensors


def _shards(index: Path) -> list[str]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
        if strange := [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name)]:
            raise CourseError(f"{index}: a shard is a .safetensors file in the same folder, not {', '.join(strange)}")
        return names
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CourseError(f"{index}: not an index of shards ({error!r}); fetch it again") from None


def _plain(key: str) -> str:
    key = key.removeprefix("bert.")
    # The first BERT files, of 2018, call LayerNorm's scale and shift gamma and beta.
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _layers(tensors: dict) -> int:
    """How many layers, from the first on, a file holds; at least 1."""
    return next(
        i for i in range(1, len(tensors) + 2) if f"encoder.layer.{i}.attention.self.query.weight" not in tensors
    )


def _compare(folder: Path, tensors: dict, table: dict[str, str], flat: dict) -> list[str]:
    """Hold a file against a model; the parts to initialise anew, or one error with every difference."""
    problems, new_parts, left_out = [], [], NOT_IN_MODELS
    missing = [key for key in table if key not in tensors]
    for part, name in OPTIONAL_PARTS.items():
        of_part = [key for key in table if key.startswith(part)]
        if not of_part:
            left_out += (part,)
        elif all(key in missing for key in of_part):  # a part that is there in half is damage
            new_parts.append(name)
            missing = [key for key in missing if key not in of_part]
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    unknown = [key for key in tensors if key not in table and not key.startswith(left_out)]
    if unknown:
        problems.append(f"unknown: {', '.join(unknown)}")
    for key in [key for key in table if key in tensors and table[key] in flat]:
        expected, shape, dtype = list(flat[table[key]].shape), tensors[key].get_shape(), tensors[key].get_dtype()
        if table[key].endswith("kernel"):
            expected.reverse()
        if shape != expected:
            problems.append(f"{key} has shape {shape}, config.json asks for {expected}")
        elif dtype not in ("F64", "F32", "F16", "BF16"):
            problems.append(f"{key} is stored as {dtype}, not as floating-point numbers")
    if problems:
        raise CourseError(f"{folder}: the weights do not fit config.json: " + "; ".join(problems))
    return new_parts


@functools.partial(jax.jit, static_argnames=("architecture", "config", "paths"))
def _initial_values(key: jax.Array, architecture, config: BertConfig, paths: tuple[str, ...]) -> dict[str, jax.Array]:
    """Parameters of a new model. Under jit, XLA drops all that are not among `paths`: 0.7 s instead of 3.5 s."""
    flat = _arrays(architecture(config, rngs=nnx.Rngs(key)))
    return {path: flat[path] for path in paths}


def _arrays(model: Model) -> dict[str, jax.Array]:
    return {_dotted(path): value[...] for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))
