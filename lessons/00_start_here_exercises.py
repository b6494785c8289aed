# %% [markdown]
# # 00 · Exercises: is it worth building?
#
# Two exercises, 12 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/00_start_here.ipynb).

# %%
import numpy as np

from course_lib.checks import start_here as check

# %% [markdown]
# ## 0.1 How often must it be right? · 4 min · ●○○
#
# **Predict, then run.** Two models for the shop.
#
# - One flags unhappy customers. A right flag saves 10 minutes of smoothing over later; a false alarm costs 5.
# - One grants or refuses refunds. A right decision saves 4 minutes; a wrong one costs 96, with all the letters that follow.
#
# From which share of right answers on does each pay? Guess first: is one of them above 0.9, is one below 0.5? Then write
# down two shares between 0 and 1, to two digits.
#
# <details><summary>Nudge</summary>
#
# Take 100 flags of which only 50 are right. Do they save or lose time, and how much?
#
# </details>
# <details><summary>Outline</summary>
#
# With the share $p$ right, one answer saves $\text{saved} \cdot p - \text{lost} \cdot (1-p)$ minutes on average. At which $p$ is that 0?
#
# </details>

# %%
flags = (
    # BEGIN SOLUTION
    5 / (10 + 5)
    # END SOLUTION
)
refunds = (
    # BEGIN SOLUTION
    96 / (4 + 96)
    # END SOLUTION
)

check.break_even(flags, refunds)

# %% [markdown]
# ## 0.2 Find the two bugs, then score it right · 8 min · ●●○
#
# A colleague's table has *effort* and *risk* as they are: 5 is much, and much is bad. The function below turns such columns round, so
# that 5 is good everywhere, and weights the marks. `marks` has shape `[candidates, criteria]` and marks from 1 to 5; `weights` and
# `low_is_good` (True or False) have shape `[criteria]`.

# %%
def broken_score(marks, weights, low_is_good):
    marks[:, low_is_good] = 6 - marks[:, low_is_good]  # 5 becomes 1, 4 becomes 2
    return (marks * weights).sum(axis=1) / len(weights)


#                 value, data, effort, risk
marks = np.array([[4, 5, 2, 2],   # send each message to its team
                  [5, 2, 5, 5]])  # answer without a person
weights = np.array([3, 2, 1, 2])
low_is_good = np.array([False, False, True, True])
for call in ("first", "second"):
    print(f"{call} call:", broken_score(marks, weights, low_is_good).tolist())

# %% [markdown]
# No score can be above 5, and the second call should say what the first said. Write `weighted_score`, with the same
# arguments: the weighted mean of each candidate's marks, after the turning round.
#
# <details><summary>Nudge</summary>
#
# Print `marks` after each call. And what should come out for a candidate whose marks are all 4?
#
# </details>
# <details><summary>Outline</summary>
#
# `np.where(low_is_good, 6 - marks, marks)` makes a new array and leaves the old one alone. Multiply by the weights, sum over the
# criteria, divide by the sum of the weights.
#
# </details>

# %%
def weighted_score(marks, weights, low_is_good):
    # BEGIN SOLUTION
    good = np.where(low_is_good, 6 - marks, marks)  # [candidates, criteria]: 5 is good everywhere
    return (good * weights).sum(axis=1) / weights.sum()
    # END SOLUTION


check.weighted_score(weighted_score)

# %% [markdown]
# Passed? Then score three ideas from your own work with it. The first bug will come back in another shape: JAX does not allow
# an array to be changed at all, and [lesson 03](../notebooks/03_jax_arrays.ipynb) shows why that is a relief.
