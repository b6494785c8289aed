"""Time to a score: fine-tuning on SST-2, from process start to the dev accuracy, beside transformers' Trainer.

    .venv/bin/python benchmarks/score.py --sst2 FOLDER [--env FOLDER]

The same weights, batch size, learning rate, warm-up and weight decay. The Trainer pads to the longest text of a batch,
its default, or all to 128 tokens, as the Flax example of transformers did (run_flax_glue.py). RUNS says which runs for
how many epochs; over these its learning rate goes up and down once. Nothing is compiled beforehand. About 45 minutes on
2 cores. Writes benchmarks/score.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine
from peers import FOLDER, peers_python, peers_versions
from sst2 import sst2_tables

from course_lib.data import read_table
from course_lib.pretrained import fetch
from course_lib.start import large_pages
from course_lib.train import TrainConfig

HERE = Path(__file__).resolve().parent
RUNS = (("course", 1), ("longest", 1), ("longest", 2), ("longest", 3), ("128", 2), ("course", 1))
TARGETS = (0.86, 0.87, 0.88)
NAMES = {
    "course": "`course finetune`",
    "longest": "Trainer, padded to the longest of a batch",
    "128": "Trainer, padded to 128",
}
RATE = 1e-4  # half the default: there are five times as many updates as on the tickets


def epoch_ends(command: list) -> tuple[list[float], list[str]]:
    """Runs it, with no compiled programs to find → (seconds from its start to each line "epoch …", those lines)."""
    ends, lines = [], []
    with tempfile.TemporaryDirectory() as compiled:
        more = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "JAX_COMPILATION_CACHE_DIR": compiled}
        piped = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | more)
        started = time.perf_counter()
        with subprocess.Popen(list(map(str, command)), **piped) as program:
            for line in program.stdout:
                print(line, end="", flush=True)
                if line.startswith("epoch "):
                    ends.append(time.perf_counter() - started)
                    lines.append(line)
    if program.returncode:
        sys.exit(f"{Path(command[0]).name} ended with code {program.returncode}; nothing is written")
    return ends, lines


def main() -> None:
    os.environ |= large_pages()  # for both sides, as the script `course` has it
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sst2", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--env", type=Path, default=FOLDER, help="the other environment")
    arguments = parser.parse_args()
    python = peers_python(arguments.env)
    runs = []  # (side, accuracy after each epoch, seconds of the run, seconds to each of TARGETS or None)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        train, dev = sst2_tables(arguments.sst2, folder)
        sentences = len(read_table(train, "text").texts)
        for number, (side, epochs) in enumerate(RUNS):
            if side == "course":
                out = folder / f"run-{number}"
                command = [Path(sys.executable).with_name("course"), "finetune", train, "--validation", dev]
                ends, _ = epoch_ends([*command, "--epochs", epochs, "--learning-rate", RATE, "--out", out])
                history = json.loads((out / "metrics.json").read_text())["history"]
                accuracies = [epoch["validation_accuracy"] for epoch in history]
            else:
                rest = [epochs, RATE, TrainConfig.batch_size, side]
                ends, lines = epoch_ends([python, HERE / "torch_finetune.py", fetch(), train, dev, *rest])
                accuracies = [float(re.search(r"[\d.]+$", line)[0]) for line in lines]
            when = list(zip(ends, accuracies, strict=True))
            reached = [next((end for end, accuracy in when if accuracy >= goal), None) for goal in TARGETS]
            runs.append((side, accuracies, ends[-1], reached))
            print(runs[-1], flush=True)
    write(runs, sentences, peers_versions(python))


def write(runs: list[tuple], sentences: int, peers: str) -> None:
    """score.md, from `runs` as main collects them."""
    import jax

    ours = [reached for side, _, _, reached in runs if side == "course"]
    usual = [np.median(times) if all(times) else None for times in zip(*ours, strict=True)]
    rows = []
    for side, accuracies, whole, reached in runs:
        cells = [NAMES[side], ", ".join(f"{accuracy:.3f}" for accuracy in accuracies), f"{whole:.0f} s"]
        for seconds, base in zip(reached, usual, strict=True):
            ratio = f" ({seconds / base:.1f})" if seconds and base else ""
            cells.append(f"{seconds:.0f} s{ratio}" if seconds else "not reached")
        rows.append(f"| {' | '.join(cells)} |")
    header = ["", "dev accuracy after each epoch", "the run", *(f"to {goal:.2f}" for goal in TARGETS)]
    text = f"""\
# Time to a score

Written by `benchmarks/score.py`. SST-2 ({sentences:,} sentences), MiniLM-L6, float32, batch {TrainConfig.batch_size},
learning rate {RATE:g}, from process start, compilation included; on {machine()};
jax {jax.__version__}, {peers}. In brackets: over the median of this course's runs.

| {" | ".join(header)} |
|---|---|---:|{"---:|" * len(TARGETS)}
{chr(10).join(rows)}
"""
    (HERE / "score.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
