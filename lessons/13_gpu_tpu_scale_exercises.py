# %% [markdown]
# # 13 · Exercises: how do I make it big and fast?
#
# Five exercises, 40 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is
# wrong. You have as many tries as you like. Difficulty is ●○○ or ●●○; hints open with a click. The lesson is
# [here](../notebooks/13_gpu_tpu_scale.ipynb).

# %%
import jax.numpy as jnp
import numpy as np

from course_lib.checks import gpu_tpu_scale as check

# %% [markdown]
# ## 13.1 What grows, and how fast? · 5 min · ●○○
#
# **Predict, then run.** The texts become twice as long: 512 tokens instead of 256, in batches of the same number of rows.
# What happens to each of these? Choose from `"same"`, `"twice"`, `"more than twice"`.
#
# - the memory for Adam's two means
# - the memory for the activations of the dense layers
# - the memory for all activations together
#
# <details><summary>Nudge</summary>
#
# Which of them has a row for each token? Is there one that has a row for each *pair* of tokens?
#
# </details>
# <details><summary>Outline</summary>
#
# Write the shape of each: Adam's means are shaped like the parameters; a dense layer's output is [B, T, I]; attention's
# weights are [B, N, T, T].
#
# </details>

# %%
adam = (
    # BEGIN SOLUTION
    "same"
    # END SOLUTION
)
dense = (
    # BEGIN SOLUTION
    "twice"
    # END SOLUTION
)
together = (
    # BEGIN SOLUTION
    "more than twice"
    # END SOLUTION
)

check.what_grows(adam, dense, together)

# %% [markdown]
# ## 13.2 How long, on how many chips? · 8 min · ●○○
#
# Write the estimate that you would bring to the meeting: hours of training, from the number of weights in the layers,
# the tokens a text has, the texts, how often they are read, the chips, a chip's peak in FLOP/s and the utilisation
# that you expect (0 to 1).
#
# <details><summary>Nudge</summary>
#
# 6 · weights · tokens is for *all* tokens that pass through the network in training.
#
# </details>
# <details><summary>Outline</summary>
#
# Multiply: 6, weights, tokens a text, texts, epochs. Divide by what the chips really do in a second: chips × peak ×
# utilisation. That gives seconds.
#
# </details>


# %%
def training_hours(weights, tokens_per_text, texts, epochs, chips, peak, utilisation):
    """→ float, hours."""
    # BEGIN SOLUTION
    flops = 6 * weights * tokens_per_text * texts * epochs
    return flops / (chips * peak * utilisation) / 3600
    # END SOLUTION


check.training_hours(training_hours)

# %% [markdown]
# ## 13.3 Small steps in bfloat16 · 8 min · ●●○
#
# **Find the bug.** This loop trains in bfloat16 to save memory. The loss falls for a while, then nothing moves any more,
# although the gradients are not zero. Run it, see what becomes of the weight, and write it so that every step counts.


# %%
def broken_train(weight, gradients, rate):
    """weight: float32 [n]; gradients: float32 [steps, n] → the weight after all steps, float32 [n]."""
    weight = weight.astype(jnp.bfloat16)
    for gradient in gradients:
        weight = weight - (rate * gradient).astype(jnp.bfloat16)
    return weight.astype(jnp.float32)


print("after 500 steps of 0.001 from 1.0:", broken_train(jnp.ones(1), jnp.full((500, 1), 0.1), rate=0.01)[0])

# %% [markdown]
# The gradients may be rounded to bfloat16: they come out of products that were computed in it.
#
# <details><summary>Nudge</summary>
#
# Which bfloat16 number comes just below 1? How far away is it, against a step of 0.001?
#
# </details>
# <details><summary>Outline</summary>
#
# Keep the weight in float32 all the way; only the gradient has been through bfloat16. A training loop makes a bfloat16
# *copy* of the weights for the forward pass, and throws it away.
#
# </details>


# %%
def train(weight, gradients, rate):
    """weight: float32 [n]; gradients: float32 [steps, n] → the weight after all steps, float32 [n]."""
    # BEGIN SOLUTION
    for gradient in gradients:
        weight = weight - rate * gradient.astype(jnp.bfloat16).astype(jnp.float32)
    return weight
    # END SOLUTION


check.small_steps(train)

# %% [markdown]
# ## 13.4 The gradient of a whole batch, from its parts · 10 min · ●●○
#
# Each device, or each part of an accumulated batch, has the *mean* gradient over its own rows. The last batch of an epoch
# is seldom full, so some parts have fewer real rows than others, perhaps none. Combine them into the mean over all rows.
#
# <details><summary>Nudge</summary>
#
# A part with one row and a part with seven: how much should each count?
#
# </details>
# <details><summary>Outline</summary>
#
# Weigh each part's gradient by its share of all rows, then add up. A part without rows has a share of zero, whatever
# stands in its gradient: 0 times nan is nan, so leave it out with `np.where`.
#
# </details>


# %%
def combine(gradients, rows):
    """gradients: float [parts, n], each part's mean; rows: int [parts], real rows in each → float [n]."""
    # BEGIN SOLUTION
    share = rows / rows.sum()
    safe = np.where(rows[:, None] > 0, gradients, 0.0)
    return (share[:, None] * safe).sum(axis=0)
    # END SOLUTION


check.combine(combine)

# %% [markdown]
# ## 13.5 A stream for every process · 9 min · ●●○
#
# Eight processes read one file of messages. Every message must be read by exactly one of them, and their loads may differ by
# at most one message: a process that runs out early leaves the others waiting in the all-reduce. After an interruption a
# process has read `done` of its own messages and goes on behind them.
#
# Write which messages process `process` (0, 1, …) of `processes` still has to read, out of `n`, in order.
#
# <details><summary>Nudge</summary>
#
# `n // processes` for each leaves up to seven messages that nobody reads. Dealing cards does not have this problem.
#
# </details>
# <details><summary>Outline</summary>
#
# Process p takes p, p + processes, p + 2 · processes, … below n. Then skip the first `done` of *these*.
#
# </details>


# %%
def still_to_read(process, processes, n, done=0):
    """→ list of int, each from 0 to n − 1."""
    # BEGIN SOLUTION
    return list(range(process, n, processes))[done:]
    # END SOLUTION


check.still_to_read(still_to_read)
