# %% [markdown]
# # 08 · How do words look at each other?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 45 min | half a minute | 03, 07 | compute attention by hand, mask it, split it into heads, say what positions are for, and measure what a trained model's heads look at |
#
# *"Could you pop one in the post?"* goes to the team for faulty goods: there, *post* is a thing. *"How would I post it back?"* is a return, and
# *post* is an action. Lesson 07 turned both into the same token, and so into one and the same row of the word table. **What tells them
# apart stands beside them.** A word's vector must take something in from the words around it. *Attention* is how that happens, and it
# is the only place in BERT where one token learns of another.

# %%
import re

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from flax import nnx

from course_lib import plots
from course_lib.data import load_tickets, load_tokenizer
from course_lib.pretrained import fetch

# %%
folder = fetch()
tickets, tokenizer = load_tickets(), load_tokenizer(folder)
all_ids = tokenizer(list(tickets.texts))["input_ids"]
mentions = [i for i, text in enumerate(tickets.texts) if re.search(r"\bpost\b", text.lower())]
print(f"{len(mentions)} tickets with the word 'post', among them:")
for i in mentions[1:6]:
    at = tickets.texts[i].lower().index("post")
    print(f"{tickets.labels[i]:8} …{tickets.texts[i][max(at - 40, 0) : at + 30]}…")

# %% [markdown]
# The team does not settle it: some of those for *faulty* are actions, too. They come back at the end of the page. Then we shall see
# whether the model tells the one kind from the other.
#
# ## By hand, on four tokens
#
# Here are four tokens, and a vector of three numbers for each. In a trained model nobody knows what the numbers mean. Ours do have
# a meaning, so that you can follow: *is a thing*, *denies*, *is an action*.

# %%
tokens = ["phone", "will", "not", "charge"]
x = jnp.array([[1.0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]])  # [T = 4 tokens, H = 3]


def table(array, columns, rows=tokens):
    return pd.DataFrame(np.asarray(array, float).round(2), rows, columns)


table(x, ["thing", "denies", "action"])

# %% [markdown]
# Each token makes three vectors out of its own, each by a matrix of its own:
#
# - the **query** $q$: what am I looking for?
# - the **key** $k$: what am I, for those who look?
# - the **value** $v$: what do I hand over to those who look at me?
#
# In BERT, training finds these matrices. Here we choose them. A query and a key have $D = 2$ numbers, for two topics that one can ask
# about: *a thing* and *a denial*. An action asks most of all: what thing, and is it denied? A thing asks only for denials.

# %%
w_query = jnp.array([[0.0, 2], [1, 0], [3, 2]])  # [H = 3, D = 2]: a row says what such a token asks for
w_key = jnp.array([[1.0, 0], [0, 1], [0, 0]])  #                   … what such a token answers to
w_value = jnp.array([[2.0, 0], [0, 3], [1, 1]])  #                 … what it hands over: device, trouble
query, key, value = x @ w_query, x @ w_key, x @ w_value  # three times [T, H] · [H, D] = [T, D]
names = ["query: thing?", "query: denial?", "key: thing", "key: denial", "value: device", "value: trouble"]
table(jnp.concatenate([query, key, value], axis=1), names)

# %% [markdown]
# Now *charge* looks around. How well does each key fit its query? The dot product says; a larger one is a better fit. Divide by
# $\sqrt D$ (the reason comes below). Softmax makes weights of it that sum to 1: the exponential of each, divided by the sum of all.
#
# **Predict.** *charge* has the query (3, 2). Which of the four tokens gets most of its attention, and what do *will* and *charge* itself get?

# %%
dots = jnp.array([query[3] @ key[t] for t in range(4)])
powers = jnp.exp(dots / jnp.sqrt(2))
by_hand = powers / powers.sum()
steps = jnp.stack([dots, dots / jnp.sqrt(2), powers, by_hand], axis=1)
table(steps, ["q · k", "÷ √D", "exp", "weight"])

# %% [markdown]
# The last step mixes the values in this proportion. That mixture is what *charge* takes away: it stood for an action before, and knows now
# that it is about a device, and that there is trouble.

# %%
terms = [f"{weight:.2f}·{v[0]:.0f}" for weight, v in zip(by_hand, value)]
mixture = sum(weight * v for weight, v in zip(by_hand, value))
print(f"device:  {' + '.join(terms)} = {mixture[0]:.2f}")
print(f"trouble: {mixture[1]:.2f}")

# %% [markdown]
# ## All tokens at once
#
# All four tokens look around at the same time, and none waits for another. That is two matrix products:
#
# $$\text{weights} = \text{softmax}\!\left(\frac{Q K^\top}{\sqrt D}\right) \quad [T, T] \qquad\qquad \text{output} = \text{weights} \cdot V \quad [T, D]$$
#
# $Q$, $K$ and $V$ hold the queries, keys and values, a row for each token. Row $i$ of the weights says how token $i$ spreads its attention.
#
# **Predict.** *will* has a query of zeros: it looks for nothing. What is its row of weights?

