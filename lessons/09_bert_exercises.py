# %% [markdown]
# # 09 · Exercises: what exactly is BERT?
#
# Six exercises, 52 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/09_bert.ipynb).

# %%
import jax
import jax.numpy as jnp
from flax import nnx

from course_lib.bert import BertConfig, BertModel
from course_lib.checkpoint import key_table
from course_lib.checks import bert as check

# %% [markdown]
# ## 9.1 Two BERTs that you have not met · 5 min · ●○○
#
# **Predict, then run.** BERT-base has 109,482,240 parameters: vocabulary 30,522, width 768, 12 layers, 12 heads. How many have
#
# - `google-bert/bert-base-multilingual-cased`: the same sizes, but a vocabulary of 119,547, for 104 languages?
# - a BERT-base with 16 heads instead of 12, of the same width?
#
# Work it out on paper, then write down two whole numbers.
#
# <details><summary>Nudge</summary>
#
# Go through the file's names in the lesson: which arrays have the vocabulary, or the number of heads, in their shape?
#
# </details>
# <details><summary>Outline</summary>
#
# Take away the old word table, add the new one. For the heads: look at the reshape in `attention`, and at what is reshaped.
#
# </details>

# %%
multilingual = (
    # BEGIN SOLUTION
    109_482_240 + (119_547 - 30_522) * 768
    # END SOLUTION
)
sixteen_heads = (
    # BEGIN SOLUTION
    109_482_240
    # END SOLUTION
)

check.two_sizes(multilingual, sixteen_heads)

# %% [markdown]
# ## 9.2 Half BERT, half GPT · 6 min · ●●○
#
# A model that answers messages can read the message as BERT does, both ways, and write the answer behind it as GPT does. Only the mask
# of exercise 8.5 has to change. Write `prefix_mask(mask, prefix)`. `mask` is `[B, T]`, 1 at a real token and 0 at padding, which stands at the end.
# `prefix` is `[B]`: so many tokens, counted from the first, are the message; what follows is the answer. The result is `[B, T from, T to]`,
# whole numbers, 1 where token *from* may look at token *to*. Every token may look at the whole message; at the answer, only at
# what does not come after itself; at padding, never.
#
# <details><summary>Nudge</summary>
#
# Begin with the triangle. Which places above its diagonal become visible, and what decides it: *from*, *to*, or both?
#
# </details>
# <details><summary>Outline</summary>
#
# `jnp.arange(T) < prefix[:, None]`, `[B, T to]`, is True at the message. The triangle *or* this has to allow it, and the mask as well. Both
# lack an axis for *from*: `[:, None, :]`.
#
# </details>


# %%
def prefix_mask(mask, prefix):
    # BEGIN SOLUTION
    places = jnp.arange(mask.shape[1])
    message = places < prefix[:, None]  # [B, T to]
    causal = places <= places[:, None]  # [T from, T to]
    return mask[:, None, :] * (causal | message[:, None, :])  # [B, T from, T to]
    # END SOLUTION


check.prefix_mask(prefix_mask)

# %% [markdown]
# ## 9.3 The message that changed overnight · 8 min · ●●○
#
# **Find the bugs.** This function should give each message one vector of length 1: the mean over its real tokens, scaled. It was tried on
# single messages and was right. In production a message's vector depends on which other messages are in the batch. There are two
# reasons. Find both and write the function as it should be. A row that is all padding (a batch that was filled up) should give zeros.


# %%
def broken_vectors(hidden, mask):  # [B, T, H] and [B, T] → [B, H]
    mean = hidden.mean(axis=1)  # [B, H]
    return mean / jnp.linalg.norm(mean)


# %% [markdown]
# <details><summary>Nudge</summary>
#
# Which argument is never used? And the norm of what does `jnp.linalg.norm` take when it is given a table?
#
# </details>
# <details><summary>Outline</summary>
#
# Multiply `hidden` by the mask, `[B, T, 1]`, before summing over the tokens. Then the norm of each row, `axis=-1, keepdims=True`. Nothing
# may be divided by zero: `jnp.maximum(norm, 1e-9)`.
#
# </details>


# %%
def sentence_vectors(hidden, mask):  # [B, T, H] and [B, T] → [B, H]
    # BEGIN SOLUTION
    total = (hidden * mask[:, :, None]).sum(axis=1)  # [B, H]; scaled below, so it need not be divided by the count
    return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-9)
    # END SOLUTION


check.sentence_vectors(sentence_vectors)

# %% [markdown]
# ## 9.4 It loads, and it is wrong · 10 min · ●●○
#
# **Find the bug.** A colleague has written the step between the file and the model: `saved` maps Hugging Face keys to arrays, `table` (from
# `key_table`) maps these keys to the model's paths, and `shapes` maps the paths to the model's shapes. No error, no warning, every
# shape fits. The sentence vectors are nonsense. Write the function as it should be: it returns path → array.


# %%
def broken_to_flax(saved, table, shapes):
    loaded = {}
    for key, path in table.items():
        array = saved[key]
        loaded[path] = array if array.shape == shapes[path] else array.T  # turned where it has to be
    return loaded


# %%
config = BertConfig.tiny(vocab_size=100)
for key, path in list(key_table(BertModel, config).items())[:8]:
    print(f"{key:50} {path}")

# %% [markdown]
# <details><summary>Nudge</summary>
#
# For which arrays can a shape not tell whether they have to be turned?
#
# </details>
# <details><summary>Outline</summary>
#
# PyTorch stores a dense layer's weight as `[out, in]`, Flax its `kernel` as `[in, out]`. So the *name* decides. A table of vectors, one row a
# token, is not a dense layer, even if it happens to be square.
#
# </details>


