# %% [markdown]
# # 09 · What exactly is BERT?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 40 min | about 45 s | 06, 08 | build BERT from eight short functions, count its parameters, load real weights, prove that they are loaded right, and turn it into a GPT |
#
# The desk's router is a BERT, and you have used one since lesson 00. **What is in it?** Less than its fame suggests. There is a file
# of numbers, and there are some thirty lines of arithmetic; this page writes all of them. Then comes the part that takes care: how
# do you know that your lines are *right*, when a wrong model runs just as happily?

# %%
import inspect
from importlib.resources import files

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from course_lib import plots
from course_lib.pretrained import MODEL, fetch

# On a CPU this changes nothing. A GPU or a TPU shortens the numbers that go into a matrix product unless it is told not to.
jax.config.update("jax_default_matmul_precision", "highest")

folder = fetch(MODEL)
file = load_file(folder / "model.safetensors")
print(f"{len(file)} arrays in the file")

# %% [markdown]
# ## Open the file
#
# The model's name is MiniLM: a BERT of 6 layers, a fifth of the size of BERT-base, the smaller of the two in the BERT paper. Its layers all
# have the same names and shapes, so one of them is enough to look at.

# %%
for name, array in file.items():
    if ".layer." not in name or ".layer.0." in name:
        print(f"{name:55} {array.shape}")

# %% [markdown]
# Names, shapes and numbers: that is the whole file. What to *do* with the numbers stands in the paper. (One array is no parameter:
# `position_ids` counts 0, 1, 2 … 511 and was saved by accident.)
#
# The dots are a tree. As nested dictionaries it is easy to hand a function just its own branch:

# %%
params = {}
for name, array in file.items():
    *path, last = name.split(".")
    branch = params
    for step in path:
        branch = branch.setdefault(step, {})
    branch[last] = jnp.asarray(array)

print("the tree begins with", sorted(params), "and a layer has", sorted(params["encoder"]["layer"]["0"]))

# %% [markdown]
# Two messages for the desk, of different lengths, so that there is padding and the mask has something to do (lesson 07):

# %%
from course_lib.data import load_tokenizer

tokenizer = load_tokenizer(folder)
texts = ["Where is my parcel?", "My kettle leaks and I would like my money back."]
encoded = tokenizer(texts, padding=True, return_tensors="np")
ids, mask, types = (jnp.asarray(encoded[name]) for name in ("input_ids", "attention_mask", "token_type_ids"))
print("ids", ids.shape, "  real tokens in each row:", mask.sum(axis=1))

# %% [markdown]
# ## First part: the embeddings
#
# Three table look-ups, added: which token, at which position, in which of two segments. (BERT was pretrained on pairs of texts;
# a single message is all segment 0, and so is whatever comes without segment numbers.) Then LayerNorm, from lesson 06. The tables are
# `word_embeddings`, `position_embeddings` and `token_type_embeddings` in the file.
#
# **Predict.** The shape of the result for our two messages?


# %%
def layer_norm(p, x, epsilon=1e-12):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon) * p["weight"] + p["bias"]


def embeddings(p, ids, types):  # [B, T] and [B, T] → [B, T, H]
    positions = jnp.arange(ids.shape[1])  # [T], the same for every row
    words = p["word_embeddings"]["weight"][ids]
    x = words + p["position_embeddings"]["weight"][positions] + p["token_type_embeddings"]["weight"][types]
    return layer_norm(p["LayerNorm"], x)


embedded = embeddings(params["embeddings"], ids, types)
print(embedded.shape)

# %% [markdown]
# $B$ messages, $T$ tokens, and a vector of $H = 384$ numbers for each token. This shape stays until the end. Everything below takes
# `[B, T, H]` and gives `[B, T, H]`.
#
# Is it what the course's own model computes? `course_lib.bert` is the same network as Flax modules, and `load_pretrained` fills it
# from the same file. It will be our partner for comparison, part by part.

# %%
from course_lib.bert import BertConfig, BertModel
from course_lib.checkpoint import load_pretrained

model = load_pretrained(folder, architecture=BertModel)


def same(ours, theirs):
    return bool(jnp.allclose(ours, theirs, atol=1e-5))


