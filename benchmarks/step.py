"""One training step, this course's beside PyTorch transformers': same weights, same work, in turns on one machine.

    .venv/bin/python benchmarks/step.py [--shape minilm-l6|bert-base] [--dtype float32|bfloat16]
                                        [--batches 32] [--lengths 24,128] [--rounds 5] [--env FOLDER]

A head for eight classes, dropout on, clipping, AdamW on all parameters, random tokens. The programs stay up and are
asked in turns, so that what else the machine does meets all. On a CPU both sides run in large pages of memory where
the script `course` does (course_lib/start.py), and a third program is this course's step without them. With the
defaults about 12 minutes on 2 cores, and once some minutes for the other side's environment; it then writes
benchmarks/step.md. Any other choice is written to benchmarks/step-SHAPE-DTYPE.md. On a GPU, say
`--shape bert-base --dtype bfloat16 --batches 32,64,128,256,512 --lengths 128`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine
from peers import FOLDER, peers_python, peers_versions

from course_lib.pretrained import fetch
from course_lib.start import large_pages

HERE = Path(__file__).resolve().parent
STEPS = 8  # in one turn
SMALL_PAGES = """ Small pages: this course's step without
the large pages of memory that both sides have, as the script `course` has where Linux lets a program ask for them."""


def answer_questions(folder: str, dtype: str) -> None:
    """This course's side: the programs that `fit` runs. Reads and answers as torch_step.py does."""
    import jax
    import numpy as np
    from flax import nnx

    from course_lib.checkpoint import load_pretrained
    from course_lib.data import empty_batch
    from course_lib.train import TrainConfig, make_optimizer, programs

    graph, params = nnx.split(load_pretrained(folder, num_labels=8, dtype=dtype), nnx.Param)
    optimizer = make_optimizer(TrainConfig(learning_rate=1e-5), 1000)
    opt_state, rng, key = optimizer.init(params), np.random.default_rng(0), jax.random.key(0)
    gradients_of, update_of = programs()
    for line in sys.stdin:
        length, size, steps = map(int, line.split())
        batch = empty_batch(size, length)
        batch.input_ids[:], batch.labels[:] = rng.integers(1000, 20_000, (size, length)), rng.integers(8, size=size)
        batch.attention_mask[:], batch.weights[:] = 1, 1
        started = time.perf_counter()
        for _ in range(steps):  # as in training, nothing waits for a step: a GPU finds the next one ready
            loss, gradients = gradients_of(graph, params, batch, key, 1, False)  # with a key: dropout
            params, opt_state = update_of(optimizer, params, opt_state, gradients)
            del gradients
        jax.block_until_ready((loss, params))
        seconds = (time.perf_counter() - started) / steps
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        print(seconds, peak, flush=True)


def ask(program: subprocess.Popen, length: int, batch: int, steps: int) -> None:
    program.stdin.write(f"{length} {batch} {steps}\n")
    program.stdin.flush()


def answer(program: subprocess.Popen) -> tuple[float, int]:
    seconds, peak = program.stdout.readline().split()
    return float(seconds), int(peak)


def model_folder(shape: str, folder: Path) -> Path:
    """The course's model, or one of BERT-base's shape with random weights, which take as long."""
    if shape == "minilm-l6":
        return fetch()
    from flax import nnx

    from course_lib.bert import BertConfig, BertForSequenceClassification
    from course_lib.checkpoint import save_pretrained

    config = BertConfig.bert_base(labels=tuple("abcdefgh"))
    return save_pretrained(BertForSequenceClassification(config, rngs=nnx.Rngs(0)), folder / shape)


def measure(arguments: argparse.Namespace, folder: Path, python: Path) -> tuple[str, bool, list[str]]:
    """The name of the device, whether both sides had large pages, and the table's rows."""
    os.environ.pop("GLIBC_TUNABLES", None)  # one program shall be without
    # This process keeps off the GPU, where whoever comes first takes most of the memory.
    env = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"
    program = "import jax, sys; from course_lib.capacity import matrix_rate; "
    program += "print(matrix_rate(dtype=sys.argv[1]), jax.devices()[0].device_kind)"
    command = [sys.executable, "-c", program, arguments.dtype]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    rate, device = said.strip().split(maxsplit=1)
    from course_lib.capacity import step_flops
    from course_lib.config_json import read_config

    folder = model_folder(arguments.shape, folder)
    config = read_config(folder)[0]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    theirs = [python, HERE / "torch_step.py", folder, arguments.dtype]
    ours = [sys.executable, __file__, "answer", folder, arguments.dtype]
    pages, share = large_pages() if device == "cpu" else {}, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    sides = [
        subprocess.Popen(theirs, env=env | pages, **pipes),
        subprocess.Popen(ours, env=env | pages | share, **pipes),
    ]
    if pages:
        sides.append(subprocess.Popen(ours, env=env | share, **pipes))
    lines = []
    for length in map(int, arguments.lengths.split(",")):
        for batch in map(int, arguments.batches.split(",")):
            for program in sides:  # side by side, since it is not timed: they compile and warm up
                ask(program, length, batch, 3)
            for program in sides:
                answer(program)
            turns = []
            for _ in range(arguments.rounds):
                turns.append([])
                for program in sides:
                    ask(program, length, batch, STEPS)
                    turns[-1].append(answer(program))
                time.sleep(0.5)  # idle threads spin for a moment
            torch, ours, *small = (statistics.median(turn[side][0] for turn in turns) for side in range(len(sides)))
            ratio = statistics.median(turn[1][0] / turn[0][0] for turn in turns)
            used = step_flops(config, batch, length) / ours / float(rate)
            held = " / ".join(f"{peak / 2**30:.1f}" if peak else "" for _, peak in turns[-1])
            last = f"{1000 * small[0]:.0f}" if small else held.strip(" /")
            lines.append(
                f"| {length} | {batch} | {1000 * torch:.0f} | {1000 * ours:.0f} | {ratio:.2f} | {batch / ours:.0f} | "
                f"{used:.0%} | {last} |"
            )
            print(lines[-1], flush=True)
    for program in sides:
        program.stdin.close()
        program.wait(60)
    return device, bool(pages), lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=["minilm-l6", "bert-base"], default="minilm-l6")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batches", default="32")
    parser.add_argument("--lengths", default="24,128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--env", type=Path, default=FOLDER, help="the other environment")
    arguments = parser.parse_args()
    python = peers_python(arguments.env)
    with tempfile.TemporaryDirectory() as folder:
        device, pages, lines = measure(arguments, Path(folder), python)

    import jax

    where = machine() if device == "cpu" else f"one {device}"
    last = "small pages, ms" if pages else "GiB held: PyTorch / course"
    text = f"""\
# One training step

Written by `benchmarks/step.py`. {arguments.shape}, {arguments.dtype}, dropout, clipping, AdamW on all parameters;
on {where}; jax {jax.__version__}, {peers_versions(python)}. Medians of {arguments.rounds} turns of {STEPS} steps
each, taken alternately; the ratio is the median of the turns' ratios. Utilisation: the arithmetic that the step needs,
over what this device does in a product of two large matrices of the same type.{SMALL_PAGES if pages else ""}

| tokens | batch | PyTorch, ms | this course, ms | ratio | examples/s | utilisation | {last} |
|---:|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(lines)}
"""
    usual = all(
        getattr(arguments, name) == parser.get_default(name) for name in ("shape", "dtype", "batches", "lengths")
    )
    name = "step.md" if usual else f"step-{arguments.shape}-{arguments.dtype}.md"
    (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    answer_questions(*sys.argv[2:]) if sys.argv[1:2] == ["answer"] else main()
