# %% [markdown]
# # 12 · Exercises: can I trust it?
#
# Six exercises, 53 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/12_evaluate_explain.ipynb).

# %%
import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks import evaluate_explain as check

# %% [markdown]
# ## 12.1 What a temperature changes · 5 min · ●○○
#
# **Predict, then run.** The logits of all 400 messages, eight teams each, are divided by $T = 2$. Which of these change? Write
# four times `True` (changes) or `False` (stays), in this order:
#
# 1. the accuracy,
# 2. the mean confidence,
# 3. the order of the *messages*, from the one that the model is surest of to the one it is least sure of,
# 4. the mean cross-entropy.
#
# <details><summary>Nudge</summary>
#
# One number divides everything. What does softmax make of differences that are half as large?
#
# </details>
# <details><summary>Outline</summary>
#
# For the third, compare two messages. One has a single rival that is close behind, the other has many rivals further back. Which of
# them does a high temperature hurt more?
#
# </details>

# %%
changes = (
    # BEGIN SOLUTION
    False, True, True, True  # fmt: skip
    # END SOLUTION
)

check.what_temperature_changes(changes)

# %% [markdown]
# ## 12.2 Promise and truth · 8 min · ●●○
#
# Write `calibration_error(confidence, right, bins)`, the expected calibration error. `confidence` is float `[n]`, above 0 and up to
# 1; `right` is bool `[n]`. Bins are equally wide; bin $b$ of $B$ holds what is above $b/B$ and at most $(b+1)/B$. Any number of bins
# may be empty. Do not call `course_lib.calibrate`.
#
# $$\text{ECE} = \sum_b \frac{n_b}{n}\,\bigl|\,\text{accuracy}_b - \text{confidence}_b\,\bigr|$$
#
# <details><summary>Nudge</summary>
#
# Loop over the bins. Which mask picks the answers of one bin?
#
# </details>
# <details><summary>Outline</summary>
#
# `inside = (low < confidence) & (confidence <= high)`. If any are inside, add `inside.mean()` times the gap between `right[inside].mean()`
# and `confidence[inside].mean()`.
#
# </details>