print("embeddings, the same:", same(embedded, model.embeddings(ids, types)))
assert same(embedded, model.embeddings(ids, types))

# %% [markdown]
# ## Second part: attention
#
# From lesson 08, with all heads at once: queries, keys and values; scores; softmax over what the mask lets through; the mixture; and
# one dense layer behind it. A dense layer is written here with a transpose, `.T`, since the file comes from PyTorch. More on that below.


# %%
def dense(p, x):  # [..., in] → [..., out], from a weight stored as [out, in]
    return x @ p["weight"].T + p["bias"]


def attention(p, x, mask, heads=12):  # [B, T, H] and [B, T] → [B, T, H]
    def split(x):
        return x.reshape(*x.shape[:-1], heads, -1)  # [B, T, H] → [B, T, N, D]

    query, key, value = (split(dense(p["self"][name], x)) for name in ("query", "key", "value"))
    scores = jnp.einsum("bqnd,bknd->bnqk", query, key) / jnp.sqrt(query.shape[-1])
    scores = jnp.where(mask[:, None, None, :] == 1, scores, -1e30)  # [B, N, T from, T to]
    mixed = jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(scores), value)  # [B, T, N, D]
    return dense(p["output"]["dense"], mixed.reshape(x.shape))  # [B, T, N·D = H]


first = params["encoder"]["layer"]["0"]
attended = attention(first["attention"], embedded, mask)
assert same(attended, model.layers[0].attention(embedded, mask))

# %% [markdown]
# ## Third part: add and norm
#
# What attention found is *added* to what was there, and the sum goes through LayerNorm. Residual and norm are what lets deep networks
# train (lesson 06). BERT normalises after the sum; lesson 06 did it before. The file's weights belong to this order and no other.

# %%
between = layer_norm(first["attention"]["output"]["LayerNorm"], embedded + attended)
assert same(between, model.layers[0].attention_norm(embedded + attended))

# %% [markdown]
# ## Fourth part: feed-forward
#
# Attention moves information between tokens. Now each token works on its own: out to 1,536 numbers, the bend (GELU, lesson 02), and back to
# 384. Again add and norm. **Predict:** if you change one token of `between`, how many tokens change in the result?


# %%
def feed_forward(p, x):  # [B, T, H] → [B, T, H]
    wide = jax.nn.gelu(dense(p["intermediate"]["dense"], x), approximate=False)  # [B, T, 4·H]
    return dense(p["output"]["dense"], wide)


pushed = between.at[0, 2].add(1.0)  # another third token in the first message
moved = (feed_forward(first, pushed) != feed_forward(first, between)).any(axis=-1)  # [B, T]
print("tokens that change:", int(moved.sum()))
assert moved.sum() == 1

# %% [markdown]
# One. In all of BERT, attention is the only place where tokens meet.
#
# ## All together
#
# A layer is these two halves. BERT is the embeddings and a stack of layers, each with weights of its own.


# %%
def layer(p, x, mask):  # [B, T, H] → [B, T, H]
    x = layer_norm(p["attention"]["output"]["LayerNorm"], x + attention(p["attention"], x, mask))
    return layer_norm(p["output"]["LayerNorm"], x + feed_forward(p, x))


def bert(p, ids, mask, types):  # three times [B, T] → [B, T, H]
    x = embeddings(p["embeddings"], ids, types)
    for number in range(len(p["encoder"]["layer"])):
        x = layer(p["encoder"]["layer"][str(number)], x, mask)
    return x


assert same(layer(first, embedded, mask), model.layers[0](embedded, mask))
hidden = bert(params, ids, mask, types)
print("all six layers, the same:", same(hidden, model(ids, mask, types)))
assert same(hidden, model(ids, mask, types))

# %% [markdown]
# Last, the *pooler*: for tasks with one answer a text, BERT takes the vector of the first token, `[CLS]`, through a dense layer and
# tanh. A classifier is one more dense layer on that.


# %%
def pooler(p, hidden):  # [B, T, H] → [B, H]
    return jnp.tanh(dense(p["pooler"]["dense"], hidden[:, 0]))


