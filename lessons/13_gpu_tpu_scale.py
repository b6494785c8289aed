# %% [markdown]
# # 13 · How do I make it big and fast?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 30 min | under a minute | 06, 11 | say what a training run will cost before you pay for it, make it fit, and spread it over devices and machines without changing what it learns |
#
# The router of lesson 11 trains on a laptop in two minutes. Then the shop opens in twelve languages, somebody wants
# BERT-large, and the question arrives: what hardware, for how long? This page answers it with arithmetic first, then
# checks the arithmetic. Nothing here needs an accelerator: JAX can split this CPU into eight pretend devices, and it
# can compile for a TPU that is not there.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from flax import nnx

from course_lib import plots

jax.config.update("jax_num_cpu_devices", 8)  # before JAX starts, which the next line makes it do
print(f"{len(jax.devices())} devices, all of them this CPU")

# %% [markdown]
# ## How much arithmetic is a step?
#
# A product of a row vector of $H$ numbers and an $H × I$ matrix takes $H·I$ multiplications and as many additions. A
# token passes each matrix of each layer once forward. Going backward takes two such products, one for the gradient of
# the input and one for that of the matrix. So a step costs about
#
# $$6 · N · \text{tokens} \quad \text{floating-point operations (FLOPs)}$$
#
# with $N$ the number of weights in the layers' matrices. The word table does not count: a lookup multiplies nothing.
#
# **Predict.** 16 messages of 32 tokens, and a model with 10.6 million weights in its layers. How many FLOPs?

# %%
from course_lib.bert import BertConfig

TEAMS = tuple(f"team {n}" for n in range(8))
minilm = BertConfig.minilm_l6(labels=TEAMS)
width, wide, layers = minilm.hidden_size, minilm.intermediate_size, minilm.num_hidden_layers
in_layers = layers * (4 * width * width + 2 * width * wide)
rule = 6 * in_layers * 16 * 32
print(f"{in_layers / 1e6:.1f} million weights in the layers, {rule / 1e9:.1f} GFLOP a step")

# %% [markdown]
# `capacity.step_flops` counts more closely: it adds attention's own products, and knows that our classifier computes
# only [CLS] in its last layer. XLA, which compiles the step, counts too. Do the three agree?

# %%
from course_lib.bert import BertForSequenceClassification
from course_lib.cache import compiled
from course_lib.capacity import step_flops
from course_lib.data import empty_batch
from course_lib.train import loss_and_gradients

graph, params = nnx.split(BertForSequenceClassification(minilm, rngs=nnx.Rngs(0)), nnx.Param)
key = jax.random.key(0)
step = compiled(loss_and_gradients, ("graph", "accumulate", "remat"))  # jax.jit, as `fit` uses it; these are static
lowered = step.lower(graph, params, empty_batch(16, 32), key)  # traced and translated; nothing runs yet
by_xla = lowered.cost_analysis()["flops"]
ours = step_flops(minilm, 16, 32)
print(f"rule of thumb {rule / by_xla:.2f}, step_flops {ours / by_xla:.2f} of what XLA counts")
assert 0.85 < ours / by_xla <= 1

# %% [markdown]
# The rule is high here because it does not know about the last layer. XLA also counts what is no matrix product: GELU,
# softmax, random numbers for dropout.
#
# ## How close to the limit is this machine?
#
# *Utilisation* is the arithmetic that a step needs, divided by what the device could do in the same time. What it could
# do is best measured: a product of two large matrices.

# %% tags=["nbval-ignore-output"] reason="speeds are those of the machine that runs the page"
import time

from course_lib.capacity import matrix_rate


def seconds_of(function, *args, repeats=3):
    jax.block_until_ready(function(*args))  # compiles
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*args))
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


batch = empty_batch(16, 32)
seconds = seconds_of(lambda: step(graph, params, batch, key))
rate = matrix_rate(1024)
utilisation = ours / seconds / rate
print(f"{ours / seconds / 1e9:.0f} of {rate / 1e9:.0f} GFLOP/s: utilisation {utilisation:.0%}")

# %%
assert 0.05 < utilisation < 1.6, "either the clock or the count is wrong"
print("What remains is to use more of the machine, or to have more machine.")

# %% [markdown]
# On a CPU about half is usual. On an accelerator, which computes a thousand times faster than it can be fed, small
# batches reach a few per cent. That is the number to watch there: 40 to 60 % is good.
#
# ## bfloat16: half the bits
#
# bfloat16 keeps float32's range and drops two thirds of its digits. Accelerators multiply it several times faster, and
# it halves what has to be moved. What does it do to a number?

