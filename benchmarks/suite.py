"""Where the time of `make test` goes: compiling, tracing, importing, and what is left for running, file by file.

    .venv/bin/python benchmarks/suite.py [PATH …]

Runs the tests (all, or those PATHs) of a copy of what git has, with nothing compiled beforehand, in an environment
that reports what JAX and the imports take. Every process with the tests' usual environment does; what `course grade`
runs has another, and counts as all else. About a quarter of an hour on 2 cores. Writes benchmarks/suite.md.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from machine import machine

ROOT = Path(__file__).resolve().parent.parent

KINDS = {
    "import": "importing",
    "trace": "tracing: Python to JAX's intermediate form",
    "lower": "lowering: from there to XLA's",
    "compile": "compiling in XLA",
    "load": "loading programs that were compiled before",
}


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, reached = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def by_file(lines: list[str]) -> dict[str, dict[str, float]]:
    """{test file: {kind: seconds that passed}}, and under "processes" how many it started.

    The processes of a file share a core, so no second is counted twice: where two kinds overlap, as when a program is
    compiled while another is traced, the one that comes later in KINDS counts.
    """
    spans = defaultdict(lambda: defaultdict(list))
    for line in lines:
        test, kind, start, end = line.split("\t")
        spans[test][kind].append((float(start), float(end)))
    took = defaultdict(lambda: defaultdict(float))
    for test, of_kind in spans.items():
        took[test]["processes"] = len(of_kind["start"])
        inner = []
        for kind in reversed(KINDS):
            before = covered(inner)
            inner += of_kind[kind]
            took[test][kind] = covered(inner) - before
    return took


def file_of(test: str) -> str:
    """tests.test_losses.TestLosses → tests/test_losses.py; notebooks.01_losses.ipynb → notebooks/01_losses.ipynb."""
    name, notebook, _ = re.sub(r"\.Test\w+$", "", test).partition(".ipynb")
    return name.replace(".", "/") + (notebook or ".py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", metavar="PATH", help="of tests; all where none is named")
    paths = parser.parse_args().paths
    with tempfile.TemporaryDirectory() as folder:
        copy, spans, cache = (Path(folder) / name for name in ("loss-to-bert", "spans", "cache"))
        os.mkfifo(spans)
        writing = os.open(spans, os.O_RDWR)  # so that the pipe ends with this, and not with the first process
        reading, lines = spans.open(), []
        reader = threading.Thread(target=lambda: lines.extend(reading), daemon=True)
        reader.start()
        subprocess.run(["git", "checkout-index", "--all", f"--prefix={copy}/"], cwd=ROOT, check=True)
        with (copy / "tests" / "offline" / "sitecustomize.py").open("a") as offline:
            offline.write("# ruff: noqa\n" + (ROOT / "benchmarks" / "suite_spans.py").read_text())
        variables = {**os.environ, "COURSE_CACHE": str(cache), "SUITE_SPANS": str(spans)}
        subprocess.run(["make", ".venv/ready"], cwd=copy, check=True)
        subprocess.run([copy / ".venv" / "bin" / "course", "model"], cwd=copy, check=True, env=variables)
        started = time.perf_counter()
        arguments = f"ARGS=-q --junitxml={folder}/junit.xml {' '.join(paths)}"
        if subprocess.run(["make", "test", arguments], cwd=copy, env=variables).returncode:
            sys.exit("the tests did not pass, so nothing is written")
        minutes = (time.perf_counter() - started) / 60
        os.close(writing)
        reader.join(60)
        took = by_file(lines)
        seconds = defaultdict(float)
        for case in ElementTree.parse(f"{folder}/junit.xml").iter("testcase"):
            seconds[file_of(case.get("classname"))] += float(case.get("time"))
    total = {kind: sum(kinds[kind] for kinds in took.values()) / 60 for kind in KINDS}
    whole = minutes * min(os.cpu_count(), 4)  # one worker a core, up to four: see Makefile
    total_of = {KINDS[kind]: total[kind] for kind in KINDS}
    total_of["all else: training, predicting, Python, waiting"] = whole - sum(total.values())
    rows = "\n".join(
        f"| {test} | {seconds[test]:.0f} | " + " | ".join(f"{took[test][kind]:.0f}" for kind in KINDS) + " |"
        for test in sorted(seconds, key=seconds.get, reverse=True)[:30]
    )
    text = f"""\
# Where the suite's time goes

Written by `benchmarks/suite.py`: `make test{" ".join(["", *paths])}` with nothing compiled beforehand, on
{machine()}, jax {version("jax")}. {minutes:.1f} minutes,
{sum(kinds["processes"] for kinds in took.values()):.0f} processes, {len(seconds)} files.

| | core-minutes | share |
|---|---:|---:|
{chr(10).join(f"| {name} | {value:.1f} | {value / whole:.0%} |" for name, value in total_of.items())}

The files that take longest, in seconds:

| file | its tests | {" | ".join(KINDS)} |
|---|---:|{"---:|" * len(KINDS)}
{rows}
"""
    (ROOT / "benchmarks" / "suite.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
