# %% [markdown]
# # 08 · Exercises: how do words look at each other?
#
# Six exercises, 48 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/08_attention.ipynb).

# %%
import jax
import jax.numpy as jnp
from flax import nnx

from course_lib.bert import BertConfig, BertModel
from course_lib.checks import attention as check

# %% [markdown]
# ## 8.1 How many weights? · 4 min · ●○○
#
# **Predict.** Eight messages, each padded to 50 tokens, go through one layer of width 384 with 12 heads. What is the shape of its
# attention weights, in the order that the lesson uses? And if the messages were padded to 200 tokens instead: how many times as many
# weights would there be?
#
# <details><summary>Nudge</summary>
#
# A weight belongs to four things: to a message, to a head, to the token that looks and to the token that is looked at.
#
# </details>
# <details><summary>Outline</summary>
#
# Write the letters from the lesson, $[B, N, T, T]$, and put in the numbers. Then multiply all four, once for each length.
#
# </details>

# %%
shape = (
    # BEGIN SOLUTION
    8, 12, 50, 50  # fmt: skip
    # END SOLUTION
)
times_as_many = (
    # BEGIN SOLUTION
    16
    # END SOLUTION
)

check.how_many_weights(shape, times_as_many)

# %% [markdown]
# ## 8.2 Attention, with a mask · 10 min · ●●○
#
# Write `attention(query, key, value, mask)` for one message and one head. The shapes are more general than in the lesson: `query` is
# `[F, D]`, `key` is `[T, D]`, `value` is `[T, E]`, and F, T, D, E may all differ. `mask` is `[F, T]`, 1 where token f may look at token t,
# else 0; every row has at least one 1. The result is `[F, E]`.
#
# <details><summary>Nudge</summary>
#
# Four steps: scores, scale, mask, softmax. Then mix the values. Which axis must the weights sum to 1 along?
#
# </details>
# <details><summary>Outline</summary>
#
# `query @ key.T`, divided by the root of D. Where the mask is 0, put the most negative float, *before* the softmax:
# `jnp.where(mask == 1, scores, jnp.finfo(jnp.float32).min)`. Then `jax.nn.softmax` over the last axis, and `@ value`.
#
# </details>


# %%
def attention(query, key, value, mask):
    # BEGIN SOLUTION
    scores = query @ key.T / jnp.sqrt(query.shape[-1])  # [F, T]
    scores = jnp.where(mask == 1, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1) @ value  # [F, E]
    # END SOLUTION


check.masked_attention(attention)

# %% [markdown]
# ## 8.3 Three bugs that keep every shape · 12 min · ●●○
#
# **Find the bugs.** Below is the part of a multi-head attention that makes the weights, much as one finds it on the web. `query` and
# `key` are `[B, T, H]` and come from the dense layers; `attention_mask` is `[B, T]`, 1 at a token and 0 at padding. It runs, the result has the
# right shape, `[B, N, T, T]`, and all its rows sum to 1. Three lines are wrong. Find them, and write the function as it should be.


# %%
def broken_weights(query, key, attention_mask, heads):
    batch, length, width = query.shape
    query = query.reshape(batch, heads, length, width // heads)
    key = key.reshape(batch, heads, length, width // heads)
    scores = jnp.einsum("bnqd,bnkd->bnqk", query, key) / jnp.sqrt(width)
    visible = attention_mask[:, None, :, None] == 1
    return jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(jnp.float32).min))


# %% [markdown]
# <details><summary>Nudge</summary>
#
# Test each part alone. What does the reshape make of an array in which every number says which token it came from? Which size does the
# formula divide by? And which of the two T's is the token that is looked *at*?
#
# </details>
# <details><summary>Outline</summary>
#
# Reshape to `[B, T, N, D]`, where each token's row is cut into N pieces, and let the einsum read it in this order: `"bqnd,bknd->bnqk"`. Divide by
# the root of *one head's* size. The mask belongs on the last axis: `[:, None, None, :]`.
#
# </details>


# %%
def attention_weights(query, key, attention_mask, heads):
    # BEGIN SOLUTION
    batch, length, width = query.shape
    size = width // heads
    query = query.reshape(batch, length, heads, size)  # [B, T, H] → [B, T, N, D]
    key = key.reshape(batch, length, heads, size)
    scores = jnp.einsum("bqnd,bknd->bnqk", query, key) / jnp.sqrt(size)
    visible = attention_mask[:, None, None, :] == 1  # [B, 1, 1, T to]
    return jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(jnp.float32).min))
    # END SOLUTION


check.three_bugs_in_attention(attention_weights)