# %%
def calibration_error(confidence, right, bins):
    # BEGIN SOLUTION
    error = 0.0
    for b in range(bins):
        inside = (b / bins < confidence) & (confidence <= (b + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error
    # END SOLUTION


check.calibration_error(calibration_error)

# %% [markdown]
# ## 12.3 Is the new router better? · 8 min · ●●○
#
# Two routers answered the same messages: `right_a` and `right_b`, bool `[n]`. Write `difference_interval(right_a, right_b, draws)`: the
# 95 % bootstrap interval of *accuracy of a minus accuracy of b*, as `(low, high)`. `draws` is int `[resamples, n]`; each row is one
# resample, the numbers of the messages in it.
#
# <details><summary>Nudge</summary>
#
# Both find the same messages hard. What happens to that if each router gets a resample of its own?
#
# </details>
# <details><summary>Outline</summary>
#
# `right_a[draws]` has shape `[resamples, n]`; its mean over the messages is one accuracy a resample. Subtract b's, then
# `np.quantile` at 0.025 and 0.975.
#
# </details>


# %%
def difference_interval(right_a, right_b, draws):
    # BEGIN SOLUTION
    differences = right_a[draws].mean(axis=1) - right_b[draws].mean(axis=1)  # [resamples]
    low, high = np.quantile(differences, [0.025, 0.975])
    return low, high
    # END SOLUTION


check.difference_interval(difference_interval)

# %% [markdown]
# ## 12.4 Two bugs that flatter · 10 min · ●●○
#
# **Find the bugs.** A colleague chooses the hand-over threshold with this function and reports what it will cost. It is too good to be
# true. `validation` and `test` are pairs `(confidence, right)`. What the model is at least `threshold` sure of, it keeps; a kept message
# that goes to the wrong team costs `mistake`, a message for a human `handover`. The answer is the cheapest threshold (of several the
# lowest) and what *a message* will cost with it.

# %%
def broken_policy(validation, test, thresholds, mistake, handover):
    def cost(data, threshold):
        confidence, right = data
        kept = confidence >= threshold
        return mistake * np.mean(~right[kept]) + handover * np.mean(~kept)

    costs = [cost(test, threshold) for threshold in thresholds]
    best = np.argmin(costs)
    return thresholds[best], costs[best]


# %% [markdown]
# Write `honest_policy` with the same arguments. It must survive a threshold at which nothing is kept.
#
# <details><summary>Nudge</summary>
#
# Which data may choose, and which may only pay? And if nine of ten messages are handed over, how often does a customer meet a mistake
# of the model?
#
# </details>
# <details><summary>Outline</summary>
#
# A mistake costs something only if it is kept: `np.mean(kept & ~right)` is its share of *all* messages, and it is 0 when nothing is
# kept. Choose with the costs on `validation`; give back `cost(test, …)` at that threshold.
#
# </details>


# %%
def honest_policy(validation, test, thresholds, mistake, handover):
    # BEGIN SOLUTION
    def cost(data, threshold):
        confidence, right = data
        kept = confidence >= threshold
        return mistake * np.mean(kept & ~right) + handover * np.mean(~kept)

    best = min(thresholds, key=lambda threshold: cost(validation, threshold))
    return best, cost(test, best)
    # END SOLUTION


check.honest_policy(honest_policy)

# %% [markdown]
# ## 12.5 Integrated gradients of anything · 12 min · ●●●
#
# Write `integrated_gradients(f, x, baseline, steps)` for any function `f` that maps an array to one number. `x` and `baseline` have
# one shape, any shape; so has the answer. Take the integral as the mean over the *midpoints* of `steps` equal steps:
#
# $$\alpha_k = \frac{k + \tfrac12}{\text{steps}}, \qquad
# \text{score} = (x - x')\; \frac1{\text{steps}} \sum_k \nabla f\bigl(x' + \alpha_k (x - x')\bigr)$$
#
# <details><summary>Nudge</summary>
#
# `jax.grad(f)` is a function. Where on the way do you ask it, and what is done with the answers?
#
# </details>
# <details><summary>Outline</summary>
#
# `alphas = (jnp.arange(steps) + 0.5) / steps`. For one alpha: `jax.grad(f)(baseline + alpha * (x - baseline))`. `jax.vmap` over alphas,
# mean over axis 0, times `x - baseline`. Add nothing up: each number of `x` keeps its own score.
#
# </details>


# %%
def integrated_gradients(f, x, baseline, steps):
    # BEGIN SOLUTION
    alphas = (jnp.arange(steps) + 0.5) / steps
    gradients = jax.vmap(lambda alpha: jax.grad(f)(baseline + alpha * (x - baseline)))(alphas)  # [steps, ...]
    return (x - baseline) * gradients.mean(axis=0)
    # END SOLUTION


check.integrated_gradients(integrated_gradients)

# %% [markdown]
# ## 12.6 Does it matter to the model? · 10 min · ●●●
#
# An explanation says which words counted. If that is true, then taking those words away must hurt most. Write
# `deletion_curve(probability, ids, scores, mask_id)`. `ids` is int `[T]`, first [CLS] and last [SEP], which stay; `scores` is float
# `[T]`. Replace the word with the highest score by `mask_id`, then the one with the second highest as well, and so on down to the lowest,
# and give back `probability(ids)` for the whole message and after each step: float `[T - 1]`.
#
# <details><summary>Nudge</summary>
#
# You need the positions 1 to T - 2 in the order of their scores. `np.argsort` sorts upwards and counts from 0.
#
# </details>
# <details><summary>Outline</summary>
#
# `order = 1 + np.argsort(-scores[1:-1])`. Copy `ids`, begin the list with `probability(ids)`, then loop over `order`: put `mask_id` there,
# append the new probability. Give the list back as an array.
#
# </details>


# %%
def deletion_curve(probability, ids, scores, mask_id):
    # BEGIN SOLUTION
    ids = ids.copy()
    values = [probability(ids)]
    for position in 1 + np.argsort(-scores[1:-1]):
        ids[position] = mask_id
        values.append(probability(ids))
    return np.array(values)
    # END SOLUTION


check.deletion_curve(deletion_curve)
