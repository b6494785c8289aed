"""Where the time of `make test` goes: compiling, tracing, importing, and what is left for running, file by file.

    .venv/bin/python benchmarks/suite.py [PATH …]

Runs the tests (all, or those PATHs) of a copy of what git has, with nothing compiled beforehand, in an environment
that writes down what JAX and the imports take in every process that a test starts. About half an hour on 2 cores.
Writes benchmarks/suite.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
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
    """{test file: {kind: seconds}}, and under "processes" how many it started. No second is counted twice:
    what is loaded while something is traced, say, is loading, as the last of KINDS counts first."""
    spans = defaultdict(lambda: defaultdict(list))
    for line in lines:
        process, test, kind, start, end = line.split("\t")
        spans[process, test][kind].append((float(start), float(end)))
    took = defaultdict(lambda: defaultdict(float))
    for (_, test), of_kind in spans.items():
        took[test]["processes"] += len(of_kind["start"])
        inner = []
        for kind in reversed(KINDS):
            before = covered(inner)
            inner += of_kind[kind]
            took[test][kind] += covered(inner) - before
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", metavar="PATH", help="of tests; all where none is named")
    paths = parser.parse_args().paths
    with tempfile.TemporaryDirectory() as folder:
        copy, spans, cache = (Path(folder) / name for name in ("loss-to-bert", "spans", "cache"))
        os.mkfifo(spans)
        pipe = os.fdopen(os.open(spans, os.O_RDWR))  # open for writing, too: it does not end with the first process
        lines = []
        threading.Thread(target=lambda: [lines.append(line) for line in pipe], daemon=True).start()
        subprocess.run(["git", "checkout-index", "--all", f"--prefix={copy}/"], cwd=ROOT, check=True)
        with (copy / "tests" / "offline" / "sitecustomize.py").open("a") as offline:
            offline.write("# ruff: noqa\n" + (ROOT / "benchmarks" / "suite_spans.py").read_text())
        variables = {**os.environ, "COURSE_CACHE": str(cache), "SUITE_SPANS": str(spans)}
        subprocess.run(["make", ".venv/ready"], cwd=copy, check=True)
        subprocess.run([copy / ".venv" / "bin" / "course", "model"], cwd=copy, check=True, env=variables)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        arguments = f"ARGS=-q -o junit_family=xunit1 --junitxml={folder}/junit.xml {' '.join(paths)}"
        if subprocess.run(["make", "test", arguments], cwd=copy, env=variables).returncode:
            sys.exit("the tests did not pass, so nothing is written")
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        took = by_file(lines)
        seconds = defaultdict(float)
        for case in ElementTree.parse(f"{folder}/junit.xml").iter("testcase"):
            seconds[case.get("file")] += float(case.get("time"))
    total = {kind: sum(kinds[kind] for kinds in took.values()) for kind in (*KINDS, "processes")}
    rest = cpu - sum(total[kind] for kind in KINDS)
    rows = "\n".join(
        f"| {test} | {seconds[test]:.0f} | " + " | ".join(f"{took[test][kind]:.0f}" for kind in KINDS) + " |"
        for test in sorted(seconds, key=seconds.get, reverse=True)[:30]
    )
    import jax

    text = f"""\
# Where the suite's time goes

Written by `benchmarks/suite.py`: `make test{" ".join(["", *paths])}` with nothing compiled beforehand, on
{machine()}, jax {jax.__version__}. {wall / 60:.1f} minutes and
{cpu / 60:.1f} minutes of processor time, in {total["processes"]:.0f} processes for {len(seconds)} files.

| | minutes of processor time | share |
|---|---:|---:|
{chr(10).join(f"| {KINDS[kind]} | {total[kind] / 60:.1f} | {total[kind] / cpu:.0%} |" for kind in KINDS)}
| all else: training, predicting, Python, waiting | {rest / 60:.1f} | {rest / cpu:.0%} |

The longest, in seconds; a file's processes may run at the same time.

| file | its tests | {" | ".join(KINDS)} |
|---|---:|{"---:|" * len(KINDS)}
{rows}
"""
    (ROOT / "benchmarks" / "suite.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
