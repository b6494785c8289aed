# %% [markdown]
# # 10 · Exercises: what did it learn before I got it?
#
# Six exercises, 49 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/10_pretraining.ipynb).

# %%
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from course_lib.bert import BertConfig, BertModel
from course_lib.checks import pretraining as check

# %% [markdown]
# ## 10.1 Perplexity on paper · 5 min · ●○○
#
# **Predict, then run.** A model fills four gaps. To the words that truly stood there it had given the probabilities 1/2, 1/4, 1/8 and 1/4.
# What is its perplexity on these four? And what is the perplexity, on any text, of a model that finds each of 2,000 words equally likely?
#
# <details><summary>Nudge</summary>
#
# Perplexity is $e^{\text{loss}}$, and the loss is the mean of $-\log p$. No calculator is needed: $e^{\log x} = x$.
#
# </details>
# <details><summary>Outline</summary>
#
# $\exp\big(\tfrac14(\log 2 + \log 4 + \log 8 + \log 4)\big)$. Turn the sum of logarithms into the logarithm of a product, and a quarter of it
# into a fourth root.
#
# </details>

# %%
four_gaps = (
    # BEGIN SOLUTION
    4  # the fourth root of 2 · 4 · 8 · 4 = 256
    # END SOLUTION
)
knows_nothing = (
    # BEGIN SOLUTION
    2000
    # END SOLUTION
)

check.perplexity_on_paper(four_gaps, knows_nothing)

# %% [markdown]
# ## 10.2 Perplexity of a batch · 8 min · ●●○
#
# Write `perplexity(logits, targets, weights)`. `logits` has shape `[B, T, V]`; `targets`, `[B, T]`, holds the right word's id at each
# position; `weights`, `[B, T]`, is 1 where a word counts and 0 elsewhere, and at least one counts. Return one number. It must survive
# logits of ±1e4.
#
# <details><summary>Nudge</summary>
#
# How many terms does the mean have? And is the exponential taken of each term, or of the mean?
#
# </details>
# <details><summary>Outline</summary>
#
# `jax.nn.log_softmax` along the last axis; `jnp.take_along_axis` with `targets[..., None]` picks the right word's; weigh, add up, divide by
# the sum of the weights; at the end the exponential.
#
# </details>


# %%
def perplexity(logits, targets, weights):
    # BEGIN SOLUTION
    log_probs = jax.nn.log_softmax(logits)  # [B, T, V]
    losses = -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]  # [B, T, 1] → [B, T]
    return jnp.exp((losses * weights).sum() / weights.sum())
    # END SOLUTION


check.perplexity(perplexity)

# %% [markdown]
# ## 10.3 Who learns? · 6 min · ●●○
#
# **Predict, then run.** A message has 12 tokens, at positions 0 to 11. Only positions 4 and 7 are in the loss. How many of the 12 input
# vectors get a gradient that is not zero, in a network of two layers where
#
# 1. everybody sees everybody (BERT),
# 2. each token sees itself and what comes before it (a causal mask),
# 3. everybody sees everybody, but positions 9, 10 and 11 are padding?
#
# Write down three numbers, as in `1, 2, 3`. Only then call `three_ways()` in a cell of your own.
#
# <details><summary>Nudge</summary>
#
# A vector gets a gradient if changing it would change the loss. Whose vectors flow into the ones at positions 4 and 7?
#
# </details>
# <details><summary>Outline</summary>
#
# For each way, list the positions that 4 can see and those that 7 can see, and count the union. A second layer widens the list only if
# somebody on it sees someone who is not.
#
# </details>


# %%
def three_ways():
    config = BertConfig.tiny(vocab_size=30, max_position_embeddings=12)
    bert = BertModel(config, with_pooler=False, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 12, 32))  # [B, T, H]
    everybody = jnp.ones((1, 12))
    masks = everybody, jnp.tril(jnp.ones((1, 12, 12))), everybody.at[:, 9:].set(0)

    def loss(x, mask):  # any function of the vectors at 4 and 7 will do
        return (bert.encode(x, mask)[0, jnp.array([4, 7])] ** 3).sum()

    slopes = [jax.grad(loss)(x, mask)[0] for mask in masks]  # [T, H] each
    return tuple(int((abs(slope).max(-1) > 0).sum()) for slope in slopes)


# %%
learn = (
    # BEGIN SOLUTION
    12, 8, 9  # fmt: skip
    # END SOLUTION
)

check.who_learns(learn)