# %%
scores = query @ key.T / jnp.sqrt(2)  # [T, D] · [D, T] = [T from, T to]
weights = jax.nn.softmax(scores, axis=-1)  # each row sums to 1
output = weights @ value  # [T, T] · [T, D] = [T, D]
assert jnp.allclose(weights[3], by_hand) and jnp.allclose(output[3], mixture)
table(weights, [f"at {token}" for token in tokens])

# %%
def draw(ax, weights, tokens):
    ax.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(tokens)), tokens, rotation=90)
    ax.set_yticks(range(len(tokens)), tokens)


fig, ax = plt.subplots(figsize=(4.6, 4), layout="constrained")
draw(ax, weights, tokens)
for (i, j), weight in np.ndenumerate(weights):
    ax.text(j, i, f"{weight:.2f}", ha="center", va="center", color="white" if weight > 0.5 else "black")
plots.finish(ax, "'charge' looks at 'phone' and 'not'", "token that is looked at", "token that looks")

# %% [markdown]
# A token that asks for nothing spreads its attention evenly, since it cannot *not* look: a row always sums to 1. Remember that;
# the real model has its own way out, as we shall see.
#
# As a function, and then the library's. JAX wants batch and heads as well, $[B, T, N, D]$; ours is a batch of one, with one head.


# %%
def attention(query, key, value):
    scores = query @ key.T / jnp.sqrt(query.shape[-1])  # [T from, T to]
    return jax.nn.softmax(scores, axis=-1) @ value  # [T from, D]


def library(query, key, value, **options):
    parts = (array[None, :, None] for array in (query, key, value))  # [T, D] → [1, T, 1, D]
    return jax.nn.dot_product_attention(*parts, **options)[0, :, 0]  # [1, T, 1, D] → [T, D]


same = jnp.allclose(attention(query, key, value), library(query, key, value), atol=1e-6)
print("equal to jax.nn.dot_product_attention:", bool(same))
assert same

# %% [markdown]
# Note what is *not* in the formula: how many tokens there are. The three matrices serve four tokens or four hundred. But the picture
# of weights has $T^2$ numbers: twice as long a message, four times as many.
#
# ## Why divide by √D
#
# A dot product of two vectors adds up $D$ products. If the entries are independent with mean 0 and variance 1, as they are
# about before training, each product has variance 1, and so their sum has variance $D$: it is typically as large as $\sqrt D$.
# **Predict.** How large are the scores of vectors of 1,024 numbers?

# %%
sizes = [4, 16, 64, 256, 1024]
rng = np.random.default_rng(0)
raw = {}
for D in sizes:
    queries, keys = rng.normal(size=(200, 1, D)), rng.normal(size=(200, 20, D))  # 200 queries, 20 keys for each
    raw[D] = (queries * keys).sum(axis=-1)  # [200, 20]
    print(f"D = {D:4}: standard deviation of q·k {raw[D].std():4.1f}, √D {D**0.5:4.1f}")
    assert abs(raw[D].std() / D**0.5 - 1) < 0.1

# %% [markdown]
# Softmax answers to differences. Let 20 tokens compete for a query. What does the winner get, and how much can still be learned? A weight
# $w$ has the derivative $w\,(1 - w)$ in its own score, as a sigmoid has (lesson 02). It is 0 where the weight is 0, and where it is 1.


# %%
def winner(scores):
    """Median over the queries: the largest weight, and its derivative in its own score."""
    largest = np.asarray(jax.nn.softmax(scores)).max(axis=1)  # [200]
    return np.median(largest), np.median(largest * (1 - largest))


plain = {D: winner(raw[D]) for D in sizes}
scaled = {D: winner(raw[D] / D**0.5) for D in sizes}
for name, values in {"undivided": plain, "divided by √D": scaled}.items():
    print(f"{name:14} winner's weight:", "  ".join(f"{values[D][0]:.2f}" for D in sizes))
assert plain[1024][1] < 0.01 * scaled[1024][1]

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
for values, name, colour in ((plain, "q·k", plots.VERMILLION), (scaled, "q·k / √D", plots.BLUE)):
    left.semilogx(sizes, [values[D][0] for D in sizes], "o-", color=colour, label=name, base=2)
    right.semilogx(sizes, [values[D][1] for D in sizes], "o-", color=colour, label=name, base=2)
left.set_ylim(0, 1.05)
right.set_yscale("log")
left.legend(frameon=False)
plots.finish(left, "Undivided, the winner takes it all", "D, numbers in a query", "largest of 20 weights")
plots.finish(right, "… and nothing can be learned any more", "D, numbers in a query", "derivative of that weight")

# %% [markdown]
# Where one weight is 1 and the others are 0, no score matters any longer, and no gradient comes back to the query and key matrices:
# training would begin with all heads stuck on a random choice. Divided by $\sqrt D$, scores have the same spread at every width.
#
# > **Common claim, tested.** *"The division is there so that softmax does not overflow."*

# %%
largest = jnp.float32(raw[1024].max())
print(f"largest score at D = 1024: {largest:.0f}; exp of it fits into 32 bits: {bool(jnp.isfinite(jnp.exp(largest)))}")
finite = bool(jnp.isfinite(jax.nn.softmax(raw[1024])).all())
print("softmax of all the scores is finite:", finite)
assert finite

