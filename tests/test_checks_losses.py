"""The exercises of lesson 01: every mistake that its checks name is made here."""

import jax
import jax.numpy as jnp
import optax
from exercise_contract import ExerciseContract, from_notebook

ROWS = optax.softmax_cross_entropy_with_integer_labels  # [batch, K], [batch] → [batch]


def pick(values, labels):
    return jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]


def with_epsilon(logits, labels):
    return -jnp.log(pick(jax.nn.softmax(logits), labels) + 1e-9).mean()


def naive(logits, labels):
    return -jnp.log(pick(jnp.exp(logits) / jnp.exp(logits).sum(axis=-1, keepdims=True), labels)).mean()


def p_minus_y(logits, labels):
    return jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])


def softmax_over_batch(logits, labels):
    return (jax.nn.softmax(logits, axis=0) - jax.nn.one_hot(labels, logits.shape[-1])) / len(logits)


def weighted(logits, labels, class_weights, epsilon, *, smooth=optax.smooth_labels, divide=None, weights=None):
    rows = optax.softmax_cross_entropy(logits, smooth(jax.nn.one_hot(labels, logits.shape[-1]), epsilon))
    weights = class_weights[labels] if weights is None else weights
    return (weights * rows).sum() / (weights.sum() if divide is None else divide)


def bce(logits, targets, log_p=None, log_not_p=None):
    log_p = jax.nn.log_sigmoid(logits) if log_p is None else log_p
    log_not_p = jax.nn.log_sigmoid(-logits) if log_not_p is None else log_not_p
    return -(targets * log_p + (1 - targets) * log_not_p).mean()


def clipped_bce(logits, targets):
    p = jnp.clip(jax.nn.sigmoid(logits), 1e-7, 1 - 1e-7)
    return bce(logits, targets, jnp.log(p), jnp.log(1 - p))


def flat_bce(logits, targets):
    """Right in value, but the gradient is cut where the model is very wrong."""
    return bce(jax.lax.stop_gradient(logits), targets) + 0 * logits.sum()


class TestLosses(ExerciseContract):
    lesson = "01_losses"
    wrong = {
        "loss_before_training": [
            ("all logits 0: not 0.125. That is the probability", (0.125, 0.125)),
            ("base 2", (3.0, 3.0)),
            ("base 10", (0.903, 0.903)),
            ("a minus before it", (-2.08, -2.08)),
            ("all logits 100: not 100. Softmax sees only differences", (2.08, 100.0)),
            ("a single number was expected, '2.08' came", ("2.08", "2.08")),
        ],
        "gradient_in_the_logits": [
            ("These are the probabilities", [0.6, 0.3, 0.1]),
            ("signs are turned round", [-0.6, 0.7, -0.1]),
            ("gradient in the probabilities", [0.0, -1 / 0.3, 0.0]),
            ("if delivery were right", [-0.4, 0.3, 0.1]),
            ("3 numbers were expected, 2 came", [0.6, -0.7]),
        ],
        "softmax_cross_entropy": [
            ("minus sign", lambda logits, labels: -ROWS(logits, labels).mean()),
            ("Sum or mean over the batch?", lambda logits, labels: ROWS(logits, labels).sum()),
            ("not over the classes, too", lambda logits, labels: ROWS(logits, labels).mean() / logits.shape[-1]),
            ("shape (4,) came back, a single number was expected. Is the mean", lambda *batch: ROWS(*batch)),
            ("its own label", lambda logits, labels: -jax.nn.log_softmax(logits)[:, labels].mean()),
            ("taken over the batch", lambda logits, labels: -pick(jax.nn.log_softmax(logits, axis=0), labels).mean()),
            ("of its own, along axis -1", lambda z, y: (jax.nn.logsumexp(z) - pick(z, y)).mean()),
            ("keep to jnp all the way", lambda *batch: float(ROWS(*batch).mean())),
            ("log-sum-exp missing", lambda logits, labels: -pick(logits, labels).mean()),
            ("logits of ±100 gave nan. Is exp() seeing the raw logits?", lambda *batch: naive(*batch)),
            ("Take each row's largest away first", lambda logits, labels: naive(logits - logits.max(), labels)),
            ("An epsilon or a clip hides", with_epsilon),
            ("raised TypeError", lambda logits, labels: logits + "labels"),
            ("its gradient by jax.grad", lambda *batch: ROWS(*jax.lax.stop_gradient(batch)).mean()),
            ("Is a `return` missing?", lambda logits, labels: None),
        ],
        "softmax_cross_entropy_gradient": [
            ("one part in `batch`", p_minus_y),
            ("not of all entries", lambda logits, labels: p_minus_y(logits, labels) / logits.size),
            ("p - y, not y - p", lambda logits, labels: -p_minus_y(logits, labels) / len(logits)),
            ("and the mean over the batch is missing", lambda logits, labels: -p_minus_y(logits, labels)),
            ("taken away from the probabilities?", lambda logits, labels: jax.nn.softmax(logits) / len(logits)),
            ("and the batch divided by", lambda logits, labels: jax.nn.softmax(logits)),
            ("shape (3,) came back", lambda logits, labels: p_minus_y(logits, labels).mean(axis=0)),
            ("jax.nn.one_hot", lambda logits, labels: (jax.nn.softmax(logits) - labels[:, None]) / len(logits)),
            ("Is softmax taken over the batch?", softmax_over_batch),
            ("logits of ±1e4 gave nan", lambda *batch: jax.grad(lambda *b: naive(*b))(*batch)),
        ],
        "fixed_bce": [
            ("what a 0 should cost", from_notebook(lambda notebook: notebook["broken_bce"])),
            ("Both terms use log p", lambda z, y: bce(z, y, log_not_p=jax.nn.log_sigmoid(z))),
            ("on the wrong terms", lambda z, y: bce(z, 1 - y)),
            ("Sum or mean", lambda z, y: bce(z, y) * len(z)),
            ("minus sign", lambda z, y: -bce(z, y)),
            ("hides how wrong", clipped_bce),
            ("switches it off just there", flat_bce),
            ("log(1 - 1)", lambda z, y: bce(z, y, jnp.log(jax.nn.sigmoid(z)), jnp.log(1 - jax.nn.sigmoid(z)))),
        ],
        "weighted_smooth_loss": [
            ("weights count at all", lambda z, y, w, e: weighted(z, y, w, e, weights=jnp.ones(len(z)))),
            ("Is epsilon used?", lambda z, y, w, e: weighted(z, y, w, 0.0)),
            (
                "epsilon / K",
                lambda z, y, w, e: weighted(
                    z, y, w, e, smooth=lambda t, e: jnp.where(t == 1, 1 - e, e / max(t.shape[-1] - 1, 1))
                ),
            ),
            ("still sum to 1", lambda z, y, w, e: weighted(z, y, w, e, smooth=lambda t, e: t + e / t.shape[-1])),
            ("not by the batch size", lambda z, y, w, e: weighted(z, y, w, e, divide=len(z))),
            ("is a sum left?", lambda z, y, w, e: weighted(z, y, w, e, divide=1)),
            ("those of all classes", lambda z, y, w, e: weighted(z, y, w, e, divide=w.sum())),
            (
                "each class of the target got its own",
                lambda z, y, w, e: weighted(
                    z, y, w, e, smooth=lambda t, e: optax.smooth_labels(t, e) * w, weights=jnp.ones(len(z)),
                    divide=w[y].sum(),
                ),
            ),
        ],
    }  # fmt: skip
