"""The exercise checks of lesson 13, on scale. The truth is arithmetic in integers and NumPy float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare, hinted
from course_lib.checks.core import Wrong, exercise

CHOICES = ("same", "twice", "more than twice")


@exercise("13.1", minutes=5, difficulty=1)
def what_grows(adam, dense, together, rng):
    hints = {
        "adam": ("same", "Adam keeps two numbers for each parameter. Is there a parameter for each token of a text?"),
        "dense": ("twice", "A dense layer's output is [B, T, I]. T is the length."),
        "together": (
            "more than twice",
            "Attention's weights are among them, [B, N, T, T]. How often does T occur there?",
        ),
    }
    for (name, (want, hint)), answer in zip(hints.items(), (adam, dense, together), strict=True):
        try:
            choose(answer, want, {other: hint for other in CHOICES if other != want})
        except Wrong as error:
            raise Wrong(f"{name}: {error}") from None


@exercise("13.2", minutes=8, difficulty=1)
def training_hours(answer, rng):
    for _ in range(3):
        weights, epochs = round(rng.uniform(1e8, 1e9), -6), int(rng.choice([4, 5, 7, 8]))
        tokens, texts = int(rng.integers(20, 500)), 10 ** int(rng.integers(7, 10))
        chips, peak = int(rng.integers(2, 300)), round(rng.uniform(1e14, 4e14), -12)
        utilisation = float(rng.uniform(0.2, 0.6))
        want = 6 * weights * tokens * texts * epochs / (chips * peak * utilisation) / 3600
        compare(
            answer(weights, tokens, texts, epochs, chips, peak, utilisation),
            want,
            f"{chips} chips, {texts:,} texts of {tokens} tokens",
            mistakes={
                "Whole hours came: leave the fraction.": int(want),
                "Rounded to whole hours: leave the fraction.": round(want),
                "That is in seconds.": want * 3600,
                "That is in minutes.": want * 60,
                "That is in days.": want / 24,
                "A weight costs 6 operations a token: 2 forward, 4 backward.": want / 6,
                "2 operations a weight and token are the forward pass only; a step has the backward pass, too.": want
                / 3,
                "A chip at 40 % needs more time than one at 100 %, not less: divide by the utilisation.": want
                * utilisation**2,
                "Is the utilisation in it?": want * utilisation,
                "Are all chips at work in it?": want * chips,
                "Are the epochs in it?": want / epochs,
                "A weight works once for every token: are the tokens of a text in it?": want / tokens,
                "Are the texts in it?": want / texts,
                "Eight chips need less time than one: divide by the chips.": want * chips**2,
            },
        )


@exercise("13.3", minutes=8, difficulty=2)
def small_steps(answer, rng):
    for steps, n, rate in ((400, 3, 0.01), (1, 1, 0.02)):
        weight = np.float32(rng.uniform(1, 2, size=n))
        gradients = np.float32(rng.uniform(0.05, 0.15, size=(steps, n)))
        rounded = np.asarray(jnp.asarray(gradients, jnp.bfloat16), np.float64)
        exact = weight.astype(np.float64) - rate * rounded.sum(axis=0)
        got = answer(jnp.asarray(weight), jnp.asarray(gradients), rate)
        if getattr(got, "dtype", None) == jnp.bfloat16:
            raise Wrong("bfloat16 came back, float32 was expected: the weight itself must never be rounded.")
        compare(
            got,
            exact.astype(np.float32),
            f"{steps} steps of about {rate / 10:g}" if steps > 1 else f"one step, rate {rate}",
            rtol=2e-4,
            atol=5e-5 if steps > 1 else 2e-6,
            mistakes={
                "Not one step arrived: the weight is rounded to bfloat16, where the next number is 0.008 away.": (
                    _in_bfloat16(weight, gradients, rate)
                ),
                "All steps were added up, and then the sum was rounded to bfloat16.": np.asarray(
                    jnp.asarray(exact, jnp.bfloat16), np.float64
                ),
                "The weight was rounded to bfloat16 before the first step.": exact + _bfloat16(weight) - weight,
                "The weight is rounded to bfloat16 before every step, and most of the step with it.": (
                    _in_bfloat16(weight, gradients, rate, keep=True)
                ),
                "The steps were added up in bfloat16, where a small step is lost beside a large sum.": (
                    weight + _in_bfloat16(0 * weight, gradients, rate)
                ),
                "The sum of the steps was rounded to bfloat16: add up in float32.": (
                    weight - _bfloat16(rate * _bfloat16(rounded.sum(axis=0)))
                ),
                "The steps go uphill: subtract.": 2 * weight - exact,
                "Is the rate in it?": weight - rounded.sum(axis=0),
                "The weight came back as it was: where are the steps?": weight,
            },
        )


def _bfloat16(array):
    return array.astype(jnp.bfloat16).astype(np.float32)


def _in_bfloat16(weight, gradients, rate, keep=False):
    """All steps with the weight in bfloat16; with `keep` the last one is not rounded any more."""
    stepped = weight
    for gradient in gradients:
        stepped = _bfloat16(weight) - _bfloat16(np.float32(rate) * gradient)
        weight = _bfloat16(stepped)
    return stepped if keep else weight


@exercise("13.4", minutes=10, difficulty=2)
def combine(answer, rng):
    for rows in ([7, 1], [4, 4, 4], [5], [8, 8, 0, 3]):
        rows = np.array(rows)
        data = [rng.normal(size=(count, 3)) for count in rows]
        with np.errstate(invalid="ignore"):
            means = np.stack([part.sum(axis=0) / len(part) for part in data])  # nan where a part has no rows
        want = np.concatenate(data).mean(axis=0)
        with hinted("rows[:, None] stands beside gradients row by row.", ValueError):
            got = answer(means, rows)
        compare(
            got,
            want,
            f"parts of {', '.join(map(str, rows))} rows",
            nan="A part without rows has nan for its mean. Leave it out: even 0 · nan is nan.",
            mistakes={
                "A part with one row counts as much as one with seven: weigh by rows.": means.mean(axis=0),
                "That is the sum over all rows: divide by their number.": want * rows.sum(),
                "The parts' means were added up: what is the mean of all rows?": means.sum(axis=0),
                "Divide by the number of rows, not by the number of parts.": want * rows.sum() / len(rows),
            },
        )


@exercise("13.5", minutes=9, difficulty=2)
def still_to_read(answer, rng):
    for processes, n in ((3, 10), (8, 19), (1, 4), (4, 2)):
        given = f"{n} messages, {processes} processes"
        parts = [answer(process, processes, n) for process in range(processes)]
        parts = [_whole_numbers(part, given) for part in parts]
        read = sorted(sum(parts, []))
        if outside := [row for row in read if not 0 <= row < n]:
            raise Wrong(f"{given}: message {outside[0]} does not exist; they are 0 to {n - 1}.")
        twice = sorted({row for row in read if read.count(row) > 1})
        if twice:
            raise Wrong(f"{given}: message {twice[0]} is read by more than one process.")
        if missing := sorted(set(range(n)) - set(read)):
            raise Wrong(f"{given}: nobody reads message {missing[0]}. What happens to the remainder of n / processes?")
        sizes = [len(part) for part in parts]
        if max(sizes) - min(sizes) > 1:
            raise Wrong(f"{given}: the processes have {sizes} messages. The one with most keeps all others waiting.")
        for process, done in [(p, done) for p, part in enumerate(parts) for done in range(len(part) + 1)]:
            part = parts[process]
            if part != sorted(part):
                raise Wrong(f"{given}, process {process}: {part} came. In order was asked for.")
            rest = _whole_numbers(answer(process, processes, n, done), given)
            if rest != part[done:]:
                hint = "done counts the messages of this process, not those of all." if done else ""
                came = f"{given}, process {process}, {done} of {part} done: {part[done:]} are left, {rest} came."
                raise Wrong(f"{came} {hint}".rstrip())


def _whole_numbers(part, given: str) -> list[int]:
    try:
        rows = np.asarray(list(part))
    except TypeError:
        raise Wrong(f"{given}: a list of whole numbers was expected, {type(part).__name__} came back.") from None
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise Wrong(f"{given}: whole numbers were expected in the list, {rows.tolist()[0]!r} stands there.")
    return [int(row) for row in rows]