assert same(pooler(params, hidden), model.pool(hidden))
parts = (layer_norm, embeddings, dense, attention, feed_forward, layer, bert, pooler)
lines = sum(len(inspect.getsource(part).strip().splitlines()) for part in parts)
print(f"BERT: {len(parts)} functions, {lines} lines, and {len(file)} arrays")

# %% [markdown]
# That is BERT. Nothing is left out: everything that this model knows about English is in the numbers.
#
# ## Count it, to the last number
#
# $V$ words, $P$ positions, width $H$, $L$ layers, $F$ numbers inside the feed-forward part. A dense layer from $a$ to $b$ has $ab + b$ parameters,
# a LayerNorm $2H$.
#
# **Predict.** 22.7 million in all: how many of them are in the word table, how many in attention?


# %%
def count(V, P, H, L, F):
    """The parameters of a BERT with its pooler, part by part."""
    return {
        "word table": V * H,
        "positions and segments": (P + 2) * H,
        "attention": L * 4 * (H * H + H),  # query, key, value, output
        "feed-forward": L * ((H * F + F) + (F * H + H)),  # out and back
        "LayerNorm": (1 + 2 * L) * 2 * H,
        "pooler": H * H + H,
    }


minilm = count(V=30_522, P=512, H=384, L=6, F=1_536)
for name, number in minilm.items():
    print(f"{name:24} {number:10,}  {number / sum(minilm.values()):6.1%}")
print(f"{'together':24} {sum(minilm.values()):10,}")

# %% [markdown]
# And the file?

# %%
counter = "embeddings.position_ids"
in_file = sum(array.size for name, array in file.items() if name != counter)
print(f"{in_file:,} numbers in {len(file) - 1} arrays")
assert in_file == sum(minilm.values()) == 22_713_216

# %% [markdown]
# To the last one. Half of this model is a dictionary, and of that each message touches a few rows.
#
# > **Common claim, tested.** *"A transformer is attention: that is where its parameters are."*
#
# Larger BERTs have the same vocabulary and more of everything else. The sizes are those of the BERT paper:

# %%
sizes = {"MiniLM": minilm}
for name, config in {"BERT-base": BertConfig.bert_base(), "BERT-large": BertConfig.bert_large()}.items():
    sizes[name] = count(
        config.vocab_size, config.max_position_embeddings, config.hidden_size, config.num_hidden_layers, config.intermediate_size
    )
    print(f"{name:10} {sum(sizes[name].values()):11,}")

# %%
fig, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
shown = {"word table": plots.SKY, "attention": plots.VERMILLION, "feed-forward": plots.BLUE}
for row, parts_of in enumerate(sizes.values()):
    start, total = 0, sum(parts_of.values())
    for name, colour in shown.items():
        share = 100 * parts_of[name] / total
        ax.barh(row, share, left=start, color=colour, height=0.6, label=name if row == 0 else None)
        ax.text(start + share / 2, row, f"{share:.0f}", ha="center", va="center", color="white" if colour == plots.BLUE else "black")
        start += share
ax.set_yticks(range(3), [f"{name}, {sum(p.values()) / 1e6:.0f} M" for name, p in sizes.items()])
ax.invert_yaxis()
fig.legend(loc="outside lower center", ncols=3, frameon=False)
plots.finish(ax, "In each of them, feed-forward has twice as many parameters as attention", "share of the parameters (%)", "");

# %% [markdown]
# **False, at each of these sizes.** With $F = 4H$, feed-forward has $8H^2$ weights a layer and attention $4H^2$: twice as many. The number
# of heads does not appear at all: more heads cut the same matrices into narrower strips.
#
# ## Load it into the module
#
# For training we want Flax modules (lesson 06), so the numbers have to move from the file's names to the module's.
# `course_lib.checkpoint.key_table` is the list: Hugging Face's name on the left, the path in `course_lib.bert` on the right.

# %%
from course_lib.checkpoint import key_table