# %% [markdown]
# **False.** A softmax that takes the largest score away first (lesson 01) does not overflow, with the division or without it. What
# the division saves is the gradient.
#
# ## Masks: who may be seen
#
# Messages of a batch are padded to one length (lesson 07). Let us pad our four tokens to 128 with vectors of zeros. A zero key has
# score 0. **Predict.** How much of its attention does *charge* give to padding?

# %%
padded = jnp.zeros((128, 3)).at[:4].set(x)
q, k, v = padded @ w_query, padded @ w_key, padded @ w_value
unmasked = jax.nn.softmax(q @ k.T / jnp.sqrt(2))
print(f"'charge' gives {unmasked[3, 4:].sum():.0%} of its attention to padding")
for name, taken in {"padded": attention(q, k, v)[3], "as it was": output[3]}.items():
    print(f"{name:9} device {taken[0]:.2f}, trouble {taken[1]:.2f}")

# %% [markdown]
# A score of 0 is not *no attention*: $e^0 = 1$, and 124 times that is a lot. What must not be seen needs a score that softmax turns into
# 0, so the mask acts **before** the softmax. It is 1 where one may look and 0 where not.


# %%
def attention(query, key, value, mask):
    """query [F, D], key and value [T, D], mask [F, T] or [1, T] → [F, D]"""
    scores = query @ key.T / jnp.sqrt(query.shape[-1])
    scores = jnp.where(mask == 1, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1) @ value


mask = (jnp.arange(128) < 4)[None].astype(int)  # [1, T to]: the same for all tokens that look
same = jnp.allclose(attention(q, k, v, mask)[:4], output, atol=1e-6)
print("masked, as if the padding were not there:", bool(same))
assert same

# %% [markdown]
# Why the most negative float, and not minus infinity? A last batch is filled up with rows that are padding and nothing else (lesson 07).
# **Predict** what softmax makes of a row in which nothing is visible.

# %%
for name, hidden in {"minus infinity": -jnp.inf, "most negative float": jnp.finfo(jnp.float32).min}.items():
    print(f"{name:20} {jax.nn.softmax(jnp.full(4, hidden))[0]}")

# %% [markdown]
# The second is a harmless number, the first is `nan`, and one `nan` spreads through a whole gradient (lesson 01).
#
# ### The causal mask
#
# A model that writes (lesson 10) must not see the words that it is about to write. For it, token $i$ sees the tokens up to $i$: a
# triangle, `jnp.tril`.

# %%
causal = jnp.tril(jnp.ones((4, 4), int))
hidden = jnp.where(causal == 1, scores, jnp.finfo(jnp.float32).min)
table(jax.nn.softmax(hidden), [f"at {token}" for token in tokens])

# %% [markdown]
# *phone* sees itself alone. **Predict.** We replace the last token, *charge*, by something else. Whose output changes, with the causal
# mask and without?

# %%
other = x.at[3].set(jnp.array([5.0, -2, 1]))
for name, mask in {"everything visible": jnp.ones((4, 4)), "causal": causal}.items():
    before, after = (attention(z @ w_query, z @ w_key, z @ w_value, mask) for z in (x, other))
    changed = jnp.abs(after - before).max(axis=1) > 1e-6
    print(f"{name:19} changed: {', '.join(t for t, c in zip(tokens, changed) if c)}")
assert changed.tolist() == [False, False, False, True]
assert jnp.allclose(attention(query, key, value, causal), library(query, key, value, is_causal=True), atol=1e-6)

# %% [markdown]
# What stands earlier does not know what comes later. That is the whole difference between how a BERT and a GPT look at a text;
# lesson 09 makes one into the other with this triangle.
#
# ## Heads are a reshape
#
# One row of weights asks one question. *charge* may want to know the thing from one word and the tense from another. So a layer has
# several *heads*, each with its own queries, keys and values, narrower in proportion: with width $H$ and $N$ heads, $D = H / N$.
#
# No loop is needed. One matrix makes the queries of all heads at once, and a reshape cuts each token's row into $N$ pieces. To see what
# it does, let every number say where it comes from: 21 is token 2, column 1.

# %%
marked = 10 * jnp.arange(1, 5)[:, None] + jnp.arange(6)  # [T = 4, H = 6]
good = marked.reshape(4, 2, 3)  # [T, H] → [T, N = 2, D = 3]
bad = marked.reshape(2, 4, 3)  # [T, H] → [N, T, D]: also "the right shape"
print("head 0, token by token:", good[:, 0].tolist())
print("the wrong reshape:     ", bad[0].tolist())

# %% [markdown]
# In the first, head 0 has columns 0 to 2 of every token. In the second, "token 2" of head 0 is the other half of token 1: positions
# are mixed, every shape fits, no error comes. It is a classic. Reshape to $[T, N, D]$ first; *move* axes afterwards, if at all.
#
# **Predict.** Width 384. Does a layer with 12 heads have more parameters than one with a single head?

# %%
from course_lib.bert import BertConfig, BertModel, BertSelfAttention

for heads in (1, 12):
    layer = BertSelfAttention(BertConfig.minilm_l6(num_attention_heads=heads), rngs=nnx.Rngs(0))
    print(f"{heads:2} heads: {sum(array.size for array in jax.tree.leaves(nnx.state(layer))):,} parameters")