# %% [markdown]
# ## 8.4 What does shuffling change? · 6 min · ●●○
#
# **Predict, then run.** A small BERT with random weights reads a message; then its words are shuffled, and it reads that. Does the
# shuffling change (by more than rounding) …
#
# 1. the mean of the output vectors, if the tokens get no positions?
# 2. the output vector of one given word, wherever it stands now, if the tokens get no positions?
# 3. the mean of the output vectors, if they do get positions?
# 4. the mean of the output vectors, if they get no positions, but a causal mask: each token sees only those before it and itself?
#
# Write four times `True` (it changes) or `False`, as in `True, True, True, True`. Only then call `shuffle_test()` in a cell of your own.
#
# <details><summary>Nudge</summary>
#
# For each: when a word stands elsewhere, does it see other words, or the same words with other vectors?
#
# </details>
# <details><summary>Outline</summary>
#
# Attention without positions is a sum over a *set* of tokens. Ask in each case whether the set that a word sees, with the vectors in
# it, is still the same one.
#
# </details>


# %%
def shuffle_test():
    model = BertModel(BertConfig.tiny(vocab_size=50, initializer_range=0.5), with_pooler=False, rngs=nnx.Rngs(0))
    ids = jnp.array([[7, 21, 3, 35, 14, 9]])
    order = jnp.array([4, 2, 5, 0, 1, 3])  # position i now holds the word that stood at order[i]
    everything = jnp.ones((1, 6, 6), int)

    def read(ids, positions, mask):
        x = model.embeddings.word(ids)
        if positions:
            x = x + model.embeddings.position(jnp.arange(6))
        return model.encode(x, mask)[0]  # [6, H]

    def changes(a, b):
        return bool(jnp.abs(a - b).max() > 1e-3)

    def mean_changes(positions, mask):
        before, after = (read(x, positions, mask).mean(axis=0) for x in (ids, ids[:, order]))
        return changes(before, after)

    before, after = (read(x, False, everything) for x in (ids, ids[:, order]))
    return (
        mean_changes(False, everything),
        changes(before[order], after),
        mean_changes(True, everything),
        mean_changes(False, jnp.tril(everything)),
    )


# %%
changed = (
    # BEGIN SOLUTION
    False, False, True, True  # fmt: skip
    # END SOLUTION
)

check.what_shuffling_changes(changed)

# %% [markdown]
# ## 8.5 A mask for a writer · 6 min · ●●○
#
# A model that writes must not see the words that it is about to write, and no model should see padding. Write
# `decoder_mask(attention_mask)`: from `[B, T]`, 1 at a token and 0 at padding, to booleans `[B, T, T]`. Entry `[b, f, t]` is True where
# token f of message b may look at token t: when t is not after f, and is not padding.
#
# <details><summary>Nudge</summary>
#
# Two masks, both must allow it. One of them is the same for all messages, the other for all tokens that look.
#
# </details>
# <details><summary>Outline</summary>
#
# `jnp.tril` of ones, `[T, T]`, as booleans; `attention_mask[:, None, :] == 1`, `[B, 1, T]`; and `&` between them.
#
# </details>


# %%
def decoder_mask(attention_mask):
    # BEGIN SOLUTION
    length = attention_mask.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))  # [T, T]
    return causal & (attention_mask[:, None, :] == 1)  # [T, T] & [B, 1, T] → [B, T, T]
    # END SOLUTION


check.decoder_mask(decoder_mask)

# %% [markdown]
# ## 8.6 Does this head look back? · 10 min · ●●●
#
# The lesson measured how much of its weight each head gives to the previous token. Write your own measurement:
# `look_back(weights, attention_mask)`, with `weights` `[B, N, T, T]` and `attention_mask` `[B, T]`, padding on the right. The result is `[N]`: for
# each head, the mean of the weight that a token gives to the token before it. The mean goes over all real tokens of all messages,
# except each message's first, which has nothing before it.
#
# <details><summary>Nudge</summary>
#
# All the numbers that you want stand on one diagonal of the last two axes. Which one, and which entries of it are padding?
#
# </details>
# <details><summary>Outline</summary>
#
# `jnp.diagonal(weights, offset=-1, axis1=2, axis2=3)` is `[B, N, T - 1]`: entry i is what token i + 1 gives to token i. Its mask is
# `attention_mask[:, 1:]`. Multiply, sum over messages and tokens, and divide by the number of tokens that took part.
#
# </details>


# %%
def look_back(weights, attention_mask):
    # BEGIN SOLUTION
    back = jnp.diagonal(weights, offset=-1, axis1=2, axis2=3)  # [B, N, T - 1]
    counts = attention_mask[:, None, 1:]  # [B, 1, T - 1]
    return (back * counts).sum(axis=(0, 2)) / counts.sum()
    # END SOLUTION


check.look_back(look_back)
