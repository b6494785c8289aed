"""Lesson 02's exercises: see exercise_contract.py for what is promised."""

import jax
import jax.numpy as jnp
from exercise_contract import ExerciseContract, from_notebook


def silu(x):
    return x * jax.nn.sigmoid(x)


def silu_slope(x):
    s = jax.nn.sigmoid(x)
    return s + x * s * (1 - s)


def naive_sigmoid(x):
    return jnp.exp(x) / (1 + jnp.exp(x))


def layers(scale, same_key=False, bias=0.0, positive=False):
    def he(key, sizes):
        made = []
        for number, (m, k) in enumerate(zip(sizes, sizes[1:], strict=False)):
            W = jax.random.normal(key if same_key else jax.random.fold_in(key, number), (m, k))
            made.append((scale(m, k) * (jnp.abs(W) / 0.603 if positive else W), jnp.full(k, bias)))
        return made

    return he


def right(m, k):
    return jnp.sqrt(2 / m)


def normal():
    return jax.random.normal(jax.random.key(0), (400_000,))


def mean_square(f):
    return jnp.mean(f(normal()) ** 2)


class TestActivations(ExerciseContract):
    lesson = "02_activations"
    wrong = {
        "slopes_at_zero": [
            ("Is that the value σ(0)?", (0.5, 1.0, 0.5)),
            ("That is tanh's slope", (1.0, 1.0, 0.5)),
            ("Is that the value tanh(0)?", (0.25, 0.0, 0.5)),
            ("That is sigmoid's slope", (0.25, 0.25, 0.5)),
            ("Is that the value GELU(0)?", (0.25, 1.0, 0.0)),
            ("How much of a normal distribution lies below 0?", (0.25, 1.0, 1.0)),
            ("That is the density φ(0)", (0.25, 1.0, 0.399)),
        ],
        "collapse": [
            ("Is the product the wrong way round?", lambda W1, b1, W2, b2: (W2 @ W1, b1 @ W2 + b2)),
            ("`*` multiplies entry by entry", lambda W1, b1, W2, b2: (W1 * W2, b1 @ W2 + b2)),
            ("Is it transposed?", lambda W1, b1, W2, b2: ((W1 @ W2).T, b1 @ W2 + b2)),
            ("Where is b1?", lambda W1, b1, W2, b2: (W1 @ W2, b2)),
            ("Where is b2?", lambda W1, b1, W2, b2: (W1 @ W2, b1 @ W2)),
            ("it is multiplied by W2 on its way", lambda W1, b1, W2, b2: (W1 @ W2, b1 + b2)),
            ("on the left of W2", lambda W1, b1, W2, b2: (W1 @ W2, W2 @ b1 + b2)),
            ("the pair (W, b) was expected", lambda W1, b1, W2, b2: W1 @ W2),
        ],
        "silu_and_its_slope": [
            ("Where is the factor x?", (jax.nn.sigmoid, silu_slope)),
            ("That is GELU", (lambda x: jax.nn.gelu(x, approximate=False), silu_slope)),
            ("silu, x up to ±1e4 gave nan. Does exp()", (lambda x: x * naive_sigmoid(x), silu_slope)),
            ("only the first term", (silu, jax.nn.sigmoid)),
            ("only the second term", (silu, lambda x: silu_slope(x) - jax.nn.sigmoid(x))),
            ("The product rule adds", (silu, lambda x: jax.nn.sigmoid(x) * (1 - jax.nn.sigmoid(x)))),
            ("Is the factor x missing", (silu, lambda x: jax.nn.sigmoid(x) * (2 - jax.nn.sigmoid(x)))),
            ("not by σ", (silu, lambda x: jax.nn.sigmoid(x) * (1 + x))),
            (
                "silu_slope, x up to ±1e4 gave nan",
                (silu, lambda x: naive_sigmoid(x) * (1 + x * (1 - naive_sigmoid(x)))),
            ),
            ("scalar-output", (silu, jax.grad(silu))),
        ],
        "dead_units": [
            ("An input of exactly 0", lambda W, b, x: (x @ W + b < 0).all(axis=0)),
            ("Silent for one message is not dead", lambda W, b, x: (x @ W + b <= 0).any(axis=0)),
            ("True for the living", lambda W, b, x: (x @ W + b > 0).any(axis=0)),
            ("one answer a message", lambda W, b, x: (x @ W + b <= 0).all(axis=1)),
            ("share of units", lambda W, b, x: (x @ W + b <= 0).all(axis=0).mean()),
            ("share of messages", lambda W, b, x: (x @ W + b <= 0).mean(axis=0)),
            ("Is the bias missing?", lambda W, b, x: (x @ W <= 0).all(axis=0)),
            ("The mean may be negative", lambda W, b, x: (x @ W + b).mean(axis=0) <= 0),
            ("asks about all units at once", lambda W, b, x: (x @ W + b <= 0).all()),
            ("now ask whether it holds", lambda W, b, x: x @ W + b <= 0),
        ],
        "he_initialisation": [
            ("Count the inputs of a unit", from_notebook(lambda nb: nb["broken_he"])),
            ("Does each layer get a key of its own?", layers(right, same_key=True)),
            ("That is Xavier's", layers(lambda m, k: jnp.sqrt(1 / m))),
            ("Glorot's average", layers(lambda m, k: jnp.sqrt(2 / (m + k)))),
            ("Is the square root missing?", layers(lambda m, k: 2 / m)),
            ("under the root", layers(lambda m, k: 2 / jnp.sqrt(m))),
            ("Is the scale missing?", layers(lambda m, k: 1.0)),
            ("biases: expected 0", layers(right, bias=0.1)),
            ("Are all weights positive?", layers(right, positive=True)),
            ("Is the argument `key` used?", lambda key, sizes: layers(right)(jax.random.key(0), sizes)),
            ("a list of 5 pairs (W, b) was expected, 4 came back", lambda key, sizes: layers(right)(key, sizes)[1:]),
            ("expected was [inputs, outputs]", lambda key, sizes: [(W.T, b) for W, b in layers(right)(key, sizes)]),
        ],
        "gain": [
            ("Is the square root missing?", lambda f: 1 / mean_square(f)),
            ("one divided by it", lambda f: jnp.sqrt(mean_square(f))),
            ("The mean was taken off", lambda f: 1 / jnp.std(f(normal()))),
            ("not the square of the mean", lambda f: 1 / jnp.abs(jnp.mean(f(normal())))),
            ("not of |f(z)|", lambda f: 1 / jnp.mean(jnp.abs(f(normal())))),
            (
                "weight each value by the normal density",
                lambda f: 1 / jnp.sqrt(jnp.mean(f(jnp.linspace(-8, 8, 4001)) ** 2)),
            ),
            ("f may be 0 or negative", lambda f: 1 / jnp.mean(jnp.sqrt(f(normal())) ** 2)),
            ("√2 is ReLU's gain", lambda f: jnp.sqrt(2.0)),
            ("too few random numbers", lambda f: 1 / jnp.sqrt(jnp.mean(f(normal()[:20]) ** 2))),
        ],
    }