config = BertConfig.minilm_l6()
table = key_table(BertModel, config)
graph, state = nnx.split(nnx.eval_shape(lambda: BertModel(config, rngs=nnx.Rngs(0))))  # names and shapes, no numbers yet
slots = {".".join(map(str, path)): slot for path, slot in nnx.to_flat_state(state)}
for key in ("embeddings.word_embeddings.weight", "encoder.layer.0.intermediate.dense.weight", "pooler.dense.bias"):
    print(f"{key:42} {str(file[key].shape):13} → {table[key]:28} {slots[table[key]].shape}")

# %% [markdown]
# Look at the middle line: the axes are swapped. PyTorch's `Linear` keeps its weight as `[out, in]` and computes $x W^\top + b$. Flax's keeps its
# *kernel* as `[in, out]` and computes $x W + b$. The same product, stored in two ways. So each array that ends as a `kernel` is transposed. Tables, where
# a row is one token's vector, are not.
#
# First the names and shapes, then the copying (lesson 06 showed why):

# %%
arrays = {path: file[key].T if path.endswith("kernel") else file[key] for key, path in table.items()}
assert {path: array.shape for path, array in arrays.items()} == {path: slot.shape for path, slot in slots.items()}
assert file.keys() - table.keys() == {counter}, "the file holds something that the model does not have"

filled = [(path, slot.replace(jnp.asarray(arrays[".".join(map(str, path))]))) for path, slot in nnx.to_flat_state(state)]
loaded = nnx.merge(graph, nnx.from_flat_state(filled))
print("the same as load_pretrained:", same(loaded(ids, mask, types), model(ids, mask, types)))
assert same(loaded(ids, mask, types), model(ids, mask, types))

# %% [markdown]
# `load_pretrained` is these lines, with a better error message.
#
# > **Common claim, tested.** *"If every shape fits, the weights are in the right place."*
#
# **Predict.** Had we forgotten the transpose, how many of the kernels would have complained?

# %%
kernels = [array for path, array in arrays.items() if path.endswith("kernel")]
square = sum(array.shape[0] == array.shape[1] for array in kernels)
print(f"{len(kernels)} kernels, {square} of them square: turned or not, they fit")
assert square > len(kernels) / 2

# %% [markdown]
# **False.** Two in three would have gone in without a word, among them every query, key and value. A shape check is needed, and it is not
# enough. What is?
#
# ## Parity: hold it against the reference
#
# The reference is PyTorch's BERT in Hugging Face `transformers`. It was run once, on three rows of random token ids, and what it computed
# was kept: after the embeddings, after the first layer and at the end. (The script that did this is
# `tests/goldens/make_goldens.py`, so nobody needs PyTorch to follow this page.)

# %%
with np.load(files("course_lib") / "data" / "minilm_reference.npz") as stored:
    reference = dict(stored)
for name, array in reference.items():
    print(f"{name:17} {array.shape}")

# %%
DEPTHS = ("after_embeddings", "after_layer_1", "at_the_end")
real = reference["attention_mask"] == 1  # [B, T]; what stands at padding is used by nobody


