"""`course progress`, in the terminal and as a table in a notebook."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest

from course_lib import cli
from course_lib.checks import losses, progress
from course_lib.checks.core import exercises

LOSSES = [one for one in exercises() if one.lesson == "01"]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """1.1 passed, 1.3 not yet; the file it is kept in."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("COURSE_PROGRESS", str(path))
    progress.record("1.1", "loss_before_training", "passed", "passed")
    progress.record("1.3", "softmax_cross_entropy", "not yet", "not yet: 1 < 2 came, " + "and more " * 20)
    return path


def printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["course", "progress"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    return capsys.readouterr().out


def test_the_command_shows_what_is_done_the_minutes_left_and_the_last_message(kept, monkeypatch, capsys):
    shown = printed(monkeypatch, capsys)
    minutes = sum(one.minutes for one in LOSSES if one.number != "1.1")
    assert re.search(rf"^01 losses +1 of {len(LOSSES)} +{minutes}$", shown, re.MULTILINE)
    everything = exercises()
    minutes = sum(one.minutes for one in everything if one.number != "1.1")
    assert re.search(rf"^in all +1 of {len(everything)} +{minutes}$", shown, re.MULTILINE)
    last = shown.split("\nnot yet\n")[1]
    assert last.startswith("1.3 softmax_cross_entropy: 1 < 2 came, and more") and "1.1" not in last
    assert max(map(len, shown.splitlines())) <= 100 and " ".join(last.split()).count("and more") == 20


def test_a_passed_check_moves_from_not_yet_to_done(kept, monkeypatch, capsys):
    progress.record("1.3", "softmax_cross_entropy", "passed")
    shown = printed(monkeypatch, capsys)
    assert f"2 of {len(LOSSES)}" in shown and "not yet" not in shown


@pytest.mark.parametrize("content", ["", "[1]", '{"1.1": 3, "99.1": {"status": "passed"}, "1.2": {}}'])
def test_a_damaged_or_foreign_file_counts_as_nothing_done(kept, monkeypatch, capsys, content):
    kept.write_text(content)
    assert f"0 of {len(LOSSES)}" in printed(monkeypatch, capsys)


class Boxes(HTMLParser):
    """Text of each <span> → its style; and every tag, which must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.boxes, self.style = [], {}, ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.style = dict(attributes).get("style", "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span":
            self.boxes[data] = self.style


def test_a_notebook_draws_a_box_an_exercise_and_tells_them_apart_without_colour_too(kept):
    drawn = progress.table()._repr_html_()
    boxes = Boxes(drawn).boxes
    assert len(boxes) == len(exercises())
    assert {"✓ 1.1", "✗ 1.3", "· 1.2"} <= set(boxes)
    assert len({boxes["✓ 1.1"], boxes["✗ 1.3"], boxes["· 1.2"]}) == 3
    assert "1 &lt; 2 came" in drawn and f"1 of {len(LOSSES)}" in drawn


def test_the_same_progress_gives_the_same_table_and_its_text_is_the_terminals(kept, monkeypatch, capsys):
    first, second = progress.table(), progress.table()
    assert first._repr_html_() == second._repr_html_()
    assert f"{first!r}\n" == printed(monkeypatch, capsys)


def test_what_a_check_says_in_a_notebook_is_what_progress_shows(kept, capsys):
    losses.fixed_bce(lambda logits, targets: 1.0)
    said = capsys.readouterr().out.strip().removeprefix("not yet: ")
    assert json.loads(kept.read_text())["1.5"]["status"] == "not yet"
    assert said in dict(progress.table().not_yet).values()
