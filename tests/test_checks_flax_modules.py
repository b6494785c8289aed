"""The exercises of lesson 06: every mistake that its checks name is made here."""

import jax
import jax.numpy as jnp
import numpy as np
from exercise_contract import ExerciseContract, from_notebook
from flax import nnx


def normalise(x, scale, shift, epsilon, axis=-1, ddof=0, deviation=lambda v, e: jnp.sqrt(v + e)):
    variance = x.var(axis=axis, ddof=ddof, keepdims=True)
    return scale * (x - x.mean(axis=axis, keepdims=True)) / deviation(variance, epsilon) + shift


def norm_with(**changes):
    return lambda x, scale, shift, epsilon: normalise(x, scale, shift, epsilon, **changes)


def relu_block(forward, up=True, rows=False):
    """A block with the right parts, which does `forward(block, x)`."""

    class FeedForward(nnx.Module):
        def __init__(self, width, hidden, *, rngs):
            self.norm = nnx.LayerNorm(width, rngs=rngs)
            if up:
                self.up = nnx.Linear(width, hidden, use_bias=not rows, rngs=rngs)
            self.down = nnx.Linear(hidden if up else width, width, rngs=rngs)

        def __call__(self, x):
            return forward(self, x)

    return FeedForward


def stack(layers=None, gain=None, dropout=None, forward=None):
    """The repaired network of 6.5, with the given parts replaced by broken ones."""

    class Stack(nnx.Module):
        def __init__(self, width, depth, *, rngs):
            one_each = (nnx.Linear(width, width, rngs=rngs) for _ in range(depth))
            self.hidden = nnx.List(layers(width, depth, rngs) if layers else one_each)
            self.gain = (gain or nnx.Param)(jnp.ones(width))
            self.out = nnx.Linear(width, 10, rngs=rngs)

        def __call__(self, x, *, rngs=None):
            for layer in self.hidden:
                x = jax.nn.relu(layer(x))
            if dropout:
                return self.out(dropout(x * self.gain, rngs))
            scaled = forward(self, x) if forward else x * self.gain
            return self.out(nnx.Dropout(0.2)(scaled, deterministic=rngs is None, rngs=rngs))

    return Stack


counter = nnx.Rngs(7)  # randomness from outside the call


def arrays(module):
    return {".".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def copy(model, saved):
    for name, variable in arrays(model).items():
        variable[...] = jnp.asarray(saved[name])
    return model


def refuse_unless(fits, copy=copy, names=True):
    """A loader that raises where `fits(wanted shapes, given shapes)` is false."""

    def load(model, saved):
        wanted = {name: tuple(v.shape) for name, v in arrays(model).items()}
        given = {name: tuple(a.shape) for name, a in saved.items()}
        if not fits(wanted, given):
            faults = [name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name)]
            raise ValueError(f"does not fit: {faults}" if names else "does not fit")
        return copy(model, saved)

    return load


def with_update(model, saved):
    state = nnx.state(model, nnx.Param)
    filled = [(path, v.replace(jnp.asarray(saved.get(".".join(map(str, path)), v[...])))) for path, v in
              nnx.to_flat_state(state)]  # fmt: skip
    nnx.update(model, nnx.from_flat_state(filled))
    return model


def one_by_one(model, saved):
    for name, variable in sorted(arrays(model).items()):
        if name in saved and saved[name].shape == variable.shape:
            variable[...] = jnp.asarray(saved[name])
        else:
            raise ValueError(f"{name} does not fit")
    if unknown := saved.keys() - arrays(model).keys():
        raise ValueError(f"unknown: {unknown}")
    return model


def first_fault_only(model, saved):
    wanted = arrays(model)
    for name in sorted(wanted.keys() | saved.keys()):
        if name not in wanted or name not in saved or saved[name].shape != wanted[name].shape:
            raise ValueError(f"{name} does not fit")
    return copy(model, saved)


def returns_another(model, saved):
    graph, _ = nnx.split(model)
    return copy(nnx.merge(graph, jax.tree.map(jnp.copy, nnx.state(model))), saved)


def same_names(wanted, given):
    return wanted.keys() == given.keys()


def same_shapes(wanted, given):
    return wanted == given


def same_sizes(wanted, given):
    return same_names(wanted, given) and all(np.prod(wanted[n]) == np.prod(given[n]) for n in wanted)


def broadcastable(wanted, given):
    def fits(want, have):
        return all(b in (1, a) for a, b in zip(want[::-1], have[::-1], strict=False)) and len(have) <= len(want)

    return same_names(wanted, given) and all(fits(wanted[name], given[name]) for name in wanted)


def copy_reshaped(model, saved):
    return copy(model, {name: saved[name].reshape(v.shape) for name, v in arrays(model).items()})


