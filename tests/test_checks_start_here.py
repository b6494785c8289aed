"""The exercises of lesson 00, and the lesson's example of a check: every mistake that they name is made here."""

import numpy as np
import pytest
from exercise_contract import ExerciseContract, from_notebook

from course_lib.checks import progress, start_here
from course_lib.checks.core import Wrong, exercises


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
            ("flags: not 0.67. Is that the share of wrong ones", (0.67, 0.04)),
            ("refunds: not 0.04. Is that the share of wrong ones", (0.33, 0.04)),
            ("Weigh them by how often", (0.5, 24.0)),
            ("Write it as a share", (33.3, 96.0)),
            ("both weighed the same", (0.33, 0.5)),
            ("Perfect is not needed", (0.33, 1.0)),
            ("flags: a single number was expected, '0.33' came.", ("0.33", "0.96")),
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


def test_a_wrong_guess_is_not_told_the_answer():
    for got, says in {(1.0, 2.0): "slopes: not 1, 2. The hints", (2.0, 1.0): "slopes: not 2, 1. Turned round?"}.items():
        with pytest.raises(Wrong) as wrong:
            start_here.guess(got, np.array([1.25, 2.5]), "slopes", {"Turned round?": np.array([2.0, 1.0])}, atol=0.01)
        assert says in str(wrong.value) and "2.5" not in str(wrong.value)
    start_here.guess([1.2501, 2], np.array([1.25, 2.0]), "slopes", {}, atol=0.01)  # near enough


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
