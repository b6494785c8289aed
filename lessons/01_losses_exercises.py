# %% [markdown]
# # 01 · Exercises: how wrong is a prediction?
#
# Six exercises, 42 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/01_losses.ipynb).

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import losses as check

# %% [markdown]
# ## 1.1 Before any training · 3 min · ●○○
#
# **Predict, then run.** A classifier for the eight teams is new: all its logits are 0. What is its cross-entropy, to two
# digits? And what is it if all its logits are 100? Write both numbers down before you compute anything.
#
# <details><summary>Nudge</summary>
#
# Which probability does softmax give to each of eight equal logits?
#
# </details>
# <details><summary>Outline</summary>
#
# The loss is the negative natural logarithm of the right team's probability. Adding the same number to every logit
# changes no probability.
#
# </details>

# %%
all_zero = (
    # BEGIN SOLUTION
    2.08
    # END SOLUTION
)
all_hundred = (
    # BEGIN SOLUTION
    2.08
    # END SOLUTION
)

check.loss_before_training(all_zero, all_hundred)

# %% [markdown]
# ## 1.2 Which way does it pull? · 3 min · ●○○
#
# A message for *refund* comes in. The model says delivery 0.6, refund 0.3, billing 0.1. Write down, from memory, the
# gradient of the softmax cross-entropy in the three logits.
#
# <details><summary>Nudge</summary>
#
# What you said minus what was true.
#
# </details>
# <details><summary>Outline</summary>
#
# The truth is the vector 0, 1, 0. A logit with a negative gradient is raised by training: which one should be?
#
# </details>

# %%
gradient = [
    # BEGIN SOLUTION
    0.6, -0.7, 0.1  # fmt: skip
    # END SOLUTION
]

check.gradient_in_the_logits(gradient)

# %% [markdown]
# ## 1.3 Cross-entropy from logits · 8 min · ●●○
#
# Write `softmax_cross_entropy(logits, labels)`: the mean over the batch, from integer labels, without ever computing a
# probability. `logits` has shape `[batch, classes]`, `labels` shape `[batch]`. It must survive logits of ±10,000. Do not
# call a finished log-softmax or loss.
#
# <details><summary>Nudge</summary>
#
# You need the log-probability of one class per row. Which function of this lesson gives log-probabilities, and how do you
# pick one column per row?
#
# </details>
# <details><summary>Outline</summary>
#
# Take each row's largest logit away (`keepdims=True`), take the log of the sum of the exponentials away. Then pick with
# `jnp.take_along_axis(log_probs, labels[:, None], axis=-1)`, and average.
#
# </details>

# %%
def softmax_cross_entropy(logits, labels):
    # BEGIN SOLUTION
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probs = shifted - jnp.log(jnp.exp(shifted).sum(axis=-1, keepdims=True))  # [batch, classes]
    return -jnp.take_along_axis(log_probs, labels[:, None], axis=-1).mean()
    # END SOLUTION


check.softmax_cross_entropy(softmax_cross_entropy)

# %% [markdown]
# ## 1.4 Its gradient, without jax.grad · 8 min · ●●○
#
# Write `softmax_cross_entropy_gradient(logits, labels)`: the gradient of 1.3 in the logits, shape `[batch, classes]`, by
# the formula. `jax.nn.softmax` and `jax.nn.one_hot` are allowed.
#
# <details><summary>Nudge</summary>
#
# The formula of the lesson is for one example. What does the mean over the batch do to it?
#
# </details>
# <details><summary>Outline</summary>
#
# Softmax along the last axis, minus the one-hot labels, divided by the number of rows.
#
# </details>

# %%
def softmax_cross_entropy_gradient(logits, labels):
    # BEGIN SOLUTION
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])  # [batch, classes]
    return (jax.nn.softmax(logits, axis=-1) - one_hot) / len(logits)
    # END SOLUTION


check.softmax_cross_entropy_gradient(softmax_cross_entropy_gradient)

# %% [markdown]
# ## 1.5 Find the two bugs · 8 min · ●●○
#
# A colleague's loss for *"is this customer unhappy?"*. It never returns NaN, it looks fine on the example, and the model
# that trains with it calls everyone unhappy. `logits` and `targets` (0 or 1) have shape `[batch]`.

# %%
def broken_bce(logits, targets):
    probs = jax.nn.sigmoid(logits)
    probs = jnp.clip(probs, 1e-4, 1 - 1e-4)  # so that log() never sees a zero
    return -jnp.mean(targets * jnp.log(probs))


print(f"{broken_bce(jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 1.0])):.3f}")

# %% [markdown]
# One bug shows in the value, for customers of one kind. The other shows in the gradient, for the worst mistakes. Write
# `fixed_bce`, with the same arguments.
#
# <details><summary>Nudge</summary>
#
# What does it cost to call a content customer unhappy? And what is the slope of `jnp.clip` outside its limits?
#
# </details>
# <details><summary>Outline</summary>
#
# The term $(1-y)\log(1-\hat y)$ is missing. And instead of clipping a probability, compute from the logits, by the
# formula with $\max(z, 0)$ in the lesson.
#
# </details>

# %%
def fixed_bce(logits, targets):
    # BEGIN SOLUTION
    losses = jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))  # [batch]
    return losses.mean()
    # END SOLUTION


check.fixed_bce(fixed_bce)

# %% [markdown]
# ## 1.6 Smoothed and weighted · 12 min · ●●●
#
# Extend 1.3 to `weighted_smooth_loss(logits, labels, class_weights, epsilon)`. Smooth the labels over all $K$ classes with
# `epsilon`. Weight each example by `class_weights[its label]`, and divide by the sum of the weights in the batch. With all
# weights equal and `epsilon = 0`, it is 1.3 again. Here `jax.nn.log_softmax` is allowed.
#
# <details><summary>Nudge</summary>
#
# One loss an example first, shape `[batch]`, with the smoothed target. The weights come after it.
#
# </details>
# <details><summary>Outline</summary>
#
# `targets = (1 - epsilon) * one_hot + epsilon / K`; `losses = -(targets * log_probs).sum(axis=-1)`;
# `w = class_weights[labels]`; then the weighted mean of `losses`.
#
# </details>

# %%
def weighted_smooth_loss(logits, labels, class_weights, epsilon):
    # BEGIN SOLUTION
    classes = logits.shape[-1]
    targets = (1 - epsilon) * jax.nn.one_hot(labels, classes) + epsilon / classes  # [batch, classes]
    losses = -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)  # [batch]
    weights = class_weights[labels]  # [batch]
    return (weights * losses).sum() / weights.sum()
    # END SOLUTION


check.weighted_smooth_loss(weighted_smooth_loss)
