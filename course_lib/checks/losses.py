"""Checks of lesson 01. The truth is NumPy in float64, written from the definitions, and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import compare, guess, hinted
from course_lib.checks.core import exercise

RAW_EXP = "Is exp() seeing the raw logits? Take each row's largest away first."
EXTREME = np.array([[1, 0, -1], [-1, 1, 0], [-1, -1, -1], [1, -1, -1]], float)  # one row has no large logit
BCE_NAN = "Where a sigmoid rounds to 1, log(1 - 1) is minus infinity. Start from the logits."
SHAPES = ((4, 3), (1, 5), (6, 1))  # three, since each new one is compiled: a check answers within a second
HIDDEN = "An epsilon or a clip hides how wrong the model is. Start from the logits."


def _log_probs(logits: np.ndarray) -> np.ndarray:
    """float64 [..., K]."""
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def _row_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [batch], from logits [batch, K] and integer labels [batch]."""
    return -_log_probs(logits)[np.arange(len(labels)), labels]


def _batch(rng: np.random.Generator, batch: int, classes: int, scale: float = 2) -> tuple[np.ndarray, np.ndarray]:
    """float64 logits [batch, K], exact in float32 too, and labels [batch]."""
    logits = rng.normal(scale=scale, size=(batch, classes)).astype(np.float32).astype(np.float64)
    return logits, rng.integers(classes, size=batch)


def _as_jax(*arrays: np.ndarray) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(a, jnp.float32 if a.dtype.kind == "f" else jnp.int32) for a in arrays)


@exercise("1.1", minutes=3, difficulty=1)
def loss_before_training(all_zero, all_hundred, rng):
    for given, answer, logits in (
        ("all logits 0", all_zero, np.zeros(8)),
        ("all logits 100", all_hundred, np.full(8, 100.0)),
    ):
        because = {
            "That is the probability. The loss is minus its logarithm.": 1 / 8,
            "That is the logarithm to base 2. Losses use the natural one.": np.log2(8),
            "That is the logarithm to base 10. Losses use the natural one.": np.log10(8),
            "That is the logarithm of the probability. The loss has a minus before it.": -np.log(8),
            "The right logit is as large as the seven others: how sure is the model?": 0.0,
            "Softmax sees only differences between logits.": 100.0,
        }
        guess(answer, -_log_probs(logits)[0], given, because, atol=0.05)  # two digits were asked for


@exercise("1.2", minutes=3, difficulty=1)
def gradient_in_the_logits(gradient, rng):
    probs, step = np.array([0.6, 0.3, 0.1]), 1e-5
    nudges = step * np.eye(3)
    label, logits = np.ones(3, int), np.log(probs)
    want = (_row_losses(logits + nudges, label) - _row_losses(logits - nudges, label)) / (2 * step)
    truth = np.array([0.0, 1.0, 0.0])
    because = {
        "These are the probabilities. Which one would you have had higher?": probs,
        "The signs are turned round: raising the right logit must lower the loss.": -want,
        "That is the gradient in the probabilities. In the logits, softmax is part of the chain.": -truth / probs,
        "That is the gradient if delivery were right.": probs - [1, 0, 0],
    }
    guess(gradient, want, "gradient", because, atol=1e-3)