# %% [markdown]
# Not one: the same matrices, cut differently. Nor do the products $QK^\top$ cost more: $N$ times $T^2 D$ is $T^2 H$. What grows is the
# number of weights, $[B, N, T, T]$.
#
# Now with the real model: MiniLM, six layers, twelve heads, $D = 32$. A whole attention layer, from your own pieces:

# %%
from course_lib.checkpoint import load_pretrained

bert = load_pretrained(folder, architecture=BertModel)


def split_heads(x):
    return x.reshape(*x.shape[:-1], 12, 32)  # [B, T, H] → [B, T, N, D]


def multi_head(x, mask, layer):
    query, key, value = (split_heads(dense(x)) for dense in (layer.query, layer.key, layer.value))
    scores = jnp.einsum("bqnd,bknd->bnqk", query, key) / jnp.sqrt(32)  # [B, N, T from, T to]
    scores = jnp.where(mask[:, None, None, :] == 1, scores, jnp.finfo(jnp.float32).min)
    mixed = jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(scores), value)  # [B, T, N, D]
    return layer.output(mixed.reshape(x.shape))  # [B, T, N·D = H], and one more matrix that mixes the heads


# %%
def pad(rows, length):
    ids = np.zeros((len(rows), length), np.int32)  # 0 is [PAD]
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row[:length]
    return ids, (ids != 0).astype(np.int32)  # [B, T] and its mask [B, T]


ids, mask = pad([all_ids[i] for i in mentions[:4]], 32)
layer, embedded = bert.layers[0].attention, bert.embeddings(ids)  # embedded: [B, T, H]
ours = multi_head(embedded, mask, layer)
parts = (split_heads(dense(embedded)) for dense in (layer.query, layer.key, layer.value))
visible = mask[:, None, None, :].astype(bool)  # [B, 1, 1, T to]
jax_says = layer.output(jax.nn.dot_product_attention(*parts, mask=visible).reshape(ours.shape))
for name, other in {"course_lib.bert": layer(embedded, mask), "jax.nn": jax_says}.items():
    print(f"equal to {name}: {bool(jnp.allclose(ours, other, atol=1e-5))}")
    assert jnp.allclose(ours, other, atol=1e-5)

# %% [markdown]
# Real weights, real messages, three ways to the same numbers.
#
# ## Positions: attention is blind to order
#
# Look at the formula once more. Where does it say which token comes first? Nowhere. A word's output is a sum over a *set*.
# BERT therefore adds a vector for each *position*, from a table of 512 rows, to the word's own vector, before the first layer.
#
# **Predict.** *"I want the red one, not the blue one"* and *"I want the blue one, not the red one"*: how alike are the two messages to
# a model without positions? As a message's vector we take the mean over its tokens, scaled to length 1, as this model was
# trained to do; two such vectors have dot product 1 if they are the same.


# %%
graph, params = nnx.split(bert)
encode = jax.jit(lambda params, x, mask: nnx.merge(graph, params).encode(x, mask))


def read(ids, mask, positions=True):
    """The real model, with or without its positions: one vector a token, [B, T, H]."""
    parts = bert.embeddings
    x = parts.word(ids) + parts.token_type(jnp.zeros_like(ids))
    if positions:
        x = x + parts.position(jnp.arange(ids.shape[1]))
    return np.asarray(encode(params, parts.norm(x), mask))


def message_vector(hidden, mask):
    total = (hidden * mask[:, :, None]).sum(axis=1)  # [B, T, H] → [B, H]
    return total / np.linalg.norm(total, axis=-1, keepdims=True)


# %%
pair = ["I want the red one, not the blue one", "I want the blue one, not the red one"]
ids, mask = pad(tokenizer(pair)["input_ids"], 16)
for positions in (False, True):
    first, second = message_vector(read(ids, mask, positions), mask)
    print(f"positions: {positions!s:5}  similarity of the two messages: {first @ second:.3f}")

# %% [markdown]
# Two opposite wishes, and without positions the very same vector. (With them, nearly the same. We come back to that.) Now not with a
# pair that we picked, but with 100 tickets. We shuffle the words of each; `[CLS]` and `[SEP]` stay in place. If attention is blind to
# order, every word must get *the same output vector* as before, wherever it stands now.

# %%
chosen = [i for i, row in enumerate(all_ids) if 12 <= len(row) <= 24][:100]
ids, mask = pad([all_ids[i] for i in chosen], 24)
lengths = mask.sum(axis=1)
order = np.tile(np.arange(24), (100, 1))  # [B, T]: the place that each token comes from
for row, length in zip(order, lengths):
    row[1 : length - 1] = rng.permutation(row[1 : length - 1])
shuffled = np.take_along_axis(ids, order, axis=1)
print("before:", tokenizer.decode(ids[0][: lengths[0]]))
print("after: ", tokenizer.decode(shuffled[0][: lengths[0]]))