def differences(model):
    """The largest difference from the reference at each depth."""
    ids, mask, types = (reference[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    x = model.embeddings(ids, types)
    ours = (x, model.layers[0](x, mask), model.encode(x, mask))
    return [float(np.abs(x - reference[name])[real].max()) for x, name in zip(ours, DEPTHS)]


# %% [markdown]
# **Predict.** Our arithmetic has about seven digits, and most of the numbers are smaller than 1. How far apart will the two be after six
# layers?

# %%
parity = differences(model)
for name, difference in zip(DEPTHS, parity):
    size = np.abs(reference[name][real]).mean()
    print(f"{name:17} numbers of size {size:.2f}, largest difference below 0.00001: {difference < 1e-5}")
assert max(parity) < 1e-5

inputs = (jnp.asarray(reference[name]) for name in ("input_ids", "attention_mask", "token_type_ids"))
by_hand = np.abs(np.asarray(bert(params, *inputs)) - reference["at_the_end"])[real].max()
print(f"and our own {lines} lines, at the end: {by_hand < 1e-5}")
assert by_hand < 1e-5

# %% [markdown]
# Two implementations, by different people, in different frameworks, agree to five decimals. What is left is rounding: the two add the same numbers
# in another order. On a GPU or a TPU the same holds only because of the line at the top of this page that asks for
# full precision.
#
# ## Break it three ways
#
# Is 0.00001 strict enough, or needlessly strict? Find out by making the mistakes that ports of BERT make:
#
# 1. **GELU** in its tanh form, which is `jax.nn.gelu`'s default (lesson 02);
# 2. **LayerNorm's epsilon** at Flax's default, $10^{-6}$ instead of $10^{-12}$;
# 3. **a transpose** forgotten, in one kernel of the 37: the queries of the first layer.
#
# **Predict.** Which gives the largest error at the end? At which of the three depths does each first show?


# %%
def tanh_gelu(model):
    for layer in model.layers:
        layer.activation = "gelu_new"


def flax_epsilon(model):
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.LayerNorm):
            module.epsilon = 1e-6


def one_transpose(model):
    kernel = model.layers[0].attention.query.kernel
    kernel[...] = kernel[...].T


# %%
broken, errors = {}, {}
for breaks in (tanh_gelu, flax_epsilon, one_transpose):
    broken[breaks.__name__] = load_pretrained(folder, architecture=BertModel)
    breaks(broken[breaks.__name__])
    errors[breaks.__name__] = differences(broken[breaks.__name__])

print(f"{'':14}", *DEPTHS)
for name, found in errors.items():
    print(f"{name:14}", *(f"{error:{len(depth)}.0e}" if error > 1e-5 else f"{'-':>{len(depth)}}" for error, depth in zip(found, DEPTHS)))

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
styles = {"tanh_gelu": ("s-", plots.ORANGE), "flax_epsilon": ("^-", plots.GREEN), "one_transpose": ("D-", plots.VERMILLION)}
for name, (line, colour) in styles.items():
    ax.semilogy(errors[name], line, color=colour, label=name)
ax.semilogy(parity, "o-", color=plots.BLUE, label="nothing broken")
ax.axhline(1e-5, color=plots.BLACK, linewidth=0.8, linestyle=":", label="tolerance of this course")
ax.axhline(0.05, color=plots.BLACK, linewidth=0.8, linestyle="--", label="tolerance of 0.05")
ax.set_xticks(range(3), [name.replace("_", " ") for name in DEPTHS])
ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
plots.finish(ax, "A broken part shows at the first depth behind it", "", "largest difference from the reference");

# %% [markdown]
# Read the figure from left to right. Where a curve first leaves the blue one, there is the mistake: epsilon is in the embeddings
# already; the GELU and the transpose come later and show after the first layer. That is why one compares at several depths, not only at the end.
#
# Then read the sizes. The transpose leaves an error larger than the numbers themselves: this is another model. The GELU's grows, since
# each layer adds its own. Epsilon's does not, since each LayerNorm scales anew. But how can a millionth leave an error of hundreds of millionths? LayerNorm divides by
# $\sqrt{\sigma^2 + \epsilon}$, and $\epsilon$ counts in proportion to $\sigma^2$. In front of the first LayerNorm that is small:

# %%
tables = params["embeddings"]
summed = tables["word_embeddings"]["weight"][reference["input_ids"]] + tables["position_embeddings"]["weight"][:16]
variance = np.asarray((summed + tables["token_type_embeddings"]["weight"][reference["token_type_ids"]]).var(axis=-1))[real]
print(f"smallest variance of a token: {variance.min():.4f}, so epsilon changes its numbers by {5e-7 / variance.min():.1e} of themselves")

# %% [markdown]
# > **Common claim, tested.** *"Different frameworks never agree exactly; a tolerance of a few hundredths is realistic."*

# %%
for tolerance in (0.05, 1e-5):
    caught = [name for name, found in errors.items() if max(found) > tolerance]
    print(f"a tolerance of {tolerance:g} notices {len(caught)} of 3: {', '.join(caught)}")
assert max(errors["tanh_gelu"]) < 0.05 and max(errors["flax_epsilon"]) < 0.05

# %% [markdown]
# **False.** Frameworks do agree, and 0.05 hides two of the three. The parity test of this course asks for 0.00001.
#
# ## What it is good for without any training: similarity
#
# Who made MiniLM trained it further, on more than a billion pairs of texts that belong together (its model card, below), so that the
# *mean* of a text's token vectors says what the text is about. For our first message, "Where is my parcel?":

# %%
by_hand = hidden[0, : mask[0].sum()].mean(axis=0)  # [H], over the real tokens only
by_hand = by_hand / jnp.linalg.norm(by_hand)

# %% [markdown]
# Of length 1, so that the dot product of two such vectors is their cosine: 1 for the same direction, 0 for nothing in common.
# `course_lib.predict.embed` does it for many texts, in buckets. Six messages, in pairs that mean about the same and share hardly a word:

# %%
from course_lib.data import tokenize
from course_lib.predict import embed

six = [
    "Where is my parcel?", "The courier has still not brought what I ordered.",
    "I would like my money back.", "Please reimburse me.",
    "The kettle leaks.", "Water drips out of the appliance.",
]  # fmt: skip
vectors = embed(model, tokenize(tokenizer, six, 128))  # [6, H]
print("embed agrees with our own:", same(vectors[0], by_hand))
assert same(vectors[0], by_hand)

# %%
similarity = vectors @ vectors.T  # [6, 6]
fig, ax = plt.subplots(figsize=(7.5, 4), layout="constrained")
ax.imshow(similarity, cmap="Blues", vmin=0, vmax=1)
for (row, column), value in np.ndenumerate(similarity):
    ax.text(column, row, f"{value.round(2) + 0:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black", fontsize=9)
ax.set_xticks(range(6), range(1, 7))
ax.set_yticks(range(6), [f"{number}  {text}" for number, text in enumerate(six, 1)])
plots.finish(ax, "Each message is most like its partner", "message (colour and number: cosine)", "")

partner = (similarity - np.eye(6)).argmax(axis=1)
assert partner.tolist() == [1, 0, 3, 2, 5, 4]

# %% [markdown]
# No label was used, and nothing was trained on this page. **Predict** the next one: *"I want to send it back"* and *"I do not want to send it
# back"* ask the desk for opposite things. Their cosine?

# %%
opposites = embed(model, tokenize(tokenizer, ["I want to send it back.", "I do not want to send it back."], 128))
print(f"cosine: {opposites[0] @ opposites[1]:.2f}")
assert opposites[0] @ opposites[1] > 0.7

# %% [markdown]
# Alike means *about the same thing*, not *asking for the same*. To tell these two apart, a model has to be trained for it, and that is lesson 11.
#
# ## The vector of [CLS]
#
# > **Common claim, tested.** *"BERT's [CLS] vector is the embedding of the whole sentence."*
#
# Three candidates, for every ticket in the training and the test part: `[CLS]` as the last layer leaves it, `[CLS]` through the pooler, and the mean.

# %%
from course_lib.data import batches, load_tickets

graph, state = nnx.split(model)


@jax.jit
def candidates(state, batch):  # → three times [B, H]
    network = nnx.merge(graph, state)
    hidden = network(batch.input_ids, batch.attention_mask)
    total = (hidden * batch.attention_mask[:, :, None]).sum(axis=1)
    return hidden[:, 0], network.pool(hidden), total / jnp.maximum(batch.attention_mask.sum(axis=1, keepdims=True), 1)


# %%
def vectors_of(table):  # → [3 candidates, n, H]
    examples = tokenize(tokenizer, table.texts, 128)
    found = np.zeros((3, len(table), config.hidden_size), np.float32)
    for batch in batches(examples, 32, buckets=(32, 48, 104)):
        rows = batch.index >= 0  # the others only fill the batch up
        found[:, batch.index[rows]] = np.stack(candidates(state, batch))[:, rows]
    return found


train, test = load_tickets("train"), load_tickets("test")
train_vectors, test_vectors = vectors_of(train), vectors_of(test)

# %% [markdown]
# A *probe* measures what a vector carries: the model stays as it is, and logistic regression has to find the team from the vector alone. **Predict**
# the order of the three. (Lesson 11 sets both beside TF-IDF, which counts words.)

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NAMES = ("[CLS]", "[CLS] through the pooler", "mean of the tokens")
macro_f1 = {}
for name, x, x_test in zip(NAMES, train_vectors, test_vectors):
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000)).fit(x, train.labels)
    macro_f1[name] = f1_score(test.labels, probe.predict(x_test), average="macro")