@exercise("1.3", minutes=8, difficulty=2)
def softmax_cross_entropy(answer, rng):
    for batch, classes in SHAPES:
        logits, labels = _batch(rng, batch, classes)
        rows = _row_losses(logits, labels)
        mistakes = {
            "Is the minus sign missing?": -rows.mean(),
            "Sum or mean over the batch?": rows.sum(),
            "The mean is over the batch, not over the classes, too.": rows.mean() / classes,
            "Is the mean over the batch missing?": rows,
            "Does each row use its own label, and no other row's?": -_log_probs(logits)[:, labels].mean(),
            "The classes are the last axis. Is softmax taken over the batch?": _row_losses_over_batch(logits, labels),
            "Is the log-sum-exp missing?": -logits[np.arange(batch), labels].mean(),
            "Each row has a log-sum-exp of its own, along axis -1; this one went over the whole batch.": (
                np.logaddexp.reduce(logits.ravel()) - logits[np.arange(batch), labels].mean()
            ),
        }
        compare(answer(*_as_jax(logits, labels)), rows.mean(), _given(batch, classes), mistakes=mistakes, nan=RAW_EXP)
    for size in (100.0, 1e4):
        logits, labels = size * EXTREME, np.array([1, 2, 1, 2])
        _compare_extreme(answer, logits, labels, _row_losses(logits, labels).mean(), f"logits of ±{size:g}")
    logits, labels = _batch(rng, 4, 3)
    with hinted("jax.grad cannot see through float() or NumPy: keep to jnp all the way.", jax.errors.JAXTypeError):
        gradient = jax.grad(answer)(*_as_jax(logits, labels))
    compare(gradient, _gradient(logits, labels), "its gradient by jax.grad, batch of 4", nan="Keep to jnp all the way.")


@exercise("1.4", minutes=8, difficulty=2)
def softmax_cross_entropy_gradient(answer, rng):
    for batch, classes in SHAPES:
        logits, labels = _batch(rng, batch, classes)
        want = _gradient(logits, labels)
        probs = np.exp(_log_probs(logits))
        mistakes = {
            "Each logit acts on the mean, so on one part in `batch` of the loss.": want * batch,
            "The division is by the number of rows, not of all entries.": want / classes,
            "The signs are turned round: p - y, not y - p.": -want,
            "The signs are turned round, and the mean over the batch is missing.": -want * batch,
            "Is the truth taken away from the probabilities?": probs / batch,
            "Is the truth taken away from the probabilities, and the batch divided by?": probs,
            "One gradient a logit is asked for, not their mean over the batch.": want.sum(axis=0),
            "The labels are class numbers. Make a row of them with a 1 in one column: jax.nn.one_hot.": (
                (probs - labels[:, None]) / batch
            ),
            "The classes are the last axis. Is softmax taken over the batch?": (
                (np.exp(_log_probs(logits.T)).T - np.eye(classes)[labels]) / batch
            ),
        }
        compare(answer(*_as_jax(logits, labels)), want, _given(batch, classes), mistakes=mistakes, nan=RAW_EXP)
    logits, labels = 1e4 * EXTREME, np.array([1, 2, 1, 2])
    compare(answer(*_as_jax(logits, labels)), _gradient(logits, labels), "logits of ±1e4", nan=RAW_EXP)


@exercise("1.5", minutes=8, difficulty=2)
def fixed_bce(answer, rng):
    for batch in (6, 1):
        logits = _batch(rng, batch, 1)[0][:, 0]
        for kind, targets in {
            "unhappy and content by turns": 1.0 - np.arange(batch) % 2,
            "all content": np.zeros(batch),
        }.items():
            yes, no = np.logaddexp(0, -logits), np.logaddexp(0, logits)  # -log p, -log(1 - p)
            losses = targets * yes + (1 - targets) * no
            mistakes = {
                "Is what a 0 should cost, (1 - y) log(1 - p), missing?": (targets * yes).mean(),
                "Are y and 1 - y on the wrong terms?": (targets * no + (1 - targets) * yes).mean(),
                "Both terms use log p; the second needs log(1 - p).": yes.mean(),
                "Sum or mean over the batch?": losses.sum(),
                "Is the mean over the batch missing?": losses,
                "Is the minus sign missing?": -losses.mean(),
            }
            given = f"batch of {batch}, {kind}"
            compare(answer(*_as_jax(logits, targets)), losses.mean(), given, mistakes=mistakes, nan=BCE_NAN)
    for size in (30.0, 1e4):
        logits, targets = size * np.array([1.0, -1] * 3), np.array([0.0, 1] * 3)  # as wrong as can be
        _compare_extreme(answer, logits, targets, size, f"logits of ±{size:g}, both wrong", nan=BCE_NAN)
        gradient = jax.grad(answer)(*_as_jax(logits, targets))
        given = f"gradient at logits of ±{size:g}, both wrong"
        compare(gradient, np.array([1, -1] * 3) / 6, given, nan="jnp.where passes on the nan of the branch not taken.",
                mistakes={"A clip or an epsilon switches it off just there.": np.zeros(6)})  # fmt: skip


