# %% [markdown]
# # 02 · Exercises: why does a network need a bend?
#
# Six exercises, 40 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/02_activations.ipynb).

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import activations as check

# %% [markdown]
# ## 2.1 How steep in the middle? · 3 min · ●○○
#
# **Predict, then run.** What is the slope of sigmoid, of tanh and of GELU at $x = 0$? Write down three numbers before you compute
# anything. Each follows from its formula in one line.
#
# <details><summary>Nudge</summary>
#
# You are asked for slopes, not for values: $\sigma(0)$ is 0.5, but how steep is it there?
#
# </details>
# <details><summary>Outline</summary>
#
# $\sigma(1-\sigma)$ with $\sigma = 0.5$. $1 - \tanh^2$ with $\tanh = 0$. $\Phi + x\,\varphi$ with $x = 0$, and half of a normal
# distribution lies below 0.
#
# </details>

# %%
slope_of_sigmoid = (
    # BEGIN SOLUTION
    0.25
    # END SOLUTION
)
slope_of_tanh = (
    # BEGIN SOLUTION
    1.0
    # END SOLUTION
)
slope_of_gelu = (
    # BEGIN SOLUTION
    0.5
    # END SOLUTION
)

check.slopes_at_zero(slope_of_sigmoid, slope_of_tanh, slope_of_gelu)

# %% [markdown]
# ## 2.2 Two layers that are one · 5 min · ●○○
#
# A colleague has built a router from two linear layers without a bend. Write `collapse(W1, b1, W2, b2)`: it returns the pair
# `(W, b)` of the single layer that does the same, so that `x @ W + b` equals `(x @ W1 + b1) @ W2 + b2` for every `x`.
#
# <details><summary>Nudge</summary>
#
# Multiply out $(x W_1 + b_1)\, W_2 + b_2$. Which terms contain $x$?
#
# </details>
# <details><summary>Outline</summary>
#
# Everything that multiplies $x$ is `W`, in the order in which it stands there. The rest is `b`, and it has two parts.
#
# </details>

# %%
def collapse(W1, b1, W2, b2):
    # BEGIN SOLUTION
    return W1 @ W2, b1 @ W2 + b2
    # END SOLUTION


check.collapse(collapse)

# %% [markdown]
# ## 2.3 A bend you have not met · 8 min · ●●○
#
# SiLU, also called Swish, is the bend of many language models: $\operatorname{silu}(x) = x\,\sigma(x)$. Write it, and its slope as a
# formula (without `jax.grad`), for arrays of any shape. Both must survive $x = \pm 10^4$.
#
# <details><summary>Nudge</summary>
#
# The slope of a product has two terms. And which way of writing $\sigma$ divides infinity by infinity when $x$ is large?
#
# </details>
# <details><summary>Outline</summary>
#
# $\operatorname{silu}' = \sigma + x\,\sigma'$, and $\sigma' = \sigma(1-\sigma)$. Take `jax.nn.sigmoid`, or `1 / (1 + jnp.exp(-x))`: if
# `exp` overflows there, the result is 0, as it should be.
#
# </details>

# %%
def silu(x):
    # BEGIN SOLUTION
    return x * jax.nn.sigmoid(x)
    # END SOLUTION


def silu_slope(x):
    # BEGIN SOLUTION
    s = jax.nn.sigmoid(x)
    return s + x * s * (1 - s)
    # END SOLUTION


check.silu_and_its_slope(silu, silu_slope)

# %% [markdown]
# ## 2.4 Who is dead? · 6 min · ●●○
#
# Write `dead_units(W, b, x)` for the ReLU layer $\max(0, xW + b)$. `x` has shape `[messages, inputs]`, `W` shape `[inputs, units]`. It
# returns one truth value for each unit: `True` if no message gets an answer above 0 from it.
#
# <details><summary>Nudge</summary>
#
# Over which axis do you ask, and is the question "all" or "any"? What of a unit whose input is exactly 0?
#
# </details>
# <details><summary>Outline</summary>
#
# Compute `x @ W + b`, shape `[messages, units]`. Ask where it is at most 0, and whether that holds for all messages, axis 0.
#
# </details>

