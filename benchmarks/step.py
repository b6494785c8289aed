"""One training step, this course's beside PyTorch transformers': same weights, same work, in turns on one machine.

    .venv/bin/python benchmarks/step.py [--env FOLDER] [--rounds 5] [--batch 32]

MiniLM-L6 with a head for eight classes, float32, dropout on, clipping, AdamW on all parameters; random tokens at two
lengths. Both programs stay up and are asked in turns, so that what else the machine does meets both. About 5 minutes on
2 cores, and once some minutes for the other side's environment. Writes benchmarks/step.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from peers import FOLDER, peers_python, peers_versions

from course_lib.pretrained import fetch

HERE = Path(__file__).resolve().parent
LENGTHS = (24, 128)
STEPS = 8  # in one turn; its median counts


def answer_questions() -> None:
    """This course's side: the programs that `fit` runs. Reads lines "LENGTH BATCH STEPS", answers "SECONDS"."""
    import jax
    import numpy as np
    from flax import nnx

    from course_lib.checkpoint import load_pretrained
    from course_lib.data import empty_batch
    from course_lib.train import TrainConfig, _programs, make_optimizer

    graph, params = nnx.split(load_pretrained(fetch(), num_labels=8), nnx.Param)
    optimizer = make_optimizer(TrainConfig(learning_rate=1e-5), 1000)
    opt_state, rng, key = optimizer.init(params), np.random.default_rng(0), jax.random.key(0)
    gradients_of, update_of = _programs()
    for line in sys.stdin:
        length, size, steps = map(int, line.split())
        batch = empty_batch(size, length)
        batch.input_ids[:], batch.labels[:] = rng.integers(1000, 20_000, (size, length)), rng.integers(8, size=size)
        batch.attention_mask[:], batch.weights[:] = 1, 1
        took = []
        for _ in range(steps):
            started = time.perf_counter()
            loss, gradients = gradients_of(graph, params, batch, key, 1, False)  # with a key: dropout
            params, opt_state = update_of(optimizer, params, opt_state, gradients)
            jax.block_until_ready((loss, params))
            took.append(time.perf_counter() - started)
        print(statistics.median(took), flush=True)


def ask(program: subprocess.Popen, length: int, batch: int, steps: int) -> float:
    program.stdin.write(f"{length} {batch} {steps}\n")
    program.stdin.flush()
    return float(program.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, default=FOLDER, help="the other environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    python = peers_python(arguments.env)
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    sides = {
        "PyTorch": subprocess.Popen([python, HERE / "torch_step.py", fetch()], **pipes),
        "course": subprocess.Popen([sys.executable, __file__, "answer"], **pipes),
    }
    lines = []
    for length in LENGTHS:
        for program in sides.values():
            ask(program, length, arguments.batch, 3)  # compiles, warms up
        times = {name: [] for name in sides}
        for _ in range(arguments.rounds):
            for name, program in sides.items():
                times[name].append(ask(program, length, arguments.batch, STEPS))
                time.sleep(0.5)  # idle threads spin for a moment
        torch, ours = (statistics.median(times[name]) for name in sides)
        ratio = statistics.median(b / a for a, b in zip(times["PyTorch"], times["course"], strict=True))
        lines.append(f"| {length} | {1000 * torch:.0f} | {1000 * ours:.0f} | {ratio:.2f} |")
        print(lines[-1], flush=True)
    for program in sides.values():
        program.stdin.close()
        program.wait(60)

    import jax

    machine = f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()})"
    text = f"""\
# One training step

Written by `benchmarks/step.py`. MiniLM-L6, float32, batch {arguments.batch}, dropout, clipping, AdamW on all
parameters; on {machine}; jax {jax.__version__}, {peers_versions(python)}.
Medians of {arguments.rounds} turns of {STEPS} steps each, taken alternately; the ratio is the median of the turns'
ratios.

| tokens | PyTorch, ms | this course, ms | ratio |
|---:|---:|---:|---:|
{chr(10).join(lines)}
"""
    (HERE / "step.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    answer_questions() if sys.argv[1:] == ["answer"] else main()