# %%
similarity = {}
for positions in (False, True):
    before, after = (read(array, mask, positions) for array in (ids, shuffled))  # [B, T, H]
    moved = np.take_along_axis(before, order[:, :, None], axis=1)  # each vector to where its word went
    furthest = np.abs(moved - after)[mask == 1].max()
    similarity[positions] = (message_vector(before, mask) * message_vector(after, mask)).sum(axis=-1)
    print(f"positions: {positions!s:5}  largest change of a word's vector below 0.001: {bool(furthest < 1e-3)}")
    assert (furthest < 1e-3) == (not positions)

# %% [markdown]
# Without positions, all six layers together cannot see the order of the words: asserted, on real messages. With positions, every
# vector changes. How far does the *message's* vector move? To judge that, see also how alike two *different* tickets are.

# %%
vectors = message_vector(before, mask)  # with positions
different = (vectors @ vectors.T)[np.triu_indices(100, 1)]  # every pair of two tickets, once
print(f"two different tickets:            similarity {np.median(different):.2f} (median)")
print(f"a ticket and its shuffled self:   similarity {np.median(similarity[True]):.2f} (median)")
print(f"the same, without positions:      similarity {similarity[False].min():.4f} (smallest)")
assert np.allclose(similarity[False], 1, atol=1e-4)

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
bins = np.linspace(-0.2, 1, 49)
for values, name, colour in (
    (different, "two different tickets", plots.ORANGE),
    (similarity[True], "a ticket and its shuffled self", plots.BLUE),
):
    ax.hist(values, bins, weights=np.full(len(values), 1 / len(values)), color=colour, alpha=0.8, label=name)
ax.legend(frameon=False, loc="upper center")
plots.finish(ax, "Shuffled, a ticket still looks much like itself", "similarity of the two message vectors", "share of pairs")

# %% [markdown]
# Positions make the order *visible*. They do not make it decide: most of what this model says about a message, it says by which words
# stand in it. Remember that where a message turns on one *not*. (Training on labels, lesson 11, can make it look closer.)
#
# ### What stands in the table of positions
#
# Nobody told the model that position 7 lies beside position 8; the table began at random. **Predict.** Are neighbours alike in it now?

# %%
position_table = bert.embeddings.position.embedding[...]  # [512, H]
row_lengths = jnp.linalg.norm(position_table, axis=1)  # [512]
directions = (position_table / row_lengths[:, None])[1:65]
alike = directions @ directions.T  # [64, 64]
for distance in (1, 2, 5, 10, 20):
    print(f"{distance:2} apart: similarity {jnp.diagonal(alike, distance).mean():.2f}")
print(f"length of row 0: {row_lengths[0]:.1f}; of rows 1 to 64: {row_lengths[1:65].mean():.1f} on average")

# %%
fig, ax = plt.subplots(figsize=(4.8, 4), layout="constrained")
image = ax.imshow(alike, cmap="Blues", vmin=0, vmax=1, extent=(0.5, 64.5, 64.5, 0.5))
fig.colorbar(image, ax=ax, label="similarity (cosine)")
plots.finish(ax, "Learned positions: neighbours are alike", "position", "position")

# %% [markdown]
# Near positions have similar vectors, so *close by* is something that queries can ask for and keys can answer. (The likeness falls in
# waves: hence the stripes. Five apart is about as like as two apart.) And row 0, where `[CLS]` always stands, is several times as long as
# the others. That will matter below.
#
# ## What real heads look at
#
# Six layers of twelve heads draw 72 pictures of every message. We take them all, on the 100 tickets. Beside the weights we keep a second
# thing: how much a token *hands over* to a head, as the length of its value after the head's part of the output matrix.


# %%
def handed_over(layer, x):
    """The length of what each token would contribute to each head if it got all the attention, [B, N, T]."""
    out = layer.output.kernel[...].reshape(12, 32, 384)  # [H, H] → [N, D, H]: each head's part
    return jnp.linalg.norm(jnp.einsum("btnd,ndh->bnth", split_heads(layer.value(x)), out), axis=-1)


@jax.jit
def look(params, ids, mask):
    model = nnx.merge(graph, params)
    x, weights, sizes = model.embeddings(ids), [], []
    for layer in model.layers:
        weights.append(layer.attention.weights(x, mask))  # [B, N, T from, T to]
        sizes.append(handed_over(layer.attention, x))  # [B, N, T]
        x = layer(x, mask)
    return jnp.stack(weights, axis=1), jnp.stack(sizes, axis=1)  # [B, L, N, T, T] and [B, L, N, T]


weights, sizes = (np.asarray(array) for array in look(params, ids, mask))
print("layers and heads:", weights.shape[1:3], " every row sums to 1:", np.allclose(weights.sum(axis=-1), 1, atol=1e-5))

# %% [markdown]
# One head on one message proves nothing: among 72 heads and 100 messages there is a picture for every story. So the questions come first,
# and numbers answer. When a word looks, what share of its attention goes to each of six places?

# %%
step = np.arange(24)[None, :] - np.arange(24)[:, None]  # [T from, T to]: how far ahead
cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
vocabulary = tokenizer.convert_ids_to_tokens(range(30_522))
spelled = np.array([any(map(str.isalnum, token)) for token in vocabulary])  # False for punctuation
places = {
    "previous token": (step == -1)[None],
    "next token": (step == 1)[None],
    "itself": (step == 0)[None],
    "[CLS]": (ids == cls)[:, None, :],
    "[SEP]": (ids == sep)[:, None, :],
    "same word": (ids[:, :, None] == ids[:, None, :]) & (step != 0) & spelled[ids][:, None, :],
}  # each [B or 1, T from or 1, T to]

