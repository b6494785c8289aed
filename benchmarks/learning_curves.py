"""How many labels does fine-tuning need, and what does it owe to pretraining? The slow curves of lesson 11.

    .venv/bin/python benchmarks/learning_curves.py [--rows N]

Fine-tunes the course's model, and trains the same network from scratch, on 64, 160, 400 and all training messages,
three seeds each, and scores each on the test split: 24 runs, about half an hour on 2 cores. Writes
course_lib/data/learning_curves.csv, one row a run, as soon as it is measured. Runs that are in the file already are
left out, so an interrupted measurement goes on where it stopped, and --rows measures no more than N of them. To
measure everything again, remove the file first.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
from dataclasses import replace
from importlib.metadata import version
from itertools import product

import numpy as np
from flax import nnx

from course_lib.bert import BertForSequenceClassification
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
# Few messages make few steps, so they are read more often: Mosbach et al. 2021, "On the Stability of Fine-tuning BERT"
# (https://arxiv.org/abs/2006.04884), section 6, with at most 20 epochs, as there.
EPOCHS = {64: 20, 160: 12, 400: 6, 911: 3}


def tickets() -> tuple[Examples, Examples, Examples, tuple[str, ...]]:
    """Training, validation and test messages as token ids, and the teams."""
    tables = [load_tickets(split) for split in ("train", "validation", "test")]
    teams, tokenizer = tables[0].classes, load_tokenizer(fetch(MODEL))
    return *(tokenize(tokenizer, table.texts, 128, class_indices(table, teams)) for table in tables), teams


def measure(method: str, labels: int, seed: int) -> dict:
    """Train once → a row. The first `labels` messages of a shuffled list are used: more labels contain the fewer."""
    train, validation, test, teams = tickets()
    rows = np.random.default_rng(seed).permutation(len(train))[:labels]
    part = Examples([train.token_ids[i] for i in rows], train.labels[rows])
    model = load_pretrained(fetch(MODEL), labels=teams, seed=seed)
    if method == "from scratch":
        model = BertForSequenceClassification(model.config, rngs=nnx.Rngs(seed))
    epochs = EPOCHS[labels]
    fit(model, part, validation, replace(TrainConfig(), epochs=epochs, patience=epochs, seed=seed))
    score = evaluate(test.labels, predict_logits(model, test).argmax(-1), teams)
    return {
        "method": method,
        "labels": labels,
        "seed": seed,
        "epochs": epochs,
        "macro_f1": f"{score.macro_f1:.4f}",
        "machine": f"{os.cpu_count()} cores {platform.machine()} {platform.system()}",
        "versions": " ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="measure no more than this many of the missing rows")
    arguments = parser.parse_args()
    rows = list(csv.DictReader(RESULT.open(encoding="utf-8"))) if RESULT.exists() else []
    done = {(row["method"], int(row["labels"]), int(row["seed"])) for row in rows}
    runs = product(SEEDS, EPOCHS, ("fine-tuned", "from scratch"))
    missing = [(method, labels, seed) for seed, labels, method in runs if (method, labels, seed) not in done]
    now = missing[: arguments.rows]
    for method, labels, seed in now:
        rows.append(measure(method, labels, seed))
        rows.sort(key=lambda row: (row["method"], int(row["labels"]), int(row["seed"])))
        write_text(RESULT, "\n".join(",".join(map(str, row)) for row in (COLUMNS, *map(dict.values, rows))) + "\n")
        print(f"{method}, {labels} labels, seed {seed}: measured", flush=True)
    print(f"{len(rows)} rows in {RESULT.name}, {len(missing) - len(now)} still missing")


if __name__ == "__main__":
    main()