# %%
def to_flax(saved, table, shapes):
    # BEGIN SOLUTION
    return {path: saved[key].T if path.endswith("kernel") else saved[key] for key, path in table.items()}
    # END SOLUTION


check.to_flax(to_flax)

# %% [markdown]
# ## 9.5 Where does it first show? · 8 min · ●●○
#
# **Predict, then run.** A port is compared with the reference at three depths, as in the lesson: after the embeddings, after layer 1, at the end
# of the last layer. The batch has padding, and every text is one segment. Five mistakes, one at a time:
#
# 1. The attention mask is forgotten: every token is taken for real.
# 2. The pooler's kernel is not transposed.
# 3. Every LayerNorm has Flax's epsilon, 1e-6.
# 4. Layers 2 and 3 are swapped.
# 5. `token_type_ids` are never passed on.
#
# At which depth does each *first* show? Answer with five of the words `"embeddings"`, `"layer 1"`, `"end"` and `"nowhere"`. Only then call
# `first_depths()` in a cell of your own.
#
# <details><summary>Nudge</summary>
#
# For each mistake: which function of the lesson would have to be changed to make it, and what is compared before that runs?
#
# </details>
# <details><summary>Outline</summary>
#
# Embeddings know nothing of the mask. What comes after the last depth cannot show at it. And what are the segment numbers when
# none are given?
#
# </details>


# %%
def swap(layers):
    layers[1], layers[2] = layers[2], layers[1]


def turn(kernel):
    kernel[...] = kernel[...].T


def set_epsilon(bert):
    for norm in [bert.embeddings.norm, *(n for layer in bert.layers for n in (layer.attention_norm, layer.output_norm))]:
        norm.epsilon = 1e-6


# %%
def depths(change=lambda bert: None, masked=True, segments=True):
    bert = BertModel(BertConfig.tiny(vocab_size=100, num_hidden_layers=3, initializer_range=0.3), rngs=nnx.Rngs(0))
    change(bert)
    ids = jnp.arange(12).reshape(2, 6)  # [12] → [B, T]
    mask = jnp.array([[1] * 6, [1, 1, 1, 0, 0, 0]])
    x = bert.embeddings(ids, jnp.zeros_like(ids) if segments else None)
    seen = mask if masked else jnp.ones_like(mask)
    return [value[mask == 1] for value in (x, bert.layers[0](x, seen), bert.encode(x, seen))]


def first_depths():
    settings = [dict(masked=False), dict(change=lambda bert: turn(bert.pooler.kernel)), dict(change=set_epsilon),
                dict(change=lambda bert: swap(bert.layers)), dict(segments=False)]  # fmt: skip
    apart = [[float(abs(a - b).max()) for a, b in zip(depths(), depths(**setting))] for setting in settings]
    names = ("embeddings", "layer 1", "end")
    return tuple(next((name for name, gap in zip(names, gaps) if gap > 1e-7), "nowhere") for gaps in apart)


# %%
predictions = (
    # BEGIN SOLUTION
    "layer 1", "nowhere", "embeddings", "end", "nowhere"  # fmt: skip
    # END SOLUTION
)

check.first_depths(predictions)

# %% [markdown]
# ## 9.6 A layer of GPT-2 · 15 min · ●●●
#
# The mask is the large difference between BERT and GPT. GPT-2's layer has some small ones, and now you can read them:
#
# - It normalises *before* each half: $x + \text{attention}(\text{norm}(x))$, then $x + \text{mlp}(\text{norm}(x))$. Epsilon is `1e-5`.
# - Its GELU is the tanh form.
# - Its dense layers are stored as `[in, out]`: `x @ weight + bias`, no transpose.
# - One dense layer, `c_attn`, makes queries, keys and values at once: `[H, 3·H]`, queries first, values last.
# - The mask is causal. (No padding here.)
#
# Write `gpt2_layer(p, x, heads)` for `x` of shape `[B, T, H]`. `p` is one flat dictionary with the file's own names, each with `.weight` and
# `.bias` behind it, such as `p["ln_1.weight"]`: `ln_1`, `attn.c_attn`, `attn.c_proj`, `ln_2`, `mlp.c_fc`, `mlp.c_proj`.
#
# <details><summary>Nudge</summary>
#
# Begin with the lesson's `layer` and change one line at a time. Two small helpers, one for a dense layer and one for a LayerNorm by its name,
# keep it short.
#
# </details>
# <details><summary>Outline</summary>
#
# `jnp.split(dense("attn.c_attn", normed), 3, axis=-1)` gives queries, keys and values, each `[B, T, H]`; reshape each to `[B, T, N, D]`.
# Scores over the square root of D, `jnp.where` with `jnp.tril`, softmax, mix, reshape, `attn.c_proj`, add. Then the second half.
#
# </details>


# %%
def gpt2_layer(p, x, heads):
    # BEGIN SOLUTION
    def dense(name, x):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(name, x):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    batch, length, width = x.shape
    parts = jnp.split(dense("attn.c_attn", norm("ln_1", x)), 3, axis=-1)
    query, key, value = (part.reshape(batch, length, heads, -1) for part in parts)  # [B, T, H] → [B, T, N, D]
    scores = jnp.einsum("bqnd,bknd->bnqk", query, key) / jnp.sqrt(width / heads)
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e30)
    mixed = jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(scores), value)  # [B, T, N, D]
    x = x + dense("attn.c_proj", mixed.reshape(x.shape))  # [B, T, N·D = H]
    return x + dense("mlp.c_proj", jax.nn.gelu(dense("mlp.c_fc", norm("ln_2", x)), approximate=True))
    # END SOLUTION


check.gpt2_layer(gpt2_layer)