print(f"{NAMES[0]}: macro-F1 {macro_f1[NAMES[0]]:.2f}     {NAMES[2]}: {macro_f1[NAMES[2]]:.2f}")
print(f"the pooler adds something to [CLS]: {macro_f1[NAMES[1]] > macro_f1[NAMES[0]] + 0.02}")
assert macro_f1[NAMES[2]] > macro_f1[NAMES[0]] + 0.1 > macro_f1[NAMES[1]]


# %%
def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cosines(x):  # of all pairs of different rows
    return (unit(x) @ unit(x).T)[~np.eye(len(x), dtype=bool)]


fig, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
for name, x, colour in zip(NAMES, test_vectors, (plots.VERMILLION, plots.ORANGE, plots.BLUE)):
    ax.hist(cosines(x), bins=np.linspace(-0.4, 1, 71), density=True, histtype="step", linewidth=2, color=colour, label=name)
    print(f"{name:25} mean cosine of two different messages: {cosines(x).mean():.2f}")
ax.legend(frameon=False, loc="upper left")
plots.finish(ax, "Two messages: their [CLS] vectors are more alike than their means", "cosine of two different test messages", "density of the pairs")

# %% [markdown]
# **False for this model.** A vector carries what its training asked it to carry. The last training of these weights compared *means*: there,
# `[CLS]` counted as one token among many, and the pooler was not used at all, so no gradient reached it. What `[CLS]` holds is mostly
# the same for every message, and counting words serves the desk better. (So far it beats the mean, too: macro-F1 0.74 in lesson 07.)
#
# Lesson 11 puts its classifier on this very vector all the same, as the BERT paper does, and gets further. There all parameters are trained,
# and `[CLS]` is asked for the team from the first step on. So: for fine-tuning, `[CLS]` will do; with a frozen model, take what *its* training
# used. For this one, that is the mean.
#
# With it, the desk can search by what is meant. Has somebody written this before?

