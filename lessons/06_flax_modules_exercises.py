# %% [markdown]
# # 06 · Exercises: how do I build big ones without losing track?
#
# Six exercises, 50 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/06_flax_modules.ipynb).

# %%
import jax
import jax.numpy as jnp
from flax import nnx

from course_lib.checks import flax_modules as check

# %% [markdown]
# ## 6.1 Count before you build · 5 min · ●○○
#
# **Predict, then run.** BERT's layers end in a part like this one: a LayerNorm over 64 numbers, a dense layer from 64 to 256, and
# a dense layer from 256 back to 64. How many parameters is that? Work it out on paper first.
#
# <details><summary>Nudge</summary>
#
# A dense layer has a kernel and a bias. What does a LayerNorm learn?
#
# </details>
# <details><summary>Outline</summary>
#
# LayerNorm: one scale and one shift for each number. Dense layer: inputs × outputs, and one bias for each *output*. Afterwards, build
# the three with `nnx` in a cell of your own and add up the sizes in `jax.tree.leaves(nnx.state(layer, nnx.Param))`.
#
# </details>

# %%
parameters = (
    # BEGIN SOLUTION
    (64 + 64) + (64 * 256 + 256) + (256 * 64 + 64)
    # END SOLUTION
)

check.count_parameters(parameters)

# %% [markdown]
# ## 6.2 LayerNorm by hand · 8 min · ●●○
#
# Write `layer_norm(x, scale, shift, epsilon)`. `x` has shape `[..., n]`; each row of `n` numbers is normalised for itself, whatever
# comes before the last axis. `scale` and `shift` have shape `[n]`. The formula is the lesson's:
#
# $$\gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$
#
# <details><summary>Nudge</summary>
#
# Which axis is a row's own? And what must `mean` keep so that you can subtract its result from `x`?
#
# </details>
# <details><summary>Outline</summary>
#
# `x.mean(axis=-1, keepdims=True)`, and the same for the variance, which divides by n. Then the formula, term by term; epsilon stands
# under the root.
#
# </details>


# %%
def layer_norm(x, scale, shift, epsilon):
    # BEGIN SOLUTION
    mean = x.mean(axis=-1, keepdims=True)  # [..., 1]
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)  # [..., 1]
    return scale * (x - mean) / jnp.sqrt(variance + epsilon) + shift
    # END SOLUTION


check.layer_norm(layer_norm)

# %% [markdown]
# ## 6.3 A block of your own · 10 min · ●●○
#
# Write the block that 6.1 counted, with a residual around it:
#
# $$y = x + \text{down}(\text{relu}(\text{up}(\text{norm}(x))))$$
#
# Its parts are called `norm` (LayerNorm over `width`), `up` (dense, `width` to `hidden`) and `down` (dense, `hidden` to `width`).
#
# <details><summary>Nudge</summary>
#
# Make the three parts in `__init__`, each with the same `rngs`, and say in `__call__` in which order they act.
#
# </details>
# <details><summary>Outline</summary>
#
# `self.norm = nnx.LayerNorm(width, rngs=rngs)`, two `nnx.Linear`. What is added at the end is the `x` that came in, not its normalised
# copy: the residual is a road that nothing stands on.
#
# </details>


# %%
class FeedForward(nnx.Module):
    def __init__(self, width, hidden, *, rngs):
        # BEGIN SOLUTION
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)
        # END SOLUTION

    def __call__(self, x):  # [batch, width] → [batch, width]
        # BEGIN SOLUTION
        return x + self.down(jax.nn.relu(self.up(self.norm(x))))
        # END SOLUTION


check.feed_forward(FeedForward)

# %% [markdown]
# ## 6.4 How many masks? · 5 min · ●●○
#
# **Predict, then run.** Below, dropout is called four times in each of four ways. How many *different* results does each way give?
# Write down four numbers, as in `2, 2, 2, 2`. Only then call `four_ways()` in a cell of your own.
#
# <details><summary>Nudge</summary>
#
# For each way: which key does each of its four calls end up with?
#
# </details>
# <details><summary>Outline</summary>
#
# An `Rngs` deals a new key at each call, and two that start from the same seed deal the same keys. What is an argument of a compiled
# function is not frozen into it.
#
# </details>


