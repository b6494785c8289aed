"""What the README's table says: fine-tuning on the tickets, beside its baselines, and on SST-2.

    .venv/bin/python benchmarks/spine.py [--sst2 FOLDER]

Takes about 20 minutes on 2 cores. FOLDER holds train.tsv and dev.tsv of the Stanford Sentiment Treebank (whole
sentences, binary; text<TAB>label, no header); without it, the data set stanfordnlp/sst2 is fetched where the package
`datasets` is installed, and SST-2 is skipped where it is not. Writes the table into README.md between its markers.
"""

from __future__ import annotations

import argparse
import csv
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
from flax import nnx

from course_lib.bert import BertForSequenceClassification
from course_lib.checkpoint import load_pretrained
from course_lib.data import class_indices, load_tickets, load_tokenizer, tokenize
from course_lib.evaluate import evaluate, tfidf_baseline
from course_lib.pretrained import fetch
from course_lib.train import TrainConfig, fit_seeds

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)


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
    """Macro-F1 on the tickets' test split: words, from scratch, pretrained."""
    train, validation, test = (load_tickets(split) for split in ("train", "validation", "test"))
    classes = train.classes
    baseline = tfidf_baseline(train.texts, train.labels).predict(test.texts)
    words = evaluate(class_indices(test, classes), np.array([classes.index(x) for x in baseline]), classes)
    folder = fetch()
    tokenizer = load_tokenizer(folder)
    examples = [tokenize(tokenizer, t.texts, 128, class_indices(t, classes)) for t in (train, validation, test)]

    def pretrained(seed: int) -> BertForSequenceClassification:
        return load_pretrained(folder, labels=classes, seed=seed)

    def scratch(seed: int) -> BertForSequenceClassification:
        return BertForSequenceClassification(pretrained(seed).config, rngs=nnx.Rngs(seed))

    rows = [("tickets, macro-F1: TF-IDF + logistic regression", f"{words.macro_f1:.3f}")]
    for name, make in (("the same BERT from scratch", scratch), ("**fine-tuned BERT**", pretrained)):
        result = fit_seeds(make, *examples, TrainConfig(), SEEDS, report=print)
        rows.append((f"tickets, macro-F1: {name}", f"{result['mean']:.3f} ± {result['sd']:.3f}"))
    return rows


def sst2(data: Path, folder: Path) -> list[tuple[str, str]]:
    for name in ("train", "dev"):
        with (
            (data / f"{name}.tsv").open(encoding="utf-8") as file,
            (folder / f"{name}.csv").open("w", newline="") as out,
        ):
            writer = csv.writer(out)
            writer.writerow(["text", "label"])
            writer.writerows(line.rstrip("\n").rsplit("\t", 1) for line in file)
    out = folder / "sst2"
    seconds = course("finetune", str(folder / "train.csv"), "--validation", str(folder / "dev.csv"), "--epochs", "2",
                     "--out", str(out))  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    speed = np.median([epoch["examples_per_second"] for epoch in metrics["history"]])
    accuracy = f"{metrics['validation']['accuracy']:.3f}"
    return [
        ("SST-2 (6,920 sentences, 2 epochs): dev accuracy", accuracy),
        ("SST-2: time, speed", f"{seconds:.0f} s, {speed:.0f} examples/s"),
    ]


def fetch_sst2(folder: Path) -> Path | None:
    try:
        from datasets import load_dataset
    except ImportError:
        print("SST-2 is skipped: no --sst2 FOLDER, and the package datasets is not installed")
        return None
    for split, name in (("train", "train"), ("validation", "dev")):
        rows = load_dataset("stanfordnlp/sst2", split=split)
        (folder / f"{name}.tsv").write_text("".join(f"{row['sentence'].strip()}\t{row['label']}\n" for row in rows))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sst2", type=Path, help="folder with train.tsv and dev.tsv")
    arguments = parser.parse_args()
    fetch()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        rows = finetune_once(folder) + tickets_scores()
        data = arguments.sst2 or fetch_sst2(folder)
        rows += sst2(data, folder) if data else []
    machine = f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}), Python {platform.python_version()}"
    table = "\n".join([f"| on {machine} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- benchmarks/spine.py -->\n).*?(\n<!-- end -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