# %%
for name, old, new in list(zip(NAMES, train_vectors, test_vectors))[::2]:
    nearest = (unit(new) @ unit(old).T).argmax(axis=1)  # [n test]
    right = np.mean([train.labels[i] == label for i, label in zip(nearest, test.labels)])
    print(f"{name:18} the nearest old message is one for the right team: {right:.0%}")

questions = ["My log-in was stolen.", "Is this safe for someone with a nut allergy?", "Can I wear it in the rain?"]
for question, vector in zip(questions, embed(model, tokenize(tokenizer, questions, 128))):
    print(f"\n{question}\n  → {train.texts[(unit(train_vectors[2]) @ vector).argmax()]}")

# %% [markdown]
# The first two are found by meaning. The third is not: one rare word in common was enough.
#
# ## BERT and GPT differ by a mask
#
# In BERT each token sees all others. That is right for reading, and it rules out writing: who can see the next word need not predict it. In GPT
# a token sees itself and what came before. Lesson 08 did this on four tokens. In the whole model it is one argument: a mask of shape
# `[B, T from, T to]`, which gives each token a view of its own. `jnp.tril` makes it.

# %%
text = tokenizer("please send the blue kettle to my brother", return_tensors="np")["input_ids"]  # [1, T]
words, T = tokenizer.convert_ids_to_tokens(text[0]), text.shape[1]
both_ways = jnp.ones((T, T), int)  # [T from, T to]
causal = jnp.tril(both_ways)
print(causal[:4, :4])

# %% [markdown]
# The test: replace one token, see which of the vectors at the end move, and do so for each place. **Predict** both pictures.

# %%
other = tokenizer.convert_tokens_to_ids("money")
replaced = jnp.where(jnp.eye(T, dtype=bool), other, text)  # [T, T]: in row j, token j is another one
rows = jnp.concatenate([text, replaced])  # [1 + T, T]


def all_rows(view):  # the last layer's vectors, [1 + T, T, H]
    return model(rows, jnp.broadcast_to(view, (T + 1, T, T)))


