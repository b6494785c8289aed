"""Write files in full or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from course_lib import CourseError

# How a cell begins that a spreadsheet takes for a formula: OWASP, "CSV injection". It drops blanks in front.
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")


def check_target(path: Path) -> None:
    """CourseError where `write_text` could not write `path`, as far as that shows before: ask it before long work."""
    if os.path.isdir(path):
        raise CourseError(f"{path}: could not be written: it is a folder; give the name of a file in it")
    if not os.path.isdir(path.parent):
        raise CourseError(f"{path}: could not be written: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CourseError(f"{path}: could not be written: nothing may be put into {path.parent}; choose another folder")


def write_text(path: Path, content: str) -> None:
    """UTF-8, written beside its final name and then renamed; raises CourseError, the old file being as it was."""
    check_target(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # another may write the same file at this moment
    try:
        part.write_text(content, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CourseError(
            f"{path}: could not be written ({error.strerror}); what was there before is unchanged"
        ) from error


def write_json(path: Path, value: object) -> None:
    """As `write_text`. A character that UTF-8 has no bytes for, as in a file name in Latin-1, stays an escape."""
    content = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_text(path, content.encode("utf-8", "backslashreplace").decode())


def write_csv(path: Path, rows: Iterable[Sequence[str | float]], delimiter: str = ",") -> None:
    """As `write_text`; the first row is the header. For people with spreadsheets: no text becomes a formula there.

    A text that would gets a ' in front; so write .jsonl for what must come back exactly. Every text is quoted: Python
    3.11 would leave a lone carriage return bare, which ends a row, and where ; separates cells one could begin there.
    """
    table = io.StringIO()
    writer = csv.writer(table, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([_no_formula(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    write_text(path, table.getvalue())


def _no_formula(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text


def move_into(folder: Path, half: Path, first: str, last: str) -> None:
    """Move all files of the folder `half` into `folder`, on the same disk, in place of those of the same names.

    `last` is the one without which nobody opens the folder. The old one goes before anything else is replaced: killed
    in between, this leaves a folder that is refused, and not old and new files that pass for a whole. `first` is the
    one that another program may hold open, which Windows refuses to replace: then nothing has changed.

    Raises OSError.
    """
    files = sorted(half.iterdir(), key=lambda path: (path.name == last, path.name != first))
    old = half / f".{last}.old"
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder / last, old)
    try:
        os.replace(files[0], folder / files[0].name)
    except OSError:
        if old.exists():
            os.replace(old, folder / last)
        raise
    for path in files[1:]:
        os.replace(path, folder / path.name)
