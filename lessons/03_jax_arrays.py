# %% [markdown]
# # 03 · What changes when arrays are JAX arrays?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 30 min | half a minute | 01, NumPy | write array code that JAX can compile, say what makes it compile again, and time it honestly |
#
# Lessons 01 and 02 used `jnp` as if it were NumPy. The names are the same; four rules are not. Arrays never change.
# Randomness is passed in by hand. Functions are compiled for the shapes they meet. A result comes back before it
# has been computed. Each rule buys something (gradients, speed, a GPU without a changed line), and **each one has a way of
# going wrong in silence**. Here you see every one of them happen, on messages to the support desk, and learn what
# prevents it.

# %%
import time
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from course_lib import plots
from course_lib.data import load_tickets

jax.config.update("jax_enable_compilation_cache", False)  # this page times the compiler: let nothing come from the disk

# %% [markdown]
# ## Arrays are values: they never change
#
# Five messages came in, for the teams 2, 0, 2, 2 and 1. We count the messages of each team. First the habit from NumPy:

# %%
counts = jnp.zeros(3, int)
try:
    counts[2] = 1
except TypeError as error:
    print(f"TypeError: {str(error).partition(' and ')[0]}")

# %% [markdown]
# `.at[…]` gives a *new* array with the change in it, and the old one stays as it was:

# %%
changed = counts.at[2].set(1)
print("before:", counts, "  after:", changed)

# %% [markdown]
# Why so strict? A number that cannot change can be used again, moved to another device or differentiated, without
# anyone asking who else may have written to it meanwhile.
#
# **Predict.** Now all five messages at once. What does each line count?

# %%
teams = np.array([2, 0, 2, 2, 1])
in_numpy = np.zeros(3, int)
in_numpy[teams] += 1
in_jax = jnp.zeros(3, int).at[teams].add(1)
print("NumPy += 1:  ", in_numpy)
print("JAX .add(1): ", in_jax)
assert (in_jax == np.bincount(teams)).all()

# %% [markdown]
# NumPy read each counter once, added 1 and wrote it back: team 2 got one message instead of three, without a word. `.add`
# adds up every entry. (`.set` with an index that comes twice keeps one of the values, and does not promise which.)
#
# **Predict.** There is no team 10. NumPy raises an `IndexError`. And JAX?

# %%
load = jnp.array([0.1, 0.2, 0.3])  # how busy each of three teams is
print(f"read load[10]:       {load[10]:.1f}")
print(f"write to load[10]:   changed anything: {bool((load.at[10].set(9.0) != load).any())}")
print(f"asked for strictly:  {load.at[10].get(mode='fill'):.1f}")

# %% [markdown]
# A program that runs on a GPU cannot stop half-way to complain. So a read past the end gives the *last* entry, and a write past
# the end is dropped. An index that is off by one becomes a wrong number instead of an error. `mode="fill"` turns it into a `nan`, which
# you will notice.
#
# One more difference is easy to miss: numbers have 32 bits unless you ask for more.

# %%
order_number = 16_777_217
print(f"NumPy: {np.array(float(order_number)):.0f}")
print(f"JAX:   {jnp.array(float(order_number)):.0f}")
assert np.float32(order_number) == order_number - 1  # NumPy's 32-bit number does the same

# %% [markdown]
# A 32-bit float counts in whole numbers up to $2^{24}$ and then starts to skip. For weights and losses that is plenty. Order
# numbers, ids and token numbers belong in integers.
#
# ## Randomness is an argument
#
# NumPy keeps a hidden state that every draw changes. An array library whose values never change cannot. In JAX you
# hold the state yourself, as a *key*, and hand it in.
#
# **Predict.** Three draws. Which of them are the same number?

# %%
key = jax.random.key(0)
first, second = jax.random.split(key)  # two new keys from one
for name, k in {"key": key, "key again": key, "first": first}.items():
    print(f"{name:10} {jax.random.normal(k):.3f}")

# %% [markdown]
# **The same key gives the same numbers, always.** That makes a run repeatable. It also makes the most expensive silent
# error of this lesson. The manager asks: *what share of our customers is unhappy?* We have read and
# labelled all messages, so we know the truth. She has time to read 50, picked at random. How far off can such an estimate be?
# Repeat it 200 times and look at the spread.