# %%
def dead_units(W, b, x):
    # BEGIN SOLUTION
    return (x @ W + b <= 0).all(axis=0)
    # END SOLUTION


check.dead_units(dead_units)

# %% [markdown]
# ## 2.5 Find the two bugs · 8 min · ●●○
#
# This is meant to be He initialisation for a network with any layer sizes. It runs, and in a network whose layers all have the same size the
# outputs even keep their size. Look what it does in a funnel, and at the first weight of three layers that are equally large:

# %%
def broken_he(key, sizes):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        W = jnp.sqrt(2 / outputs) * jax.random.normal(key, (inputs, outputs))
        layers.append((W, jnp.zeros(outputs)))
    return layers


h = jax.random.normal(jax.random.key(1), (64, 512))  # [messages, inputs]
for W, b in broken_he(jax.random.key(2), (512, 128, 32, 8)):
    h = jax.nn.relu(h @ W + b)
    print(f"{h.shape[1]:3} units: size of the outputs {jnp.sqrt(jnp.mean(h**2)):4.1f}")
first = [f"{W[0, 0]:.3f}" for W, _ in broken_he(jax.random.key(2), (64, 64, 64, 64))]
print("first weight of each of three layers:", ", ".join(first))

# %% [markdown]
# Write `he(key, sizes)` without the two bugs. It returns a list with one pair `(W, b)` a layer, and the biases start at 0.
#
# <details><summary>Nudge</summary>
#
# A unit adds up one product for each of its … what? And a key is a seed: what does the same seed give twice?
#
# </details>
# <details><summary>Outline</summary>
#
# The standard deviation is $\sqrt{2 / \text{inputs}}$. `jax.random.split(key, len(sizes) - 1)` gives one key for each layer.
#
# </details>

# %%
def he(key, sizes):
    # BEGIN SOLUTION
    layers = []
    for own, inputs, outputs in zip(jax.random.split(key, len(sizes) - 1), sizes, sizes[1:]):
        W = jnp.sqrt(2 / inputs) * jax.random.normal(own, (inputs, outputs))
        layers.append((W, jnp.zeros(outputs)))
    return layers
    # END SOLUTION


check.he_initialisation(he)

# %% [markdown]
# ## 2.6 The right start for any bend · 10 min · ●●●
#
# He's $\sqrt2$ is right for ReLU because ReLU halves the mean square. Extend this to any bend $f$: write `gain(f)`, the factor $g$ for which weights
# of standard deviation $g/\sqrt n$ keep a mean square of 1. If $z$ is standard normal, it is
#
# $$g = \frac{1}{\sqrt{\operatorname{mean}(f(z)^2)}}$$
#
# `f` takes an array of any shape and works on each number. Within 2 % is good enough, so a mean over many random numbers or over a fine grid
# both do. (For sigmoid the formula gives a gain as well, and still the signal dies. What can a mean square not see?)
#
# <details><summary>Nudge</summary>
#
# You can draw $z$: `jax.random.normal` with 400,000 numbers. What is the mean of $f(z)^2$?
#
# </details>
# <details><summary>Outline</summary>
#
# `z = jax.random.normal(jax.random.key(0), (400_000,))`, then one divided by the root of the mean of `f(z) ** 2`. Or: a grid from
# −8 to 8, with weights proportional to $e^{-z^2/2}$.
#
# </details>

# %%
def gain(f):
    # BEGIN SOLUTION
    z = jnp.linspace(-8, 8, 4001)
    weight = jnp.exp(-(z**2) / 2)
    mean_square = jnp.sum(weight * f(z) ** 2) / jnp.sum(weight)
    return 1 / jnp.sqrt(mean_square)
    # END SOLUTION


check.gain(gain)
