# %% [markdown]
# # 14 · Exercises: how do others use it?
#
# Six exercises, 52 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/14_deploy.ipynb).

# %%
import numpy as np

from course_lib.checks import deploy as check

# %% [markdown]
# ## 14.1 Sixty-four callers · 5 min · ●○○
#
# **Predict, then run.** 64 callers use a service. Each sends a message, waits for the answer, and sends the next at once. The service
# gives 160 answers a second, and it gives the same 160 to 32 callers. How many milliseconds does a caller wait on average, with 64
# callers and with 32? Write down two numbers. Only then call `wait_of(64)` and `wait_of(32)` in a cell of your own.
#
# <details><summary>Nudge</summary>
#
# While one caller waits for an answer, the other 63 get one answer each (and so does it, at the end).
#
# </details>
# <details><summary>Outline</summary>
#
# This is Little's law: (callers inside) = (answers a second) × (seconds inside). Two of the three are given.
#
# </details>


# %%
def wait_of(callers, answers=2000, each=1 / 160):
    """A service that takes one message after the other, played through: the mean wait in milliseconds."""
    sent, free, waits = [0.0] * callers, 0.0, []
    for _ in range(answers):
        next_caller = int(np.argmin(sent))
        free = max(free, sent[next_caller]) + each
        waits.append(free - sent[next_caller])
        sent[next_caller] = free  # the answer is here, the next message goes out
    return 1000 * float(np.mean(waits[-callers:]))


# %%
milliseconds_64 = (
    # BEGIN SOLUTION
    1000 * 64 / 160
    # END SOLUTION
)
milliseconds_32 = (
    # BEGIN SOLUTION
    1000 * 32 / 160
    # END SOLUTION
)

check.little(milliseconds_64, milliseconds_32)

# %% [markdown]
# ## 14.2 When does the batch leave? · 8 min · ●●○
#
# The model is free, and messages wait. Write `leaving(waiting, now, max_batch, max_wait)`: how many leave **now**, in one batch.
# `waiting` holds the times at which they came, oldest first, and may be empty; `now` is the time, in the same unit. They leave when
# there are `max_batch` of them, or when the oldest has waited `max_wait`. Otherwise nobody leaves yet: 0.
#
# <details><summary>Nudge</summary>
#
# Three cases: nobody is there, it is time, it is not time. What can be the most that leave?
#
# </details>
# <details><summary>Outline</summary>
#
# `if not waiting: return 0`. It is time if `len(waiting) >= max_batch or now - waiting[0] >= max_wait`. Then
# `min(len(waiting), max_batch)` leave: whoever is over has to wait for the next run.
#
# </details>


# %%
def leaving(waiting, now, max_batch, max_wait):
    # BEGIN SOLUTION
    if not waiting:
        return 0
    due = len(waiting) >= max_batch or now - waiting[0] >= max_wait
    return min(len(waiting), max_batch) if due else 0
    # END SOLUTION


check.leaving(leaving)

# %% [markdown]
# ## 14.3 Eight bits · 10 min · ●●○
#
# Write `to_int8(kernel)`. `kernel` is float32 `[in, out]`. Return `(values, steps)`: int8 of the same shape, and float32 `[1, out]`, so
# that `values * steps` is as close to `kernel` as 255 steps from −127 to 127 allow, with **one step for each output** (column). A
# column of zeros comes back as zeros. And no learner's division by zero, please.
#
# <details><summary>Nudge</summary>
#
# In each column, the number that is largest in size becomes 127 or −127. So what is a step? And what does `.astype(np.int8)` do to 3.9?
#
# </details>
# <details><summary>Outline</summary>
#
# `steps = np.abs(kernel).max(axis=0, keepdims=True) / 127`, with 1 in place of 0 (`np.where`). `values =
# np.round(kernel / steps).astype(np.int8)`: without `round`, the conversion cuts towards zero.
#
# </details>


# %%
def to_int8(kernel):
    # BEGIN SOLUTION
    steps = np.abs(kernel).max(axis=0, keepdims=True) / 127
    steps = np.where(steps > 0, steps, 1).astype(np.float32)
    return np.round(kernel / steps).astype(np.int8), steps
    # END SOLUTION


check.to_int8(to_int8)