# %%
moods = load_tickets("train", label="sentiment").labels
unhappy = jnp.array([mood == "neg" for mood in moods])  # [messages]


def estimate(key):
    """The share of unhappy customers in 50 messages picked at random."""
    return unhappy[jax.random.randint(key, (50,), 0, unhappy.size)].mean()


reused = jnp.array([estimate(key) for _ in range(200)])
fresh = jnp.array([estimate(k) for k in jax.random.split(key, 200)])
print(f"truth:              {unhappy.mean():.3f}")
print(f"the key reused:     {reused.mean():.3f} ± {reused.std():.3f}")
print(f"a key for each:     {fresh.mean():.3f} ± {fresh.std():.3f}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
bins = np.arange(0.15, 0.66, 0.02)  # 50 messages: the estimates are multiples of 0.02
ax.hist(fresh, bins, color=plots.SKY, edgecolor="white", label="a key for each estimate")
ax.hist(reused, bins, color=plots.VERMILLION, label="one key, reused")
ax.axvline(unhappy.mean(), color=plots.BLACK, linestyle="--", label="all messages")
ax.legend(frameon=False)
title = "A reused key looks like certainty"
plots.finish(ax, title, "estimated share of unhappy customers", "estimates (of 200)")

# %% [markdown]
# With one key, 200 estimates are one estimate, 200 times. The spread of zero is not good news; it is the same 50 messages
# read again and again. Nothing failed, nothing warned. Probability theory knows what the spread should have been:

# %%
share = unhappy.mean()
theory = jnp.sqrt(share * (1 - share) / 50)  # standard deviation of a mean of 50 yes-or-no draws
print(f"theory: ± {theory:.3f}   a key for each: ± {fresh.std():.3f}   reused: ± {reused.std():.3f}")
assert abs(fresh.std() - theory) < 0.2 * theory and reused.std() < 1e-6

# %% [markdown]
# > **Common claim, tested.** *"One key may feed two different distributions: they use it differently."*
#
# A network might draw its noise with `normal` and, with the same key, choose what to switch off with `uniform`.
# If they were independent, their correlation would be near 0.

# %%
same_key = jax.random.normal(key, 1000), jax.random.uniform(key, 1000)
key_a, key_b = jax.random.split(second)
two_keys = jax.random.normal(key_a, 1000), jax.random.uniform(key_b, 1000)
for name, (normal, uniform) in {"one key": same_key, "two keys": two_keys}.items():
    print(f"{name:9} correlation {jnp.corrcoef(normal, uniform)[0, 1]:6.3f}")
assert (jnp.argsort(same_key[0]) == jnp.argsort(same_key[1])).all()

# %% [markdown]
# **False.** Both start from the same random bits. The assertion in the last line says more: the two arrays have the *same order*,
# position for position. Whoever gets the largest noise would always be the one that is kept.
#
# So there is one rule: **use a key once**, either to draw or to split. JAX can watch it for you while you test:

# %%
with jax.debug_key_reuse(True):
    try:
        estimate(key)
        estimate(key)
    except jax.errors.KeyReuseError as error:
        print(type(error).__name__)

# %% [markdown]
# In a loop, `fold_in` makes a key from a key and a number, and leaves nothing to carry along: step 7 always has the same
# randomness, also when training starts again from step 7.
#
# **Predict.** `first` was the first of `split(key)`. Will it come up among these three?

# %%
step_keys = [jax.random.fold_in(key, step) for step in range(3)]
print("  ".join(f"step {step}: {jax.random.normal(k):.3f}" for step, k in enumerate(step_keys)))
print("step 0 has the same key as `first`:", bool(step_keys[0] == first))

# %% [markdown]
# It does: `fold_in(key, 0)` is `split(key)[0]`. Folding is a use of the key like any other. Split a key or fold into it, not both.
#
# ## vmap: write it for one, run it for all
#
# Which messages are alike? Count the words of four of them; each becomes a vector of length $d$, the number of different
# words.

# %%
messages = ["where is my parcel", "my parcel is late", "refund my money", "money back"]
words = sorted({word for message in messages for word in message.split()})
vectors = jnp.array([[message.split().count(word) for word in words] for message in messages], float)  # [n, d]
print("shape:", vectors.shape)

# %% [markdown]
# Likeness of two vectors $a$ and $b$ is the cosine of their angle: $a \cdot b \,/\, (\lVert a \rVert \lVert b \rVert)$. Written for one
# pair, it reads as the formula does:

# %%
def cosine(a, b):  # [d], [d] -> one number
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


print(f"first two messages: {cosine(vectors[0], vectors[1]):.2f}")

# %% [markdown]
# `jax.vmap` turns it into a function over a whole axis. `in_axes` says, for each argument, which axis to run along; `None`
# means: the same for all.
#
# **Predict.** Which shapes come out of the two lines?

# %%
one_to_all = jax.vmap(cosine, in_axes=(None, 0))  # [d], [n, d] -> [n]
all_to_all = jax.vmap(one_to_all, in_axes=(0, None))  # [m, d], [n, d] -> [m, n]
print(one_to_all(vectors[0], vectors).shape, all_to_all(vectors, vectors).shape)

# %%
looped = [[cosine(a, b) for b in vectors] for a in vectors]
assert jnp.allclose(all_to_all(vectors, vectors), jnp.array(looped), atol=1e-6)
for message, row in zip(messages, all_to_all(vectors, vectors)):
    print(f"{message:20}", "  ".join(f"{value:.2f}" for value in row))

# %% [markdown]
# > **Common claim, tested.** *"vmap is a for loop in disguise."*
#
# Count how often Python runs the function, and look at what JAX makes of it. (`jax.make_jaxpr` shows the program that
# JAX records; lesson 04 reads such programs line by line.)

# %%
calls = 0


def dot(a, b):  # [8], [8] -> one number
    global calls
    calls += 1
    return a @ b


program = jax.make_jaxpr(jax.vmap(dot, in_axes=(0, None)))(jnp.ones((1000, 8)), jnp.ones(8))
print(f"calls in Python for 1000 rows: {calls}")
for step in program.eqns:
    print(step.primitive.name, [value.aval.shape for value in step.invars], "->", step.outvars[0].aval.shape)
assert calls == 1 and len(program.eqns) == 1

# %% [markdown]
# **False.** The function ran once, for a stand-in for any row. A thousand dot products became one product of a matrix and a
# vector. This is also how keys are used in bulk: one key a row, no loop.

# %%
estimates = jax.vmap(estimate)(jax.random.split(key, 200))  # [200]
assert jnp.allclose(estimates, fresh, atol=1e-6)
print(f"200 estimates in one call: {estimates.mean():.3f} ± {estimates.std():.3f}")

# %% [markdown]
# ## jit: run once in Python, then never again
#
# `jax.jit` runs your function *once*, with stand-ins instead of numbers, writes down which operations happen,
# compiles them into one program, and from then on runs the program. This first run is called *tracing*. Python is only there for
# the tracing, and so is everything that Python does besides array operations. Such as `print`.
#
# **Predict.** Three calls. How often does it print "tracing"?


# %%
@jax.jit
def squash(vector):
    known = not isinstance(vector, jax.core.Tracer)  # a Tracer stands in for an array
    print(f"  tracing: shape {vector.shape}, {vector.dtype}, numbers known: {known}")
    return jnp.tanh(vector).sum()


for vector in (jnp.ones(3), 2 * jnp.ones(3), jnp.ones(5)):
    print(f"result {squash(vector):.3f}")

# %% [markdown]
# The second call had other numbers but the same shape: Python did not run at all. The third had another shape: traced again, compiled again.
# A counter in the function body is all you need to find out what makes JAX start over.
#
# **Predict.** For each line: traced, or reused?

# %%
traces = 0


@jax.jit
def double(x):
    global traces
    traces += 1  # Python: happens only while tracing
    return 2 * x


arguments = {
    "3 floats": jnp.ones(3),
    "3 other floats": jnp.zeros(3),
    "4 floats": jnp.ones(4),
    "shape (1, 3)": jnp.ones((1, 3)),
    "3 integers": jnp.ones(3, int),
    "a NumPy array of 3 integers": np.arange(3, dtype=np.int32),
    "the Python number 1.0": 1.0,
    "the Python number 2.0": 2.0,
    "the Python number 1": 1,
}

# %%
for what, argument in arguments.items():
    before = traces
    double(argument)
    print(f"{what:28} {'traced' if traces > before else 'reused'}")
print(f"{traces} programs for {len(arguments)} calls")

# %% [markdown]
# What counts is *shape and kind of number*, never the value. Now the case that costs real time. Messages have all lengths. A
# model that takes each one as it is meets a new shape again and again. One that *pads* to a few lengths does not. Below, the
# same function, on the real lengths of 60 messages in words:

# %%
lengths = [len(text.split()) for text in load_tickets("train").texts[:60]]
padded = [next(bucket for bucket in (8, 16, 32, 64, 128) if bucket >= length) for length in lengths]
print(f"{len(lengths)} messages of {min(lengths)} to {max(lengths)} words")

# %%
table = jnp.ones((1000, 32))  # a vector for each of 1000 words


def programs_so_far(lengths):
    traces, history = 0, []

    @jax.jit
    def message_vector(word_numbers):  # [length] -> [32]
        nonlocal traces
        traces += 1
        return table[word_numbers].mean(axis=0)

    for length in lengths:
        message_vector(np.zeros(length, np.int32))
        history.append(traces)
    return history


# %%
exact, bucketed = programs_so_far(lengths), programs_so_far(padded)
print(f"programs for {len(lengths)} messages: {exact[-1]} with exact lengths, {bucketed[-1]} with padded ones")
print(f"price: {1 - sum(lengths) / sum(padded):.0%} of the positions are padding")
assert exact[-1] == len(set(lengths)) and bucketed[-1] == len(set(padded))

# %%
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.step(range(1, 61), exact, color=plots.VERMILLION, where="post", label="exact lengths")
ax.step(range(1, 61), bucketed, color=plots.BLUE, where="post", label="padded to 8, 16, 32, 64 or 128")
ax.legend(frameon=False)
plots.finish(ax, "Without padding, every new length is a new program", "messages seen", "programs compiled")

# %% [markdown]
# Lesson 07 does this to real tokens, and makes sure that padding does not change a prediction (this `mean` would count it).
#
# **Predict.** A function is called five times, each time through a new `jax.jit`. How many traces?

# %%
traces = 0


def score(x):
    global traces
    traces += 1
    return x + 1


for _ in range(5):
    jax.jit(score)(1.0)
print(f"jax.jit(score) in a loop:           {traces} trace")

traces = 0
for _ in range(5):
    jax.jit(lambda x: score(x))(1.0)
print(f"jax.jit(lambda x: …) in a loop:     {traces} traces")

# %% [markdown]
# JAX remembers programs by the function itself. The first loop hands over one function, five times. The second makes a new function
# at each turn, looking the same to you, unknown to JAX. Put `@jax.jit` on a function that is defined once.
#
# ## What tracing freezes
#
# The sure ones go to a team at once. The others go to a person.
#
# **Predict.** What do the two lines say?

# %%
threshold = 0.5


@jax.jit
def ask_a_person(probs):
    return probs.max() < threshold


probs = jnp.array([0.7, 0.2, 0.1])
print(f"threshold {threshold}: ask a person? {ask_a_person(probs)}")
threshold = 0.9
print(f"threshold {threshold}: ask a person? {ask_a_person(probs)}")
assert bool(ask_a_person(probs)) != bool(probs.max() < threshold)  # 0.7 is below 0.9: the answer is wrong

# %% [markdown]
# The second answer is wrong. 0.5 was written into the program when it was traced, and no one looks at the variable again. **Whatever may
# change is an argument.** A second trap is louder: an `if` on a number.

# %%
@jax.jit
def route(probs, threshold):
    if probs.max() < threshold:
        return -1  # a person
    return probs.argmax()


try:
    route(probs, 0.9)
except jax.errors.TracerBoolConversionError as error:
    print(f"{type(error).__name__}: {str(error).partition(' with')[0]}")

# %% [markdown]
# Python wants to know now which way to go. While tracing there is no number yet, only a stand-in with a shape. What to write
# instead depends on what is being decided:
#
# | the `if` asks about | write |
# |---|---|
# | numbers, and both answers are cheap | `jnp.where(condition, a, b)`: computes both, picks for each element |
# | numbers, and one branch is expensive | `jax.lax.cond(condition, f, g, x)`: runs one |
# | a shape, a type, `None` | `if`, as ever: these are known while tracing |
# | a setting with few values | `if`, and name it in `static_argnames`: one program for each value |

# %%
@jax.jit
def route(probs, threshold):
    return jnp.where(probs.max() < threshold, -1, probs.argmax())


for threshold in (0.5, 0.9):
    print(f"threshold {threshold}: team {route(probs, threshold)}, with cond:", end=" ")
    print(jax.lax.cond(probs.max() < threshold, lambda p: -1, lambda p: p.argmax(), probs))

# %% [markdown]
# The last row of the table: a static argument is a plain Python value while tracing, so it may decide a shape or an
# `if`. Each new value is a new program.

# %%
traces = 0


@partial(jax.jit, static_argnames="n_teams")
def count_teams(teams, n_teams):  # [messages] -> [n_teams]
    global traces
    traces += 1
    return jnp.zeros(n_teams, int).at[teams].add(1)


for n_teams in (3, 3, 8):
    print(count_teams(teams, n_teams), f"programs so far: {traces}")

# %% [markdown]
# ## Pytrees: a whole model as one value
#
# The parameters of a model are many arrays. JAX takes any nest of dicts, lists, tuples and the like as one argument, and
# calls it a *pytree*. The arrays in it are its *leaves*.
#
# **Predict.** How many leaves?

# %%
params = {
    "embedding": jnp.ones((1000, 32)),
    "layers": [{"w": jnp.ones((32, 64)), "b": jnp.zeros(64)}, {"w": jnp.ones((64, 8)), "b": jnp.zeros(8)}],
}
for path, leaf in jax.tree.leaves_with_path(params):
    print(f"{jax.tree_util.keystr(path):22} {leaf.shape}")
print(f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters")

# %% [markdown]
# `jax.tree.map` applies a function to every leaf, or to every pair of leaves of two trees of the same structure.
# That is all a training step is: `jax.grad` gives a tree like the one it got, and one line updates a model of any size.


# %%
def size_of_weights(params):
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(params))


gradients = jax.grad(size_of_weights)(params)
assert jax.tree.structure(gradients) == jax.tree.structure(params)
updated = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
print(f"before {size_of_weights(params) / 1000:.1f} thousand, after one step {size_of_weights(updated) / 1000:.1f} thousand")

# %% [markdown]
# The gradient of $p^2$ is $2p$, so each step leaves $0.8\,p$, and $0.8^2$ of the sum. Structure is checked: a tree that lacks a leaf is
# an error, not a guess.

# %%
print(f"ratio: {size_of_weights(updated) / size_of_weights(params):.2f}")
del gradients["layers"][1]["b"]
try:
    jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
except ValueError as error:
    print(f"{type(error).__name__}, which names the key 'b':", "'b'" in str(error))

# %% [markdown]
# Your own class becomes a pytree in one line. Say which of its fields are settings: those are static, as above.
#
# **Predict.** Three layers: the second has other weights, the third another activation. How many traces?


# %%
@jax.tree_util.register_dataclass
@dataclass
class Layer:
    w: jax.Array
    b: jax.Array
    activation: str = field(default="tanh", metadata={"static": True})


traces = 0


@jax.jit
def apply(layer, x):
    global traces
    traces += 1
    z = x @ layer.w + layer.b
    return jnp.tanh(z) if layer.activation == "tanh" else jax.nn.relu(z)

# %%
w, b = jnp.ones((3, 2)), jnp.zeros(2)
for layer in (Layer(w, b), Layer(0.1 * w, b), Layer(w, b, "relu")):
    print(f"{layer.activation}: {apply(layer, probs)[0]:.3f}, programs so far: {traces}")

# %% [markdown]
# Weights are numbers: they may change. The activation is a setting: a new one is a new program, and the Python `if` is
# allowed. The Flax modules of lesson 06 are pytrees of this kind.
#
# ## Where an array lives
#
# A JAX array lives on a *device*: a GPU, a TPU, or, without one, the processor itself. Computation happens where the array
# is, and the code does not change. What you need to know is when data crosses over. `jax.transfer_guard` makes the silent
# crossings visible:

# %%
features = np.ones((911, 384), np.float32)  # NumPy: in the computer's own memory
total = jax.jit(jnp.sum)
with jax.transfer_guard("disallow"):
    try:
        total(features)
    except jax.errors.JaxRuntimeError as error:
        print(f"NumPy array:  {str(error).split(': ')[1]}")
    on_device = jax.device_put(features)  # on purpose, once
    result = total(on_device)
assert on_device.devices() == {jax.devices()[0]}
print(f"JAX array:    {result:.0f}, {on_device.nbytes / 1e6:.1f} MB on {len(on_device.devices())} device")

# %% [markdown]
# A NumPy array that is passed to a compiled function is copied at *every* call. Put data on the device once. (`jax.devices()` lists
# what there is, and `jax.device_put(x, device)` chooses. Lesson 13 uses eight at a time.) The other direction
# has a price, too: `float(loss)`, `print(loss)`, `np.asarray(loss)` and `if loss < 1:` bring a number back, and wait until it exists.
# Which leads to the last rule.
#
# ## Honest timing
#
# JAX does not wait. A call hands the work to the device and returns; Python goes on while the device computes. So a stopwatch around
# the call measures how long it takes to *order* the work. `jax.block_until_ready` waits for the delivery. Our stopwatch takes both times:

# %%
def seconds(function, *args):
    """Seconds until the call returned, and until its result was there."""
    start = time.perf_counter()
    result = function(*args)
    returned = time.perf_counter() - start
    jax.block_until_ready(result)  # takes any pytree
    return returned, time.perf_counter() - start


@jax.jit
def work(x):  # [256, 256] -> [256, 256]
    for _ in range(50):  # Python's loop is unrolled while tracing
        x = jnp.tanh(x @ x / 16)
    return x

# %% [markdown]
# **Predict.** What is the largest of these three: the first call, the time until the call returns, the time until the result is there?

# %%
x = jax.random.normal(jax.random.key(1), (256, 256))
first_call = seconds(work, x)[1]  # traces and compiles, too
runs = np.array([seconds(work, x) for _ in range(9)])  # [9 runs, 2]
not_waited, honest = np.median(runs, axis=0)
print("not waiting makes it look more than 5 times faster:", bool(honest > 5 * not_waited))
print("the first call takes more than 3 times as long:    ", first_call > 3 * honest)
assert honest > 5 * not_waited and first_call > 3 * honest

# %% [markdown]
# How far off on *your* machine? Run the cell: the bars are its own. (No time is written into this page, since every machine has others.)

# %%
times = {"without waiting": not_waited, "median, waited for": honest, "first call": first_call}
colours = [plots.VERMILLION, plots.BLUE, plots.ORANGE]
fig, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
ax.barh(list(times), np.array(list(times.values())) / honest, color=colours, left=1e-4)
ax.set(xscale="log", xlim=(1e-4, 1e4))
ax.axvline(1, color=plots.BLACK, linestyle="--", linewidth=1)
title = "One function, three stopwatches: only the blue one is honest"
plots.finish(ax, title, "measured time / true time", "")

# %% [markdown]
# The recipe: **warm up once, wait for the result, repeat, take the median.** The median, since on a busy machine one run in ten may
# be held up by something else. To compare two functions, run them in turns, so that what slows the machine slows both.


# %%
def times_slower(slow, fast):
    """How many times longer `slow()` takes than `fast()`: the median of 9 pairs after a warm-up."""
    seconds(slow), seconds(fast)
    return np.median([seconds(slow)[1] / seconds(fast)[1] for _ in range(9)])


assert 0.3 < times_slower(partial(work, x), partial(work, x)) < 3  # a thing is as fast as itself

# %% [markdown]
# ## Three claims about speed
#
# > **Common claim, tested.** *"JAX is NumPy, only faster."*
#
# The function is GELU from lesson 02, in its tanh form: a chain of small operations. `m` is NumPy or JAX.

# %%
def gelu(x, m=jnp):
    return 0.5 * x * (1 + m.tanh(0.79788 * (x + 0.044715 * x * x * x)))


print(f"{len(jax.make_jaxpr(gelu)(x).eqns)} operations")

# %%
sizes = (10, 1_000, 100_000, 4_000_000)
arrays = [np.random.default_rng(0).normal(size=size).astype(np.float32) for size in sizes]
on_device = [jax.device_put(array) for array in arrays]
compiled = jax.jit(gelu)
speed_up = [
    times_slower(partial(gelu, array, np), partial(compiled, copy)) for array, copy in zip(arrays, on_device)
]
ten_numbers = times_slower(partial(gelu, on_device[0]), partial(gelu, arrays[0], np))  # without jit

# %%
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.plot(sizes, speed_up, "o-", color=plots.BLUE)
ax.axhline(1, color=plots.BLACK, linestyle="--", linewidth=1)
ax.set_xscale("log")
ax.set_yscale("log", base=2)
ax.yaxis.set_major_formatter("{x:g}")
ax.annotate("equally fast", (sizes[0], 1), xytext=(0, 4), textcoords="offset points")
title = "Compiled JAX needs a large array to win"
plots.finish(ax, title, "numbers in the array", "NumPy's time / JAX's time")
print("10 numbers: NumPy is more than twice as fast as JAX op by op:       ", bool(ten_numbers > 2))
print("4 million numbers: compiled JAX is more than 1.5 times as fast:     ", bool(speed_up[-1] > 1.5))
assert ten_numbers > 2 and speed_up[-1] > 1.5

# %% [markdown]
# **Half true.** Each call into JAX has a fixed price. For a handful of numbers the price is all there is, and NumPy wins. With
# millions, the compiled program wins: it reads the array once and does everything on the way, where NumPy reads and writes it for each
# operation. Where the line crosses 1 depends on the machine; yours draws its own.
#
# > **Common claim, tested.** *"JAX arrays cannot change, so every update copies the whole array."*
#
# If so, twenty updates cost twenty times what one costs.

# %%
def update(x, times):
    for i in range(times):
        x = x.at[i].set(1.0)
    return x


big = on_device[-1]  # [4000000]
compiled_update = jax.jit(update, static_argnames="times")
outside = times_slower(partial(update, big, 20), partial(update, big, 1))
inside = times_slower(partial(compiled_update, big, 20), partial(compiled_update, big, 1))
print("twenty updates cost more than 5 times what one costs, outside jit:", bool(outside > 5))
print("twenty updates cost more than 5 times what one costs, inside jit: ", bool(inside > 5))
assert inside < 5 < outside

# %% [markdown]
# **True outside `jit`, false inside.** One by one, each update makes a new array. Compiled together, JAX sees that nobody needs the arrays
# in between and writes into one copy.
#
# > **Common claim, tested.** *"jit only pays if you call a function many times."*
#
# Compiling takes time, so a single call should be quicker without. We use an array length that nothing here has met before.

# %%
new_length = jax.random.normal(jax.random.key(2), 2311)
op_by_op = seconds(gelu, new_length)[1]
as_a_whole = seconds(jax.jit(gelu), new_length)[1]
print("first call ever: the whole compiled is faster than op by op:", op_by_op > as_a_whole)
later = times_slower(partial(gelu, new_length), partial(compiled, new_length))
print("later calls:     the whole compiled is faster than op by op:", bool(later > 1))
assert op_by_op > as_a_whole and later > 1

# %% [markdown]
# **False, here.** Without `jit`, JAX still compiles, one little program for each kind of operation, and that takes longer than one program
# for them all. What never pays is to compile anew at each call: new shapes, new lambdas, new static values.
#
# ## What you now know
#
# 1. Arrays never change; `.at[…]` makes new ones. Past the end, reads give the last entry and writes vanish.
# 2. A key is used once: to draw or to split. A reused key looks like certainty.
# 3. `jit` traces once for each shape and kind of number. Python's `print`, `if` and outside variables belong to the tracing.
# 4. `vmap` lifts a function for one to a function for many; pytrees make a whole model one argument.
# 5. A time counts if you warmed up, waited and took the median.
#
# **Exercises:** [03 · Exercises](../exercises/03_jax_arrays_exercises.ipynb), six of them, 47 minutes.
#
# **Next:** [04 · Where do gradients come from?](04_autodiff.ipynb)
#
# **Read more:** the JAX documentation, [The Sharp Bits](https://docs.jax.dev/en/latest/notebooks/Common_Gotchas_in_JAX.html),
# [Pseudorandom numbers](https://docs.jax.dev/en/latest/random-numbers.html), [Benchmarking
# JAX](https://docs.jax.dev/en/latest/benchmarking.html); Frostig et al., [Compiling machine learning programs via high-level
# tracing](https://mlsys.org/Conferences/doc/2018/146.pdf), sections 2 and 3; Salmon et al., *Parallel random numbers: as easy as
# 1, 2, 3* (SC 2011), section 2, on why a key can replace a hidden state.
