"""Checks of lesson 00. The truth is a line drawn through two cases, and NumPy's weighted average."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from course_lib.checks.compare import compare, guess
from course_lib.checks.core import Exercise, Wrong, exercise


def share_late(answer: Callable) -> None:
    """The lesson's example of a check: prints its verdict. It is no exercise: not listed, and nothing is kept."""
    print(Exercise("0.0", "share_late", minutes=1, difficulty=1, check=_share_late).judge(answer).message)


def _share_late(answer, rng):
    for hours, limit in (([3, 24, 30, 5, 48, 2], 24), ([7], 8), ([4, 4], 4)):
        late = sum(waited > limit for waited in hours)
        mistakes = {
            f"Is exactly {limit} hours longer than {limit}?": sum(waited >= limit for waited in hours) / len(hours),
            "A share was asked for, not a count.": late,
            "Those are the ones in time.": 1 - late / len(hours),
        }
        given = f"hours {', '.join(map(str, hours))} with limit {limit}"
        compare(answer(np.array(hours), limit), late / len(hours), given, mistakes=mistakes)


@exercise("0.1", minutes=4, difficulty=1)
def break_even(flags, refunds, rng):
    for given, answer, saved, lost in (("flags", flags, 10, 5), ("refunds", refunds, 4, 96)):
        want = np.interp(0, [-lost, saved], [0, 1])  # between all wrong and all right, where the gain crosses 0
        if isinstance(answer, (int, float)) and abs(answer - 100 * want) < 1:
            raise Wrong(f"{given}: {answer:g} is a percentage. Write it as a share: 0.5, not 50.")
        because = {
            "Is that the share of wrong ones it can afford? Asked for are the right ones.": saved / (saved + lost),
            "That compares the minutes with each other. Weigh them by how often each happens.": lost / saved,
            "Lost over saved. Weigh the minutes by how often each happens.": saved / lost,
            "That would do if both weighed the same.": 0.5,
            "Perfect is not needed: right answers make up for some wrong ones.": 1.0,
        }
        guess(answer, want, given, because, atol=0.006)  # two digits were asked for


@exercise("0.2", minutes=8, difficulty=2)
def weighted_score(answer, rng):
    for candidates, low_is_good in (
        (4, [False, True, False]),
        (1, [True, False, False, True, False]),
        (6, [True]),
        (3, [False, False]),
    ):
        low_is_good = np.array(low_is_good)
        marks = rng.integers(1, 6, size=(candidates, len(low_is_good)))
        marks[0, 0] = 1  # where 6 - mark and 5 - mark, or a mark and its mirror, cannot be mistaken for each other
        weights = rng.permutation(np.arange(len(low_is_good)) * 2.0) + (len(low_is_good) == 1) * 7  # one weight is 0
        right = np.where(low_is_good, 6 - marks, marks)

        def mean(marks, weights=weights, axis=1):
            return np.average(marks, axis=axis, weights=weights)

        mistakes = {
            "Divide by the sum of the weights, not by how many criteria there are.": (right * weights).mean(axis=1),
            "Is the division by the sum of the weights missing?": (right * weights).sum(axis=1),
            "Where low is good, the mark has to be turned round: 6 - mark.": mean(marks),
            "Marks go from 1 to 5, so turned round they are 6 - mark: 5 - mark can be 0.": mean(
                np.where(low_is_good, 5 - marks, marks)
            ),
            "With a minus the order is right but not the scale: turn the mark round, 6 - mark.": mean(
                np.where(low_is_good, -marks, marks)
            ),
            "Are the other columns turned round?": mean(np.where(low_is_good, marks, 6 - marks)),
            "Are all columns turned round?": mean(6 - marks),
            "Do the weights count at all?": right.mean(axis=1),
            "One score for each candidate, please: which axis are the criteria on?": mean(right, None, axis=0),
            "One score for each candidate, please: along which axis is the sum?": mean(right).sum(),
        }
        given = f"marks of shape {marks.shape}, low is good: {low_is_good.tolist()}"
        handed_over = marks.copy(), weights.copy(), low_is_good.copy()
        compare(answer(*handed_over), mean(right), given, mistakes=mistakes, nan="What is divided by what?")
        originals = {"marks": marks, "weights": weights, "low_is_good": low_is_good}
        for (name, before), after in zip(originals.items(), handed_over, strict=True):
            if not np.array_equal(before, after):
                raise Wrong(f"right at the first call, but it changed `{name}`, which belongs to the caller: a second "
                            "call would start from other numbers. Make a new array.")  # fmt: skip
