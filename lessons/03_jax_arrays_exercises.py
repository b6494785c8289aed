# %% [markdown]
# # 03 · Exercises: what changes when arrays are JAX arrays?
#
# Six exercises, 47 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/03_jax_arrays.ipynb).

# %%
import time

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks import jax_arrays as check

# %% [markdown]
# ## 3.1 Traced or reused? · 4 min · ●○○
#
# **Predict, then run.** Read the seven calls below. Without running them: how many times does `scale` get traced? Write the
# number down, check it, and only then call `seven_calls()` to see for yourself.
#
# <details><summary>Nudge</summary>
#
# Go through the calls one by one and keep a list of what JAX has met: shape and kind of number of both arguments.
#
# </details>
# <details><summary>Outline</summary>
#
# The value never counts, also not that of a Python number; but a Python integer is another kind than a Python float. How an array
# came to have its shape does not count.
#
# </details>

# %%
def seven_calls():
    traces = 0

    @jax.jit
    def scale(x, factor):
        nonlocal traces
        traces += 1
        return x * factor

    scale(jnp.ones(3), 2.0)
    scale(jnp.zeros(3), 2.0)
    scale(jnp.ones(3), 5.0)
    scale(jnp.ones((3, 1)), 2.0)
    scale(jnp.ones(3, int), 2.0)
    scale(jnp.ones(3), 2)
    scale(jnp.ones(4)[:3], 2.0)
    return traces

# %%
traces = (
    # BEGIN SOLUTION
    4
    # END SOLUTION
)

check.traced_or_reused(traces)

# %% [markdown]
# ## 3.2 The average message of each team · 8 min · ●●○
#
# Every message is a vector; `teams` says whose it was. Write `team_means(vectors, teams, n_teams)`: the mean vector of
# each team's messages. A router that compares a new message with these means is a good first model.
#
# `vectors` is `[messages, d]`, `teams` holds integers `[messages]` from 0 to `n_teams - 1`, and the result is `[n_teams, d]`.
# A team without messages gets zeros. It must also work under `jax.jit` with `n_teams` static.
#
# <details><summary>Nudge</summary>
#
# A mean is a sum and a count. The lesson counted messages with one line that works when an index comes twice.
#
# </details>
# <details><summary>Outline</summary>
#
# Start from zeros of shape `[n_teams, d]` and add the vectors with `.at[teams].add`. Count in the same way. Divide, where no divisor
# may be 0: `jnp.maximum(count, 1)`. The counts need a second axis: `count[:, None]` has shape `[n_teams, 1]`.
#
# </details>

# %%
def team_means(vectors, teams, n_teams):
    # BEGIN SOLUTION
    sums = jnp.zeros((n_teams, vectors.shape[1])).at[teams].add(vectors)  # [n_teams, d]
    counts = jnp.zeros(n_teams).at[teams].add(1)
    return sums / jnp.maximum(counts, 1)[:, None]  # [n_teams, 1]: a divisor for each row
    # END SOLUTION


check.team_means(team_means)

# %% [markdown]
# ## 3.3 Find the bug: a very sure bootstrap · 8 min · ●●○
#
# The *bootstrap* asks how far a mean can be trusted: pick as many values as there are, at random and with repetition,
# take their mean, and repeat. The scatter of these means is the uncertainty. A colleague's version reports that there is none.
# Run it. Then write `bootstrap_means`, with the same arguments, that does what was meant.

# %%
def broken_bootstrap(key, values, repeats):
    """`repeats` means, each of values.size values picked at random with repetition; [repeats]."""
    means = []
    for _ in range(repeats):
        picked = jax.random.randint(key, values.shape, 0, values.size)
        means.append(values[picked].mean())
    return jnp.stack(means)


hours_until_reply = jnp.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 30.0])
means = broken_bootstrap(jax.random.key(0), hours_until_reply, 100)
print(f"mean {hours_until_reply.mean():.2f} hours, uncertainty {means.std():.2f} hours")

# %% [markdown]
# <details><summary>Nudge</summary>
#
# What differs between the first turn of the loop and the second?
#
# </details>
# <details><summary>Outline</summary>
#
# A key for each repeat: `jax.random.split(key, repeats)`, or `jax.random.fold_in(key, i)`. With a function of one key that returns one
# mean, `jax.vmap` over the keys replaces the loop.
#
# </details>

