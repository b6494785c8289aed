"""Files are written in full or not at all, and what cannot be written is one line."""

import csv
import json
import os
from pathlib import Path

import pytest

from course_lib import CourseError
from course_lib.files import check_target, write_csv, write_json, write_text


def test_a_file_is_replaced_in_full_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.json"
    for content in ("old\n", "new ü\n"):
        write_text(path, content)
        assert path.read_bytes() == content.encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".", "it is a folder"),
        ("folder", "it is a folder"),
        ("none/a.json", "there is no folder"),
        ("file.csv/a.csv", "there is no folder"),
        ("n" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch, name, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.csv").write_text("text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match=f"could not be written.*{said}") as caught:
        write_text(Path(name), "content")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.csv", "folder"]


def test_a_closed_folder_is_found_before_and_while_writing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        with pytest.raises(CourseError, match="nothing may be put into"):
            check_target(tmp_path / "a.json")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # on a network drive, say, os.access cannot tell
        for function in ("Path.write_text", "Path.unlink"):
            patch.setattr(f"pathlib.{function}", refuse)
        with pytest.raises(CourseError, match="Permission denied"):
            write_text(tmp_path / "a.json", "content")


def test_a_failure_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(CourseError, match="No space left on device.*unchanged"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t1", "\r1", "\n1", " =1", "\u00a0=1", "＝1", "－ 1"]
)
def test_no_text_of_a_csv_is_a_formula(tmp_path, text):
    write_csv(tmp_path / "a.csv", [("text", "share"), (text, -0.5), (f"a{text}", 0.5)])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["text", "share"], [f"'{text}", "-0.5"], [f"a{text}", "0.5"]]  # numbers stay numbers


def test_a_carriage_return_ends_no_row_of_a_csv(tmp_path):
    write_csv(tmp_path / "a.tsv", [("text", "label"), ("one\rtwo", "a;=1+1"), ("three", 'b"\t')], "\t")
    assert (tmp_path / "a.tsv").read_bytes() == b'"text"\t"label"\n"one\rtwo"\t"a;=1+1"\n"three"\t"b""\t"\n'


def test_half_a_character_stays_an_escape_in_json(tmp_path):
    write_json(tmp_path / "a.json", {"file": "caf\udce9.csv", "label": "ü"})
    assert b'"caf\\udce9.csv"' in (tmp_path / "a.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"file": "caf\udce9.csv", "label": "ü"}
