"""The exercises of lesson 12: every mistake that its checks name is made here."""

import jax
import jax.numpy as jnp
import numpy as np
from exercise_contract import ExerciseContract, from_notebook


def ece(gap=lambda right, confidence: abs(right.mean() - confidence.mean()), weight=lambda inside: inside.mean(),
        inside=lambda c, low, high: (low < c) & (c <= high), finish=lambda total: total):  # fmt: skip
    """Expected calibration error, with the given parts replaced by wrong ones."""

    def calibration_error(confidence, right, bins):
        total = 0.0
        for b in range(bins):
            mask = inside(confidence, b / bins, (b + 1) / bins)
            if mask.any():
                total += weight(mask) * gap(right[mask], confidence[mask])
        return finish(total)

    return calibration_error


def equal_bins(confidence, right, bins):
    gaps = []
    for b in range(bins):
        inside = (b / bins < confidence) & (confidence <= (b + 1) / bins)
        if inside.any():
            gaps.append(abs(right[inside].mean() - confidence[inside].mean()))
    return np.mean(gaps)


def empty_bins_counted(confidence, right, bins):
    masks = [(b / bins < confidence) & (confidence <= (b + 1) / bins) for b in range(bins)]
    return sum(m.mean() * abs(right[m].mean() - confidence[m].mean()) for m in masks)


def largest_gap(confidence, right, bins):
    masks = [(b / bins < confidence) & (confidence <= (b + 1) / bins) for b in range(bins)]
    return max(abs(right[m].mean() - confidence[m].mean()) for m in masks if m.any())


def middles(confidence, right, bins):
    masks = [(b / bins < confidence) & (confidence <= (b + 1) / bins) for b in range(bins)]
    return sum(m.mean() * abs(right[m].mean() - (b + 0.5) / bins) for b, m in enumerate(masks) if m.any())


def interval(differences, limits=(0.025, 0.975)):
    return tuple(np.quantile(differences, limits))


def accuracies(right_a, right_b, draws, axis=1):
    return right_a[draws].mean(axis=axis), right_b[draws].mean(axis=axis)


def bell_curve(right_a, right_b, draws):
    a, b = accuracies(right_a, right_b, draws)
    middle, half = right_a.mean() - right_b.mean(), 1.96 * (a - b).std()
    return middle - half, middle + half


def bell_curve_about_the_mean(right_a, right_b, draws):
    difference = np.subtract(*accuracies(right_a, right_b, draws))
    half = 1.96 * difference.std()
    return difference.mean() - half, difference.mean() + half


def own_resamples(right_a, right_b, draws):
    return interval(right_a[draws].mean(axis=1) - right_b[draws[::-1]].mean(axis=1))


def limits_subtracted(right_a, right_b, draws):
    a, b = accuracies(right_a, right_b, draws)
    return tuple(np.subtract(interval(a), interval(b)))


def policy(choose="validation", pay="test", kept_only=(False, False), strict=False, human=1, pick=np.argmin):
    """The repaired policy of 12.4, with the given parts broken."""

    def honest_policy(validation, test, thresholds, mistake, handover):
        data = {"validation": validation, "test": test}

        def cost(name, threshold, kept_only):
            confidence, right = data[name]
            kept = confidence > threshold if strict else confidence >= threshold
            wrong = (kept & ~right).sum() / (max(kept.sum(), 1) if kept_only else len(kept))
            return mistake * wrong + human * handover * np.mean(~kept)

        best = thresholds[pick([cost(choose, threshold, kept_only[0]) for threshold in thresholds])]
        return best, cost(pay, best, kept_only[1])

    return honest_policy


def keeps_something(validation, test, thresholds, *costs):
    possible = [threshold for threshold in thresholds if (validation[0] >= threshold).any()]
    return policy()(validation, test, possible, *costs)


def path_gradients(f, x, baseline, alphas):
    return jnp.stack([jax.grad(f)(baseline + a * (x - baseline)) for a in alphas])


def ig(alphas=lambda steps: (np.arange(steps) + 0.5) / steps, combine=lambda g, x, b: (x - b) * g.mean(axis=0)):
    return lambda f, x, baseline, steps: combine(path_gradients(f, x, baseline, alphas(steps)), x, baseline)