@exercise("1.6", minutes=12, difficulty=3)
def weighted_smooth_loss(answer, rng):
    for batch, classes, epsilon in ((4, 3, 0.0), (4, 3, 0.1), (1, 5, 0.2), (6, 1, 0.3)):
        logits, labels = _batch(rng, batch, classes)
        class_weights = rng.uniform(0.5, 3, size=classes).round(2)
        log_probs, one_hot = _log_probs(logits), np.eye(classes)[labels]
        weights = class_weights[labels]

        def loss(targets, log_probs=log_probs, weights=weights):
            return np.average(-(targets * log_probs).sum(axis=-1), weights=weights)

        smooth = (1 - epsilon) * one_hot + epsilon / classes
        rows = -(smooth * log_probs).sum(axis=-1)
        weighted_terms = -(smooth * class_weights * log_probs).sum(axis=-1)
        mistakes = {
            "Do the weights count at all?": rows.mean(),
            "Is epsilon used?": loss(one_hot),
            "epsilon is spread over all K classes, the right one too: epsilon / K.": loss(
                np.where(one_hot == 1, 1 - epsilon, epsilon / max(classes - 1, 1))
            ),
            "The smoothed targets should still sum to 1.": loss(one_hot + epsilon / classes),
            "Divide by the sum of the batch's weights, not by the batch size.": (weights * rows).mean(),
            "Divide by the sum of the weights: is a sum left?": (weights * rows).sum(),
            "An example has one weight, its label's; here each class of the target got its own.": (
                weighted_terms.sum() / weights.sum()
            ),
            "Divide by the weights of the batch's labels, not by those of all classes.": (
                (weights * rows).sum() / class_weights.sum()
            ),
        }
        given = f"{_given(batch, classes)}, epsilon {epsilon:g}"
        got = answer(*_as_jax(logits, labels, class_weights), epsilon)
        compare(got, loss(smooth), given, mistakes=mistakes, nan=RAW_EXP)
    logits, labels = 100 * EXTREME, np.array([1, 2, 1, 2])
    want = _row_losses(logits, labels).mean()
    got = answer(*_as_jax(logits, labels, np.ones(3)), 0.0)
    compare(got, want, "logits of ±100, equal weights, epsilon 0", nan=RAW_EXP, mistakes={HIDDEN: _clipped(want, got)})


def _compare_extreme(answer, logits, targets, want, given, nan=RAW_EXP):
    """With logits so large that an epsilon or a clip, whatever its size, shows as a loss that is far too small."""
    got = answer(*_as_jax(logits, targets))
    compare(got, want, given, nan=nan, mistakes={HIDDEN: _clipped(want, got)})


def _clipped(want, got):
    """What to call a clipped loss: any single number well below the true one."""
    return got if np.ndim(got) == 0 and 0 <= float(got) < 0.9 * want else np.nan


def _gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the mean loss in the logits, float64 [batch, K]: central differences, not the formula that is asked for."""
    step, gradient = 1e-4, np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        nudge = np.zeros_like(logits)
        nudge[index] = step
        gradient[index] = _row_losses(logits + nudge, labels).mean() - _row_losses(logits - nudge, labels).mean()
    return gradient / (2 * step)


def _row_losses_over_batch(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mistake of a softmax over axis 0."""
    return -_log_probs(logits.T).T[np.arange(len(labels)), labels].mean()


def _given(batch: int, classes: int) -> str:
    return f"batch of {batch}, {classes} class{'es' if classes > 1 else ''}"
