"""Labelling texts with a fine-tuned model: this course's Predictor beside a transformers pipeline, the same weights.

    .venv/bin/python benchmarks/predict.py [--texts 10000] [--rounds 3] [--env FOLDER]

The texts are the tickets' messages, over and over. Both programs stay up and are asked in turns. The pipeline once as
it comes, one text at a time, and once 32 at a time, as the Predictor does. Then one message a call, both warm. About
twenty minutes on 2 cores; writes benchmarks/predict.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from machine import machine
from peers import FOLDER, peers_python, peers_versions

from course_lib.data import load_tickets
from course_lib.finetune import tickets_router
from course_lib.start import large_pages

HERE = Path(__file__).resolve().parent
CALLS = 300


def answer_questions(folder: str, path: str) -> None:
    """This course's side; reads and answers as torch_predict.py does."""
    from course_lib.predict import Predictor

    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    many, one = Predictor(folder), Predictor(folder, batch_size=1)
    for line in sys.stdin:
        batch, count = map(int, line.split())
        took = []
        for part in [texts[:count]] if batch else [[text] for text in texts[:count]]:
            started = time.perf_counter()
            assert len((many if batch else one)(part)) == len(part)
            took.append(time.perf_counter() - started)
        print(statistics.median(took), flush=True)


def ask(program: subprocess.Popen, batch: int, count: int) -> float:
    program.stdin.write(f"{batch} {count}\n")
    program.stdin.flush()
    return float(program.stdout.readline())


def main() -> None:
    os.environ |= large_pages()  # for both sides, as the script `course` has it
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--env", type=Path, default=FOLDER, help="the other environment")
    arguments = parser.parse_args()
    python, folder = peers_python(arguments.env), tickets_router()
    messages = [text for split in ("train", "validation", "test") for text in load_tickets(split).texts]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "texts.json"
        path.write_text(json.dumps(list(islice(cycle(messages), arguments.texts))), encoding="utf-8")
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        theirs = subprocess.Popen([python, HERE / "torch_predict.py", folder, path], **pipes)
        ours = subprocess.Popen([sys.executable, __file__, "answer", folder, path], **pipes)
        kinds = {
            "pipeline, as it comes": (theirs, 1, arguments.texts),
            "pipeline, 32 at a time": (theirs, 32, arguments.texts),
            "this course": (ours, 32, arguments.texts),
            "pipeline, one message": (theirs, 0, CALLS),
            "this course, one message": (ours, 0, CALLS),
        }
        took: dict[str, list[float]] = {name: [] for name in kinds}
        for program, batch, _ in kinds.values():  # warm: every length has been met
            ask(program, batch, min(len(messages), arguments.texts))
        for _ in range(arguments.rounds):
            for name, (program, batch, count) in kinds.items():
                took[name].append(ask(program, batch, count))
                print(f"{name}: {took[name][-1]:.4g} s", flush=True)
                time.sleep(0.5)
        for program in (theirs, ours):
            program.stdin.close()
            program.wait(60)

    def ratio(other: str, own: str) -> str:
        return f"{statistics.median(a / b for a, b in zip(took[other], took[own], strict=True)):.1f}"

    many, one = "this course", "this course, one message"
    lines = [f"| {name} | {statistics.median(took[name]):.1f} s | {ratio(name, many)} |" for name in list(kinds)[:3]]
    lines += [
        f"| {name}, p50 | {1000 * statistics.median(took[name]):.1f} ms | {ratio(name, one)} |"
        for name in list(kinds)[3:]
    ]
    import jax

    text = f"""\
# Labelling texts

Written by `benchmarks/predict.py`. The course's fine-tuned router on {arguments.texts:,} messages, float32, warm; on
{machine()}; jax {jax.__version__}, {peers_versions(python)}.
Medians of {arguments.rounds} turns, taken alternately.

| | time | over this course's |
|---|---:|---:|
{chr(10).join(lines)}
"""
    (HERE / "predict.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    answer_questions(*sys.argv[2:]) if sys.argv[1:2] == ["answer"] else main()
