"""Build every lesson anew: do the same sources give the same files?

    .venv/bin/python hardening/twice.py          all lessons
    .venv/bin/python hardening/twice.py 04 11    these

The builds run in copies of what git has, each in a folder of its own. A lesson that comes out as it is committed was
built twice by that; any other is built once more, and the two builds are compared. Each lesson's row in
hardening/determinism.md is replaced when the lesson is done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from course_lib.notebook_build import FOLDERS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "hardening" / "determinism.md"
COURSE = Path(sys.executable).with_name("course")
SAME = "the same files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    every = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb"))
    parser.add_argument("lessons", nargs="*", help=f"{every[0]} to {every[-1]}; all where none is named")
    lessons = sorted(set(parser.parse_args().lessons or every))
    if unknown := set(lessons) - set(every):
        parser.error(f"there is no lesson {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="twice-") as work:
        committed, first, second = (Path(work, name) for name in ("committed", "first", "second"))
        for folder in (committed, first, second):
            subprocess.run(["git", "checkout-index", "--all", f"--prefix={folder}/"], cwd=ROOT, check=True)
        for lesson in lessons:
            build(first, lesson)
            held = again = differences(committed, first, lesson)
            if held:
                build(second, lesson)
                again = differences(first, second, lesson)
            write(lesson, f"| {lesson} | {'; '.join(again) or SAME} | {'; '.join(held) or SAME} |")


def build(folder: Path, lesson: str) -> None:
    """`course build` in a copy, by the copy's course_lib, not by that of the clone, which is installed in place."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    began = time.time()
    subprocess.run([COURSE, "build", "--force", lesson], cwd=folder, env=environment, check=True)
    assert all(path.stat().st_mtime > began for path in notebooks(folder, lesson)), f"built elsewhere, not in {folder}"


def notebooks(folder: Path, lesson: str) -> list[Path]:
    return [path for part in FOLDERS for path in (folder / part).glob(f"{lesson}_*.ipynb")]


def differences(one: Path, other: Path, lesson: str) -> list[str]:
    """What is not the same byte for byte, a text for each file."""
    pairs = [(path.relative_to(one), path, other / path.relative_to(one)) for path in notebooks(one, lesson)]
    return [f"{name.parent}: {compare(*both)}" for name, *both in pairs if both[0].read_bytes() != both[1].read_bytes()]


def write(lesson: str, row: str) -> None:
    before, rest = PAGE.read_text("utf-8").split("<!-- twice -->\n")
    table, after = rest.split("<!-- end -->\n")
    rows = {line.split()[1]: line for line in table.splitlines()[2:]} | {lesson: row}
    head = ["| lesson | two builds | a build, and what is committed |", "| --- | --- | --- |"]
    table = "\n".join([*head, *(rows[number] for number in sorted(rows))])
    PAGE.write_text(f"{before}<!-- twice -->\n{table}\n<!-- end -->\n{after}", "utf-8")
    print(row, flush=True)


def compare(one: Path, other: Path) -> str:
    """How many cells differ, and in what: text that nbval compares, text that it does not, or nothing but a figure."""
    count = {"in text that is compared": 0, "in text that is not": 0, "in a figure alone": 0}
    cells = (json.loads(path.read_text("utf-8"))["cells"] for path in (one, other))
    for left, right in zip(*cells, strict=True):
        if left == right:
            continue
        if without_figures(left) == without_figures(right):
            count["in a figure alone"] += 1
        elif "nbval-ignore-output" in left["metadata"].get("tags", []):
            count["in text that is not"] += 1
        else:
            count["in text that is compared"] += 1
    return ", ".join(f"{number} {what}" for what, number in count.items() if number) or "metadata"


def without_figures(cell: dict) -> dict:
    outputs = [{**output, "data": {kind: value for kind, value in output["data"].items() if kind != "image/png"}}
               if "data" in output else output for output in cell.get("outputs", [])]  # fmt: skip
    return {**cell, "outputs": outputs}


if __name__ == "__main__":
    main()
