"""Build every lesson anew: do the same sources give the same files?

    python hardening/twice.py          all lessons, half an hour on 2 cores
    python hardening/twice.py 04 11    these

The builds run in copies of what git has, each in a folder of its own. A lesson that comes out as it is committed was
built twice by that; any other is built once more, and the two builds are compared. The table goes to
hardening/determinism.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "hardening" / "determinism.md"
COURSE = Path(sys.executable).with_name("course")
SAME = "the same"
FOLDERS = ("notebooks", "exercises", "solutions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    every = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb"))
    parser.add_argument("lessons", nargs="*", help=f"{every[0]} to {every[-1]}; all where none is named")
    lessons = parser.parse_args().lessons or every
    if unknown := set(lessons) - set(every):
        parser.error(f"there is no lesson {', '.join(sorted(unknown))}")
    rows, same, files = [], 0, 0
    with tempfile.TemporaryDirectory(prefix="twice-") as work:
        committed, first, second = (Path(work, name) for name in ("committed", "first", "second"))
        for folder in (committed, first, second):
            subprocess.run(["git", "checkout-index", "--all", f"--prefix={folder}/"], cwd=ROOT, check=True)
        for lesson in lessons:
            built = [path for folder in FOLDERS for path in (committed / folder).glob(f"{lesson}_*.ipynb")]
            names = [path.relative_to(committed) for path in built]
            build(first, lesson)
            held = [compare(committed / name, first / name) for name in names]
            again = held
            if set(held) != {SAME}:
                build(second, lesson)
                again = [compare(first / name, second / name) for name in names]
            files += len(names)
            same += again.count(SAME)
            for name, between, stored in zip(names, again, held, strict=True):
                if name.parent.name == "notebooks" or {between, stored} != {SAME}:
                    rows.append(f"| {name.with_suffix('')} | {between} | {stored} |")
                    print(rows[-1], flush=True)
    head = ["| page | two builds | a build, and what is committed |", "| --- | --- | --- |"]
    said = f"{same} of {files} files are the same byte for byte. The pages, and what differs among the others:"
    before, rest = PAGE.read_text("utf-8").split("<!-- twice -->\n")
    after = rest.partition("<!-- end -->\n")[2]
    PAGE.write_text("\n".join([f"{before}<!-- twice -->", said, "", *head, *rows, f"<!-- end -->\n{after}"]), "utf-8")
    print(said)


def build(folder: Path, lesson: str) -> None:
    subprocess.run([COURSE, "build", "--force", lesson], cwd=folder, check=True)


def compare(one: Path, other: Path) -> str:
    """How two builds of a notebook differ: in text that nbval compares, in text that it ignores, in figures alone."""
    if one.read_bytes() == other.read_bytes():
        return SAME
    count = {"compared": 0, "ignored": 0, "in figures alone": 0}
    cells = (json.loads(path.read_text("utf-8"))["cells"] for path in (one, other))
    for left, right in zip(*cells, strict=True):
        if left == right:
            continue
        if without_figures(left) == without_figures(right):
            count["in figures alone"] += 1
        elif "nbval-ignore-output" in left["metadata"].get("tags", []):
            count["ignored"] += 1
        else:
            count["compared"] += 1
    return "differ in " + (", ".join(f"{number} {what}" for what, number in count.items() if number) or "metadata")


def without_figures(cell: dict) -> dict:
    outputs = [{**output, "data": {kind: value for kind, value in output["data"].items() if kind != "image/png"}}
               if "data" in output else output for output in cell.get("outputs", [])]  # fmt: skip
    return {**cell, "outputs": outputs}


if __name__ == "__main__":
    main()