bert_sees, gpt_sees = all_rows(both_ways), all_rows(causal)
bert_moves, gpt_moves = (np.linalg.norm(x[1:] - x[0], axis=-1) for x in (bert_sees, gpt_sees))  # [T replaced, T]

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", sharey=True)
titles = ("BERT: each vector sees every token", "causal: nothing before it moves")
for ax, moved, title in zip(axes, (bert_moves, gpt_moves), titles):
    image = ax.imshow(moved, cmap="Blues", vmin=0, vmax=bert_moves.max())
    ax.set_xticks(range(T), words, rotation=60, ha="right", rotation_mode="anchor")
    plots.finish(ax, title, "vector at the end", "")
axes[0].set_yticks(range(T), words)
axes[0].set_ylabel("token that is replaced")
fig.colorbar(image, ax=axes, label="distance that the vector moves", shrink=0.8);

# %%
before = np.tril(np.ones((T, T), bool), -1)  # [replaced, vector]: the vector stands before the replaced token
print("BERT:   vectors before the replaced token stay:", bool(bert_moves[before].max() < 1e-5))
print("causal: vectors before the replaced token stay:", bool(gpt_moves[before].max() < 1e-5))
assert gpt_moves[before].max() < 1e-5 < bert_moves.min()

# %% [markdown]
# With the causal mask, changing a later token changes nothing before it. Two things follow, and GPT lives by them:
#
# - **Training.** The vector at each place has not seen the next token, so it can be asked for it. A text of $T$ tokens sets $T - 1$ questions at once.
# - **Writing.** What has been computed for the text so far stays valid when a word is added. Asserted, for the first five tokens alone:

# %%
five_alone = model(text[:, :5], causal[None, :5, :5])
assert same(five_alone[0], gpt_sees[0, :5])
assert not same(model(text[:, :5], both_ways[None, :5, :5])[0], bert_sees[0, :5])

# %% [markdown]
# So a decoder keeps its keys and values, and a new word costs one new row; BERT would have to start again.
#
# > **Common claim, tested.** *"So you can turn any BERT into a GPT by changing the mask."*
#
# The network, yes. The weights were trained to look both ways. How many of these vectors survive?

# %%
survives = (unit(bert_sees[0]) * unit(gpt_sees[0])).sum(axis=-1)  # [T]
print("cosine of the vector with and without the causal mask:")
print("  ".join(f"{word} {value:.2f}" for word, value in zip(words, survives)))

# %% [markdown]
# Some nearly, some not. And none was ever asked for the next word, which is all that a GPT's vectors are for. Lesson 10 trains both kinds from nothing, with the same code and this one difference. (GPT-2 has smaller ones, too: it normalises
# before each half, for example. Exercise 9.6 writes its layer.)
#
# ## What you now know
#
# 1. BERT is embeddings, then layers: attention, add and norm, feed-forward, add and norm. Only in attention do tokens meet.
# 2. Its parameters can be counted on paper. Feed-forward has twice as many as attention, and heads cost none.
# 3. Shapes that fit prove little: most kernels are square. Parity with a reference, at several depths and to five decimals, shows that it is right, or where it is wrong.
# 4. A vector carries what its training asked for. In this model that is the mean of the tokens; `[CLS]` has to be trained first.
# 5. A causal mask turns the same network into a decoder: nothing depends on what comes later.
#
# **Exercises:** [09 · Exercises](../exercises/09_bert_exercises.ipynb), six of them, 52 minutes.
#
# **Next:** [10 · What did it learn before I got it?](10_pretraining.ipynb)
#
# **Read more:** Devlin et al., [BERT](https://arxiv.org/abs/1810.04805), section 3 and appendix A; Vaswani et al., [Attention Is All You
# Need](https://arxiv.org/abs/1706.03762), section 3; Reimers and Gurevych, [Sentence-BERT](https://arxiv.org/abs/1908.10084), section 3;
# Wang et al., [MiniLM](https://arxiv.org/abs/2002.10957), section 3; Radford et al., [Language Models are Unsupervised Multitask
# Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf) (GPT-2), section 2.3;
# the model's card, [all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
