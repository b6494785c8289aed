"""From a table of messages to batches: read, split, tokenise, sort into a few lengths, batch.

A compiled function has fixed shapes, and texts have none. Padding every text to the longest wastes most of the
arithmetic; a shape for every length compiles for hours. So texts go into at most four *buckets* of equal padded
length, and what is missing from the last batch is filled with rows of weight 0: every example counts, once.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from course_lib import HALF_A_CHARACTER, CourseError, one_line
from course_lib.table_files import read_columns

TICKETS = Path(__file__).parent / "data" / "tickets.csv"
TICKETS_NAME = "tickets"  # said in place of a file's name: the course's own data, with its own split
MAX_BUCKETS = 4


@dataclass(frozen=True)
class Table:
    """Texts and, where they are known, their labels, row by row; `lines` are the rows' line numbers in `source`."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None
    source: str
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: Sequence[int]) -> Table:
        labels = None if self.labels is None else tuple(self.labels[i] for i in rows)
        return Table(tuple(self.texts[i] for i in rows), labels, self.source, tuple(self.lines[i] for i in rows))

    @property
    def classes(self) -> tuple[str, ...]:
        """The different labels, sorted: their order is the order of a classifier's logits."""
        return tuple(sorted(set(self.labels or ())))


@dataclass(frozen=True)
class Examples:
    """Token ids, a list a text, and class indices int32 [n] (zeros where there are no labels)."""

    token_ids: list[list[int]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens a text, int [n]."""
        return np.array([len(ids) for ids in self.token_ids], int)


class Batch(NamedTuple):
    """B examples padded to T tokens. Rows that only fill the batch up have weight 0 and index -1."""

    input_ids: np.ndarray  # int32 [B, T]
    attention_mask: np.ndarray  # int32 [B, T], 1 = token, 0 = padding
    labels: np.ndarray  # int32 [B]
    weights: np.ndarray  # float32 [B]
    index: np.ndarray  # int32 [B], the example's place in Examples


def load_tickets(split: str | None = None, label: str = "intent", text: str = "text") -> Table:
    """The course's own messages: `split` is train, validation, test or None for all; `label` intent or sentiment."""
    table = read_table(TICKETS, text, label)
    if split is None:
        return table
    splits = read_table(TICKETS, text="text", label="split").labels
    if split not in splits:
        raise ValueError(f"split {split!r} is not one of {', '.join(sorted(set(splits)))}")
    return table[[i for i, name in enumerate(splits) if name == split]]


def read_table(path: str | Path, text: str, label: str | None = None) -> Table:
    """Read the columns `text` and `label` of a .csv, .tsv or .jsonl file in UTF-8.

    Raises CourseError, naming file and line, for anything that is not a table of texts and labels.
    """
    path = Path(path)
    if text == label:
        raise CourseError(f"{path}: column {text!r} cannot be both the text and the label; name two columns")
    columns = [text] if label is None else [text, label]
    lines, rows = read_columns(path, columns)
    if not rows:
        raise CourseError(f"{path}: the table is empty")
    for i, column in enumerate(columns):
        missing = [line for line, row in zip(lines, rows, strict=True) if row[i].strip().lower() in ("", "nan")]
        if missing:
            named = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            raise CourseError(f"{path}: column {column!r} is empty or NaN at line {named}; fill or remove these rows")
    labels = None if label is None else tuple(row[1].strip() for row in rows)
    return Table(tuple(row[0] for row in rows), labels, str(path), tuple(lines))


def split_off(table: Table, fraction: float = 0.15, seed: int = 0) -> tuple[Table, Table]:
    """Hold out about `fraction` of the rows, each class in proportion → (rest, held out).

    Rows with the same words stay on one side: a model that has seen a message must not be examined on it. Every class
    has rows in the rest: a class that is never trained cannot be examined. Raises CourseError where there are too few.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    words = [" ".join(re.findall(r"\w+", text.lower())) or text for text in table.texts]
    # As numbers: an array of texts gives every row the room of the longest, 4 MB a row beside one text of 1 MB.
    groups, labels = _numbered(words), _numbered(table.labels)
    folds = round(1 / fraction)
    if len(set(groups)) < 2 * folds:
        raise CourseError(
            f"{table.source}: {len(set(groups))} different rows are too few to hold some out for validation"
        )
    with warnings.catch_warnings():  # a class with fewer rows than folds: it then stays on one side
        warnings.filterwarnings("ignore", message="The least populated class")
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        try:
            rest, held_out = next(splitter.split(table.texts, labels, groups))
        except ValueError as error:
            raise CourseError(f"{table.source}: cannot hold rows out for validation ({error})") from None
    trained = {labels[i] for i in rest}
    back = {groups[i] for i in held_out if labels[i] not in trained}
    held_out = {i for i in held_out if groups[i] not in back}
    if not held_out:
        raise CourseError(f"{table.source}: cannot hold rows out for validation: too few rows a class")
    return table[[i for i in range(len(table)) if i not in held_out]], table[sorted(held_out)]


def _numbered(texts: Sequence[str]) -> list[int]:
    """Each text's place among the different ones, sorted."""
    place = {text: i for i, text in enumerate(sorted(set(texts)))}
    return [place[text] for text in texts]


def class_indices(table: Table, classes: Sequence[str]) -> np.ndarray:
    """int32 [n]: each row's label as its place in `classes`. CourseError for a label that is not among them."""
    place = {name: i for i, name in enumerate(classes)}
    for label, line in zip(table.labels, table.lines, strict=True):
        if label not in place:
            raise CourseError(f"{table.source}: line {line} has label {label!r}, training knows {', '.join(classes)}")
    return np.array([place[label] for label in table.labels], np.int32)


def load_tokenizer(folder: str | Path, vocab_size: int | None = None):
    """The tokenizer in a model's folder, as transformers' AutoTokenizer opens it.

    Raises CourseError where there is none, where it is damaged, and where it has more tokens than the model's
    `vocab_size`: JAX would answer NaN for those beyond.
    """
    import os

    files = ("tokenizer.json", "vocab.txt")
    if not any((Path(folder) / name).is_file() for name in files):  # else it makes one up that knows no words
        raise CourseError(f"{folder}: no tokenizer there; it needs {' or '.join(files)}")

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # or it warns of missing PyTorch
    from transformers import AutoTokenizer

    try:
        # trust_remote_code: None, the default, asks at the terminal whether to run a program out of the folder
        tokenizer = AutoTokenizer.from_pretrained(Path(folder), local_files_only=True, trust_remote_code=False)
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is not one of the package tokenizers")
        longest = tokenizer.model_max_length
        if not 3 <= longest < math.inf:  # [CLS], a token, [SEP]
            raise ValueError(f"model_max_length is {longest}")
        tokenizer.model_max_length = int(longest)
        tokenizer("ꙮ")  # a word that no vocabulary has: for one without [UNK] it shows only now
    except Exception as error:  # for a damaged file it raises OSError, ValueError, KeyError or a plain Exception
        why = f"{type(error).__name__}: {one_line(error)}"
        raise CourseError(f"{folder}: its tokenizer cannot be read ({why}); fetch or save it again") from None
    needed = max(tokenizer.get_vocab().values()) + 1
    if vocab_size is not None and needed > vocab_size:
        raise CourseError(
            f"{folder}: the tokenizer has {needed:,} tokens and the model {vocab_size:,}; save both again"
        )
    return tokenizer


def tokenize(tokenizer, texts: Sequence[str], max_length: int, labels: np.ndarray | None = None) -> Examples:
    """Texts → token ids with [CLS] and [SEP], cut to `max_length` tokens. `labels`: class indices, int [n].

    Raises CourseError for a text that is no Unicode: an argument typed in another encoding, half of an emoji.
    """
    for text in texts:
        if HALF_A_CHARACTER.search(text):
            raise CourseError(f"text {text[:50]!a} is not UTF-8; type it in a terminal that is set to UTF-8")
    if labels is None:
        labels = np.zeros(len(texts), np.int32)
    if not len(texts):  # the tokenizer does not take an empty list
        return Examples([], labels)
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False)
    return Examples(encoded["input_ids"], labels)


