"""How many labels does fine-tuning need, and what does it owe to pretraining? The slow curves of lesson 11.

    .venv/bin/python benchmarks/learning_curves.py [--rows N]

Fine-tunes the course's model, and trains a small BERT from scratch, on 64, 160, 400 and all training messages, three
seeds each, and scores each on the test split. From scratch, the course's model itself gets nowhere in as many updates
as fine-tuning takes; it is measured with all messages, to show that. 27 runs, about half an hour on 2 cores.

Writes course_lib/data/learning_curves.csv, one row a run, as soon as it is measured. Runs that are in the file already
are left out, so an interrupted measurement goes on where it stopped, and --rows measures no more than N of them. To
measure everything again, remove the file first.
"""

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import replace
from importlib.metadata import version
from itertools import product

import numpy as np
from flax import nnx
from machine import machine

from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.checkpoint import load_pretrained
from course_lib.data import TICKETS, Examples, class_indices, load_tickets, load_tokenizer, tokenize
from course_lib.evaluate import evaluate
from course_lib.files import write_text
from course_lib.predict import predict_logits
from course_lib.pretrained import MODEL, fetch
from course_lib.train import TrainConfig, fit

RESULT = TICKETS.with_name("learning_curves.csv")
COLUMNS = ("method", "labels", "seed", "epochs", "macro_f1", "machine", "versions")
SEEDS = (0, 1, 2)
FINE_TUNED, SMALL, SAME = "fine-tuned", "from scratch", "from scratch at full size"
# Few messages make few steps, so they are read more often: Mosbach et al. 2021, "On the Stability of Fine-tuning BERT"
# (https://arxiv.org/abs/2006.04884), section 6, with at most 20 epochs, as there.
EPOCHS = {64: 20, 160: 12, 400: 6, 911: 3}
# Nothing in it has been learned, so its head needs no larger steps. Rate and epochs were chosen on validation messages.
SMALL_SETTINGS = dict(learning_rate=1e-3, head_factor=1.0, epochs=20, patience=20)
RUNS = [(FINE_TUNED, labels, seed) for seed, labels in product(SEEDS, EPOCHS)]
RUNS += [(SAME, 911, seed) for seed in SEEDS]
RUNS += [(SMALL, labels, seed) for seed, labels in product(SEEDS, EPOCHS)]


def tickets() -> tuple[Examples, Examples, Examples, tuple[str, ...]]:
    """Training, validation and test messages as token ids, and the teams."""
    tables = [load_tickets(split) for split in ("train", "validation", "test")]
    teams, tokenizer = tables[0].classes, load_tokenizer(fetch(MODEL))
    return *(tokenize(tokenizer, table.texts, 128, class_indices(table, teams)) for table in tables), teams


def small_bert(teams: tuple[str, ...], seed: int) -> BertForSequenceClassification:
    """Two layers of width 128, with random numbers."""
    sizes = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
    return BertForSequenceClassification(BertConfig(**sizes, labels=teams), rngs=nnx.Rngs(seed))


def measure(method: str, labels: int, seed: int) -> dict:
    """Train once → a row. The first `labels` messages of a shuffled list are used: more labels contain the fewer."""
    train, validation, test, teams = tickets()
    rows = np.random.default_rng(seed).permutation(len(train))[:labels]
    part = Examples([train.token_ids[i] for i in rows], train.labels[rows])
    model = load_pretrained(fetch(MODEL), labels=teams, seed=seed)
    config = TrainConfig(epochs=EPOCHS[labels], patience=EPOCHS[labels], seed=seed)
    if method == SAME:
        model = BertForSequenceClassification(model.config, rngs=nnx.Rngs(seed))
    if method == SMALL:
        model, config = small_bert(teams, seed), replace(config, **SMALL_SETTINGS)
    fit(model, part, validation, config)
    score = evaluate(test.labels, predict_logits(model, test).argmax(-1), teams)
    return {
        "method": method,
        "labels": labels,
        "seed": seed,
        "epochs": config.epochs,
        "macro_f1": f"{score.macro_f1:.4f}",
        "machine": machine(),
        "versions": " ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="measure no more than this many of the missing rows")
    arguments = parser.parse_args()
    rows = list(csv.DictReader(RESULT.open(encoding="utf-8"))) if RESULT.exists() else []
    done = {(row["method"], int(row["labels"]), int(row["seed"])) for row in rows}
    missing = [run for run in RUNS if run not in done]
    now = missing[: arguments.rows]
    for method, labels, seed in now:
        rows.append(measure(method, labels, seed))
        rows.sort(key=lambda row: (row["method"], int(row["labels"]), int(row["seed"])))
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *map(dict.values, rows)])
        write_text(RESULT, table.getvalue())
        print(f"{method}, {labels} labels, seed {seed}: measured", flush=True)
    print(f"{len(rows)} rows in {RESULT.name}, {len(missing) - len(now)} still missing")


if __name__ == "__main__":
    main()
