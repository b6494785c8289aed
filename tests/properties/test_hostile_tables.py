"""Whatever a table holds: it is read, or refused in one line. What is written is read again, and is no formula."""

import csv
import io
import json

import pytest
from hostile import assert_one_line, changed_json, damaged, json_values, texts, writable
from hypothesis import event, given
from hypothesis import strategies as st

from course_lib import HALF_A_CHARACTER, UNSHOWABLE, CourseError, shown
from course_lib.data import Table, read_table, split_off, tokenize
from course_lib.files import FORMULA, write_csv
from course_lib.grade_one import code_cells

pytestmark = pytest.mark.filterwarnings("error")
NOTEBOOK = {"cells": [{"cell_type": "code", "source": ["a = 1\n", "b"]}, {"cell_type": "markdown", "source": "c"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@st.composite
def tables(draw) -> tuple[str, bytes]:
    """A file's ending and content: every second one a table, the others more or less, in UTF-8 more or less."""
    ending = draw(st.sampled_from(["csv", "tsv", "jsonl"]))
    orderly = draw(st.booleans())
    if not orderly and draw(st.integers(0, 9)) == 0:
        return ending, draw(st.binary(max_size=60))
    cells = writable.map("{}.".format) if orderly else texts
    header = draw(st.permutations(["text", "label", *draw(st.lists(cells, max_size=1))]))
    width = len(header)
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), min_size=int(orderly), max_size=5))
    if ending == "jsonl":
        values = [dict(zip(header, row, strict=True)) for row in rows]
        values = draw(changed_json(values)) if not orderly and draw(st.booleans()) else values
        values = values if isinstance(values, list) else [values]
        content = "\n".join(json.dumps(value, ensure_ascii=draw(st.booleans())) for value in values)
    else:
        file = io.StringIO()
        quoting = csv.QUOTE_ALL if orderly else draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
        csv.writer(file, delimiter="\t" if ending == "tsv" else ",", quoting=quoting).writerows([header, *rows])
        content = file.getvalue()
    if orderly:
        return ending, content.encode()
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"]))
    content = content.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace")
    return ending, draw(damaged(content)) if draw(st.booleans()) else content


@given(table=tables(), label=st.sampled_from([None, "label"]))
def test_any_file_is_a_table_or_is_refused(folder, table, label):
    ending, content = table
    path = folder / f"any.{ending}"
    path.write_bytes(content)
    try:
        read = read_table(path, "text", label)
    except CourseError as error:
        event("refused")
        assert_one_line(error)
        assert str(error).startswith(f"{path}: ")
        return
    event("read")
    assert len(read) == len(read.lines) > 0 and list(read.lines) == sorted(set(read.lines))
    for text in (*read.texts, *(read.labels or ())):
        assert text.strip() and "\0" not in text and not HALF_A_CHARACTER.search(text)
    assert (read.labels is None) == (label is None)
    assert all(name == name.strip() for name in read.classes)


@given(rows=st.lists(st.tuples(writable, writable), min_size=1, max_size=5), ending=st.sampled_from(["csv", "tsv"]))
def test_what_is_written_is_read_again_and_is_no_formula(folder, rows, ending):
    rows = [(f"{text}.", f"{label}.") for text, label in rows]  # empty ones are refused elsewhere
    delimiter = "\t" if ending == "tsv" else ","
    path = folder / f"written.{ending}"
    write_csv(path, [("text", "label"), *rows], delimiter)
    read = read_table(path, "text", "label")
    guarded = [[f"'{cell}" if FORMULA.match(cell) else cell for cell in row] for row in rows]
    assert list(read.texts) == [text for text, _ in guarded]
    assert list(read.labels) == [label.strip() for _, label in guarded]
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file, delimiter=delimiter) for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in tuple("=+-@＝＋－＠") or cell[:1] in tuple("\t\r\n")]


@given(
    rows=st.lists(st.tuples(texts, st.integers(0, 99), st.sampled_from("ab") | texts), min_size=1, max_size=8),
    times=st.integers(1, 12),
)
def test_any_table_is_split_without_a_leak_or_refused(rows, times):
    rows = [(f"{text} {number + more}", label) for more in range(times) for text, number, label in rows]
    table = Table(*zip(*rows, strict=True), "some.csv", tuple(range(len(rows))))
    try:
        rest, held_out = split_off(table)
    except CourseError as error:
        event("refused")
        return assert_one_line(error)
    event("split")
    assert sorted(rest.lines + held_out.lines) == list(table.lines) and len(held_out)
    assert rest.classes == table.classes and not set(rest.texts) & set(held_out.texts)


@given(given=st.lists(texts, max_size=4), length=st.integers(3, 64))
def test_any_text_becomes_tokens_or_is_refused(tokenizer, given, length):
    try:
        examples = tokenize(tokenizer, given, length)
    except CourseError as error:
        event("refused")
        assert any(map(HALF_A_CHARACTER.search, given))
        return assert_one_line(error)
    event("tokens")
    assert len(examples) == len(given)
    for ids in examples.token_ids:
        assert 2 <= len(ids) <= length and all(0 <= one < len(tokenizer) for one in ids)
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


@given(text=texts | st.text(min_size=60).map(lambda text: text * 50), most=st.integers(10, 200))
def test_what_is_shown_is_one_short_line(text, most):
    line = shown(text, most)
    assert len(line) <= most and not UNSHOWABLE.search(line)
    assert shown(line, most) == line
    assert line == text or UNSHOWABLE.search(text) or len(text) > most


@given(notebook=changed_json(NOTEBOOK) | json_values, cut=st.none() | st.integers(0, 200))
def test_any_notebook_gives_cells_or_says_why_not(folder, notebook, cut):
    path = folder / "any.ipynb"
    path.write_text(json.dumps(notebook)[:cut], "utf-8")
    try:
        cells = code_cells(path)
    except ValueError:  # grade makes the row of the table of it
        return event("refused")
    event("read")
    assert all(isinstance(cell, str) for cell in cells)
