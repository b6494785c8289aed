"""Checks of lesson 12. The truth is NumPy in float64: loops over bins and thresholds, and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import compare, hinted
from course_lib.checks.core import Wrong, exercise

CONFIDENCES = (0.31, 0.38, 0.52, 0.57, 0.63, 0.68, 0.74, 0.79, 0.83, 0.88, 0.93, 0.97)


@exercise("12.1", minutes=5, difficulty=1)
def what_temperature_changes(answer, rng):
    logits, labels = rng.normal(scale=3, size=(400, 5)), rng.integers(5, size=400)

    def measure(logits):
        log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        confidence = np.exp(log_probs.max(axis=-1))
        loss = -log_probs[np.arange(len(labels)), labels].mean()
        return (logits.argmax(-1) == labels).mean(), confidence.mean(), np.argsort(confidence).tolist(), loss

    want = tuple(before != after for before, after in zip(measure(logits), measure(logits / 2), strict=True))
    why = (
        "Accuracy: it hangs on the largest logit of each message. Which one is that after the division?",
        "Mean confidence: try softmax on [4, 0] and on [2, 0].",
        "Order of messages: within one message the order of the teams is one thing, between two messages the order of "
        "their largest probabilities is another. Try [5, 4, -9] beside [2, 0, 0], at T = 1 and at T = 10.",
        "Cross-entropy: it is the mean of -log p(right team). Does p(right team) stay?",
    )
    answer = tuple(answer) if isinstance(answer, list) else answer
    if not isinstance(answer, tuple) or len(answer) != 4 or not all(isinstance(part, bool) for part in answer):
        raise Wrong(f"{answer!r} came; four times True or False was expected, such as (True, True, True, True).")
    for got, true, hint in zip(answer, want, why, strict=True):
        if got != true:
            raise Wrong(f"not what happens. {hint}")


@exercise("12.2", minutes=8, difficulty=2)
def calibration_error(answer, rng):
    edges = np.array([0.5, 0.5, 1.0, 1.0, 0.75, 0.25])  # on the borders of 4 bins, (low, high]
    for confidence, bins, given in (
        (rng.permutation(np.repeat(CONFIDENCES, 4)), 10, "48 answers, 10 bins"),
        (rng.uniform(0.2, 1, size=31).round(3), 4, "31 answers, 4 bins"),
        (np.array([0.8]), 5, "one answer"),
        (edges, 4, "confidences on the borders of bins, and 1.0"),
    ):
        right = rng.random(len(confidence)) < confidence**2  # a model that promises too much
        right[0] = True
        right = np.array([1, 0, 1, 0, 1, 1], bool) if confidence is edges else right
        cells = _bins(confidence, right, bins)
        count, promised, kept = (np.array(column, float) for column in zip(*cells, strict=True))
        n = len(confidence)
        left_closed = _ece([c for c in _bins(confidence, right, bins, left=True)], n)
        middles = [(low + 0.5) / bins for low in sorted(set(_place(confidence, bins)))]
        mistakes = {
            "Each bin counts by its share of the answers, not as one among equals.": np.abs(kept - promised).mean(),
            "Gaps of different sign must not cancel: take each bin's absolute value.": (
                (count * (kept - promised)).sum() / n
            ),
            "Gaps of different sign must not cancel: take each bin's absolute value before the sum.": abs(
                (count * (kept - promised)).sum() / n
            ),
            "The gap itself, not its square.": (count * (kept - promised) ** 2).sum() / n,
            "Within a bin, average first and then take the gap: this is the gap of single answers.": (
                np.abs(right - confidence).mean()
            ),
            "Divide by the number of all answers: is that missing?": (count * np.abs(kept - promised)).sum(),
            "Take the mean confidence of the answers in the bin, not the middle of the bin.": (
                (count * np.abs(kept - middles)).sum() / n
            ),
            "A bin is (low, high]: its upper border belongs to it, its lower one does not.": left_closed,
            "A confidence of exactly 1 is in the last bin. Was it left out?": _without_ones(confidence, right, bins),
            "That is the largest gap. All count, each by its bin's share.": np.abs(kept - promised).max(),
        }
        want = (count * np.abs(kept - promised)).sum() / n
        got = answer(confidence.copy(), right.copy(), bins)
        compare(got, want, given, mistakes=mistakes, nan="What is the mean of a bin that holds no answer? Skip it.")


@exercise("12.3", minutes=8, difficulty=2)
def difference_interval(answer, rng):
    for n, resamples in ((90, 400), (25, 200)):
        right_a = rng.random(n) < 0.85
        right_b = np.where(rng.random(n) < 0.8, right_a, ~right_a)  # mostly right and wrong on the same messages
        draws = rng.integers(n, size=(resamples, n))
        a, b = right_a[draws].mean(axis=1), right_b[draws].mean(axis=1)  # [resamples]
        plain = right_a.mean() - right_b.mean()
        spread = (a - b).std()
        want = np.quantile(a - b, [0.025, 0.975])
        mistakes = {
            "That is b - a.": np.quantile(b - a, [0.025, 0.975]),
            "95 % in the middle leave 2.5 % on each side.": np.quantile(a - b, [0.05, 0.95]),
            "Percentiles go to 100, quantiles to 1: np.quantile(…, 0.025).": np.percentile(a - b, [0.025, 0.975]),
            "Take the difference inside each resample. The limits of a minus the limits of b is not its interval.": (
                np.quantile(a, [0.025, 0.975]) - np.quantile(b, [0.025, 0.975])
            ),
            "Both routers must be scored on the same resample: this pairs a's with another one of b's.": np.quantile(
                a - right_b[draws[::-1]].mean(axis=1), [0.025, 0.975]
            ),
            "One difference a resample: average over its messages (axis 1), not over the resamples (axis 0).": (
                np.quantile(right_a[draws].mean(axis=0) - right_b[draws].mean(axis=0), [0.025, 0.975])
            ),
            "Read the limits off the sorted differences (quantiles), without assuming a bell curve.": np.array(
                [plain - 1.96 * spread, plain + 1.96 * spread]
            ),
            "Read the limits off the sorted differences (quantiles): they need not lie evenly about the mean.": (
                (a - b).mean() + np.array([-1.96, 1.96]) * spread
            ),
            "The lower limit comes first.": want[::-1],
            "Those are the smallest and the largest difference; 2.5 % lie beyond each limit.": np.array(
                [(a - b).min(), (a - b).max()]
            ),
            "Take the difference inside each resample: both routers find the same messages hard.": np.array(
                [np.quantile(a, 0.025) - np.quantile(b, 0.975), np.quantile(a, 0.975) - np.quantile(b, 0.025)]
            ),
            "xor says where the two differ, not which of them is right.": (
                np.quantile((right_a ^ right_b)[draws].mean(axis=1), [0.025, 0.975])
            ),
        }
        with hinted("xor would lose the sign: average first, then subtract.", TypeError):
            got = _pair(answer(right_a.copy(), right_b.copy(), draws.copy()))
        compare(got, want, f"{n} messages, {resamples} resamples", mistakes=mistakes)


@exercise("12.4", minutes=10, difficulty=2)
def honest_policy(answer, rng):
    thresholds = np.linspace(0, 1, 101)
    for n, mistake, handover in ((120, 8.0, 1.0), (60, 3.0, 1.0), (80, 2.0, 1.0)):
        confidence = rng.choice(thresholds[20:100], size=(2, n))  # some lie on a threshold
        right = rng.random((2, n)) < confidence * [[1.0], [0.7]]  # tomorrow is harder
        if mistake == 2:
            right[:] = False  # nothing is ever right: everything belongs to humans
        _judge_policy(answer, confidence, right, thresholds, mistake, handover)


def _judge_policy(answer, confidence, right, thresholds, mistake, handover):
    """confidence, right: [2, n], the validation and the test messages."""

    def costs(part, among_kept=False, strict=False, human=handover):
        result = []
        for threshold in thresholds:
            kept = confidence[part] > threshold if strict else confidence[part] >= threshold
            wrong = (kept & ~right[part]).sum()
            result.append(mistake * wrong / max(kept.sum() if among_kept else len(kept), 1) + human * (~kept).mean())
        return np.array(result)

    def policy(choose, pay):
        return np.array([thresholds[choose.argmin()], pay[choose.argmin()]])

    validation, test = costs(0), costs(1)
    flattered = [costs(part, among_kept=True) for part in (0, 1)]
    strict = [costs(part, strict=True) for part in (0, 1)]
    want = policy(validation, test)
    mistakes = {
        "A threshold at which nothing is kept is one, too: humans read it all.": policy(
            np.where([(confidence[0] >= threshold).any() for threshold in thresholds], validation, np.inf), test
        ),
        "The threshold was chosen with the test messages, which are there to pay.": policy(test, test),
        "The threshold is right. What it costs must be measured on the test messages.": policy(validation, validation),
        "A mistake's cost is spread over all messages, not over the kept ones only.": policy(*flattered),
        "Chosen with one formula of the cost, paid with another.": policy(flattered[0], test),
        "Chosen with one formula of the cost, paid with the other.": policy(validation, flattered[1]),
        "A message at the threshold itself is kept: at least the threshold.": policy(*strict),
        "This is the dearest threshold, not the cheapest.": policy(-validation, test),
        "Is the cost of what humans get missing?": policy(costs(0, human=0), costs(1, human=0)),
        "Validation chooses and test pays; here it is the other way round.": policy(test, validation),
        "Of several cheapest thresholds the lowest was asked for.": np.array(
            [thresholds[::-1][validation[::-1].argmin()], test[::-1][validation[::-1].argmin()]]
        ),
        "The threshold comes first, then the cost.": want[::-1],
        "What one message costs was asked for, not all of them.": want * [1, len(right[1])],
    }
    sets = [(confidence[part].copy(), right[part].copy()) for part in (0, 1)]
    got = _pair(answer(*sets, thresholds.copy(), mistake, handover))
    given = f"{len(right[0])} messages each, mistake {mistake:g}, hand-over {handover:g}: (threshold, cost)"
    compare(got, want, given, mistakes=mistakes, nan="What is the mean over no kept message?")


@exercise("12.5", minutes=12, difficulty=3)
def integrated_gradients(answer, rng):
    for shape, steps in (((3,), 8), ((2, 4), 5), ((1,), 1)):
        x, start = rng.normal(size=shape), rng.normal(size=shape)
        weight = rng.normal(size=shape)
        gradient = _gradient_of(_numpy_function(weight))

        def along(alphas, gradient=gradient, x=x, start=start):
            return np.mean([gradient(start + a * (x - start)) for a in alphas], axis=0)

        middles = (np.arange(steps) + 0.5) / steps
        slope = along(middles)
        mistakes = {
            "That is the gradient at x alone, times the way: where is the path?": (x - start) * gradient(x),
            "That is gradient times input at x alone: where are the path and the baseline?": x * gradient(x),
            "Is the factor x - baseline missing?": slope,
            "Multiply by x - baseline, not by x.": slope * x,
            "Take the mean of the gradients, not their sum.": slope * (x - start) * steps,
            "The points lie in the middle of each step, at (k + 1/2) / steps; these are at k / steps.": (
                (x - start) * along(np.arange(steps) / steps)
            ),
            "The points lie in the middle of each step, at (k + 1/2) / steps; these are at (k + 1) / steps.": (
                (x - start) * along((np.arange(steps) + 1) / steps)
            ),
            "The points lie in the middle of each step; these go from 0 to 1, ends included.": (
                (x - start) * along(np.linspace(0, 1, steps))
            ),
            "The path starts at the baseline; this one starts at zero.": (
                (x - start) * np.mean([gradient(a * x) for a in middles], axis=0)
            ),
            "Each number has a score of its own; is there a sum too many?": (slope * (x - start)).sum(),
            "The sign is turned round: x - baseline.": -slope * (x - start),
            "Scores keep their sign.": abs(slope * (x - start)),
            "The path leads from the baseline to x; this one from zero to x.": (
                x * np.mean([gradient(a * x) for a in middles], axis=0)
            ),
            "The path ends at x: alpha times x - baseline, not alpha times x.": (
                (x - start) * np.mean([gradient(start + a * x) for a in middles], axis=0)
            ),
            "Take the mean over the points only (axis 0): each number keeps its own gradient.": (
                (x - start) * slope.mean()
            ),
            "The points lie in the middle of each step; these are the steps' ends, one more than steps.": (
                (x - start) * along(np.linspace(0, 1, steps + 1))
            ),
        }
        got = answer(_jax_function(weight), jnp.asarray(x, jnp.float32), jnp.asarray(start, jnp.float32), steps)
        given = f"x of shape {shape}, {steps} step{'s' if steps > 1 else ''}"
        compare(got, slope * (x - start), given, mistakes=mistakes, rtol=1e-3, atol=1e-4)
    weight, x, start = np.ones(3), np.array([1.0, -0.5, 0.3]), np.array([0.2, -0.5, -0.4])
    got = np.asarray(answer(_jax_function(weight), *(jnp.asarray(a, jnp.float32) for a in (x, start)), 16))
    if got[1] != 0:
        raise Wrong("where x and baseline are the same number, its score must be 0.")


@exercise("12.6", minutes=10, difficulty=3)
def deletion_curve(answer, rng):
    for tokens, mask_id in ((7, 103), (4, 50), (3, 7)):
        ids = rng.integers(200, 9000, size=tokens)
        ids[0], ids[-1] = 101, 102
        scores = rng.normal(size=tokens)
        scores[0], scores[-1] = 9.0, -9.0  # [CLS] and [SEP] score, too, and still have to stay
        if tokens > 4:
            scores[2] = -8.0  # the largest size, and against the class
        weight = rng.uniform(0.5, 2, size=tokens) * 1e-4
        seen = []

        def probability(ids, weight=weight, seen=seen):
            ids = np.asarray(ids)
            seen.append(ids.shape)
            return float(np.exp(-weight[: ids.size] @ ids.astype(float))) if ids.ndim == 1 else np.nan

        def curve(order, cumulative=True, replacement=mask_id, ids=ids, probability=probability):
            now, values = ids.copy(), [probability(ids)]
            for position in order:
                now = now if cumulative else ids.copy()
                now[position] = replacement
                values.append(probability(now))
            return np.array(values)

        inside = np.arange(1, tokens - 1)
        order = inside[np.argsort(-scores[inside])]
        everywhere = np.argsort(-scores)
        mistakes = {
            "The order is turned round: the highest score goes first.": curve(order[::-1]),
            "[CLS] and [SEP] stay: they are no words.": curve(everywhere),
            "What was replaced stays replaced: each step adds one more.": curve(order, cumulative=False),
            "By the score, not by its size: a word that speaks against the class goes last.": curve(
                inside[np.argsort(-np.abs(scores[inside]))]
            ),
            "The words go in the order of their scores, not from left to right.": curve(inside),
            "The first value is that of the whole message.": curve(order)[1:],
            "The last word has to go, too.": curve(order)[:-1],
            "Replace by `mask_id`, not by 0.": curve(order, replacement=0),
            "`argsort` over the inner part counts from its own beginning: add 1.": curve(np.argsort(-scores[inside])),
            "Replace by `mask_id`, whatever number that is.": curve(order, replacement=103),
        }
        want = curve(order)
        mistakes["All values are the last one's. Is one array in the list many times? Copy it."] = want * 0 + want[-1]
        mistakes["The probabilities themselves were asked for, not how far they fall."] = want[0] - want
        seen.clear()
        given_ids = ids.copy()
        got = answer(probability, given_ids, scores.copy(), mask_id)
        if any(shape != ids.shape for shape in seen):
            raise Wrong(f"probability was given shape {seen[-1]}, not {ids.shape}: replace a word, do not remove it.")
        got = np.asarray(got, float) if isinstance(got, (list, tuple)) else got
        compare(got, want, f"{tokens - 2} word{'s' if tokens > 3 else ''}", mistakes=mistakes)
        if not np.array_equal(given_ids, ids):
            raise Wrong("the caller's `ids` were overwritten. Work on a copy.")


def _place(confidence: np.ndarray, bins: int, left: bool = False) -> list[int]:
    """The bin of each confidence, by looking at the borders one after the other."""
    places = []
    for value in confidence:
        for number in range(bins):
            low, high = number / bins, (number + 1) / bins
            if (low <= value < high or value == high == 1) if left else low < value <= high:
                places.append(number)
    return places


def _bins(confidence, right, bins, left=False) -> list[tuple[int, float, float]]:
    """(count, mean confidence, accuracy) of each bin that holds an answer."""
    places = np.array(_place(confidence, bins, left))
    return [
        (int((places == b).sum()), confidence[places == b].mean(), right[places == b].mean())
        for b in sorted(set(places))
    ]


def _ece(cells, n) -> float:
    return sum(count * abs(kept - promised) for count, promised, kept in cells) / n


def _without_ones(confidence, right, bins) -> float:
    """The mistake of bins [low, high): a confidence of 1 is in none of them."""
    below = confidence < 1
    return _ece(_bins(confidence[below], right[below], bins, left=True), len(confidence)) if below.any() else np.nan


def _pair(value):
    """Two numbers, however they came, as an array; anything else as it is."""
    if isinstance(value, (tuple, list)):
        try:
            return np.array([float(part) for part in value])
        except (TypeError, ValueError):
            kinds = ", ".join(f"shape {np.shape(part)}" if np.ndim(part) else repr(part) for part in value)
            raise Wrong(f"({kinds}) came; two numbers were expected.") from None
    return value


def _jax_function(weight: np.ndarray) -> Callable:
    w = jnp.asarray(weight, jnp.float32)
    return lambda x: jnp.sum(w * x**3) + jnp.sum(jnp.sin(x)) * jnp.sum(x)


def _numpy_function(weight: np.ndarray) -> Callable:
    return lambda x: np.sum(weight * x**3) + np.sum(np.sin(x)) * np.sum(x)


def _gradient_of(function: Callable) -> Callable:
    """By central differences, float64."""

    def gradient(x, step=1e-5):
        result = np.zeros_like(x)
        for index in np.ndindex(x.shape):
            nudge = np.zeros_like(x)
            nudge[index] = step
            result[index] = (function(x + nudge) - function(x - nudge)) / (2 * step)
        return result

    return gradient