# %% [markdown]
# ## 10.4 A loss that is too good · 10 min · ●●○
#
# **Find the bugs.** This should prepare a batch for masked-language-model training by the 80/10/10 rule: 15 % of the *words* are chosen;
# of these 80 % become `[MASK]`, 10 % a random word, 10 % stay. `targets` holds the words that truly stood there, and `weights` is 1 at the
# chosen ones. It runs, and the loss falls beautifully. Three things are wrong. Find them by looking at what it returns for a small
# batch, then write it as it should be. Ids 0 to 4 are special (`[MASK]` is 4), words are 5 and above, `ids` is a NumPy array and must stay
# as it is.

# %%
MASK, FIRST_WORD = 4, 5


def broken_mlm_batch(ids, rng, vocab_size):
    chosen = rng.random(ids.shape) < 0.15
    luck = rng.random(ids.shape)
    inputs = ids
    inputs[chosen & (luck < 0.8)] = MASK
    random_words = rng.integers(FIRST_WORD, vocab_size, ids.shape)
    inputs = np.where(chosen & (luck < 0.9), random_words, inputs)
    return inputs, ids, chosen.astype(np.float32)


# %% [markdown]
# <details><summary>Nudge</summary>
#
# Run it on `ids = np.arange(60).reshape(3, 20)`. Which targets are not the words that stood there? How many `[MASK]` are left in `inputs`?
# Which positions are chosen that hold no word?
#
# </details>
# <details><summary>Outline</summary>
#
# `inputs = ids` makes no copy: what is written into one is written into both. The condition for random words must leave alone what already
# became `[MASK]`. And a word is an id of at least `FIRST_WORD`.
#
# </details>


# %%
def mlm_batch(ids, rng, vocab_size):
    # BEGIN SOLUTION
    chosen = (ids >= FIRST_WORD) & (rng.random(ids.shape) < 0.15)
    luck = rng.random(ids.shape)
    random_words = rng.integers(FIRST_WORD, vocab_size, ids.shape)
    inputs = np.where(chosen & (luck < 0.8), MASK, ids)
    inputs = np.where(chosen & (luck >= 0.8) & (luck < 0.9), random_words, inputs)
    return inputs, ids, chosen.astype(np.float32)
    # END SOLUTION


check.mlm_batch(mlm_batch)

# %% [markdown]
# ## 10.5 Whole words · 10 min · ●●○
#
# If `mono` is hidden and `##gram` is not, the gap is easy and teaches little. A later release of BERT hides *whole words*. Write
# `choose_words(words, rng, rate)`: `words`, an integer array `[B, T]`, says for each token which word of its row it belongs to, counted
# from 0; special tokens have −1. Choose each word with probability `rate`, each for itself, however many pieces it has. Return
# True or False, `[B, T]`, True for all pieces of a chosen word. `rng` is NumPy's, as in the lesson.
#
# For example, `[CLS] mono ##gram ##med scarf [SEP]` is the row `[-1, 0, 0, 0, 1, -1]`.
#
# <details><summary>Nudge</summary>
#
# One draw a word, not one a piece. A row of T tokens has at most T words.
#
# </details>
# <details><summary>Outline</summary>
#
# Draw `[B, T]` times: entry `[b, w]` decides about word w of row b. `np.take_along_axis(draws, …, axis=1)` hands each piece its word's
# draw. What does it do at −1, and what must follow?
#
# </details>


# %%
def choose_words(words, rng, rate):
    # BEGIN SOLUTION
    draws = rng.random(words.shape) < rate  # [B, T], of which a row uses as many as it has words
    return np.take_along_axis(draws, np.maximum(words, 0), axis=1) & (words >= 0)
    # END SOLUTION


check.choose_words(choose_words)

# %% [markdown]
# ## 10.6 The next word, with a say in it · 10 min · ●●●
#
# The lesson draws each next word from the whole vocabulary, and now and then a very unlikely one comes up and leads the text astray. Write
# `draw(logits, key, temperature, top_k)`: `logits` is `[B, V]`; for each row keep only the `top_k` most likely words and draw one of
# these from softmax(logits / temperature), renormalised over what is left. Return ids, `[B]`. `temperature` is above 0; `top_k` is from
# 1 to V, and no two logits are equal.
#
# <details><summary>Nudge</summary>
#
# A word whose logit is −∞ has probability 0, and softmax renormalises by itself.
#
# </details>
# <details><summary>Outline</summary>
#
# `jax.lax.top_k(logits, top_k)[0]` holds the largest k of each row, in falling order, so its last column is the threshold. `jnp.where`, and
# then `jax.random.categorical`, which takes logits, not probabilities.
#
# </details>


# %%
def draw(logits, key, temperature, top_k):
    # BEGIN SOLUTION
    threshold = jax.lax.top_k(logits, top_k)[0][:, -1:]  # [B, 1], the smallest logit that stays
    kept = jnp.where(logits >= threshold, logits, -jnp.inf)  # [B, V]
    return jax.random.categorical(key, kept / temperature)
    # END SOLUTION


check.draw(draw)
