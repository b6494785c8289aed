"""How long until something is there: the import, the command, a page's first cell; and what a second run compiles.

    .venv/bin/python benchmarks/start.py [--rounds 5] [--twice 01,06,09]

Each is a process of its own. First cells: kernel start and the first cell of code, on every page, in turns. The pages
named by --twice run as a whole, twice, with a folder for compiled programs that is empty at first: the programs that
the second run adds to it are those that it had to compile. About five minutes on 2 cores; writes benchmarks/start.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from machine import machine
from nbclient import NotebookClient

from course_lib.start import large_pages

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def seconds(*command: str | Path) -> float:
    started = time.perf_counter()
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run(page: Path, cells: int | None, **environment: str) -> float:
    """Start a kernel and run the first `cells` cells of code, or all of them → seconds until the last has ended."""
    notebook = nbformat.read(page, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = code[:cells]
    started = time.perf_counter()
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(page.parent)}})
    with client.setup_kernel(env={**os.environ, **large_pages(), "TQDM_DISABLE": "1", **environment}):
        for i, cell in enumerate(notebook.cells):
            client.execute_cell(cell, i)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--twice", default="01,06,09", help="pages that are run twice as a whole")
    arguments = parser.parse_args()
    course = Path(sys.executable).with_name("course")
    kinds = {
        "`python -c pass`": lambda: seconds(sys.executable, "-c", "pass"),
        "`python -c 'import course_lib'`": lambda: seconds(sys.executable, "-c", "import course_lib"),
        "`course --help`": lambda: seconds(course, "--help"),
        **{f"{page.stem}: kernel and first cell": lambda page=page: run(page, 1) for page in PAGES},
    }
    took: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(-1, arguments.rounds):
        for name, measure in kinds.items():
            one = measure()
            if turn >= 0:  # the first turn finds nothing in the system's cache
                took[name].append(one)
                print(f"{name}: {one:.2f} s", flush=True)
    lines = [f"| {name} | {statistics.median(values):.2f} s |" for name, values in took.items()]
    for page in PAGES:
        if page.stem[:2] in arguments.twice.split(","):
            with tempfile.TemporaryDirectory() as folder:
                environment = {
                    "JAX_COMPILATION_CACHE_DIR": folder,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                }
                first = run(page, None, **environment)
                programs = len(list(Path(folder).glob("*-cache")))
                second = run(page, None, **environment)
                more = len(list(Path(folder).glob("*-cache"))) - programs
            lines.append(f"| {page.stem}, all of it: {programs} programs compiled | {first:.1f} s |")
            lines.append(f"| … and once more: {more} programs compiled | {second:.1f} s |")
            print(*lines[-2:], sep="\n", flush=True)
    import jax

    text = f"""\
# Until something is there

Written by `benchmarks/start.py`; on {machine()}, Python \
{platform.python_version()}, jax {jax.__version__}. Medians of {arguments.rounds} turns.

| | time |
|---|---:|
{chr(10).join(lines)}
"""
    (ROOT / "benchmarks" / "start.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