# %% [markdown]
# ## 14.4 Somebody else's answer · 10 min · ●●○
#
# **Find the bugs.** To waste less padding, this function sorts the texts by length and runs neighbours together. `run` takes a list of at
# most `max_batch` texts and returns one answer a text, in order. In tests with texts of one length all was well. In the first week, customers
# got each other's answers, and a few got none. Run it with texts of your own, find **two** bugs, and write it as it should be: all
# answers, in the order of `texts`.


# %%
def broken_in_batches(texts, run, max_batch):
    by_length = sorted(texts, key=len)
    answers = []
    for batch in range(len(by_length) // max_batch):
        answers += run(by_length[batch * max_batch : (batch + 1) * max_batch])
    return answers


# %% [markdown]
# <details><summary>Nudge</summary>
#
# `broken_in_batches(["ccc", "a", "bb"], lambda texts: [text.upper() for text in texts], 2)`: what should come, what comes?
#
# </details>
# <details><summary>Outline</summary>
#
# Sort *places*, not texts: `order = sorted(range(len(texts)), key=lambda i: len(texts[i]))`. Take `max_batch` places at a time, with
# `range(0, len(order), max_batch)`, which does not forget the rest, and put each answer back at its place.
#
# </details>


# %%
def in_batches(texts, run, max_batch):
    # BEGIN SOLUTION
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers = [None] * len(texts)
    for start in range(0, len(order), max_batch):
        places = order[start : start + max_batch]
        for place, answer in zip(places, run([texts[i] for i in places])):
            answers[place] = answer
    return answers
    # END SOLUTION


check.in_batches(in_batches)

# %% [markdown]
# ## 14.5 A caller with manners · 12 min · ●●●
#
# Write `ask(call, sleep, tries)`. `call()` sends a request and returns `(status, retry_after, answer)`; `retry_after` is in seconds, or
# None. `sleep(seconds)` waits. Return the answer as soon as the status is 200. After 503 wait as long as the service asks for, or 1
# second where it does not say, and try again; send at most `tries` requests in all, and do not wait after the last. Any other
# status will not get better by asking again: raise `RuntimeError` at once. Raise it, too, when the tries are used up.
#
# <details><summary>Nudge</summary>
#
# A loop over the tries. In it: three kinds of status. Where does the waiting belong, so that the last failure does not wait?
#
# </details>
# <details><summary>Outline</summary>
#
# `for attempt in range(tries):` call; return on 200; raise on anything but 503; `if attempt < tries - 1: sleep(1 if retry_after is None
# else retry_after)`. After the loop: raise.
#
# </details>


# %%
def ask(call, sleep, tries):
    # BEGIN SOLUTION
    for attempt in range(tries):
        status, retry_after, answer = call()
        if status == 200:
            return answer
        if status != 503:
            raise RuntimeError(f"refused with status {status}")
        if attempt < tries - 1:
            sleep(1 if retry_after is None else retry_after)
    raise RuntimeError(f"no answer in {tries} tries")
    # END SOLUTION


check.ask(ask)

# %% [markdown]
# ## 14.6 Fit to go live? · 7 min · ●●○
#
# Write `fit_to_go_live(old, new, canaries)`: the rule that router-2 should have met **before** it was changed over. `old` and `new` take a list of texts and
# return a list of teams; `canaries` maps texts to their true teams. The new version is fit if it gets right **every canary that the old one gets right**. What the old one
# gets wrong, the new one may get wrong, too. With no canary that the old one gets right there is nothing to judge by: not fit.
#
# <details><summary>Nudge</summary>
#
# Comparing how many each gets right is not enough: the new one could win one and lose another.
#
# </details>
# <details><summary>Outline</summary>
#
# Ask both once, with `list(canaries)`. `kept = [n == team for o, n, team in zip(...) if o == team]`; fit is `bool(kept) and all(kept)`.
#
# </details>


# %%
def fit_to_go_live(old, new, canaries):
    # BEGIN SOLUTION
    texts = list(canaries)
    answers = zip(old(texts), new(texts), canaries.values())
    kept = [new_team == team for old_team, new_team, team in answers if old_team == team]
    return bool(kept) and all(kept)
    # END SOLUTION


check.fit_to_go_live(fit_to_go_live)
