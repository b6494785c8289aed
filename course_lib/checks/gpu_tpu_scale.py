"""The exercise checks of lesson 13, on scale. The truth is arithmetic in integers and NumPy float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare
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
        weights, tokens, texts, epochs = 3.1e8, int(rng.integers(20, 500)), 10 ** int(rng.integers(4, 8)), 4
        chips, peak, utilisation = int(rng.integers(2, 300)), 1.97e14, float(rng.uniform(0.2, 0.6))
        want = 6 * weights * tokens * texts * epochs / (chips * peak * utilisation) / 3600
        compare(
            answer(weights, tokens, texts, epochs, chips, peak, utilisation),
            want,
            f"{chips} chips, {texts:,} texts of {tokens} tokens",
            mistakes={
                "That is in seconds.": want * 3600,
                "That is in minutes.": want * 60,
                "2 operations a weight and token are the forward pass only; a step has the backward pass, too.": want
                / 3,
                "A chip at 40 % needs more time than one at 100 %, not less: divide by the utilisation.": want
                * utilisation**2,
                "Is the utilisation in it?": want * utilisation,
                "Are all chips at work in it?": want * chips,
                "Are the epochs in it?": want / epochs,
            },
        )


@exercise("13.3", minutes=8, difficulty=2)
def small_steps(answer, rng):
    for steps, n in ((400, 3), (1, 1)):
        weight = np.float32(rng.uniform(1, 2, size=n))
        gradients = np.float32(rng.uniform(0.05, 0.15, size=(steps, n)))
        rounded = np.asarray(jnp.asarray(gradients, jnp.bfloat16), np.float64)
        exact = weight.astype(np.float64) - 0.01 * rounded.sum(axis=0)
        got = answer(jnp.asarray(weight), jnp.asarray(gradients), 0.01)
        if getattr(got, "dtype", None) == jnp.bfloat16:
            raise Wrong("bfloat16 came back, float32 was expected: the weight itself must never be rounded.")
        compare(
            got,
            exact.astype(np.float32),
            f"{steps} steps of about 0.001",
            rtol=2e-4,
            atol=5e-5 if steps > 1 else 2e-6,
            mistakes={
                "Not one step arrived: the weight is rounded to bfloat16, where the next number is 0.008 away.": (
                    _in_bfloat16(weight, gradients)
                ),
                "All steps were added up, and then the sum was rounded to bfloat16.": np.asarray(
                    jnp.asarray(exact, jnp.bfloat16), np.float64
                ),
                "The steps go uphill: subtract.": 2 * weight - exact,
                "Is the rate in it?": weight - rounded.sum(axis=0),
            },
        )


def _in_bfloat16(weight, gradients):
    weight = jnp.asarray(weight, jnp.bfloat16)
    for gradient in gradients:
        weight = weight - jnp.asarray(0.01 * gradient, jnp.bfloat16)
    return np.asarray(weight, np.float64)


@exercise("13.4", minutes=10, difficulty=2)
def combine(answer, rng):
    for rows in ([7, 1], [4, 4, 4], [5], [8, 8, 0, 3]):
        rows = np.array(rows)
        data = [rng.normal(size=(count, 3)) for count in rows]
        with np.errstate(invalid="ignore"):
            means = np.stack([part.sum(axis=0) / len(part) for part in data])  # nan where a part has no rows
        want = np.concatenate(data).mean(axis=0)
        compare(
            answer(means, rows),
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


@exercise("13.5", minutes=9, difficulty=3)
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
        for process, part in enumerate(parts):
            done = min(2, len(part))
            rest = _whole_numbers(answer(process, processes, n, done), given)
            if rest != part[done:]:
                hint = "done counts the messages of this process, not those of all." if done else ""
                came = f"{given}, process {process}, {done} of {part} done: {part[done:]} are left, {rest} came."
                raise Wrong(f"{came} {hint}".rstrip())


def _whole_numbers(part, given: str) -> list[int]:
    try:
        return [int(row) for row in part]
    except TypeError:
        raise Wrong(f"{given}: a list of whole numbers was expected, {type(part).__name__} came back.") from None
