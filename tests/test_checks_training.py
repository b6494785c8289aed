"""The exercises of lesson 05: every mistake that its checks name is made here, and their reference equals optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exercise_contract import ExerciseContract, from_notebook

from course_lib.checks.training import adam_updates, adamw_path


def standard(train, other, *, stats=None, axis=0, sd=None, own=False):
    mean, spread = (stats or train).mean(axis=axis), (stats or train).std(axis=axis)
    spread = jnp.where(spread == 0, 1, spread) if sd is None else sd(spread)
    return (train - mean) / spread, standard(other, other)[1] if own else (other - mean) / spread


def pooled(train, other):
    both = jnp.concatenate([train, other])
    return (train - both.mean(axis=0)) / both.std(axis=0), (other - both.mean(axis=0)) / both.std(axis=0)


def not_centred(train, other):
    return train / train.std(axis=0), other / train.std(axis=0)


def sample_sd(train, other):
    mean, sd = train.mean(axis=0), train.std(axis=0, ddof=1)
    return (train - mean) / sd, (other - mean) / sd


def one_mean_a_row(*both):
    return tuple((x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True) for x in both)


def rmsprop(g, v, rate, decay, *, new=None, update=None):
    new = new or (lambda v, g: decay * v + (1 - decay) * g**2)
    update = update or (lambda g, v, old: -rate * g / (jnp.sqrt(v) + 1e-8))
    after = jax.tree.map(new, v, g)
    return jax.tree.map(update, g, after, v), after


def corrected(m, v, t):
    return m / (1 - 0.9**t), v / (1 - 0.999**t)


def adam(gradient, state, rate, *, fix=corrected, keep="", sign=-1, start=1):
    t, m, v = state
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    m_hat, v_hat = fix(m, v, t + start)
    state = (t + (keep != "t"), m_hat if keep == "m" else m, v_hat if keep == "v" else v)
    return sign * rate * m_hat / (jnp.sqrt(v_hat) + 1e-8), state


def adam_without_epsilon(gradient, state, rate):
    update, after = adam(gradient, state, rate)
    return (-rate * gradient / jnp.sqrt(gradient**2) if state[0] == 0 else update), after


def stop_early(losses, patience, *, better=lambda loss, best: loss < best, late=0):
    best, lowest = 0, float("inf")
    for epoch, loss in enumerate(losses):
        if better(loss, lowest):
            best, lowest = epoch, loss
        if epoch - best == patience + late:
            break
    return best, epoch


def in_a_row(losses, patience):
    best = worse = 0
    for epoch in range(1, len(losses)):
        worse = worse + 1 if not losses[epoch] < losses[epoch - 1] else 0
        best = best if worse else epoch
        if worse == patience:
            break
    return best, epoch if len(losses) > 1 else 0


def with_nan(losses, patience):
    best, stop = stop_early(losses, patience)
    return int(np.argmin(losses[: stop + 1])), stop


def adamw(params, gradients, state, rate, weight_decay, *, gradient=None, new=None, keep=False):
    t, m, v = state
    if gradient:
        gradients = jax.tree.map(gradient, params, gradients)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, gradients)
    m_hat = jax.tree.map(lambda m: m / (1 - 0.9 ** (t + 1)), m)
    v_hat = jax.tree.map(lambda v: v / (1 - 0.999 ** (t + 1)), v)
    step = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-8), m_hat, v_hat)
    new = new or (lambda p, step: p - rate * (step + weight_decay * p))
    return jax.tree.map(new, params, step), (t + 1, m_hat, v_hat) if keep else (t + 1, m, v)


def adamw_with(new):
    """AdamW with another last formula: new(params, step, rate, weight_decay)."""
    return lambda p, g, s, r, d: adamw(p, g, s, r, d, new=lambda p, step: new(p, step, r, d))


class TestTraining(ExerciseContract):
    lesson = "05_training"
    wrong = {
        "loss_times_1000": [
            ("1000 times as long", ("SGD", 0.02)),
            ("SGD's step", ("both", 0.02)),
            ("1000 over the root", ("neither", 0.02)),
            ("none of the choices", ("adam", 0.02)),
            ("the gradient is negative", ("Adam", -0.02)),
            ("That is SGD. Adam divides", ("Adam", 5.0)),
            ("in the wrong direction", ("Adam", -5.0)),
            ("without the bias correction", ("Adam", 0.063246)),
            ("m is corrected, too", ("Adam", 0.002)),
        ],
        "standardise": [
            ("these saw the other rows", pooled),
            ("its own mean", lambda train, other: standard(train, other, own=True)),
            ("along axis 0", lambda train, other: standard(train, other, axis=None)),
            ("not by the variance", lambda train, other: standard(train, other, sd=lambda sd: sd**2)),
            ("Is the mean taken away?", not_centred),
            ("Is the division missing?", lambda train, other: standard(train, other, sd=jnp.ones_like)),
            ("no ddof", sample_sd),
            ("gave nan. A feature that never varies", lambda train, other: standard(train, other, sd=lambda sd: sd)),
            ("epsilon blows", lambda train, other: standard(train, other, sd=lambda sd: sd + 1e-8)),
            ("this is one a row", one_mean_a_row),
            ("the pair (train, other)", lambda train, other: standard(train, other)[0]),
        ],
        "rmsprop_update": [
            ("of the squares", lambda g, v, r, d: rmsprop(g, v, r, d, new=lambda v, g: d * v + (1 - d) * g)),
            ("decay weighs the old", lambda g, v, r, d: rmsprop(g, v, r, d, new=lambda v, g: (1 - d) * v + d * g**2)),
            ("weighed by 1 - decay", lambda g, v, r, d: rmsprop(g, v, r, d, new=lambda v, g: d * v + g**2)),
            ("old v forgotten", lambda g, v, r, d: rmsprop(g, v, r, d, new=lambda v, g: g**2)),
            ("Is v updated?", lambda g, v, r, d: (rmsprop(g, v, r, d)[0], v)),
            ("minus sign", lambda g, v, r, d: rmsprop(g, v, -r, d)),
            ("not by v", lambda g, v, r, d: rmsprop(g, v, r, d, update=lambda g, v, old: -r * g / v)),
            (
                "with this gradient in it",
                lambda g, v, r, d: rmsprop(g, v, r, d, update=lambda g, v, old: -r * g / (jnp.sqrt(old) + 1e-8)),
            ),
            ("rate missing", lambda g, v, r, d: rmsprop(g, v, 1, d)),
            ("division by the root", lambda g, v, r, d: rmsprop(g, v, r, d, update=lambda g, v, old: -r * g)),
            ("0 by 0", lambda g, v, r, d: rmsprop(g, v, r, d, update=lambda g, v, old: -r * g / jnp.sqrt(v))),
            ("updates come first", lambda *given: rmsprop(*given)[::-1]),
            ("a tree like the gradients", lambda *given: (rmsprop(*given)[0], jax.tree.leaves(rmsprop(*given)[1]))),
            ("the pair (updates, v)", lambda *given: rmsprop(*given)[0]),
            ("works on their leaves", lambda g, v, r, d: (-r * g, d * v)),
            ("a tuple of 1 came back", lambda *given: rmsprop(*given)[:1]),
        ],
        "fixed_adam": [
            ("corrected again", from_notebook(lambda notebook: notebook["broken_adam"])),
            ("corrected m still", lambda *given: adam(*given, keep="m")),
            ("corrected v still", lambda *given: adam(*given, keep="v")),
            ("gone altogether", lambda *given: adam(*given, fix=lambda m, v, t: (m, v))),
            ("v is no longer", lambda *given: adam(*given, fix=lambda m, v, t: (m / (1 - 0.9**t), v))),
            ("m is no longer", lambda *given: adam(*given, fix=lambda m, v, t: (m, v / (1 - 0.999**t)))),
            ("t counted up", lambda *given: adam(*given, keep="t")),
            ("The first step has t = 1", lambda *given: adam(*given, start=2)),
            ("Does t count from 1?", lambda *given: adam(*given, start=0)),
            ("minus sign", lambda *given: adam(*given, sign=1)),
            ("0 by 0", adam_without_epsilon),
            ("the pair (update, state)", lambda *given: adam(*given)[0]),
        ],
        "early_stopping": [
            ("Nobody sees", lambda x, patience: (int(np.nanargmin(x)), stop_early(x, patience)[1])),
            ("(stop, best)", lambda *given: stop_early(*given)[::-1]),
            ("not the next", lambda *given: stop_early(*given, late=1)),
            ("one epoch too soon", lambda *given: stop_early(*given, late=-1)),
            ("compare with <.", lambda *given: stop_early(*given, better=lambda loss, best: loss <= best)),
            ("Does it stop?", lambda x, patience: (int(np.nanargmin(x)), len(x) - 1)),
            ("whatever patience is left", lambda x, p: (stop_early(x, p)[0], stop_early(x, p)[0] + p)),
            ("no new best", in_a_row),
            ("not the last one", lambda *given: (stop_early(*given)[1],) * 2),
            ("from 0", lambda *given: tuple(epoch + 1 for epoch in stop_early(*given))),
            ("nan is no improvement", with_nan),
            ("Is one of them a loss?", lambda x, patience: (x[0], 0)),
            ("the pair (best, stop)", lambda *given: stop_early(*given)[0]),
        ],
        "adamw_step": [
            ("that is L2 in Adam", lambda p, g, s, r, d: adamw(p, g, s, r, 0, gradient=lambda p, g: g + d * p)),
            ("weight decay used", lambda p, g, s, r, d: adamw(p, g, s, r, 0)),
            ("rate multiplies the decay", adamw_with(lambda p, step, r, d: p - r * step - d * p)),
            ("pushes away", lambda p, g, s, r, d: adamw(p, g, s, r, -d)),
            ("before the step", adamw_with(lambda p, step, r, d: (p - r * step) * (1 - r * d))),
            ("not only to its sign", adamw_with(lambda p, step, r, d: p - r * (step + d * jnp.sign(p)))),
            ("minus sign of the update", adamw_with(lambda p, step, r, d: p + r * step - r * d * p)),
            ("as in 5.4", lambda *given: adamw(*given, keep=True)),
            ("That is the update", adamw_with(lambda p, step, r, d: -r * (step + d * p))),
            ("not a tuple (t, m, v)", lambda *given: (adamw(*given)[0], list(adamw(*given)[1]))),
        ],
    }  # fmt: skip


def test_the_reference_adam_equals_optax():
    gradients = [np.random.default_rng(t).normal(size=3) for t in range(5)]
    optimiser = optax.adam(0.1)
    state = optimiser.init(jnp.zeros(3))
    for gradient, want in zip(gradients, adam_updates(gradients, 0.1), strict=True):
        update, state = optimiser.update(jnp.asarray(gradient, jnp.float32), state)
        assert update == pytest.approx(want, abs=1e-6)


def test_the_reference_adamw_equals_optax():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(2, 3)), "b": rng.normal(size=3)}
    gradients = [jax.tree.map(lambda p: rng.normal(size=p.shape), params) for _ in range(5)]
    ours = jax.tree.map(jnp.float32, params)
    optimiser = optax.adamw(0.1, weight_decay=0.5)
    state = optimiser.init(ours)
    for gradient, want in zip(gradients, adamw_path(params, gradients, 0.1, 0.5), strict=True):
        updates, state = optimiser.update(jax.tree.map(jnp.float32, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        assert all(ours[name] == pytest.approx(want[name], abs=1e-5) for name in want)
