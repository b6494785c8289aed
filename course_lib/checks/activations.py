"""The checks of lesson 02. Truth: formulas in NumPy float64, finite differences and integrals known in closed form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import compare, guess
from course_lib.checks.core import Wrong, exercise


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


@exercise("2.1", minutes=3, difficulty=1)
def slopes_at_zero(of_sigmoid, of_tanh, of_gelu, rng):
    bends = {
        "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
        "tanh": math.tanh,
        "GELU": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    }
    hints = {
        "sigmoid": {
            "Is that the value σ(0)? The slope is σ(1 − σ).": 0.5,
            "That is tanh's slope. σ(1 − σ), with σ = 0.5, is smaller.": 1.0,
        },
        "tanh": {
            "Is that the value tanh(0)? The slope is 1 − tanh².": 0.0,
            "That is sigmoid's slope. tanh is stretched, and steeper.": 0.25,
        },
        "GELU": {
            "Is that the value GELU(0)? The slope is Φ(0) + 0·φ(0).": 0.0,
            "GELU is steep like ReLU only further right. How much of a normal distribution lies below 0?": 1.0,
            "That is the density φ(0). It is multiplied by x, which is 0.": 1 / math.sqrt(2 * math.pi),
        },
    }
    for (name, bend), predicted in zip(bends.items(), (of_sigmoid, of_tanh, of_gelu), strict=True):
        slope = (bend(1e-5) - bend(-1e-5)) / 2e-5
        guess(predicted, slope, f"slope of {name} at 0", hints[name], atol=0.005)


@exercise("2.2", minutes=5, difficulty=1)
def collapse(answer, rng):
    # The square one is first: there, the reversed product has a shape that fits.
    for given, (inputs, hidden, outputs) in {
        "2 inputs, 2 hidden units, 2 outputs": (2, 2, 2),
        "5 inputs, 7 hidden units, 3 outputs": (5, 7, 3),
        "4 inputs, 1 hidden unit, 6 outputs": (4, 1, 6),
    }.items():
        W1, b1 = rng.normal(size=(inputs, hidden)), rng.normal(size=hidden)
        W2, b2 = rng.normal(size=(hidden, outputs)), rng.normal(size=outputs)
        got = answer(*(jnp.asarray(values, jnp.float32) for values in (W1, b1, W2, b2)))
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            came = "one array" if hasattr(got, "shape") else f"a {type(got).__name__}"
            raise Wrong(f"the pair (W, b) was expected, {came} came back.")
        swapped = {"Is the product the wrong way round? x meets W1 first.": W2 @ W1} if inputs == outputs else {}
        elementwise = {"`*` multiplies entry by entry; a layer after a layer is `@`.": W1 * W2} if inputs == 2 else {}
        transposed = {"Is it transposed? W has shape [inputs, outputs].": (W1 @ W2).T}
        compare(got[0], W1 @ W2, f"W for {given}", mistakes=swapped | elementwise | transposed)
        biases = {
            "Where is b1? It passes through the second layer, too.": b2,
            "Where is b2?": b1 @ W2,
        }
        if hidden == outputs:
            biases["b1 passes through the second layer: it is multiplied by W2 on its way."] = b1 + b2
            biases["b1 stands on the left of W2, as x does."] = W2 @ b1 + b2
        compare(got[1], b1 @ W2 + b2, f"b for {given}", mistakes=biases)


@exercise("2.3", minutes=8, difficulty=2)
def silu_and_its_slope(silu, silu_slope, rng):
    overflow = "Does exp() see a large number? Infinity divided by infinity is nan; so is infinity times 0."
    batch = rng.normal(scale=3, size=(4, 5))
    extreme = np.array([-1e4, -100.0, 0.0, 100.0, 1e4])
    for given, x in {"shape [4, 5]": batch, "a single number": np.array(-1.3), "x up to ±1e4": extreme}.items():
        s = _sigmoid(x)
        inexact = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        compare(
            silu(jnp.asarray(x, jnp.float32)),
            x * s,
            f"silu, {given}",
            mistakes={"That is sigmoid alone. Where is the factor x?": s, "That is GELU: Φ instead of σ.": inexact},
            nan=overflow,
        )
    for given, x in {"shape [4, 5]": batch, "a single number": np.array(-1.3), "x up to ±1e4": extreme}.items():
        s = _sigmoid(x)
        step = 1e-4
        finite = ((x + step) * _sigmoid(x + step) - (x - step) * _sigmoid(x - step)) / (2 * step)
        compare(
            silu_slope(jnp.asarray(x, jnp.float32)),
            finite,
            f"silu_slope, {given}",
            mistakes={
                "That is only the first term. The slope of a product has two.": s,
                "That is only the second term. The slope of a product has two.": x * s * (1 - s),
                "Both factors' slopes were multiplied. The product rule adds: u′v + uv′.": s * (1 - s),
                "Is the factor x missing in the second term?": s + s * (1 - s),
                "In the second term, x is multiplied by the slope of σ, not by σ.": s + x * s,
            },
            nan=overflow,
            atol=1e-4,
        )


@exercise("2.4", minutes=6, difficulty=2)
def dead_units(answer, rng):
    mixed = rng.normal(size=(6, 3))  # [messages, inputs]
    W = rng.normal(size=(3, 5))  # [inputs, units]
    z = mixed @ W  # [messages, units]
    b = -z.max(axis=0) + np.array([-0.5, 0.5, -2.0, 0.001, 9.0])  # fires at: none, some, none, barely one, many
    silent = np.zeros((3, 3))  # messages without one known word: every sum is exactly its bias
    cases = {
        "6 messages, 5 units": (W, b, mixed),
        "3 messages of zeros, 2 units with biases 0 and 1": (W[:, :2], np.array([0.0, 1.0]), silent),
        "one message, 5 units": (W, b, mixed[:1]),
        "7 messages, one unit": (W[:, :1], np.array([0.3]), rng.normal(size=(7, 3))),
    }
    for given, (weights, bias, x) in cases.items():
        z = x @ weights + bias
        off = z <= 0
        dead = off.all(axis=0)
        got = answer(*(jnp.asarray(values, jnp.float32) for values in (weights, bias, x)))
        compare(
            got,
            dead,
            given,
            mistakes={
                "An input of exactly 0 gives an output of 0 and a slope of 0: that is dead, too.": (z < 0).all(axis=0),
                "Silent for one message is not dead: it must be silent for all.": off.any(axis=0),
                "That is the other way round: True for the living.": ~dead,
                "Is this one answer a message? `all` over axis 0 gives one a unit.": off.all(axis=1),
                "That is the share of units. One truth value for each was asked for.": dead.mean(),
                "That is the share of messages that each unit is silent for. Dead means all of them.": off.mean(axis=0),
                "Is the bias missing?": (x @ weights <= 0).all(axis=0),
                "The mean may be negative although some message gets through.": z.mean(axis=0) <= 0,
                "`all` without an axis asks about all units at once.": off.all(),
                "That is where each unit is off for each message: now ask whether it holds for all messages.": off,
            },
        )


@exercise("2.5", minutes=8, difficulty=2)
def he_initialisation(answer, rng):
    key = jax.random.key(int(rng.integers(1000)))
    sizes = (400, 50, 400, 50, 50, 50)
    layers = answer(key, sizes)
    if not isinstance(layers, (list, tuple)) or len(layers) != len(sizes) - 1:
        came = f"{len(layers)}" if isinstance(layers, (list, tuple)) else f"a {type(layers).__name__}"
        raise Wrong(f"sizes {sizes}: a list of {len(sizes) - 1} pairs (W, b) was expected, {came} came back.")
    for number, (layer, inputs, outputs) in enumerate(zip(layers, sizes, sizes[1:], strict=False), 1):
        if not isinstance(layer, (list, tuple)) or len(layer) != 2:
            raise Wrong(f"layer {number}: a pair (W, b) was expected, a {type(layer).__name__} came back.")
        W, b = (np.asarray(part, float) for part in layer)
        where = f"layer {number} of sizes {sizes}"
        if W.shape != (inputs, outputs):
            raise Wrong(f"{where}: W has shape {W.shape}, expected was [inputs, outputs], {(inputs, outputs)}.")
        compare(layer[1], np.zeros(outputs), f"{where}, biases")
        spread = W.std()
        hints = {
            "Count the inputs of a unit, not the outputs of the layer.": math.sqrt(2 / outputs),
            "That is Xavier's 1/√inputs, half the variance: ReLU needs twice as much.": math.sqrt(1 / inputs),
            "That is Glorot's average of inputs and outputs.": math.sqrt(2 / (inputs + outputs)),
            "Is the square root missing? 2/inputs is the variance.": 2 / inputs,
            "The 2 belongs under the root.": 2 / math.sqrt(inputs),
            "Is the scale missing?": 1.0,
        }
        if not math.isclose(spread, math.sqrt(2 / inputs), rel_tol=0.06):
            hint = next((hint for hint, value in hints.items() if math.isclose(spread, value, rel_tol=0.06)), "")
            expected = f"expected about {math.sqrt(2 / inputs):.4f}"
            raise Wrong(f"{where}: W's standard deviation is {spread:.4f}, {expected}. {hint}".rstrip())
        if abs(W.mean()) > 5 * spread / math.sqrt(W.size):  # a sum of squares away from 0 also adds up
            raise Wrong(f"{where}: W's mean is {W.mean():.4f}, expected about 0. Are all weights positive?")
    weights = [np.asarray(W) for W, _ in layers]
    if any(np.allclose(weights[i], weights[j]) for i, j in ((0, 2), (3, 4))):
        raise Wrong("two layers of the same shape have the same weights. Does each layer get a key of its own?")
    if np.allclose(weights[0], np.asarray(answer(jax.random.key(1001), sizes)[0][0])):
        raise Wrong("another key gives the same weights. Is the argument `key` used?")


@exercise("2.6", minutes=10, difficulty=3)
def gain(answer, rng):
    slope = float(rng.uniform(0.2, 0.5))
    # f, then for z standard normal: mean of f², of f, of |f|
    half, root = math.sqrt(1 / (2 * math.pi)), math.sqrt(2 / math.pi)
    folded = root * math.exp(-0.72) + 1.2 * math.erf(1.2 / math.sqrt(2))  # mean of |z + 1.2|
    cases = {  # the first tells all mistakes apart
        "f(z) = z + 1.2": (lambda x: x + 1.2, 2.44, 1.2, folded),
        "f = ReLU": (jax.nn.relu, 0.5, half, half),
        f"f = leaky ReLU with slope {slope:.2f}": (
            lambda x: jnp.where(x > 0, x, slope * x),
            (1 + slope**2) / 2,
            (1 - slope) * half,
            (1 + slope) * half,
        ),
        "f(z) = 3z": (lambda x: 3 * x, 9.0, 0.0, 3 * root),
        "f = sin": (jnp.sin, (1 - math.exp(-2)) / 2, 0.0, math.nan),
    }
    for given, (f, square, mean, absolute) in cases.items():
        uniform = np.mean(np.asarray(f(jnp.linspace(-8, 8, 4001)), float) ** 2)
        got, want = answer(f), 1 / math.sqrt(square)
        nearly = np.ndim(got) == 0 and abs(got - want) < 0.2 * want
        compare(
            got,
            want,
            given,
            mistakes={
                "√2 is ReLU's gain, and this is another f. Is the argument used?": math.sqrt(2),
                "Is the square root missing?": 1 / square,
                "That is the root of the mean square. The gain undoes it: one divided by it.": math.sqrt(square),
                "That is the mean square itself. The gain undoes it, and after a root.": square,
                "The mean was taken off: that is the standard deviation. The formula has the mean of f².": 1
                / math.sqrt(square - mean**2),
                "Mean of f(z)², not the square of the mean.": 1 / abs(mean) if mean else math.inf,
                "Mean of f(z)², not of |f(z)|.": 1 / absolute,
                "On a grid, z near 0 counts more: weight each value by the normal density.": 1 / math.sqrt(uniform),
                "Nearly. Are there too few random numbers, or is the grid too coarse?": got if nearly else math.nan,
            },
            nan="f may be 0 or negative: square it before you take the mean, and the root after.",
            rtol=0.02,
            atol=0,
        )