# %%
for x in (1 / 3, 1.001, 3e38):
    print(f"{x:<8.4g} → {float(jnp.bfloat16(x)):.6g}")
print("1 + 0.003 =", float(jnp.bfloat16(1) + jnp.bfloat16(0.003)))

# %% [markdown]
# Two or three digits. The last line is why the *parameters* stay float32: a learning step is often a thousandth of the
# parameter, and in bfloat16 adding it would change nothing.
#
# > **Common claim, tested.** "Mixed precision changes nothing." Does it on the logits of the real model?

# %%
from course_lib.checkpoint import load_pretrained
from course_lib.data import load_tickets, load_tokenizer, tokenize
from course_lib.finetune import tickets_router
from course_lib.predict import predict_logits

folder = tickets_router()  # the model of lesson 11; trained at the first call, then kept
texts = load_tickets("test").texts[:150]
examples = tokenize(load_tokenizer(folder), texts, max_length=32)
logits = {
    dtype: predict_logits(load_pretrained(folder, dtype=dtype), examples, buckets=(32,))
    for dtype in ("float32", "bfloat16")
}
off = np.abs(logits["bfloat16"] - logits["float32"]).max()
same = (logits["bfloat16"].argmax(-1) == logits["float32"].argmax(-1)).mean()
assert 1e-3 < off < 1 and same > 0.97
print("The logits move in the second digit; hardly a message changes its team.")

# %% [markdown]
# **Nearly true.** Almost nothing changes, which is not nothing: measure it on your own test set, as here.
#
# ## What has to fit into memory?
#
# Five things: parameters, a gradient for each, Adam's two running means for each, the best epoch's copy of the parameters,
# and the *activations*, everything that the forward pass must keep because the backward pass needs it. The first four follow
# from the model; the activations grow with the batch and the length.

# %%
from course_lib.capacity import training_memory


PARTS = ("parameters", "gradients", "adam", "best", "activations", "total")


def in_mb(name, config, **settings):
    memory = training_memory(config, **settings)
    parts = {part: getattr(memory, part) / 1e6 for part in PARTS}
    return {"run": name, **parts}


rows = [in_mb(f"length {length}", minilm, batch=16, length=length) for length in (32, 128, 512)]
pd.DataFrame(rows).set_index("run").round().astype(int)

# %% [markdown]
# In MB. At 512 tokens the activations are nearly everything: attention's $T × T$ tables grow with the square of the
# length.
#
# Is the calculator right? JAX can say what the backward pass closes over without computing anything: `jax.vjp` returns
# it inside the function that it gives back. And XLA says how much memory the compiled step will hold.

# %%
from course_lib.capacity import activation_bytes, kept_bytes

for length in (32, 128):
    ratio = activation_bytes(minilm, 16, length) / kept_bytes(minilm, 16, length)
    print(f"length {length}: the formula gives {ratio:.2f} of what JAX keeps")
    assert 0.85 < ratio < 1.15

plan = lowered.compile().memory_analysis()
planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
memory = training_memory(minilm, 16, 32)
predicted = memory.parameters + memory.gradients + memory.activations  # the rest belongs to other programs
assert 0.85 < predicted / planned < 1.15
print("and for the whole step, within 15 % of what XLA sets aside")
del params, lowered  # 91 MB of parameters that nothing on this page needs any more

# %% [markdown]
# ## Three ways to make it fit
#
# **Accumulate.** Compute the batch's gradient in parts, one after the other, and add up. The step is the same; only one
# part's activations exist at a time.
#
# **Predict.** The model has dropout. Will four parts of four give the same gradient as one batch of sixteen? And
# without dropout?

