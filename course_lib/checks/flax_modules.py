"""The exercise checks of lesson 06, Flax modules."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare
from course_lib.checks.core import Failed, Wrong, exercise


@exercise("6.1", minutes=5, difficulty=1)
def count_parameters(answer, rng):
    from flax import nnx

    makers = (nnx.LayerNorm, 64), (nnx.Linear, 64, 256), (nnx.Linear, 256, 64)
    parts = [nnx.eval_shape(lambda make=make: make[0](*make[1:], rngs=nnx.Rngs(0))) for make in makers]  # no numbers
    want = sum(variable.size for part in parts for variable in _variables(part).values())
    because = {
        want - 128: "LayerNorm learns something, too: what are γ and β?",
        want - 64: "LayerNorm learns two numbers for each of the 64: a scale and a shift.",
        want - 320: "The two dense layers have biases: one for each output.",
        want - 448: "Those are the two kernels. Who else has parameters?",
        want + 2: "LayerNorm's mean and variance are computed anew from each row; they are no parameters.",
        want - 128 + 2: "LayerNorm has a scale and a shift for each of its 64 numbers, not one for all.",
    }
    choose(answer, want, because)


@exercise("6.2", minutes=8, difficulty=2)
def layer_norm(answer, rng):
    def normalise(x, scale, shift, epsilon, axis: Any = -1, ddof=0, deviation=None):
        mean = x.mean(axis=axis, keepdims=True)
        variance = x.var(axis=axis, ddof=ddof, keepdims=True)
        deviation = np.sqrt(variance + epsilon) if deviation is None else deviation(variance, epsilon)
        return scale * (x - mean) / deviation + shift

    def ask(x, epsilon, given):
        scale, shift = rng.normal(size=x.shape[-1]) + 2, rng.normal(size=x.shape[-1])
        arguments = x, scale, shift, epsilon
        ones, zeros = np.ones_like(scale), np.zeros_like(shift)
        order = "Normalise first, then scale, then shift: is the order right?"
        with np.errstate(all="ignore"):
            mistakes = {
                "The mean of what? Each row has its own; this one went over the batch.": normalise(*arguments, axis=0),
                "The mean of what? Each row has its own; this one went over the whole array.": normalise(
                    *arguments, axis=None
                ),
                "The variance here divides by n, not by n - 1.": normalise(*arguments, ddof=1),
                "Epsilon belongs under the root, beside the variance.": normalise(
                    *arguments, deviation=lambda v, e: np.sqrt(v) + e
                ),
                "Divide by the standard deviation: is the root missing?": normalise(
                    *arguments, deviation=lambda v, e: v + e
                ),
                "Is epsilon used?": normalise(*arguments, deviation=lambda v, e: np.sqrt(v)),
                "What of scale and shift?": normalise(x, ones, zeros, epsilon),
                "What of shift?": normalise(x, scale, zeros, epsilon),
                order: (normalise(x, ones, zeros, epsilon) + shift) * scale,
            }
        if x.ndim == 3:
            mistakes["A row lies along the last axis, axis=-1; this one took axis 1."] = normalise(*arguments, axis=1)
        try:
            got = answer(*(jnp.asarray(a, jnp.float32) for a in (x, scale, shift)), epsilon)
        except Failed as failed:
            if "broadcast" not in str(failed).lower():
                raise
            hint = "Do mean and variance keep their axis (keepdims=True)?"
            raise Wrong(f"{given}: {failed} {hint}") from failed
        nan = "A row whose numbers are all equal has variance 0: is epsilon under the root?"
        compare(got, normalise(*arguments), given, mistakes=mistakes, nan=nan, rtol=1e-3, atol=1e-4)

    ask(rng.normal(size=(5, 8)) * 3 + 4, 1e-6, "a batch of 5 rows")
    ask(rng.normal(size=(5, 8)), 0.5, "epsilon = 0.5")
    ask(rng.normal(size=(1, 7)), 1e-6, "a batch of one row")
    ask(rng.normal(size=(2, 3, 6)), 1e-6, "x of shape [2, 3, 6]")
    ask(rng.normal(size=6), 1e-6, "x of shape [6]")
    ask(np.full((2, 4), 3.0), 1e-6, "a row of four equal numbers")


@exercise("6.3", minutes=10, difficulty=2)
def feed_forward(answer, rng):
    from flax import nnx

    width, hidden = 6, 10
    block = answer(width, hidden, rngs=nnx.Rngs(0))
    for batch in (4, 1):
        x = rng.normal(size=(batch, width))
        if _call(block, "the block", jnp.asarray(x, jnp.float32)).shape != x.shape:
            raise Wrong(f"width {width}: the output does not have the shape of the input, {x.shape}.")
        _ask_for(
            block,
            {
                "norm.scale": (width,),
                "norm.bias": (width,),
                "up.kernel": (width, hidden),
                "up.bias": (hidden,),
                "down.kernel": (hidden, width),
                "down.bias": (width,),
            },
            f"FeedForward({width}, {hidden})",
        )
        p = _fill(block, rng)

        def norm(x, p=p):
            deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            return p["norm.scale"] * (x - x.mean(-1, keepdims=True)) / deviation + p["norm.bias"]

        def up(x, p=p):
            return x @ p["up.kernel"] + p["up.bias"]

        def down(x, p=p):
            return x @ p["down.kernel"] + p["down.bias"]

        def relu(x):
            return np.maximum(x, 0)

        inside = down(relu(up(norm(x))))
        mistakes = {
            "Where is the residual?": inside,
            "Add the x that came in, not its normalised copy.": norm(x) + inside,
            "The norm comes first, inside the residual; this one normalises the sum.": norm(x + down(relu(up(x)))),
            "The norm stands inside the residual only; this one normalises the sum once more.": norm(x + inside),
            "Is norm used?": x + down(relu(up(x))),
            "Is relu missing? Without it, two dense layers are one.": x + down(up(norm(x))),
            "relu stands between up and down.": x + relu(down(up(norm(x)))),
            "There is one relu, between up and down; the second one lets the block only add.": x + relu(inside),
            "The residual itself stays as it is; this relu goes over the sum.": relu(x + inside),
        }
        got = _call(block, "the block", jnp.asarray(x, jnp.float32))
        compare(got, x + inside, f"{batch} rows of {width}", mistakes=mistakes, rtol=1e-3, atol=1e-4)


@exercise("6.4", minutes=5, difficulty=2)
def how_many_masks(answer, rng):
    from flax import nnx

    drop, x = nnx.Dropout(0.5), jnp.ones(1000)
    rngs, keys = nnx.Rngs(0), jax.random.split(jax.random.key(0), 4)
    compiled = jax.jit(lambda x, key: drop(x, rngs=nnx.Rngs(dropout=key)))
    ways = (
        [drop(x, rngs=rngs) for _ in range(4)],
        [drop(x, rngs=nnx.Rngs(0)) for _ in range(4)],
        [compiled(x, key) for key in keys],
        [drop(x, deterministic=True) for _ in range(4)],
    )
    want = tuple(len({tuple(result.tolist()) for result in way}) for way in ways)
    hints = (
        "First way: one Rngs counts on from call to call, and deals a new key each time.",
        "Second way: each call makes an Rngs that starts anew from seed 0. Which key does it deal first?",
        "Third way: jit freezes what is not an argument. Is the key an argument?",
        "Fourth way: what does dropout do when it is deterministic?",
    )
    because = {}
    for guess in itertools.product(range(5), repeat=4):
        wrong = [hint for hint, mine, true in zip(hints, guess, want, strict=True) if mine != true]
        if wrong:
            because[guess] = wrong[0]
    if isinstance(answer, (tuple, list)) and len(answer) != 4:
        raise Wrong(f"there are four ways, so four numbers were expected; {len(answer)} came.")
    choose(answer, want, because)


@exercise("6.5", minutes=10, difficulty=2)
def three_bugs(answer, rng):
    from flax import nnx

    width = 7  # one for both, since every new shape is compiled
    for depth, batch in ((4, 6), (2, 1)):
        given = f"Stack({width}, {depth})"
        stack = answer(width, depth, rngs=nnx.Rngs(0))
        x = jnp.asarray(rng.normal(size=(batch, width)) * 3, jnp.float32)
        _call(stack, "the network", x)
        names, first = _variables(stack), [f"hidden.{n}.kernel" for n in range(depth)]
        if "hidden.0.kernel" in names and not all(name in names for name in first):
            kernels = sum(name in names for name in first)
            hint = f"Is the same layer in the list {depth} times?"
            raise Wrong(f"{given}: hidden should have {depth} kernels, it has {kernels}. {hint}")
        if "gain" not in names and hasattr(stack, "gain"):
            raise Wrong(f"{given}: gain is not among the parameters, so no optimiser changes it. What must wrap it?")
        shapes = {f"hidden.{n}.{part}": (width, width)[: 2 if part == "kernel" else 1]
                  for n in range(depth) for part in ("kernel", "bias")}  # fmt: skip
        shapes |= {"gain": (width,), "out.kernel": (width, 10), "out.bias": (10,)}
        _ask_for(stack, shapes, given)
        kernels = [np.asarray(names[name][...]) for name in first]
        if np.allclose(kernels[0], kernels[1]):
            raise Wrong(f"{given}: the first two layers start as twins. Does each make an Rngs of its own?")

        p = _fill(stack, rng)
        want = np.asarray(x, np.float64)
        for n in range(depth):
            want = np.maximum(want @ p[f"hidden.{n}.kernel"] + p[f"hidden.{n}.bias"], 0)
        no_gain = want @ p["out.kernel"] + p["out.bias"]
        want = (want * p["gain"]) @ p["out.kernel"] + p["out.bias"]
        plain = _call(stack, "the network", x)
        if not jnp.array_equal(plain, stack(x)):
            raise Wrong("two calls without rngs differ: without rngs, there is no dropout.")
        compare(plain, want, f"{given} without rngs", mistakes={"Is gain used?": no_gain}, rtol=1e-3, atol=1e-3)

        x = jnp.tile(x, (120 // batch, 1))  # [120, width]: so many that two masks are never equal by chance
        one, same, other = (_call(stack, "the network", x, rngs=nnx.Rngs(seed)) for seed in (1, 1, 2))
        if jnp.array_equal(one, stack(x)):
            raise Wrong("with rngs, nothing is dropped: is dropout still in the network, and not deterministic then?")
        if jnp.array_equal(one, other):
            raise Wrong("nnx.Rngs(1) and nnx.Rngs(2) drop the same numbers: which rngs does dropout get?")
        if not jnp.array_equal(one, same):
            raise Wrong("two calls with nnx.Rngs(1) differ: is there randomness that does not come from rngs?")


@exercise("6.6", minutes=12, difficulty=3)
def load_strictly(answer, rng):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, *, rngs):
            self.hidden = nnx.List(nnx.Linear(3, 3, rngs=rngs) for _ in range(2))
            self.norm = nnx.LayerNorm(3, rngs=rngs)
            self.out = nnx.Linear(3, 5, rngs=rngs)

    def refused(change, what, at_fault):
        """`change` spoils a dict that fits; the answer must refuse it, name what is at fault, and change nothing."""
        model, saved = Net(rngs=nnx.Rngs(0)), new_values(0)
        change(saved)
        before = {name: np.array(variable[...]) for name, variable in _variables(model).items()}
        try:
            answer(model, saved)
        except Failed as failed:
            if not isinstance(failed.__cause__, ValueError) or "broadcast" in str(failed.__cause__).lower():
                hint = "A ValueError of your own was expected, before anything is copied."
                raise Wrong(f"{what}: {failed} {hint}") from failed
            message = str(failed.__cause__)
        else:
            raise Wrong(f"{what}: this was accepted in silence. {SILENT[what]}")
        missing = [name for name in at_fault if name not in message]
        if missing:
            raise Wrong(f"{what}: the message does not name {missing[0]}: {message[:120]!r}.")
        after = _variables(model)
        if after.keys() != before.keys() or any(not np.array_equal(after[name][...], before[name]) for name in before):
            raise Wrong(f"{what}: refused, but by then the model was changed. Check everything first, copy afterwards.")

    def new_values(seed):
        sizes = {name: variable.shape for name, variable in _variables(Net(rngs=nnx.Rngs(seed))).items()}
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}

    model, saved = Net(rngs=nnx.Rngs(1)), new_values(1)
    loaded = answer(model, dict(saved))
    if loaded is not model:
        raise Wrong("what fits: the model itself was expected back, filled.")
    for name, variable in _variables(model).items():
        if not np.array_equal(variable[...], saved[name]):
            raise Wrong(f"what fits: after loading, {name} does not hold the saved numbers.")

    def misspell(saved):
        saved["out.krenel"] = saved.pop("out.kernel")

    def spoil_all(saved):
        del saved["norm.bias"]
        saved["pooler.kernel"] = np.zeros((3, 3), np.float32)
        saved["out.kernel"] = np.zeros((3, 4), np.float32)

    refused(lambda saved: saved.pop("out.bias"), "a name is missing", ["out.bias"])
    refused(lambda saved: saved.update({"pooler.bias": np.zeros(3)}), "an unknown name", ["pooler.bias"])
    refused(misspell, "a misspelt name", ["out.kernel", "out.krenel"])
    refused(lambda saved: saved.update({"out.bias": np.zeros(6)}), "a wrong shape", ["out.bias"])
    refused(lambda saved: saved.update({"out.kernel": np.zeros((1, 5))}), "a shape that broadcasts", ["out.kernel"])
    refused(lambda saved: saved.update({"hidden.1.kernel": np.zeros(9)}), "a flattened kernel", ["hidden.1.kernel"])
    refused(spoil_all, "three faults at once", ["norm.bias", "pooler.kernel", "out.kernel"])


SILENT = {
    "a name is missing": "out.bias kept its initial numbers.",
    "an unknown name": "Nobody will learn that pooler.bias was thrown away.",
    "a misspelt name": "out.kernel kept its initial numbers.",
    "a wrong shape": "The model is another one now: compare each shape with the model's.",
    "a shape that broadcasts": "(1, 5) went into (3, 5): compare the shapes, do not only try.",
    "a flattened kernel": "The size fits, the shape does not.",
    "three faults at once": "Names and shapes must both be right.",
}


def _variables(module: Any) -> dict[str, Any]:
    """Every nnx.Param of `module`: its name, with dots, and the variable."""
    from flax import nnx

    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {".".join(map(str, path)): variable for path, variable in flat}


def _call(module: Any, what: str, x: jax.Array, **rngs: Any) -> jax.Array:
    result = module(x, **rngs)
    if result is None or result is ...:
        raise Failed(f"{what} returned nothing. Is a `return` missing in __call__?")
    return result


def _ask_for(module: Any, shapes: dict[str, tuple[int, ...]], given: str) -> None:
    have = {name: tuple(variable.shape) for name, variable in _variables(module).items()}
    for name, shape in shapes.items():
        if name not in have:
            raise Wrong(f"{given} has no parameter {name}. It has {', '.join(sorted(have)) or 'none'}.")
        if have[name] != shape:
            raise Wrong(f"{given}: {name} has shape {have[name]}, {shape} was expected.")
    for name in have.keys() - shapes.keys():
        raise Wrong(f"{given} has a parameter {name} that is not asked for.")


def _fill(module: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random numbers into every parameter, biases and scales too: the initial zeros and ones hide mistakes."""
    values = {}
    for name, variable in sorted(_variables(module).items()):
        values[name] = rng.normal(size=variable.shape)
        variable[...] = jnp.asarray(values[name], jnp.float32)
    return values
