"""What the learner has done: one small JSON file, written whenever a check has something new to say.

    {"1.3": {"name": "softmax_cross_entropy", "status": "passed"},
     "1.4": {"name": "fix_bce", "status": "not yet", "message": "…"}}

An exercise once passed stays passed. COURSE_PROGRESS names another file, or is `off` where nothing may be kept: while
notebooks are built and tested.

`table()` shows it: `course progress` prints it, and in a notebook, as a cell's last line, it is drawn.
"""

from __future__ import annotations

import html
import json
import os
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib import CourseError, shown
from course_lib.files import write_json

if TYPE_CHECKING:
    from course_lib.checks.core import Exercise


def progress_file() -> Path | None:
    """COURSE_PROGRESS where that is set (None for `off`), else a file in the system's folder for the user's data.

    Raises CourseError where that would be in the home folder of a user who has none.
    """
    import platformdirs

    chosen = os.environ.get("COURSE_PROGRESS")
    if chosen == "off":
        return None
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        return Path(platformdirs.user_data_dir("loss-to-bert")) / "progress.json"
    except RuntimeError:
        raise CourseError(
            "no home folder is known for this user; set HOME, or COURSE_PROGRESS to a file that can be written to"
        ) from None


def load() -> dict[str, dict[str, str]]:
    """Exercise number → what is known of it. Empty where there is no file, or none that can be read."""
    try:
        path = progress_file()
        entries = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (CourseError, OSError, ValueError, RecursionError):
        return {}
    if not isinstance(entries, dict):
        return {}
    texts = {number: entry for number, entry in entries.items() if isinstance(entry, dict)}
    return {number: entry for number, entry in texts.items() if all(isinstance(value, str) for value in entry.values())}


def record(number: str, name: str, status: str, message: str = "") -> bool:
    """Keep a verdict. Never raises; False if it should have been kept and could not be."""
    from filelock import FileLock

    entry = {"name": name, "status": status} | ({"message": message} if status != "passed" else {})
    try:
        path = progress_file()
        if path is None or load().get(number, {}).get("status") == "passed":
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=5):  # two notebooks may be open
            entries = load()
            if entries.get(number, {}).get("status") != "passed":
                write_json(path, entries | {number: entry})
    except (OSError, CourseError):  # filelock's Timeout is an OSError
        return False
    return True


def table() -> Table:
    """Every exercise of the course with what is known of it now."""
    from course_lib.checks.core import exercises  # which imports this module

    return Table(exercises(), load())


class Table:
    """Lessons, exercises done of all, minutes left, and what the checks last said of those that are not right yet."""

    def __init__(self, exercises: Sequence[Exercise], entries: dict[str, dict[str, str]]) -> None:
        self.status = {one.number: entries.get(one.number, {}).get("status", "not attempted") for one in exercises}
        self.lessons = [(title, list(group)) for title, group in groupby(exercises, _lesson)]
        self.exercises = list(exercises)
        self.not_yet = [
            (f"{one.number} {one.name}", _one_line(entries[one.number].get("message", "")))
            for one in exercises
            if self.status[one.number] == "not yet"
        ]

    def _sums(self, exercises: list[Exercise]) -> tuple[str, str]:
        left = [one.minutes for one in exercises if self.status[one.number] != "passed"]
        return f"{len(exercises) - len(left)} of {len(exercises)}", str(sum(left))

    def __repr__(self) -> str:
        rows = [("lesson", "done", "minutes left")]
        rows += [(title, *self._sums(group)) for title, group in [*self.lessons, ("in all", self.exercises)]]
        wide = max(len(title) for title, *_ in rows)
        lines = [f"{title:<{wide}}  {done:<9} {left:>12}" for title, done, left in rows]
        if self.not_yet:
            lines += ["", "not yet"]
            lines += [textwrap.fill(f"{name}: {said}", 100, subsequent_indent="    ") for name, said in self.not_yet]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A row a lesson, a box an exercise. A sign stands beside each colour; nothing differs from run to run."""
        from course_lib.plots import GREEN, ORANGE

        looks = {"passed": ("✓", f"background:{GREEN};color:#000"), "not yet": ("✗", f"background:{ORANGE};color:#000")}
        left, right = '<td style="text-align:left">', '<td style="text-align:right">'
        rows = []
        for title, group in [*self.lessons, ("in all", self.exercises)]:
            boxes = ""
            for one in group if title != "in all" else []:
                sign, look = looks.get(self.status[one.number], ("·", ""))
                hover = html.escape(f"{one.name}, {one.minutes} min: {self.status[one.number]}")
                style = f"border:1px solid #888;border-radius:3px;padding:1px 5px;margin:1px;white-space:nowrap;{look}"
                boxes += f'<span title="{hover}" style="{style}">{sign} {one.number}</span> '
            done, minutes = self._sums(group)
            rows.append(f"<tr>{left}{title}</td>{left}{boxes}</td>{right}{done}</td>{right}{minutes}</td></tr>")
        head = "".join(f'<th style="text-align:{side}">{text}</th>' for text, side in [
            ("lesson", "left"), ("exercises: ✓ passed, ✗ not yet, · open", "left"), ("done", "right"),
            ("minutes left", "right"),
        ])  # fmt: skip
        said = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(text)}</li>" for name, text in self.not_yet)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" + (
            f"<p>Not yet:</p><ul>{said}</ul>" if said else ""
        )


def _one_line(message: str) -> str:
    return shown(" ".join(message.removeprefix("not yet: ").split()), 1_000)


def _lesson(exercise: Exercise) -> str:
    """The lesson's number, and the module that holds its checks: 01 losses."""
    return f"{exercise.lesson} {exercise.check.__module__.rpartition('.')[2].replace('_', ' ')}"
