# %% [markdown]
# # 11 · Exercises: how do I make it mine?
#
# Six exercises, 49 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/11_finetune_bert.ipynb).

# %%
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.checks import finetune_bert as check

# %% [markdown]
# ## 11.1 How many updates? · 4 min · ●○○
#
# **Predict, then run.** Another shop has 1,000 labelled messages and trains with batches of 32 for 4 epochs, `warmup=0.1`. How many
# times are the parameters updated? For how many of these updates does the learning rate climb?
#
# <details><summary>Nudge</summary>
#
# No message is left out of an epoch.
#
# </details>
# <details><summary>Outline</summary>
#
# Batches of one epoch, rounded up; then all epochs. Warm-up is the fraction `warmup` of all updates, to the nearest whole number.
#
# </details>

# %%
updates = (
    # BEGIN SOLUTION
    4 * 32  # 31 full batches of 32 and one of 8, four times
    # END SOLUTION
)
warmup = (
    # BEGIN SOLUTION
    13  # a tenth of 128
    # END SOLUTION
)

check.updates_and_warmup(updates, warmup)

# %% [markdown]
# ## 11.2 The best of twenty · 5 min · ●●○
#
# **Predict, then run.** You try twenty recipes. Although you cannot know it, they all make equally good models: each is right on
# 80 % of all messages there could ever be. You score all twenty on the 452 test messages and report the best score. What will it be,
# typically: `"0.800"`, `"0.810"`, `"0.835"` or `"0.880"`? And what will that best model score on the next ten thousand messages:
# one of these, or `"0.765"`? (Write both in quotation marks, and take the twenty scores as independent.)
#
# <details><summary>Nudge</summary>
#
# How far does the score of one model scatter, if its 452 messages are drawn at random?
#
# </details>
# <details><summary>Outline</summary>
#
# In a cell of your own: `np.random.default_rng(0).binomial(452, 0.8, size=(1000, 20)) / 452` is a thousand such contests. Take the
# `max` of each row, then the mean.
#
# </details>

# %%
reported = (
    # BEGIN SOLUTION
    "0.835"
    # END SOLUTION
)
on_new_messages = (
    # BEGIN SOLUTION
    "0.800"
    # END SOLUTION
)

check.best_of_twenty(reported, on_new_messages)

# %% [markdown]
# ## 11.3 What must I label? · 8 min · ●●○
#
# A learning curve answers the question that a budget asks. Write `labels_needed(labels, scores, target)`: `labels` are the counts that
# were measured, ascending, `scores` the scores there. Join the points by straight lines over **log(labels)**, as on a logarithmic axis,
# and return the count, a float, at which the line *first* reaches `target`. Reached at the first point already: that point's count. Never
# reached: `float("inf")`; a curve says nothing about what lies beyond its end.
#
# <details><summary>Nudge</summary>
#
# Look for the first point with a score of at least `target`. The crossing lies between it and the one before.
#
# </details>
# <details><summary>Outline</summary>
#
# With the point before, $(n_0, s_0)$, and the point found, $(n_1, s_1)$: the share of the way is $(\text{target} - s_0) / (s_1 - s_0)$.
# Go this share of the way from $\log n_0$ to $\log n_1$, then take exp.
#
# </details>


# %%
def labels_needed(labels, scores, target):
    # BEGIN SOLUTION
    for i, score in enumerate(scores):
        if score >= target:
            if i == 0:
                return float(labels[0])
            share = (target - scores[i - 1]) / (score - scores[i - 1])
            return float(labels[i - 1] * (labels[i] / labels[i - 1]) ** share)
    return float("inf")
    # END SOLUTION


check.labels_needed(labels_needed)

# %% [markdown]
# ## 11.4 Too good a report, or too bad · 10 min · ●●○
#
# **Find the bugs.** `broken_report` gets the model as it was after each epoch, and the validation and test messages, each as (token
# ids, mask, team names). It should choose the epoch with the best accuracy (the first of equals) and return its number, from 1, and
# its accuracy on the test messages. It has three bugs. One makes the report too good, two make it too bad. Write `report` as it
# should be.


# %%
def broken_report(epochs, validation, test):
    def accuracy(model, data):
        ids, mask, names = data
        classes = sorted(set(names))
        true = np.array([classes.index(name) for name in names])
        logits = model(ids, mask, rngs=nnx.Rngs(0))
        return float(np.mean(np.asarray(logits).argmax(-1) == true))

    scores = [accuracy(model, test) for model in epochs]
    best = int(np.argmax(scores))
    return best + 1, scores[best]


# %% [markdown]
# Something to try it on: three tiny BERTs with random weights play the epochs. Call `broken_report(epochs, validation, test)` in a cell
# of your own.

# %%
rng = np.random.default_rng(0)
sizes = dict(vocab_size=50, max_position_embeddings=16, num_hidden_layers=1, initializer_range=0.5)
config = BertConfig.tiny(**sizes, labels=("refund", "change", "faulty", "delivery"))
epochs = [BertForSequenceClassification(config, rngs=nnx.Rngs(seed)) for seed in range(3)]


