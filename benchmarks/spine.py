"""What the README's tables say: fine-tuning on the tickets, beside its baselines; SST-2; what each notebook takes.

    .venv/bin/python benchmarks/spine.py [finetune] [scores] [sst2] [notebooks] [--sst2 FOLDER]

All four take about 20 minutes on 2 cores; name those that you want. FOLDER holds train.tsv and dev.tsv of the Stanford
Sentiment Treebank, see sst2.py; without it sst2 runs only where it is named. `notebooks` takes what the last `make
test` measured. Each part replaces its table in README.md, between its markers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from machine import machine
from sst2 import sst2_tables

from course_lib.data import TICKETS, class_indices, load_tickets
from course_lib.evaluate import evaluate, mean_sd, tfidf_baseline
from course_lib.pretrained import fetch

ROOT = Path(__file__).resolve().parent.parent


def course(*arguments: str, **environment: str) -> float:
    """Run the command as a user would → wall seconds."""
    command = [str(Path(sys.executable).with_name("course")), *arguments]
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "TQDM_DISABLE": "1", **environment})
    return time.perf_counter() - started


def finetune_once(folder: Path) -> list[tuple[str, str]]:
    """`course finetune tickets` in a process of its own, with nothing compiled before."""
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    seconds = course("finetune", "tickets", "--out", str(folder / "tickets"), **compiled)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of the largest child so far: this one is the first
    again = course("finetune", "tickets", "--out", str(folder / "again"), **compiled)
    metrics = json.loads((folder / "again" / "metrics.json").read_text())
    speed = np.median([epoch["examples_per_second"] for epoch in metrics["history"]])
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is in bytes there, in KiB elsewhere
    return [
        ("`course finetune tickets`, whole command, nothing compiled before", f"{seconds:.0f} s"),
        ("the same again, compiled programs on disk", f"{again:.0f} s, {speed:.0f} examples/s"),
        ("its peak memory", f"{peak / unit:.2f} GiB"),
    ]


def tickets_scores() -> list[tuple[str, str]]:
    """Macro-F1 on the tickets' test split: words, and from learning_curves.py the two that take long."""
    train, test = load_tickets("train"), load_tickets("test")
    predicted = tfidf_baseline(train.texts, train.labels).predict(test.texts)
    guessed = np.array([train.classes.index(label) for label in predicted])
    words = evaluate(class_indices(test, train.classes), guessed, train.classes)
    rows = [("tickets, macro-F1: TF-IDF + logistic regression", f"{words.macro_f1:.3f}")]
    runs = pd.read_csv(TICKETS.with_name("learning_curves.csv"))
    methods = {"from scratch at full size": "the same BERT from scratch", "fine-tuned": "**fine-tuned BERT**"}
    for method, name in methods.items():
        scores = runs[(runs.method == method) & (runs.labels == len(train.texts))].macro_f1
        if len(scores) < 2:
            print(f"{method}: {len(scores)} seeds measured so far, left out; see benchmarks/learning_curves.py")
            continue
        mean, sd = mean_sd(scores)
        rows.append((f"tickets, macro-F1: {name} ({len(scores)} seeds)", f"{mean:.3f} ± {sd:.3f}"))
    return rows


def sst2(train: Path, dev: Path, folder: Path) -> list[tuple[str, str]]:
    out = folder / "sst2"
    seconds = course("finetune", str(train), "--validation", str(dev), "--epochs", "2",
                     "--learning-rate", "1e-4", "--out", str(out))  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    speed = np.median([epoch["examples_per_second"] for epoch in metrics["history"]])
    accuracy = f"{metrics['validation']['accuracy']:.3f}"
    return [
        ("SST-2 (6,920 sentences, 2 epochs, learning rate 1e-4): dev accuracy", accuracy),
        ("SST-2: time, speed", f"{seconds:.0f} s, {speed:.0f} examples/s"),
    ]


def notebooks() -> list[tuple[str, ...]]:
    """A row a lesson from what pytest kept: seconds, for the page, its exercises and its solutions, and GiB at most."""
    took = {
        Path(path).with_suffix("").parts: (seconds, memory) for path, seconds, memory in kept_by_pytest("notebooks")
    }
    rows = []
    for lesson in sorted(name for folder, name in took if folder == "notebooks"):
        three = [("notebooks", lesson), ("exercises", f"{lesson}_exercises"), ("solutions", f"{lesson}_exercises")]
        cells = [f"{took[key][0]:.0f} s" if key in took else "" for key in three]
        rows.append((lesson, *cells, f"{max(took[key][1] for key in three if key in took):.1f} GiB"))
    return rows


def suite() -> list[tuple[str, str]]:
    last = kept_by_pytest("suite")
    setup = (ROOT / ".venv" / "ready").read_text().strip()
    return [
        ("set-up: `.venv` with all packages", f"{setup} s" if setup else ""),
        (f"the {last['tests']:,} tests of `make test`", f"{last['seconds'] / 60:.1f} min"),
    ]


def kept_by_pytest(name: str):
    kept = ROOT / ".pytest_cache" / "v" / "course" / name
    if not kept.exists():
        sys.exit("nothing was measured yet: run all of `make test` first")
    return json.loads(kept.read_text())


def write(part: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Put the table between `<!-- spine.py PART -->` and `<!-- end -->` in README.md."""
    lines = [header, ("---",) * len(header), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    print(table)
    readme = ROOT / "README.md"
    marked = re.compile(rf"(<!-- spine.py {part} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    text, found = marked.subn(lambda match: match[1] + table + match[2], readme.read_text(encoding="utf-8"))
    assert found == 1, f"README.md has no place for {part}"
    readme.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("finetune", "scores", "sst2", "notebooks")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all where none is named")
    parser.add_argument("--sst2", type=Path, help="folder with train.tsv and dev.tsv")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"{', '.join(unknown)} is not one of {', '.join(parts)}")
    chosen = arguments.parts or [part for part in parts if part != "sst2" or arguments.sst2]
    measured = f"on {machine()}, Python {platform.python_version()}"
    fetch()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tables = sst2_tables(arguments.sst2, folder) if "sst2" in chosen else None  # where they lack, say so at once
        if "finetune" in chosen:
            write("finetune", (measured, ""), finetune_once(folder))
        if "scores" in chosen:
            write("scores", ("mean ± sd", ""), tickets_scores())
        if tables:
            write("sst2", (measured, ""), sst2(*tables, folder))
    if "notebooks" in chosen:
        write("suite", (measured, ""), suite())
        write("notebooks", ("lesson", "page", "exercises", "solutions", "memory, at most"), notebooks())


if __name__ == "__main__":
    main()
