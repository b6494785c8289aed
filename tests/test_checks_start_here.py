"""The exercises of lesson 00, and the lesson's example of a check: every mistake that they name is made here."""

import numpy as np
import pytest
from exercise_contract import ExerciseContract, from_notebook

from course_lib.checks import progress, start_here
from course_lib.checks.core import exercises


def score(marks, weights, low_is_good, *, turned=lambda marks: 6 - marks, weigh=True, divide=None):
    good = np.where(low_is_good, turned(marks), marks)
    weights = weights if weigh else np.ones(len(weights))
    return (good * weights).sum(axis=1) / (weights.sum() if divide is None else divide)


def changes_marks(marks, weights, low_is_good):
    marks[:, low_is_good] = 6 - marks[:, low_is_good]
    return marks @ weights / weights.sum()


def changes_weights(marks, weights, low_is_good):
    weights /= weights.sum()
    return score(marks, weights, low_is_good)


def wrong_axis(marks, weights, low_is_good):
    return np.where(low_is_good, 6 - marks, marks).mean(axis=0)


class TestStartHere(ExerciseContract):
    lesson = "00_start_here"
    wrong = {
        "break_even": [
            ("flags: expected 0.3333, got 0.67. Is that the share of wrong ones", (0.67, 0.04)),
            ("refunds: expected 0.96, got 0.04. Is that the share of wrong ones", (0.33, 0.04)),
            ("Weigh them by how often", (0.5, 24.0)),
            ("Write it as a share", (33.3, 96.0)),
            ("both weighed the same", (0.33, 0.5)),
            ("Perfect is not needed", (0.33, 1.0)),
            ("a str came back", ("0.33", "0.96")),
        ],
        "weighted_score": [
            ("not by how many criteria", from_notebook(lambda notebook: notebook["broken_score"])),
            ("right at the first call, but it changed `marks`", changes_marks),
            ("it changed `weights`", changes_weights),
            ("sum of the weights missing", lambda *table: score(*table, divide=1)),
            ("has to be turned round: 6 - mark", lambda *table: score(*table, turned=lambda marks: marks)),
            ("5 - mark can be 0", lambda *table: score(*table, turned=lambda marks: 5 - marks)),
            ("With a minus the order is right", lambda *table: score(*table, turned=lambda marks: -marks)),
            ("other columns", lambda marks, weights, low_is_good: score(marks, weights, ~low_is_good)),
            ("all columns", lambda marks, weights, low_is_good: score(marks, weights, np.full(len(weights), True))),
            ("Do the weights count", lambda *table: score(*table, weigh=False)),
            ("which axis are the criteria on", wrong_axis),
            ("along which axis is the sum", lambda *table: score(*table).sum()),
            ("Is a `return` missing?", lambda *table: print(score(*table))),
        ],
    }


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda hours, limit: (hours > limit).mean(), "passed"),
        (lambda hours, limit: (hours >= limit).mean(), "got 0.5. Is exactly 24 hours longer than 24?"),
        (lambda hours, limit: (hours > limit).sum(), "A share was asked for, not a count."),
        (lambda hours, limit: (hours <= limit).mean(), "Those are the ones in time."),
        (None, "not attempted yet"),
    ],
)
def test_the_example_of_a_check_says_what_is_wrong_and_counts_for_nothing(answer, says, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    start_here.share_late(answer)
    assert says in capsys.readouterr().out
    assert progress.load() == {} and "0.0" not in [exercise.number for exercise in exercises()]