def curve(order, cumulative=True, replacement=None, copy=True, whole=True, steps=None):
    """A deletion curve in the order that `order(scores)` gives."""

    def deletion_curve(probability, ids, scores, mask_id):
        now = ids.copy() if copy else ids
        values = [probability(now)] if whole else []
        for position in order(scores)[:steps]:
            now = now if cumulative else ids.copy()
            now[position] = mask_id if replacement is None else replacement
            values.append(probability(now))
        return np.array(values)

    return deletion_curve


def highest_first(scores):
    return 1 + np.argsort(-scores[1:-1])


def removes(probability, ids, scores, mask_id):
    values, now = [probability(ids)], ids
    for position in np.sort(highest_first(scores))[::-1]:
        now = np.delete(now, position)
        values.append(probability(now))
    return np.array(values)


class TestEvaluateExplain(ExerciseContract):
    lesson = "12_evaluate_explain"
    wrong = {
        "what_temperature_changes": [
            ("Which one is that after the division?", ((True, True, True, True),)),
            ("on [4, 0] and on [2, 0]", ((False, False, True, True),)),
            ("between two messages", ((False, True, False, True),)),
            ("Does p(right team) stay?", ((False, True, True, False),)),
            ("four times True or False", ((False, True, True),)),
            ("four times True or False", True),
        ],
        "calibration_error": [
            ("not as one among equals", equal_bins),
            ("take each bin's absolute value.", ece(gap=lambda right, c: right.mean() - c.mean())),
            ("absolute value before the sum", ece(gap=lambda right, c: right.mean() - c.mean(), finish=abs)),
            ("not its square", ece(gap=lambda right, c: (right.mean() - c.mean()) ** 2)),
            ("this is the gap of single answers", ece(gap=lambda right, c: abs(right - c).mean())),
            ("Divide by the number of all answers", ece(weight=lambda inside: inside.sum())),
            ("not the middle of the bin", middles),
            ("Skip it", empty_bins_counted),
            ("its upper border belongs to it", ece(
                inside=lambda c, low, high: (low <= c) & ((c < high) | (high == 1) & (c == 1)))),
            ("Was it left out?", ece(inside=lambda c, low, high: (low <= c) & (c < high))),
            ("a single number was expected", lambda confidence, right, bins: abs(right - confidence)),
            ("That is the largest gap", largest_gap),
        ],
        "difference_interval": [
            ("That is b - a", lambda a, b, draws: interval(np.subtract(*accuracies(b, a, draws)))),
            ("2.5 % on each side", lambda a, b, draws: interval(np.subtract(*accuracies(a, b, draws)), (0.05, 0.95))),
            ("Percentiles go to 100", lambda a, b, draws: tuple(
                np.percentile(np.subtract(*accuracies(a, b, draws)), [0.025, 0.975]))),
            ("Take the difference inside each resample", limits_subtracted),
            ("on the same resample", own_resamples),
            ("average over its messages", lambda a, b, draws: interval(np.subtract(*accuracies(a, b, draws, 0)))),
            ("without assuming a bell curve", bell_curve),
            ("lie evenly about the mean", bell_curve_about_the_mean),
            ("lower limit comes first", lambda a, b, draws: interval(np.subtract(*accuracies(a, b, draws)))[::-1]),
            ("the smallest and the largest", lambda a, b, draws: interval(
                np.subtract(*accuracies(a, b, draws)), (0, 1))),
            ("find the same messages hard", lambda a, b, draws: (
                interval(a[draws].mean(1))[0] - interval(b[draws].mean(1))[1],
                interval(a[draws].mean(1))[1] - interval(b[draws].mean(1))[0])),
            ("not which of them is right", lambda a, b, draws: interval((a ^ b)[draws].mean(axis=1))),
            ("xor would lose the sign", lambda a, b, draws: interval((a[draws] - b[draws]).mean(axis=1))),
            ("an array of shape (2,) was expected", lambda a, b, draws: a.mean() - b.mean()),
            ("two numbers were expected", lambda a, b, draws: accuracies(a, b, draws)),
        ],
        "honest_policy": [
            ("What is the mean over no kept message?", from_notebook(lambda nb: nb["broken_policy"])),
            ("chosen with the test messages, which are there to pay", policy(choose="test")),
            ("must be measured on the test messages", policy(pay="validation")),
            ("spread over all messages", policy(kept_only=(True, True))),
            ("one formula of the cost, paid with another.", policy(kept_only=(True, False))),
            ("one formula of the cost, paid with the other.", policy(kept_only=(False, True))),
            ("A message at the threshold itself is kept", policy(strict=True)),
            ("the dearest threshold", policy(pick=np.argmax)),
            ("Is the cost of what humans get missing?", policy(human=0)),
            ("humans read it all", keeps_something),
            ("the other way round", policy(choose="test", pay="validation")),
            ("the lowest was asked for", policy(pick=lambda costs: len(costs) - 1 - np.argmin(costs[::-1]))),
            ("The threshold comes first", lambda *given: policy()(*given)[::-1]),
            ("not all of them", lambda v, test, *given: np.multiply(policy()(v, test, *given), [1, len(test[1])])),
        ],
        "integrated_gradients": [
            ("where is the path?", ig(alphas=lambda steps: [1.0])),
            ("where are the path and the baseline?", ig(lambda steps: [1.0], lambda g, x, b: x * g.mean(axis=0))),
            ("Is the factor x - baseline missing?", ig(combine=lambda g, x, b: g.mean(axis=0))),
            ("Multiply by x - baseline, not by x", ig(combine=lambda g, x, b: x * g.mean(axis=0))),
            ("not their sum", ig(combine=lambda g, x, b: (x - b) * g.sum(axis=0))),
            ("these are at k / steps", ig(alphas=lambda steps: np.arange(steps) / steps)),
            ("these are at (k + 1) / steps", ig(alphas=lambda steps: (np.arange(steps) + 1) / steps)),
            ("these go from 0 to 1, ends included", ig(alphas=lambda steps: np.linspace(0, 1, steps))),
            ("this one starts at zero", lambda f, x, baseline, steps: (x - baseline) * path_gradients(
                f, x, 0 * x, (np.arange(steps) + 0.5) / steps).mean(axis=0)),
            ("is there a sum too many?", ig(combine=lambda g, x, b: ((x - b) * g.mean(axis=0)).sum())),
            ("The sign is turned round", ig(combine=lambda g, x, b: (b - x) * g.mean(axis=0))),
            ("Scores keep their sign", ig(combine=lambda g, x, b: abs((b - x) * g.mean(axis=0)))),
            ("this one from zero to x", lambda f, x, baseline, steps: ig()(f, x, 0 * x, steps)),
            ("not alpha times x", lambda f, x, baseline, steps: (x - baseline) * path_gradients(
                f, x + baseline, baseline, (np.arange(steps) + 0.5) / steps).mean(axis=0)),
            ("over the points only", ig(combine=lambda g, x, b: (x - b) * g.mean())),
            ("one more than steps", ig(alphas=lambda steps: np.linspace(0, 1, steps + 1))),
        ],
        "deletion_curve": [
            ("the highest score goes first", curve(lambda scores: highest_first(scores)[::-1])),
            ("[CLS] and [SEP] stay", curve(lambda scores: np.argsort(-scores))),
            ("What was replaced stays replaced", curve(highest_first, cumulative=False)),
            ("By the score, not by its size", curve(lambda scores: 1 + np.argsort(-abs(scores[1:-1])))),
            ("not from left to right", curve(lambda scores: np.arange(1, len(scores) - 1))),
            ("The first value is that of the whole message", curve(highest_first, whole=False)),
            ("The last word has to go, too", curve(highest_first, steps=-1)),
            ("not by 0", curve(highest_first, replacement=0)),
            ("counts from its own beginning", curve(lambda scores: np.argsort(-scores[1:-1]))),
            ("do not remove it", removes),
            ("whatever number that is", curve(highest_first, replacement=103)),
            ("Is one array in the list many times?", lambda probability, ids, scores, mask_id: np.full(
                len(ids) - 1, curve(highest_first)(probability, ids, scores, mask_id)[-1])),
            ("not how far they fall", lambda *given: (values := curve(highest_first)(*given))[0] - values),
            ("Work on a copy", curve(highest_first, copy=False)),
        ],
    }  # fmt: skip
