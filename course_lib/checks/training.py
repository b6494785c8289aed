"""Checks of lesson 05. The truth is NumPy in float64, written from the papers; the tests hold it against optax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare, guess, hinted
from course_lib.checks.core import Wrong, exercise

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
TREES = "The arguments are trees, such as lists of dicts: jax.tree.map works on their leaves."
ZERO_OVER_ZERO = "A parameter that never had a gradient divides 0 by 0. Is the epsilon there, outside the root?"


@exercise("5.1", minutes=4, difficulty=1)
def loss_times_1000(same_path, first_update, rng):
    because = {
        "SGD": "Its step is the gradient times the rate, and the gradient is 1000 times as long.",
        "both": "SGD's step is the gradient times the rate, and the gradient is 1000 times as long.",
        "neither": "Adam divides m by the root of v: 1000 over the root of 1000 squared.",
    }
    choose(same_path, "Adam", because)
    because = {
        "The update goes against the gradient, and the gradient is negative.": -0.02,
        "That is SGD. Adam divides by the root of the mean square.": 5.0,
        "That is SGD, and in the wrong direction.": -5.0,
        "That is without the bias correction.": 0.02 * 0.1 / np.sqrt(0.001),
        "m is corrected, too: divided by 1 - 0.9.": 0.002,
    }
    guess(first_update, 0.02, "first update of Adam", because, atol=1e-6)


@exercise("5.2", minutes=6, difficulty=1)
def standardise(answer, rng):
    for rows, others, features in ((50, 7, 3), (4, 1, 5)):
        scale = 10.0 ** rng.integers(-1, 3, size=features)
        train = (scale * rng.normal(2, 1, size=(rows, features))).astype(np.float32).astype(np.float64)
        other = (scale * rng.normal(3, 2, size=(others, features))).astype(np.float32).astype(np.float64)
        given = f"{rows} training and {others} other rows"
        _compare_standardised(answer, train, other, given)
    train[:, 1] = 3.0
    other[:, 1] = 5.0
    _compare_standardised(answer, train, other, "a feature that is 3 in all training rows and 5 in the other")


def _compare_standardised(answer, train, other, given):
    got = _pair(answer(jnp.asarray(train, jnp.float32), jnp.asarray(other, jnp.float32)), given, "(train, other)")
    both = np.concatenate([train, other])
    sd = train.std(axis=0)
    safe = np.where(sd == 0, 1, sd)

    def mistakes(x):
        own = x.std(axis=0)
        return {
            "The mean and the standard deviation come from `train`; these saw the other rows.": (
                (x - both.mean(axis=0)) / np.where(both.std(axis=0) == 0, 1, both.std(axis=0))
            ),
            "`other` got its own mean and standard deviation. Use those of `train`.": (
                (x - x.mean(axis=0)) / np.where(own == 0, 1, own)
            ),
            "One mean a feature: along axis 0.": (x - train.mean()) / train.std(),
            "One mean a feature, along axis 0; this is one a row.": (
                (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
            ),
            "Divide by the standard deviation, not by the variance.": (x - train.mean(axis=0)) / safe**2,
            "Is the mean taken away?": x / safe,
            "Is the division missing?": x - train.mean(axis=0),
            "Divide by the standard deviation of n values, not of n - 1 (no ddof).": (
                (x - train.mean(axis=0)) / (safe * np.sqrt(len(train) / (len(train) - 1)))
            ),
            "A small epsilon blows such a feature up. Where the standard deviation is 0, divide by 1.": (
                _blown_up(got[1], x, train, safe)
            ),
        }

    nan = "A feature that never varies has standard deviation 0. Divide by 1 there."
    for name, came, x in (("train", got[0], train), ("other", got[1], other)):
        want = (x - train.mean(axis=0)) / safe
        compare(came, want, f"{given}: {name}", mistakes=mistakes(x), nan=nan, rtol=1e-3, atol=1e-3)


def _blown_up(came, x, train, sd):
    """The mistake of dividing by sd + epsilon, whatever the epsilon: `came` where it is huge, else something else."""
    came = np.asarray(came, float)
    right = (x - train.mean(axis=0)) / sd
    return came if came.shape == right.shape and np.abs(came).max() > 100 * np.abs(right).max() else np.nan


@exercise("5.3", minutes=8, difficulty=2)
def rmsprop_update(answer, rng):
    for given, tree, decay in (
        ("a list of two layers", _tree(rng, [{"w": (3, 2), "b": (2,)}, {"w": (2, 1), "b": (1,)}]), 0.9),
        ("a single array", _tree(rng, (4,)), 0.5),
        ("v = 0, as at the first step", _tree(rng, {"scale": (3,)}), 0.99),
    ):
        start = 0.0 if given.startswith("v = 0") else 1.0
        v = jax.tree.map(lambda g, start=start: start * rng.uniform(0.5, 2, size=g.shape), tree)
        wrong_v, wrong_updates = {}, {}
        new = _map(lambda v, g, d=decay: d * v + (1 - d) * g**2, v, tree)
        for hint, flawed in {
            "The running mean is of the squares of the gradients.": lambda v, g, d=decay: d * v + (1 - d) * g,
            "decay weighs the old v, 1 - decay the new square.": lambda v, g, d=decay: (1 - d) * v + d * g**2,
            "Is the new square weighed by 1 - decay?": lambda v, g, d=decay: d * v + g**2,
            "Is the old v forgotten?": lambda v, g: g**2,
            "Is v updated?": lambda v, g: v,
        }.items():
            wrong_v[hint] = _map(flawed, v, tree)
        for hint, flawed in {
            "An update goes against the gradient: is the minus sign missing?": lambda g, v, _: 0.1 * g / np.sqrt(v),
            "Divide by the root of v, not by v.": lambda g, v, _: -0.1 * g / v,
            "Divide by the new v, with this gradient in it.": lambda g, _, old: -0.1 * g / (np.sqrt(old) + EPSILON),
            "Is the rate missing?": lambda g, v, _: -g / np.sqrt(v),
            "Is the division by the root of v missing?": lambda g, v, _: -0.1 * g,
        }.items():
            wrong_updates[hint] = _map(flawed, tree, new, v)
        with hinted(TREES, TypeError):
            updates, came = _pair(answer(_f32(tree), _f32(v), 0.1, decay), given, "(updates, v)")
        if _fits(updates, new):
            raise Wrong(f"{given}: the updates come first, then v.")
        _compare_tree(came, new, f"{given}, new v", wrong_v)
        want = _map(lambda g, v: -0.1 * g / (np.sqrt(v) + EPSILON), tree, new)
        _compare_tree(updates, want, f"{given}, updates", wrong_updates, nan=ZERO_OVER_ZERO)
    zeros = {"w": np.zeros(3)}
    updates, _ = _pair(answer(_f32(zeros), _f32(zeros), 0.1, 0.9), "gradient and v of 0", "(updates, v)")
    _compare_tree(updates, zeros, "gradient and v of 0, updates", {}, nan=ZERO_OVER_ZERO)


def adam_updates(gradients: Sequence[np.ndarray], rate: float, flaw: str = "") -> list[np.ndarray]:
    """The updates of Adam (Kingma and Ba 2015, algorithm 1) for these gradients, or of one with the `flaw` named."""
    m = v = np.zeros_like(gradients[0])
    updates = []
    for t, g in enumerate(gradients, start=1):
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g**2
        fix1, fix2 = 1 - BETA1**t, 1 - BETA2**t
        if flaw == "uncorrected":
            fix1 = fix2 = 1
        elif flaw == "m only":
            fix2 = 1
        elif flaw == "v only":
            fix1 = 1
        elif flaw == "always t = 1":
            fix1, fix2 = 1 - BETA1, 1 - BETA2
        elif flaw == "late":  # the first step with t = 2
            fix1, fix2 = 1 - BETA1 ** (t + 1), 1 - BETA2 ** (t + 1)
        m_hat, v_hat = m / fix1, v / fix2
        if flaw in ("kept", "m kept"):
            m = m_hat
        if flaw in ("kept", "v kept"):
            v = v_hat
        updates.append(-rate * m_hat / (np.sqrt(v_hat) + EPSILON))
    return updates


ADAM_FLAWS = {
    "kept": "The corrected means went back into the state, and are corrected again.",
    "m kept": "The corrected m still goes back into the state.",
    "v kept": "The corrected v still goes back into the state.",
    "uncorrected": "Now the bias correction is gone altogether. It belongs to the update, not to the state.",
    "m only": "v is no longer corrected.",
    "v only": "m is no longer corrected.",
    "always t = 1": "Is t counted up and given back in the state?",
    "late": "The first step has t = 1.",
}


@exercise("5.4", minutes=10, difficulty=2)
def fixed_adam(answer, rng):
    for shape, rate in (((3,), 0.1), ((), 0.01), ((2, 4), 0.5)):
        gradients = [rng.normal(size=shape).astype(np.float32).astype(np.float64) for _ in range(4)]
        flawed = {hint: adam_updates(gradients, rate, flaw) for flaw, hint in ADAM_FLAWS.items()}
        flawed["Is the minus sign missing?"] = [-update for update in adam_updates(gradients, rate)]
        state = (0, jnp.zeros(shape), jnp.zeros(shape))
        for number, want in enumerate(adam_updates(gradients, rate)):
            given = f"gradient of shape {shape}, step {number + 1}"
            update, state = _pair(
                answer(jnp.asarray(gradients[number], jnp.float32), state, rate), given, "(update, state)"
            )
            if not isinstance(state, tuple) or len(state) != 3:
                raise Wrong(f"{given}: the state that came back is not a tuple (t, m, v).")
            mistakes = {hint: updates[number] for hint, updates in flawed.items()}
            compare(update, want, given, mistakes=mistakes, nan="Does t count from 1? With t = 0, 1 - 0.9**t is 0.")
    zero = (0, jnp.zeros(2), jnp.zeros(2))
    update, _ = _pair(answer(jnp.zeros(2), zero, 0.1), "a gradient of 0", "(update, state)")
    compare(update, np.zeros(2), "a gradient of 0 at the first step", nan=ZERO_OVER_ZERO)


@exercise("5.5", minutes=8, difficulty=2)
def early_stopping(answer, rng):
    nan = float("nan")
    for what, losses, patience in (
        ("", [0.9, 0.5, 0.6, 0.4, 0.5, 0.45, 0.6, 0.65, 0.7, 0.1], 3),
        ("", [0.8, 0.7, 0.9, 0.6, 0.5], 1),
        ("never worse: ", [0.5, 0.4, 0.3], 2),
        ("an equal loss: ", [0.5, 0.3, 0.3, 0.3, 0.2], 2),
        ("worse from the first epoch: ", [0.3, 0.4, 0.5, 0.6], 2),
        ("patience is not used up: ", [0.6, 0.2, 0.3], 5),
        ("one epoch: ", [0.7], 3),
        ("a nan on the way: ", [0.6, nan, 0.4, 0.5, 0.6, 0.7], 2),
    ):
        want = _early(losses, patience)
        flawed = {
            "Nobody sees the losses after the stop: the best comes before it.": (int(np.nanargmin(losses)), want[1]),
            "That is not the pair (best, stop) but (stop, best).": want[::-1],
            "The first epoch that is `patience` later than the best is the last one trained; not the next.": (
                want[0], min(want[1] + 1, len(losses) - 1),
            ),
            "It stops one epoch too soon.": (want[0], want[1] - 1),
            "An equal loss is no improvement: compare with <.": _early(losses, patience, equal=True),
            "Does it stop? Once the best is `patience` epochs back, nobody trains on.": (
                int(np.nanargmin(losses)), len(losses) - 1,
            ),
            "Where the losses end, training ends, whatever patience is left.": (want[0], want[0] + patience),
            "Patience counts from the best epoch so far: a loss below the one before it is no new best.": (
                _early(losses, patience, previous=True)
            ),
            "Keep the best epoch, not the last one.": (want[1], want[1]),
            "Epochs count from 0.": (want[0] + 1, want[1] + 1),
            "nan is no improvement, and never the lowest: compare with <.": (int(np.argmin(losses)), want[1]),
        }  # fmt: skip
        got = _pair(answer(list(losses), patience), f"losses {losses}, patience {patience}", "(best, stop)")
        shown = ", ".join(f"{loss:g}" for loss in losses)
        given = f"{what}losses {shown} with patience {patience}"
        try:
            numbers = tuple(int(part) for part in got)
        except (TypeError, ValueError):
            raise Wrong(f"{given}: two epoch numbers were expected, {got!r} came back.") from None
        if numbers != tuple(got):
            raise Wrong(f"{given}: epoch numbers were expected, {got!r} came back. Is one of them a loss?")
        if numbers != want:
            hint = next((f" {hint}" for hint, other in flawed.items() if numbers == other), "")
            raise Wrong(f"{given}: expected {want}, got {numbers}.{hint}")


def _early(losses, patience, equal=False, previous=False):
    """(best, stop), or what a mistake would make of them."""
    best, reference = 0, np.inf
    for epoch, loss in enumerate(losses):
        if loss < reference or (equal and loss == reference):
            best, reference = epoch, loss
        if epoch - best >= patience:
            return best, epoch
        if previous:
            reference = loss
    return best, len(losses) - 1


def adamw_path(params: Any, gradients: Sequence[Any], rate: float, weight_decay: float, flaw: str = "") -> list[Any]:
    """The parameters after each step of AdamW (Loshchilov and Hutter 2019, algorithm 2), or of one with a `flaw`."""
    leaves, structure = jax.tree.flatten(params)
    slopes = [[] for _ in leaves]  # for each leaf, its gradient at each step
    path = []
    for tree in gradients:
        for index, (p, g) in enumerate(zip(leaves, jax.tree.leaves(tree), strict=True)):
            slopes[index].append(g + weight_decay * p if flaw == "coupled" else g)
            update = adam_updates(slopes[index], rate, "kept" if flaw == "kept" else "")[-1]
            decay = {
                "coupled": 0.0, "none": 0.0, "unscaled": weight_decay * p, "grows": -rate * weight_decay * p,
                "afterwards": rate * weight_decay * (p + update), "sign": rate * weight_decay * np.sign(p),
            }.get(flaw, rate * weight_decay * p)  # fmt: skip
            leaves[index] = p + (-update if flaw == "uphill" else update) - decay
        path.append(jax.tree.unflatten(structure, leaves))
    return path


ADAMW_FLAWS = {
    "coupled": "The decay went through m and v: that is L2 in Adam. Decoupled, it joins after the division.",
    "none": "Is the weight decay used?",
    "unscaled": "The rate multiplies the decay, too.",
    "grows": "Decay pulls towards zero; here it pushes away.",
    "afterwards": "The decay is of the parameters before the step.",
    "sign": "The decay is in proportion to the parameter, not only to its sign.",
    "uphill": "Is the minus sign of the update missing?",
    "kept": "The corrected means went back into the state, as in 5.4.",
}


@exercise("5.6", minutes=12, difficulty=3)
def adamw_step(answer, rng):
    for given, shapes, rate, weight_decay in (
        ("a list of two layers", [{"w": (3, 2), "b": (2,)}, {"w": (2, 1), "b": (1,)}], 0.1, 0.5),
        ("a single array", (4,), 0.01, 3.0),
        ("weight_decay 0", {"scale": (3,)}, 0.1, 0.0),
    ):
        start = _tree(rng, shapes)
        gradients = [_tree(rng, shapes) for _ in range(3)]
        path = adamw_path(start, gradients, rate, weight_decay)
        flawed = {hint: adamw_path(start, gradients, rate, weight_decay, flaw) for flaw, hint in ADAMW_FLAWS.items()}
        zeros = jax.tree.map(jnp.zeros_like, _f32(start))
        params, state, before = _f32(start), (0, zeros, zeros), start
        for number, want in enumerate(path):
            at = f"{given}, step {number + 1}"
            with hinted(TREES, TypeError):
                got = answer(params, _f32(gradients[number]), state, rate, weight_decay)
            params, state = _pair(got, at, "(params, state)")
            if not isinstance(state, tuple) or len(state) != 3:
                raise Wrong(f"{at}: the state that came back is not a tuple (t, m, v).")
            mistakes = {hint: other[number] for hint, other in flawed.items()}
            mistakes["That is the update. The new parameters are asked for."] = _map(np.subtract, want, before)
            _compare_tree(params, want, at, mistakes, nan=ZERO_OVER_ZERO)
            before = want


def _tree(rng: np.random.Generator, shapes: Any) -> Any:
    """A tree of float64 arrays, exact in float32 too, from a tree of shapes."""
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32).astype(np.float64),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def _map(function, *trees):
    with np.errstate(all="ignore"):
        return jax.tree.map(lambda *leaves: np.asarray(function(*leaves)), *trees)


def _f32(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _pair(got: Any, given: str, names: str) -> tuple[Any, Any]:
    if not isinstance(got, tuple) or len(got) != 2:  # not a list: that may be a tree of two layers
        came = f"a tuple of {len(got)}" if isinstance(got, tuple) else f"something of type {type(got).__name__}"
        raise Wrong(f"{given}: the pair {names} was expected, {came} came back.")
    return got


def _fits(got: Any, want: Any) -> bool:
    """Whether two trees agree in structure, shapes and values."""
    if jax.tree.structure(got) != jax.tree.structure(want):
        return False
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return all(np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def _compare_tree(got: Any, want: Any, given: str, mistakes: Mapping[str, Any], nan: str = "") -> None:
    """`compare` for each leaf, where every one of a mistake's leaves must fit for its hint to be given."""
    if jax.tree.structure(got) != jax.tree.structure(want):
        raise Wrong(f"{given}: a tree like the gradients was expected; a {type(got).__name__} of other form came back.")
    fitting = [other_hint for other_hint, other in mistakes.items() if _fits(got, other)]
    known = jax.tree_util.tree_flatten_with_path(want)[0]
    for (path, leaf), came in zip(known, jax.tree.leaves(got), strict=True):
        where = jax.tree_util.keystr(path)
        hints = {hint: came for hint in fitting[:1]}
        compare(came, leaf, f"{given}{', ' + where if where else ''}", mistakes=hints, nan=nan)