# %% [markdown]
# *Same word* is the same token at another place, punctuation left out; a word that stands only once is not asked for it. And a share means
# nothing without *chance*: what would go there from a head that spreads its attention evenly.

# %%
words = (mask == 1) & (ids != cls) & (ids != sep)  # [B, T]: who looks
allowed = words[:, :, None] & (mask == 1)[:, None, :]  # [B, T from, T to]


def share(place):
    """What each head sends to `place`, [L, N], mean over the words that have such a place; and chance."""
    place = place & allowed
    asked = place.any(axis=-1)  # [B, T]
    sent = np.einsum("blnft,bft->ln", weights, place.astype(np.float32)) / asked.sum()
    return sent, (place.sum(axis=-1) / lengths[:, None])[asked].mean()


shares = {name: share(place) for name, place in places.items()}
best = {name: np.unravel_index(sent.argmax(), sent.shape) for name, (sent, _) in shares.items()}
for name, (sent, chance) in shares.items():
    where = "layer {}, head {}".format(*(1 + index for index in best[name]))
    print(f"{name:14} chance {chance:.0%}, mean of 72 heads {sent.mean():3.0%}, best head {sent.max():4.0%} ({where})")

# %%
fig, axes = plt.subplots(2, 3, figsize=(10, 4.6), layout="constrained", sharex=True, sharey=True)
for ax, (name, (sent, chance)) in zip(axes.flat, shares.items()):
    image = ax.imshow(sent, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=(0.5, 12.5, 6.5, 0.5))
    plots.finish(ax, f"{name} (chance {chance:.0%})", "head", "layer")
    ax.set(xticks=range(1, 13), yticks=range(1, 7))
fig.colorbar(image, ax=axes, label="share of a word's attention")
fig.suptitle("One head looks back, one looks ahead, and nearly all look at [CLS]", x=0, ha="left", fontweight="bold");

# %% [markdown]
# One head does nothing but look at the token before. One in layer 2 mostly looks at the token after; one in layer 3 finds the same word
# again, far more often than chance. Do the first two do so in *every* ticket?

# %%
for name in ("previous token", "next token"):
    layer, head = best[name]
    sent = (weights[:, layer, head] * (places[name] & allowed)).sum(axis=(1, 2)) / words.sum(axis=1)  # [B]
    print(f"{name:14} at least {sent.min():.0%} of the attention, at most {sent.max():.0%}, over 100 tickets")
    assert sent.min() > 0.3

# %% [markdown]
# Now, knowing what they stand for, pictures. So that nobody picks, the ticket is the first in which a word of five letters or more is
# repeated.

# %%
letters = np.array([len(token) for token in vocabulary])
repeated = (places["same word"] & allowed).any(axis=-1) & (letters[ids] >= 5)  # [B, T]
shown = np.flatnonzero(repeated.any(axis=1))[0]
n = lengths[shown]
pieces = tokenizer.convert_ids_to_tokens(ids[shown, :n])
fig, axes = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained", sharey=True)
for ax, name in zip(axes, ("previous token", "next token", "same word")):
    layer, head = best[name]
    draw(ax, weights[shown, layer, head, :n, :n], pieces)
    plots.finish(ax, f"{name}: layer {layer + 1}, head {head + 1}", "token that is looked at", "token that looks")
print(tokenizer.decode(ids[shown, 1 : n - 1]))

# %% [markdown]
# The repeated word finds its double, in both directions. And see the dark column at the left of the third picture: what a word does that
# has none.
#
# ## The place where attention rests
#
# > **Common claim, tested.** *"BERT's heads park the attention that they do not need at [SEP]."*
#
# Clark and colleagues found this in BERT-base. In the table above, `[SEP]` gets less than chance from this model. It is `[CLS]` that gets
# far more. **Predict.** The head for *same word*: how much does a word give to `[CLS]` if it stands twice, and if it stands only once?

# %%
layer, head = best["same word"]
doubled = (places["same word"] & allowed).any(axis=-1)  # [B, T]
to_cls = weights[:, layer, head, :, 0]  # [B, T]
for name, who in {"stand twice": doubled, "stand once": words & ~doubled}.items():
    print(f"words that {name:11} give {to_cls[who].mean():.0%} to [CLS]")
assert to_cls[words & ~doubled].mean() > to_cls[doubled].mean() + 0.1

# %% [markdown]
# A row must sum to 1, also when there is nothing to find. So a head needs a place that does no harm. Is `[CLS]` harmless? Measure what
# it hands over, against what a word does.

# %%
of_words = (sizes * words[:, None, None]).sum(axis=(0, 3)) / words.sum()  # [L, N]
of_cls = sizes[..., 0].mean(axis=0)  # [L, N]
effect = weights * sizes[:, :, :, None, :]  # weight × what is handed over
effect = effect[..., 0] / effect.sum(axis=-1)  # [B, L, N, T]: the part of it that comes from [CLS]
print(f"[CLS] hands over {np.median(of_cls / of_words):.0%} of what a word does (median of 72 heads)")
print(f"it gets {shares['[CLS]'][0].mean():.0%} of the attention,", end=" ")
print(f"and makes {effect.mean(axis=(1, 2))[words].mean():.0%} of what is mixed")
assert np.median(of_cls / of_words) < 0.15