# %%
quiet = BertConfig.tiny(labels=TEAMS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
tiny_graph, weights = nnx.split(BertForSequenceClassification(quiet, rngs=nnx.Rngs(0)), nnx.Param)
rng = np.random.default_rng(0)
batch = empty_batch(16, 32)._replace(
    input_ids=rng.integers(1000, 2000, (16, 32)).astype(np.int32),
    attention_mask=np.ones((16, 32), np.int32),
    labels=rng.integers(8, size=16).astype(np.int32),
    weights=np.ones(16, np.float32),
)


# %%
def gradient_gap(**changed):
    """How far `changed` moves the gradient, as a share of its largest entry."""
    gradients = [step(tiny_graph, weights, batch, key, **how)[1] for how in ({}, changed)]
    whole, other = (jax.tree.leaves(jax.device_get(gradient)) for gradient in gradients)
    return max(np.abs(a - b).max() for a, b in zip(whole, other)) / max(np.abs(a).max() for a in whole)


gap = gradient_gap(accumulate=4)
print("without dropout, off by less than a hundred-thousandth:", bool(gap < 1e-5))
assert gap < 1e-5

# %% [markdown]
# Equal. With dropout each part draws its own masks: another gradient, and as good a one.
#
# **Rematerialise.** Keep only what enters each layer, and compute the inside a second time when the backward pass gets
# there (Chen et al. 2016): one forward pass more, so a third more arithmetic, for a fraction of the memory. The
# gradient is the same.

# %%
assert gradient_gap(remat=True) < 1e-5
base = BertConfig.bert_base(labels=TEAMS)
runs = {"float32": {}, "bfloat16": {"dtype": "bfloat16"}, "float32, remat": {"remat": True}}
runs["bfloat16, remat"] = {"dtype": "bfloat16", "remat": True}
kept = {name: kept_bytes(base, 32, 128, **settings) / 2**30 for name, settings in runs.items()}
for name, gib in kept.items():
    print(f"{name:16} {gib:5.2f} GiB kept")

# %%
fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
ax.barh(list(kept), list(kept.values()), color=[plots.BLUE, plots.SKY, plots.ORANGE, plots.VERMILLION])
ax.invert_yaxis()
plots.finish(ax, "Rematerialisation saves what bfloat16 cannot", "kept for the backward pass, GiB", "");

# %% [markdown]
# BERT-base, 32 texts of 128 tokens. One layer's inside comes on top while its turn lasts. This is what JAX asks of the
# compiler. Does XLA's compiler for CPUs do as it is asked?

# %% tags=["nbval-ignore-output"] reason="The answer is that of your version of XLA."
steps = [step.lower(tiny_graph, weights, batch, key, remat=remat).compile() for remat in (False, True)]
without, with_remat = (one.memory_analysis().temp_size_in_bytes for one in steps)
print(f"memory with remat: {with_remat / without:.2f} of what it takes without")
assert with_remat < 1.1 * without

# %% [markdown]
# That depends on its version: the one of jax 0.10 does not (a number near 1, and remat costs time and buys nothing), the one of 0.12 does.
# Compilers for GPUs and TPUs do; there, `course finetune --accumulate 4 --remat --dtype bfloat16` asks for all three.
#
# **Donate.** A step turns old parameters into new ones. If the old ones are given away, their memory becomes the new
# ones'; if not, both exist for a moment.

# %%
halve = jax.jit(lambda x: x / 2, donate_argnums=0)
old = jnp.ones(1000)
new = halve(old)
print("the old array is", "gone" if old.is_deleted() else "still there")

# %% [markdown]
# ## Compile once
#
# Each new shape is compiled once. Here is the count, for three batches of one length and one of another:

# %%
counter = jax.jit(lambda ids: ids.sum())
for length in (16, 16, 16, 24):
    counter(np.zeros((4, length), np.int32))
print(f"{counter._cache_size()} programs for 4 calls: why lesson 07 put lengths into buckets")

# %% [markdown]
# Compiling BERT takes seconds, and a job that restarts every night pays them every night. So the course lets JAX keep
# what it compiles on disk, for the next process.
#
# **Predict.** The same program, made from nothing twice. What does the compiler take the second time?

# %%
from course_lib.cache import enable_compile_cache

enable_compile_cache()
today = time.time() % 1  # a number that no program on disk has in it yet


def seconds_to_compile():
    made_new = jax.jit(lambda weights, ids, mask: nnx.merge(tiny_graph, weights)(ids, mask) + today)
    translated = made_new.lower(weights, batch.input_ids, batch.attention_mask)
    started = time.perf_counter()
    translated.compile()
    return time.perf_counter() - started


first, second = seconds_to_compile(), seconds_to_compile()
print("read from disk in less than half the time:", second < first / 2)
assert second < first / 2

# %% [markdown]
# ## Many devices
#
# *Data parallelism*: every device holds all parameters and a few rows of the batch. Each computes the gradient of its
# rows, the gradients are averaged over the devices (*all-reduce*), and all take the same step. In JAX the training
# code does not change. A *mesh* names the devices, and a *sharding* says how an array lies on them.

# %%
from course_lib.sharding import data_mesh, put_whole, split_rows

mesh = data_mesh(8)
rows, copies = split_rows(batch.input_ids, mesh), put_whole(jnp.ones((384, 8)), mesh)
print("batch     ", rows.shape, "→ on each device", rows.addressable_shards[0].data.shape)
print("parameters", copies.shape, "→ on each device", copies.addressable_shards[0].data.shape)

# %% [markdown]
# **Predict.** Train the same tiny model on one device and on eight. Will the losses be alike, or equal?

# %%
from course_lib.train import TrainConfig, fit

data = load_tickets("train")
tokenizer = load_tokenizer(folder)
numbers = np.array([data.classes.index(label) for label in data.labels], np.int32)
part = tokenize(tokenizer, data.texts[:256], max_length=16, labels=numbers[:256])
config = TrainConfig(epochs=2, batch_size=32, learning_rate=1e-3, dropout=True)


def losses(devices):
    config_of_model = BertConfig.tiny(labels=data.classes, num_hidden_layers=1)  # one layer: half the compiling
    model = BertForSequenceClassification(config_of_model, rngs=nnx.Rngs(0))
    return [epoch["train_loss"] for epoch in fit(model, part, part, config, mesh=data_mesh(devices))]


one, eight = losses(1), losses(8)
print("one device   ", [f"{loss:.4f}" for loss in one])
print("eight devices", [f"{loss:.4f}" for loss in eight])
assert np.allclose(one, eight, atol=1e-5)

# %% [markdown]
# Equal to five digits, dropout included. Eight real devices would be up to eight times as fast; these eight share two
# cores and prove only that the code is right. That is what a simulation is for: the same lines run on 8 GPUs
# (`course finetune … --devices 8`).
#
# ## Many machines
#
# Several processes, each with its own devices, find one another through a *coordinator*, and from then on
# `jax.devices()` are those of all. Two real processes on this machine:

# %%
import socket
import subprocess
import sys

with socket.create_server(("127.0.0.1", 0)) as free:
    address = f"127.0.0.1:{free.getsockname()[1]}"

SCRIPT = """
import sys
from course_lib.sharding import data_mesh, join_processes, split_rows
number, address = int(sys.argv[1]), sys.argv[2]
join_processes(address, 2, number)

import jax, jax.numpy as jnp, numpy as np
batch = split_rows(np.arange(8.0), data_mesh())        # each process keeps its half
total = jax.jit(jnp.sum)(batch)                        # needs both halves: one all-reduce
print(f"process {number} of {jax.process_count()}: has {batch.addressable_shards[0].data.shape[0]} of 8 rows, sum {total:.0f}")
"""

# %%
pair = [
    subprocess.Popen([sys.executable, "-c", SCRIPT, str(n), address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for n in (0, 1)
]
said = [process.communicate(timeout=200)[0] for process in pair]
print("".join(line + "\n" for out in said for line in out.splitlines() if line.startswith("process")), end="")

# %% [markdown]
# A whole training run goes the same way, one command a machine:
#
# ```
# course finetune my.csv --out /shared/run --coordinator node0:1234 --processes 2 --process-id 0
# course finetune my.csv --out /shared/run --coordinator node0:1234 --processes 2 --process-id 1
# ```
#
# Under Slurm or Kubernetes, `--cluster` finds these three out. If a machine dies the others end with an error,
# and the same command with `--resume` goes on after the last saved epoch, on as many devices as are left.
#
# ## Data that does not fit into memory
#
# So far all texts were one list. A stream is read as it is needed, and three things get harder: each process must read
# its own part, the order must still be random, and a resumed run must go on at the very message where it stopped.
# `grain` does this for JAX.

# %%
import grain


def stream(process, processes, seed=0):
    source = grain.MapDataset.source(data.texts).shuffle(seed=seed)[process::processes]  # any source with len and []
    return source.to_iter_dataset().batch(32, drop_remainder=False)


seen = [text for process in (0, 1) for texts in stream(process, 2) for text in texts]
print(f"two processes: {len(seen)} messages read, {len(set(seen))} different, of {len(data.texts)}")
assert sorted(seen) == sorted(data.texts)

# %%
reader = iter(stream(0, 2))
next(reader), next(reader)
position = reader.get_state()  # goes into the checkpoint
expected = list(next(reader))

later = iter(stream(0, 2))
later.set_state(position)
assert list(next(later)) == expected
print("a reader that was made anew goes on at the same message")

# %% [markdown]
# The source here is a list; a Parquet file, an ArrayRecord or a database takes its place with two methods, `__len__`
# and `__getitem__`. Now the same training, from the stream: a step takes what the reader gives.

# %%
import itertools

import optax

from course_lib.data import batches
from course_lib.train import update

optimizer = optax.adam(1e-3)
take_step = jax.jit(update, static_argnames="optimizer")


def training(reader, weights, state, steps):
    """So many updates on what `reader` gives → weights, optimiser's state, losses."""
    losses = []
    for texts, labels in itertools.islice(reader, steps):
        [piece] = batches(tokenize(tokenizer, list(texts), 32, np.array(labels)), 16, buckets=(32,))
        loss, gradients = step(tiny_graph, weights, piece, None)  # no key, no dropout
        weights, state = take_step(optimizer, weights, state, gradients)
        losses.append(float(loss))
    return weights, state, losses


# %% [markdown]
# **Predict.** Once from a list, once from a stream in the same order, once from a stream that is interrupted after 20 steps and taken
# up by a reader made anew. In how many digits do the losses agree?

# %%
order = grain.MapDataset.source(list(zip(data.texts, numbers))).shuffle(seed=0)
pairs = order.to_iter_dataset().batch(16)
start = weights, optimizer.init(weights)
rows = list(order)  # what memory may be too small for
listed = (zip(*rows[first : first + 16]) for first in range(0, 40 * 16, 16))
*_, from_list = training(listed, *start, 40)
*_, from_stream = training(iter(pairs), *start, 40)

reader = iter(pairs)
*halfway, before = training(reader, *start, 20)
later = iter(pairs)
later.set_state(reader.get_state())
*_, after = training(later, *halfway, 20)
assert from_list == from_stream == before + after and np.mean(after) < np.mean(before)
print(f"{len(from_stream)} losses, the same to the last digit in all three")

# %% [markdown]
# ## A TPU that is not there
#
# Will it run on a TPU? JAX translates a function into StableHLO, the language that XLA's compilers for all devices
# read. That translation needs no device, so it can be a test on your laptop.

# %%
exported = jax.export.export(
    jax.jit(lambda params, batch, key: loss_and_gradients(tiny_graph, params, batch, key)), platforms=["cuda", "tpu"]
)(weights, batch, key)
print("lowered for", " and ".join(exported.platforms))
print("matrix products in it:", exported.mlir_module().count("stablehlo.dot_general") > 10)

# %% [markdown]
# ## So, what hardware, and for how long?
#
# BERT-large, ten million texts of 128 tokens, three times through. Every assumption stands in the cell; change them.

# %%
large = BertConfig.bert_large(labels=TEAMS)
PEAK = 197e12  # bfloat16 FLOP/s of one TPU v5e chip, from its data sheet
UTILISATION = 0.4  # assumed; measure yours
CHIP_MEMORY = 16e9  # bytes, from the data sheet
TEXTS, EPOCHS, LENGTH, ROWS_PER_CHIP = 10e6, 3, 128, 32

flops = 4 / 3 * step_flops(large, 1, LENGTH) * TEXTS * EPOCHS  # with remat the forward pass, a third of a step, runs twice
need = training_memory(large, ROWS_PER_CHIP, LENGTH, dtype="bfloat16", remat=True)
plain = training_memory(large, ROWS_PER_CHIP, LENGTH)
for chips in (1, 8, 256):
    print(f"{chips:4} chips: {flops / (chips * PEAK * UTILISATION) / 3600:7.2f} hours")
print(f"memory a chip: {need.total / 1e9:.1f} GB with bfloat16 and remat, {plain.total / 1e9:.1f} GB without, of {CHIP_MEMORY / 1e9:.0f}")
print(f"at each step, {need.gradients / 1e9:.1f} GB of gradients cross the network; 256 chips take {256 * ROWS_PER_CHIP:,} texts a step")
assert need.total < CHIP_MEMORY < plain.total

# %% [markdown]
# The last line is what the estimate leaves out. The time for the network must be hidden behind the arithmetic. And a
# step with so many texts is another training run, with another learning rate (Goyal et al. 2017): 256 chips buy speed,
# not the same result sooner.
#
# ## What you now know
#
# 1. A step costs about 6 · weights · tokens operations; utilisation says how much of the device you use.
# 2. Memory is five times the parameters (they, the gradient, Adam's two means, the best copy) plus activations, which grow with batch
#    and length.
# 3. bfloat16, accumulation, rematerialisation and donation make it fit; each leaves the result (nearly) the same.
# 4. Data parallelism changes where rows lie and not the code; eight pretend devices test it.
# 5. Cost is computed before it is paid, with the assumptions written down.
#
# **Exercises:** [13 · Exercises](../exercises/13_gpu_tpu_scale_exercises.ipynb) · **Next:** [14 · How do others use it?](14_deploy.ipynb)
#
# **Read more:** Kaplan et al., [Scaling Laws](https://arxiv.org/abs/2001.08361), section 2.1; Chen et al.,
# [Training Deep Nets with Sublinear Memory Cost](https://arxiv.org/abs/1604.06174); Goyal et al.,
# [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677), sections 2 and 3; Micikevicius et al., [Mixed
# Precision Training](https://arxiv.org/abs/1710.03740).