def some_messages(count, liked):  # names that epoch `liked`, counted from 0, gets right more often than the others
    ids = jnp.asarray(rng.integers(1, 50, (count, 8)))
    guesses = epochs[liked](ids, jnp.ones_like(ids)).argmax(-1)
    names = np.where(rng.random(count) < 0.65, guesses, rng.integers(0, 4, count))
    return ids, jnp.ones_like(ids), [config.labels[i] for i in names]


validation, test = some_messages(24, 1), some_messages(40, 2)

# %% [markdown]
# <details><summary>Nudge</summary>
#
# Three questions. What may decide which epoch is best? What does a model do when it is given `rngs`? Which team does the first logit
# stand for?
#
# </details>
# <details><summary>Outline</summary>
#
# Choose by the accuracy on `validation`, report the one on `test`. Call the model without `rngs`. And a team's number is its place in
# `model.config.labels`, whichever teams the data happens to hold.
#
# </details>


# %%
def report(epochs, validation, test):
    # BEGIN SOLUTION
    def accuracy(model, data):
        ids, mask, names = data
        true = np.array([model.config.labels.index(name) for name in names])
        return float(np.mean(np.asarray(model(ids, mask)).argmax(-1) == true))

    best = int(np.argmax([accuracy(model, validation) for model in epochs]))
    return best + 1, accuracy(epochs[best], test)
    # END SOLUTION


check.honest_report(report)

# %% [markdown]
# ## 11.5 Small steps at the bottom · 10 min · ●●●
#
# The lower layers know what is common to all English text, the upper ones what a task needs. Howard and Ruder's *discriminative
# fine-tuning* therefore gives each layer its own learning rate. Write `rate_factors(names, decay)`: for each parameter's name, the factor
# on its learning rate. The head (pooler and classifier) has 1. One step down, the top layer has `decay`; each layer below it has `decay`
# times the factor of the one above; and the embeddings, below layer 0, take one step more. The names look like this, in any order:
#
# `bert.embeddings.norm.scale` · `bert.layers.0.attention.query.kernel` · `bert.layers.11.output.bias` · `bert.pooler.kernel` · `classifier.bias`
#
# <details><summary>Nudge</summary>
#
# First find out how many layers there are. Then count, for each name, the steps down from the head.
#
# </details>
# <details><summary>Outline</summary>
#
# `name.split(".")` has the layer's number as its third part where the second is `layers`; make it an `int`, since as texts
# `"9" > "10"`. With L layers, layer i is L − i steps down, the embeddings L + 1, the head 0. The factor is `decay ** steps`.
#
# </details>


# %%
def rate_factors(names, decay):
    # BEGIN SOLUTION
    def layer(name):
        parts = name.split(".")
        return int(parts[2]) if parts[1] == "layers" else None

    layers = 1 + max(layer(name) for name in names if layer(name) is not None)

    def steps(name):
        if layer(name) is not None:
            return layers - layer(name)
        return layers + 1 if ".embeddings." in name else 0

    return {name: decay ** steps(name) for name in names}
    # END SOLUTION


check.rate_factors(rate_factors)

# %% [markdown]
# To use it, multiply each parameter's update by its factor, after AdamW. `course_lib.train.make_optimizer` does so for its single factor,
# the head's.
#
# ## 11.6 LoRA: train a few numbers beside each matrix · 12 min · ●●●
#
# Full fine-tuning keeps a copy of the whole model for each task. LoRA (Hu et al., 2021) freezes a matrix $W$ and learns a correction
# of low rank $r$ beside it, with $A$ of shape `[n_in, r]` and $B$ of shape `[r, n_out]`:
#
# $$y = x W + b + \frac{\alpha}{r}\, x A B$$
#
# What that saves for one matrix of this course's model:

# %%
width, rank = 384, 8
print(f"W: {width * width:,} numbers, A and B: {2 * width * rank:,}, that is {2 * width * rank / width**2:.0%}")

# %% [markdown]
# Write `lora_dense(x, kernel, bias, a, b, alpha)`, with x of shape `[..., n_in]`. `kernel` and `bias` are frozen: they get no gradient;
# `a`, `b` and `x` do. And write `merge(kernel, a, b, alpha)`: the one matrix that replaces $W$ after training, so that answering costs
# nothing extra.
#
# <details><summary>Nudge</summary>
#
# The rank is a size of `a`. For freezing, JAX has `jax.lax.stop_gradient`: it hands its argument on and lets no gradient back.
#
# </details>
# <details><summary>Outline</summary>
#
# `kernel, bias = jax.lax.stop_gradient((kernel, bias))`, then the formula with `alpha / a.shape[1]`; `(x @ a) @ b` costs less than
# `x @ (a @ b)`. Merged: `kernel + alpha / rank * a @ b`.
#
# </details>


# %%
def lora_dense(x, kernel, bias, a, b, alpha):
    # BEGIN SOLUTION
    kernel, bias = jax.lax.stop_gradient((kernel, bias))
    return x @ kernel + bias + alpha / a.shape[1] * ((x @ a) @ b)
    # END SOLUTION


def merge(kernel, a, b, alpha):
    # BEGIN SOLUTION
    return kernel + alpha / a.shape[1] * (a @ b)
    # END SOLUTION


check.lora(lora_dense, merge)