# %%
def bootstrap_means(key, values, repeats):
    # BEGIN SOLUTION
    def one_mean(key):
        return values[jax.random.randint(key, values.shape, 0, values.size)].mean()

    return jax.vmap(one_mean)(jax.random.split(key, repeats))
    # END SOLUTION


check.bootstrap_means(bootstrap_means)

# %% [markdown]
# ## 3.4 Find the bugs: the router that will not compile · 9 min · ●●○
#
# A message goes to the team with the highest probability, or to a person (−1) if that probability is *below* the threshold. The version
# below has two faults. One stops it; the other would be noticed weeks later, by someone who changes the threshold.
#
# Write `route(probs, threshold)` for one message, `probs` of shape `[teams]`, so that it works with and without `jax.jit`. Then make
# `route_all` from it: compiled, for `probs` of shape `[messages, teams]` and one threshold for all, result `[messages]`.

# %%
threshold = 0.6


@jax.jit
def broken_route(probs):
    if probs.max() < threshold:
        return -1
    return probs.argmax()


try:
    broken_route(jnp.array([0.7, 0.2, 0.1]))
except jax.errors.TracerBoolConversionError as error:
    print(type(error).__name__)

# %% [markdown]
# <details><summary>Nudge</summary>
#
# What is frozen by tracing? And which function picks between two values without asking Python?
#
# </details>
# <details><summary>Outline</summary>
#
# The threshold becomes an argument. `jnp.where(condition, -1, team)` picks. For `route_all`: `jax.vmap` along axis 0 of the first argument
# and along none of the second, and `jax.jit` around it.
#
# </details>

# %%
def route(probs, threshold):
    # BEGIN SOLUTION
    return jnp.where(probs.max() < threshold, -1, probs.argmax())
    # END SOLUTION


route_all = (
    # BEGIN SOLUTION
    jax.jit(jax.vmap(route, in_axes=(0, None)))
    # END SOLUTION
)

check.route(route, route_all)

# %% [markdown]
# ## 3.5 A calmer model · 6 min · ●●○
#
# The parameters of a model jump about while it trains. Often a *moving average* of them does better. After each step, every number
# $a$ of the average becomes $d \cdot a + (1 - d) \cdot p$, where $p$ is the same number of the current parameters and $d$, the decay, is a
# little below 1.
#
# Write `moving_average(average, params, decay)` for any pytree. It returns the new average, of the same structure, and changes neither
# argument.
#
# <details><summary>Nudge</summary>
#
# One function of the lesson takes two trees and pairs up their leaves.
#
# </details>
# <details><summary>Outline</summary>
#
# `jax.tree.map(function_of_two_arrays, average, params)`. The function can be a lambda; it sees `decay` from outside.
#
# </details>

# %%
def moving_average(average, params, decay):
    # BEGIN SOLUTION
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
    # END SOLUTION


check.moving_average(moving_average)

# %% [markdown]
# ## 3.6 An honest stopwatch · 12 min · ●●●
#
# Write `median_seconds(function, *args, repeats=5)`, the stopwatch for the rest of your work. It calls `function(*args)` once to warm
# up and does not count that. Then it times `repeats` calls, each until its result is *there*, and returns the median, in
# seconds. The result may be an array or any pytree.
#
# The check brings a function that behaves as a device does: it returns at once, its results are ready later, its first call is slow, and
# one of the others is held up.
#
# <details><summary>Nudge</summary>
#
# Which four things did the lesson's recipe name? `time.perf_counter()` is the clock.
#
# </details>
# <details><summary>Outline</summary>
#
# `jax.block_until_ready(function(*args))` to warm up. Then, in a loop: `start = time.perf_counter()`, the same call, and append the
# difference to a list. `np.median` of the list.
#
# </details>

# %%
def median_seconds(function, *args, repeats=5):
    # BEGIN SOLUTION
    jax.block_until_ready(function(*args))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - start)
    return np.median(seconds)
    # END SOLUTION


check.median_seconds(median_seconds)

# %% [markdown]
# Passed them all? Then time something you care about: how much longer does `x @ x` take when `x` is twice as wide, and is it what you
# expected from counting multiplications?
#
# **Next:** [04 · Where do gradients come from?](../notebooks/04_autodiff.ipynb)
