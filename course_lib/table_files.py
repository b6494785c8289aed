"""Columns out of a .csv, .tsv or .jsonl file in UTF-8, or one line that says what is wrong with it, and where."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from course_lib import HALF_A_CHARACTER, CourseError


def read_columns(path: Path, columns: list[str]) -> tuple[list[int], list[list[str]]]:
    """Each row's line number in the file, and its texts in these columns. CourseError for anything that is no table."""
    readers = {".csv": _read_separated, ".tsv": _read_separated, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise CourseError(f"{path}: the name must end in .csv, .tsv or .jsonl")
    try:
        content = _decode(path, path.read_bytes())
    except FileNotFoundError:
        raise CourseError(f"{path}: no such file") from None
    except OSError as error:
        raise CourseError(f"{path}: cannot be read ({error.strerror})") from None
    return readers[path.suffix.lower()](path, content, columns)


def _decode(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")  # Excel puts a byte-order mark first: -sig takes it away
        if "\0" not in text:
            return text
        line, what = text.count("\n", 0, text.index("\0")) + 1, "holds a NUL byte"
    except UnicodeDecodeError as error:
        rest = error.object  # without the byte-order mark: error.start counts from here
        line, what = rest.count(b"\n", 0, error.start) + 1, f"is not UTF-8 (byte 0x{rest[error.start]:02x})"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        guess = "UTF-16"
    elif b"\0" in content:  # UTF-16 writes it beside every Latin letter: before it or after it
        guess = "UTF-16BE" if content[:1] == b"\0" else "UTF-16LE"
    else:
        guess = "LATIN1"
    raise CourseError(
        f"{path}: line {line} {what}; save it as UTF-8, for example: iconv -f {guess} -t UTF-8 {path.name}"
    )


def _read_separated(path: Path, content: str, columns: list[str]) -> tuple[list[int], list[list[str]]]:
    # strict: a quote that is never closed, or closed in mid-field, is an error and not a very long text.
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the 131,072 characters that it takes otherwise
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    lines, rows = [], []
    line = 1
    try:
        header = next(filter(None, reader), [])  # a blank line is an empty row
        places = [_find_column(str(path), column, header) for column in columns] if header else []
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                raise CourseError(
                    f"{path}: line {line} has {len(row)} fields, the header {len(header)}; quote the text"
                )
            if row:
                lines.append(line)
                rows.append([row[place] for place in places])
            line = reader.line_num + 1
    except csv.Error as error:
        raise CourseError(
            f"{path}: the quotes in the row that begins at line {line} do not balance ({error})"
        ) from None
    return lines, rows


def _read_jsonl(path: Path, content: str, columns: list[str]) -> tuple[list[int], list[list[str]]]:
    lines, rows = [], []
    for line, raw in enumerate(content.split("\n"), start=1):  # not splitlines(): U+2028 may stand inside a text
        if not raw.strip():
            continue
        try:
            record = json.loads(raw)
        except ValueError as error:
            # error.msg alone: its line number counts from this line.
            raise CourseError(f"{path}: line {line} is not JSON ({getattr(error, 'msg', error)})") from None
        except RecursionError:
            raise CourseError(f"{path}: line {line} is nested too deeply; a row is an object of texts") from None
        if not isinstance(record, dict):
            raise CourseError(f'{path}: line {line} is not an object such as {{"text": "…", "label": "…"}}')
        for column in columns:
            _find_column(f"{path}: line {line}", column, list(record))
        values = [record[column] for column in columns]
        for column, value in zip(columns, values, strict=True):
            if isinstance(value, bool | list | dict):
                raise CourseError(f"{path}: line {line}: {column!r} is {json.dumps(value)}, not a text")
            if "\0" in str(value):
                raise CourseError(f"{path}: line {line}: {column!r} holds a NUL character")
            if HALF_A_CHARACTER.search(str(value)):
                raise CourseError(f"{path}: line {line}: {column!r} holds half a character (\\ud800 to \\udfff)")
        lines.append(line)
        rows.append(["" if value is None else str(value) for value in values])
    return lines, rows


def _find_column(where: str, column: str, header: list[str]) -> int:
    if header.count(column) != 1:
        how = "no" if column not in header else "more than one"
        raise CourseError(f"{where}: {how} column {column!r}; there are: {', '.join(map(repr, header))}")
    return header.index(column)