# %% [markdown]
# A weight on `[CLS]` is a weight on nearly nothing: *I have found nothing here*. The way out that our hand-made *will* did not have.
#
# Is it the token `[CLS]`, or its place? Take the token off, so that a word of the customer's stands first. **Predict.** What does that
# first word get?

# %%
bare = np.concatenate([ids[:, 1:], np.zeros((100, 1), ids.dtype)], axis=1)  # all tokens move one place to the left
bare_weights = np.asarray(look(params, bare, (bare != 0).astype(np.int32))[0])
others = (bare != 0) & (bare != sep) & (np.arange(24) > 0)  # who looks: the words after the first
to_first = bare_weights.mean(axis=(1, 2))[:, :, 0][others].mean()
print(f"without [CLS], the word that stands first gets {to_first:.0%} of the attention of the others")
assert to_first > 0.25

# %% [markdown]
# **False for this model**, and the resting place is not even a token: it is *the first position*, whoever stands there. The long row 0 of the
# position table fits that. Models that write have such an *attention sink* at their first token, too (Xiao and
# colleagues, 2023). What was found in one model need not hold in yours; this took two cells to check.
#
# > **Common claim, tested.** *"Each head has one linguistic job."*

# %%
sent = np.stack([sent for sent, _ in shares.values()])  # [6 places, L, N]
for name, of_place in zip(shares, sent):
    favourite = (sent.argmax(axis=0) == list(shares).index(name)).sum()
    print(f"{name:14} more than half the attention of {(of_place > 0.5).sum():2} heads, first choice of {favourite:2} of 72")
linguistic = [name not in ("[CLS]", "[SEP]") for name in shares]
assert (sent[linguistic].max(axis=0) > 0.5).sum() < 10

# %% [markdown]
# **Not in general.** A very few heads have a job that can be named, and keep to it in every ticket. Most do several things a little, or rest. To be
# fair to the claim: we asked about six places, and none of them is grammar. Clark and colleagues asked with parsed sentences and found heads
# of BERT-base that follow single relations, such as from a verb to its object; again a few of its 144.
#
# ## Which words mattered?
#
# > **Common claim, tested.** *"Attention weights tell you which words mattered."*
#
# First, say what *mattered* means. Take a word away, and see how far the message's vector moves. There is more than one way to take it
# away: hide it with the mask, or put `[MASK]` in its place. We do both, with each word of 30 tickets.

# %%
ticket, gone = np.nonzero(words[:30])  # each word of 30 tickets: its ticket, its place
rows = np.arange(len(ticket))
hidden, replaced = mask[ticket].copy(), ids[ticket].copy()
hidden[rows, gone], replaced[rows, gone] = 0, tokenizer.mask_token_id
run = jax.jit(lambda params, *batch: nnx.merge(graph, params)(*batch))
mattered = {}
for way, batch in {"hidden": (ids[ticket], hidden), "[MASK]": (replaced, mask[ticket])}.items():
    moved = message_vector(np.asarray(run(params, *batch)), batch[1])
    mattered[way] = np.zeros(words.shape)
    mattered[way][ticket, gone] = 1 - (moved * vectors[ticket]).sum(axis=-1)  # 0: the vector did not move
    most = np.argsort(-mattered[way][shown])[:3]
    print(f"{way:7} the ticket above moves most with:", ", ".join(tokenizer.convert_ids_to_tokens(ids[shown, most])))

# %% [markdown]
# Now score each word by its attention, and compare the two orders by Spearman's rank correlation: 1 is the same order, 0 is no
# relation. Many ways lead from 72 pictures to one score a word; the first three are common. The last two are no attention at all:
# how rare a word is among all tickets, and how many letters it has.

# %%
looks = mask / lengths[:, None]  # the mean over all tokens that look
tickets_with = np.bincount(np.concatenate([list(set(row)) for row in all_ids]), minlength=30_522)
scores = {
    "attention, all 72 heads": np.einsum("blnft,bf->bt", weights, looks),
    "attention, last layer": np.einsum("bnft,bf->bt", weights[:, -1], looks),
    "attention, last layer from [CLS]": weights[:, -1, :, 0].mean(axis=1),
    "attention × what is handed over": np.einsum("blnft,blnt,bf->bt", weights, sizes, looks, optimize=True),
    "how rare the word is": -tickets_with[ids],
    "how many letters it has": letters[ids],
}  # each [B, T]

# %%
from scipy.stats import spearmanr


def agreement(score, way):
    """Mean over the 30 tickets: rank correlation, over the ticket's words, of `score` with what mattered."""
    pairs = [(score[b, words[b]], mattered[way][b, words[b]]) for b in range(30)]
    return np.mean([spearmanr(*pair).statistic for pair in pairs])