# %%
def four_ways():
    drop, x = nnx.Dropout(0.5), jnp.ones(1000)
    rngs, keys = nnx.Rngs(0), jax.random.split(jax.random.key(0), 4)
    compiled = jax.jit(lambda x, key: drop(x, rngs=nnx.Rngs(dropout=key)))
    results = [
        [drop(x, rngs=rngs) for _ in range(4)],
        [drop(x, rngs=nnx.Rngs(0)) for _ in range(4)],
        [compiled(x, key) for key in keys],
        [drop(x, deterministic=True) for _ in range(4)],
    ]
    return tuple(len({tuple(result.tolist()) for result in way}) for way in results)


# %%
masks = (
    # BEGIN SOLUTION
    4, 1, 4, 1  # fmt: skip
    # END SOLUTION
)

check.how_many_masks(masks)

# %% [markdown]
# ## 6.5 Three bugs that say nothing · 10 min · ●●○
#
# **Find the bugs.** This network runs, trains and returns logits of the right shape. It should have `depth` layers of their own, a
# `gain` that is learned, and a new dropout mask for each key; without `rngs` it should be deterministic. Three of these are not so.
# Find all three and write the class as it should be, with the same names.


# %%
class BrokenStack(nnx.Module):
    def __init__(self, width, depth, *, rngs):
        layer = nnx.Linear(width, width, rngs=rngs)
        self.hidden = nnx.List([layer] * depth)
        self.gain = jnp.ones(width)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x, *, rngs=None):  # [batch, width] → [batch, 10]
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        x = nnx.Dropout(0.2)(x * self.gain, deterministic=rngs is None, rngs=nnx.Rngs(0))
        return self.out(x)


# %% [markdown]
# <details><summary>Nudge</summary>
#
# List the parameters of `BrokenStack(8, 3, rngs=nnx.Rngs(0))` with `nnx.to_flat_state(nnx.state(..., nnx.Param))`. How many kernels
# do you expect, how many are there, and what else is missing? The third bug is not in `__init__`.
#
# </details>
# <details><summary>Outline</summary>
#
# `[layer] * depth` is one layer, `depth` times. A bare array is no `nnx.Param`, so the optimiser does not see it. And `rngs` is passed
# in, but who uses it?
#
# </details>


# %%
class Stack(nnx.Module):
    def __init__(self, width, depth, *, rngs):
        # BEGIN SOLUTION
        self.hidden = nnx.List(nnx.Linear(width, width, rngs=rngs) for _ in range(depth))
        self.gain = nnx.Param(jnp.ones(width))
        self.out = nnx.Linear(width, 10, rngs=rngs)
        # END SOLUTION

    def __call__(self, x, *, rngs=None):  # [batch, width] → [batch, 10]
        # BEGIN SOLUTION
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        x = nnx.Dropout(0.2)(x * self.gain[...], deterministic=rngs is None, rngs=rngs)
        return self.out(x)
        # END SOLUTION


check.three_bugs(Stack)

# %% [markdown]
# ## 6.6 Load strictly · 12 min · ●●●
#
# `nnx.update` takes wrong names and wrong shapes without a word. Write `load_strictly(model, saved)`: `saved` maps names such as
# `"hidden.0.kernel"` to arrays. If its names and shapes are exactly those of the model's parameters, copy all of them into `model`
# and return it. If not, raise **one** `ValueError` whose message contains every name that is missing from `saved`, is unknown to the
# model, or has the wrong shape, and leave the model as it was. `arrays` is the lesson's.
#
# <details><summary>Nudge</summary>
#
# Two dictionaries, name → shape. Compare these before you touch the model.
#
# </details>
# <details><summary>Outline</summary>
#
# `wanted` and `given`, each name → `tuple(shape)`. The names at fault are those `name` in `wanted.keys() | given.keys()` for which
# `wanted.get(name) != given.get(name)`. If there are any: raise. Only then loop over `arrays(model)` and assign with `variable[...] =`.
#
# </details>


# %%
def arrays(module):
    """Every parameter of `module`: its name, with dots, and the variable itself."""
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {".".join(map(str, path)): variable for path, variable in flat}


# %%
def load_strictly(model, saved):
    # BEGIN SOLUTION
    wanted = {name: tuple(variable.shape) for name, variable in arrays(model).items()}
    given = {name: tuple(array.shape) for name, array in saved.items()}
    at_fault = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if at_fault:
        details = ", ".join(f"{name} (model {wanted.get(name)}, saved {given.get(name)})" for name in at_fault)
        raise ValueError(f"does not fit the model: {details}")
    for name, variable in arrays(model).items():
        variable[...] = jnp.asarray(saved[name])
    return model
    # END SOLUTION


check.load_strictly(load_strictly)