def bucket_lengths(
    lengths: Sequence[int], max_buckets: int = MAX_BUCKETS, multiple: int = 8, longest: int | None = None
) -> tuple[int, ...]:
    """At most `max_buckets` padded lengths that pad `lengths` the least.

    Each is a multiple of `multiple`, or `longest`: what the model has positions for.
    """
    rounded = -(-np.maximum(lengths, 1) // multiple) * multiple
    rounded = np.minimum(rounded, longest or rounded.max())
    sizes, counts = np.unique(rounded, return_counts=True)
    total = np.concatenate([[0], np.cumsum(counts)])
    # best[j]: (tokens, cuts) for the texts up to sizes[j - 1], in as many buckets as the rounds so far. The best way
    # with one more bucket is the best way up to some i, then one bucket of length sizes[j - 1] from there.
    best = [(0.0, ())] + [(np.inf, ())] * len(sizes)
    for _ in range(min(max_buckets, len(sizes))):
        best = [best[0]] + [
            min((best[i][0] + (total[j] - total[i]) * sizes[j - 1], (*best[i][1], int(sizes[j - 1]))) for i in range(j))
            for j in range(1, len(sizes) + 1)
        ]
    return best[-1][1]


def batches(
    examples: Examples, batch_size: int, buckets: Sequence[int], rng: np.random.Generator | None = None
) -> Iterator[Batch]:
    """Every example once, in batches of `batch_size` rows and one of the `buckets` lengths.

    With `rng` in random order (training), without from the shortest bucket to the longest. What does not fill a batch
    moves up to the next longer bucket, so only one batch has rows of weight 0. A text longer than the last bucket is
    cut there.
    """
    order = np.arange(len(examples)) if rng is None else rng.permutation(len(examples))
    bucket_of = np.searchsorted(buckets, np.minimum(examples.lengths, buckets[-1]))
    buckets = buckets[: bucket_of.max(initial=0) + 1]  # one short text must not wait for the longest bucket
    groups: list[tuple[int, np.ndarray]] = []
    left_over = np.array([], int)
    for i, length in enumerate(buckets):
        waiting = np.concatenate([left_over, order[bucket_of[order] == i]])
        full = len(waiting) if i == len(buckets) - 1 else len(waiting) // batch_size * batch_size
        groups += [(length, waiting[start : start + batch_size]) for start in range(0, full, batch_size)]
        left_over = waiting[full:]
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    for length, rows in groups:
        yield _pad(examples, rows, batch_size, length)


def empty_batch(batch_size: int, length: int) -> Batch:
    """A batch whose rows are all padding and count for nothing."""
    return Batch(
        input_ids=np.zeros((batch_size, length), np.int32),  # 0 is [PAD] in every BERT vocabulary
        attention_mask=np.zeros((batch_size, length), np.int32),
        labels=np.zeros(batch_size, np.int32),
        weights=np.zeros(batch_size, np.float32),
        index=np.full(batch_size, -1, np.int32),
    )


def _pad(examples: Examples, rows: np.ndarray, batch_size: int, length: int) -> Batch:
    batch = empty_batch(batch_size, length)
    for place, row in enumerate(rows):
        ids = examples.token_ids[row][:length]
        batch.input_ids[place, : len(ids)] = ids
        batch.attention_mask[place, : len(ids)] = 1
    batch.labels[: len(rows)] = examples.labels[rows]
    batch.weights[: len(rows)] = 1.0
    batch.index[: len(rows)] = rows
    return batch
