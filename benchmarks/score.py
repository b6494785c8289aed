"""Time to a score: fine-tuning on SST-2, from process start to the dev accuracy, beside transformers' Trainer.

    .venv/bin/python benchmarks/score.py --sst2 FOLDER [--env FOLDER] [--sides course:1,longest:2]

All of SIDES in the order they are given: a side, and the epochs over which its learning rate goes up and down once.
The same weights, batch size, learning rate, warm-up and weight decay. The Trainer pads to the longest text of a batch,
its default, or all to 128 tokens, as the Flax example of transformers did (run_flax_glue.py). Nothing is
compiled beforehand. About 40 minutes on 2 cores. Writes benchmarks/score.md.
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
SIDES = "course:1,longest:1,longest:2,128:2,course:1"
TARGETS = (0.86, 0.87, 0.88)
RATE = 1e-4  # half the default: there are five times as many updates as on the tickets


def epoch_ends(command: list) -> tuple[list[float], list[str]]:
    """Runs it → (seconds from its start to each line "epoch …", those lines)."""
    started = time.perf_counter()
    ends, lines = [], []
    quiet = {**os.environ, "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    piped = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with (
        tempfile.TemporaryDirectory() as compiled,
        subprocess.Popen(
            list(map(str, command)), env={**quiet, "JAX_COMPILATION_CACHE_DIR": compiled}, **piped
        ) as program,
    ):
        for line in program.stdout:
            print(line, end="", flush=True)
            if line.startswith("epoch "):
                ends.append(time.perf_counter() - started)
                lines.append(line)
    assert program.returncode == 0, command
    return ends, lines


def main() -> None:
    os.environ |= large_pages()  # for both sides, as the script `course` has it
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sst2", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--env", type=Path, default=FOLDER, help="the other environment")
    parser.add_argument("--sides", default=SIDES)
    arguments = parser.parse_args()
    python = peers_python(arguments.env)
    config = TrainConfig(learning_rate=RATE)
    names = {
        "course": "`course finetune`",
        "longest": "Trainer, padded to the longest of a batch",
        "128": "Trainer, padded to 128",
    }
    rows, took = [], {side: [] for side in names}  # seconds to the last of TARGETS, of the runs that reach it
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        train, dev = sst2_tables(arguments.sst2, folder)
        sentences = len(read_table(train, "text").texts)
        for run in arguments.sides.split(","):
            side, epochs = run.split(":")
            if side == "course":
                command = [Path(sys.executable).with_name("course"), "finetune", train, "--validation", dev]
                ends, _ = epoch_ends([*command, "--epochs", epochs, "--learning-rate", RATE, "--out", folder / "out"])
                history = json.loads((folder / "out" / "metrics.json").read_text())["history"]
                accuracies = [epoch["validation_accuracy"] for epoch in history]
            else:
                rest = [epochs, config.learning_rate, config.batch_size, side]
                ends, lines = epoch_ends([python, HERE / "torch_finetune.py", fetch(), train, dev, *rest])
                accuracies = [float(re.search(r"[\d.]+$", line)[0]) for line in lines]
            when = list(zip(ends, accuracies, strict=True))
            reached = [next((end for end, accuracy in when if accuracy >= goal), None) for goal in TARGETS]
            took[side] += reached[-1:] if reached[-1] else []
            scores = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
            cells = [f"{seconds:.0f} s" if seconds else "" for seconds in [ends[-1], *reached]]
            rows.append(f"| {names[side]} | {scores} | {' | '.join(cells)} |")
    import jax

    against = "; ".join(
        f"{names[side]}: {np.median(seconds) / np.median(took['course']):.1f} times this course's time"
        for side, seconds in took.items()
        if side != "course" and seconds and took["course"]
    )
    text = f"""\
# Time to a score

Written by `benchmarks/score.py`. SST-2 ({sentences:,} sentences), MiniLM-L6, float32, batch
{config.batch_size}, learning rate {config.learning_rate:g}, from process start, compilation included; on
{machine()}; jax {jax.__version__}, {peers_versions(python)}.

| | dev accuracy after each epoch | the run | to {" | to ".join(f"{goal:.2f}" for goal in TARGETS)} |
|---|---|---:|{"---:|" * len(TARGETS)}
{chr(10).join(rows)}

{against and f"To {TARGETS[-1]:.2f}: {against}."}
"""
    (HERE / "score.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