print(f"{'':33} hidden  [MASK]")
for name, score in scores.items():
    print(f"{name:33} {agreement(score, 'hidden'):6.2f}  {agreement(score, '[MASK]'):6.2f}")
print(f"{'the other way of taking it away':33} {agreement(mattered['[MASK]'], 'hidden'):6.2f}")
by_head = np.einsum("blnft,bf->lnbt", weights[:30], looks[:30]).reshape(72, 30, 24)
single = np.array([agreement(score, "hidden") for score in by_head])
assert single.min() < 0 < 0.4 < agreement(scores["attention, all 72 heads"], "hidden")

# %%
fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
ax.hist(single, np.linspace(-0.6, 1, 33), color=plots.SKY, edgecolor="white", label="single heads")
colours = (plots.BLUE, plots.GREEN, plots.PURPLE, plots.VERMILLION, plots.ORANGE, plots.BLACK)
for (name, score), colour in zip(scores.items(), colours):
    ax.axvline(agreement(score, "hidden"), color=colour, label=name)
fig.legend(*ax.get_legend_handles_labels(), loc="outside right", frameon=False, fontsize=9)
plots.finish(ax, "All heads together say something, a single head mostly little", "rank correlation with what mattered (word hidden)", "heads");

# %%
print(f"heads below 0.3: {(single < 0.3).sum()} of 72; below 0, against the order: {(single < 0).sum()}")
assert (single < 0.3).sum() > 36

# %% [markdown]
# **Half true.** Averaged over all heads, attention does say something. But counting how rare a word is says nearly as much, and the
# counts have never seen the model. Multiplied by what is handed over, attention says most: a weight alone does not tell what goes
# through. And the popular picture of *one* head tells little; many heads give their weight to the words that matter least.
#
# Keep two doubts. What mattered depends on how you take a word away: the two ways do not fully agree even with each other. And all this is
# about the message's vector, not about a decision. Lesson 12 asks about decisions, and tests the methods on a model that has learned
# nothing.
#
# ## The two kinds of post
#
# Back to where we began. *post* is a thing after *the* or *ordinary*, and in *post office* and *post code*; else it is something that one
# does. Its row in the word table is one and the same. Six layers later, is the *post* most like it of its own kind?

# %%
ids, mask = pad([all_ids[i] for i in mentions], 100)
at = (ids == tokenizer.convert_tokens_to_ids("post")).argmax(axis=1)  # [B]: where it stands
row = np.arange(len(ids))
before, after = (tokenizer.convert_ids_to_tokens(ids[row, at + side]) for side in (-1, 1))
thing = np.array([b in ("the", "ordinary") or a in ("office", "code") for b, a in zip(before, after)])
print(f"'post' as a thing: {thing.sum()}, as an action: {(~thing).sum()}")

# %%
vectors = read(ids, mask)[row, at]  # [B, H]: the vectors of 'post' after six layers
vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
alike = vectors @ vectors.T
nearest = np.where(np.eye(len(row)), -1, alike).argmax(axis=1)
print(f"the nearest other 'post' is of the same kind for {(thing[nearest] == thing).sum()} of {len(row)}")
assert (thing[nearest] == thing).mean() > 0.8

# %%
order = np.argsort(~thing, kind="stable")
fig, ax = plt.subplots(figsize=(4.8, 4), layout="constrained")
image = ax.imshow(alike[np.ix_(order, order)], cmap="Blues", vmax=1)
ax.axhline(thing.sum() - 0.5, color=plots.VERMILLION)
ax.axvline(thing.sum() - 0.5, color=plots.VERMILLION)
fig.colorbar(image, ax=ax, label="similarity (cosine)")
plots.finish(ax, "Six layers later, one word is two", "ticket (first the things, then the actions)", "ticket")

# %% [markdown]
# At the start all these vectors were the same but for their positions. What the model knows now about each *post* came through the
# weights of this page, from the words beside it.
#
# ## What you now know
#
# 1. Attention is three steps: compare queries with keys, turn the scores of each row into weights by softmax, mix the values. It is two matrix products.
# 2. The division by $\sqrt D$ saves the gradient. A mask acts before the softmax. Heads are a reshape, to $[B, T, N, D]$.
# 3. Without positions, attention sees a bag of words. With them it can see order, and this model's message vector still hardly uses it.
# 4. Few heads have a job that one can name. This model rests its attention on the first position, whose value is nearly nothing.
# 5. A weight says where a head looks, not what it takes. Measure over many messages before you believe a picture.
#
# **Exercises:** [08 · Exercises](../exercises/08_attention_exercises.ipynb), six of them, 48 minutes.
#
# **Next:** [09 · What exactly is BERT?](09_bert.ipynb)
#
# **Read more:** Vaswani et al., [Attention Is All You Need](https://arxiv.org/abs/1706.03762), section 3.2; Clark et al., [What Does BERT
# Look At?](https://arxiv.org/abs/1906.04341), sections 3 and 4; Kobayashi et al., [Attention Is Not Only a
# Weight](https://arxiv.org/abs/2004.10102), section 2; Jain and Wallace, [Attention Is Not
# Explanation](https://arxiv.org/abs/1902.10186), section 4; Xiao et al., [Attention
# Sinks](https://arxiv.org/abs/2309.17453), section 3.1.