class TestFlaxModules(ExerciseContract):
    lesson = "06_flax_modules"
    wrong = {
        "count_parameters": [
            ("LayerNorm learns something, too", 33_088),
            ("two numbers for each of the 64", 33_152),
            ("one for each output", 32_896),
            ("Those are the two kernels", 32_768),
            ("computed anew from each row", 33_218),
            ("not one for all", 33_090),
            ("such as", 33_216.0),
        ],
        "layer_norm": [
            ("went over the batch", norm_with(axis=0)),
            ("went over the whole array", norm_with(axis=None)),
            ("not by n - 1", norm_with(ddof=1)),
            ("Epsilon belongs under the root", norm_with(deviation=lambda v, e: jnp.sqrt(v) + e)),
            ("is the root missing?", norm_with(deviation=lambda v, e: v + e)),
            ("Is epsilon used?", norm_with(deviation=lambda v, e: jnp.sqrt(v))),
            ("What of scale and shift?", lambda x, scale, shift, e: normalise(x, 1, 0, e)),
            ("What of shift?", lambda x, scale, shift, e: normalise(x, scale, 0, e)),
            ("is the order right?", lambda x, scale, shift, e: (normalise(x, 1, 0, e) + shift) * scale),
            ("this one took axis 1", lambda x, s, b, e: normalise(x, s, b, e, axis=min(1, x.ndim - 1))),
            ("keepdims=True", lambda x, s, b, e: s * (x - x.mean(-1)) / jnp.sqrt(x.var(-1) + e) + b),
            ("a row of four equal numbers gave nan", norm_with(deviation=lambda v, e: jnp.sqrt(v + e * (e > 0.1)))),
        ],
        "feed_forward": [
            ("Where is the residual?", relu_block(lambda s, x: s.down(jax.nn.relu(s.up(s.norm(x)))))),
            ("not its normalised copy", relu_block(lambda s, x: s.norm(x) + s.down(jax.nn.relu(s.up(s.norm(x)))))),
            ("normalises the sum", relu_block(lambda s, x: s.norm(x + s.down(jax.nn.relu(s.up(x)))))),
            ("once more", relu_block(lambda s, x: s.norm(x + s.down(jax.nn.relu(s.up(s.norm(x))))))),
            ("Is norm used?", relu_block(lambda s, x: x + s.down(jax.nn.relu(s.up(x))))),
            ("Is relu missing?", relu_block(lambda s, x: x + s.down(s.up(s.norm(x))))),
            ("between up and down.", relu_block(lambda s, x: x + jax.nn.relu(s.down(s.up(s.norm(x)))))),
            ("only add", relu_block(lambda s, x: x + jax.nn.relu(s.down(jax.nn.relu(s.up(s.norm(x))))))),
            ("goes over the sum", relu_block(lambda s, x: jax.nn.relu(x + s.down(jax.nn.relu(s.up(s.norm(x))))))),
            ("no parameter up.kernel", relu_block(lambda s, x: x + s.down(s.norm(x)), up=False)),
            ("no parameter up.bias", relu_block(lambda s, x: x + s.down(jax.nn.relu(s.up(s.norm(x)))), rows=True)),
            ("does not have the shape of the input", relu_block(lambda s, x: s.up(x))),
            ("returned nothing", relu_block(lambda s, x: None)),
        ],
        "how_many_masks": [
            ("First way", ((1, 1, 4, 1),)),
            ("Second way", ((4, 4, 4, 1),)),
            ("Third way", ((4, 1, 1, 1),)),
            ("Fourth way", ((4, 1, 4, 4),)),
            ("four numbers were expected; 3 came", ((4, 1, 4),)),
            ("a tuple was expected", 4),
        ],
        "three_bugs": [
            ("Is the same layer in the list 4 times?", from_notebook(lambda nb: nb["BrokenStack"])),
            ("What must wrap it?", stack(gain=jnp.asarray)),
            ("which rngs does dropout get?", stack(dropout=lambda x, rngs: nnx.Dropout(0.2)(
                x, deterministic=rngs is None, rngs=nnx.Rngs(0)))),
            ("Does each make an Rngs of its own?", stack(layers=lambda width, depth, rngs: [
                nnx.Linear(width, width, rngs=nnx.Rngs(0)) for _ in range(depth)])),
            ("is dropout still in the network", stack(dropout=lambda x, rngs: x)),
            ("without rngs, there is no dropout", stack(dropout=lambda x, rngs: nnx.Dropout(0.2)(x, rngs=counter))),
            ("does not come from rngs", stack(dropout=lambda x, rngs: nnx.Dropout(0.2)(
                x, deterministic=rngs is None, rngs=counter))),
            ("Is gain used?", stack(forward=lambda s, x: x)),
            ("no parameter hidden.0.kernel", stack(layers=lambda width, depth, rngs: [])),
        ],
        "load_strictly": [
            ("out.bias kept its initial numbers", with_update),
            ("pooler.bias was thrown away", refuse_unless(lambda wanted, given: wanted.keys() <= given.keys())),
            ("compare each shape with the model's", refuse_unless(
                same_names, lambda m, saved: with_update(m, saved))),
            ("A ValueError of your own", refuse_unless(same_names)),
            ("A ValueError of your own was expected, before anything is copied", copy),
            ("The size fits, the shape does not", refuse_unless(same_sizes, copy_reshaped)),
            ("(1, 5) went into (3, 5)", refuse_unless(broadcastable)),
            ("the message does not name out.bias", refuse_unless(same_shapes, names=False)),
            ("the message does not name out.krenel", first_fault_only),
            ("by then the model was changed", one_by_one),
            ("the model itself was expected back", returns_another),
            ("does not hold the saved numbers", lambda model, saved: model),
        ],
    }  # fmt: skip
