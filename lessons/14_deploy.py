# %% [markdown]
# # 14 · How do others use it?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 35 min | under a minute | 11 (12 helps) | put a model behind HTTP so that it stays up, say what a slow answer costs, ship it as a file, halve its weights, notice that the world has changed, and go back to yesterday's version |
#
# The router sorts messages, in a notebook, on your machine. On Monday the shop's website wants to ask it, at noon sixty visitors
# at a time. None of them has Flax, or you. **What has to be true before others can rely on it?** This page takes the model of
# lesson 11 all the way: a folder, a service, a file, a watch on what it says, and a way back.

# %%
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

import httpx
import matplotlib.pyplot as plt
import numpy as np

from course_lib import plots
from course_lib.data import load_tickets
from course_lib.finetune import tickets_router

# %%
test = load_tickets("test")
versions = Path(tempfile.mkdtemp())  # every version of the model gets a folder in here
first = Path(shutil.copytree(tickets_router(), versions / "router-1"))
for name in ("model.safetensors", "tokenizer.json", "config.json"):
    print(f"{name:18} {(first / name).stat().st_size / 2**20:5.1f} MiB")

# %% [markdown]
# ## Save → load → predict
#
# Three files: the numbers, the vocabulary, the shape with the teams' names. No training data, no optimiser, no code. Whatever you
# build on top stands on one promise: **what is loaded says what was saved.** **Predict.** We load, save again and load that copy.
# How far apart are the logits of the two?

# %%
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.data import load_tokenizer, tokenize
from course_lib.predict import predict_logits

model, tokenizer = load_pretrained(first), load_tokenizer(first)
copy = save_pretrained(model, versions / "copy", tokenizer)
examples = tokenize(tokenizer, test.texts[:32], 64)
loaded, saved = (predict_logits(each, examples, buckets=(64,)) for each in (load_pretrained(copy), model))
same = np.array_equal(loaded, saved)
print("the same logits to the last bit:", same)
assert same

# %% [markdown]
# Not close: the same. If your own model fails this, look at what is *not* in the folder: a cleaning step in the notebook,
# a different tokenizer, labels in another order. The last of these will bite us at the end of this page.
#
# ## How long does one answer take?
#
# A compiled function has fixed shapes, and the first message of a new shape pays for the compiler, while a customer waits. So a
# service compiles **before** it opens. `ServedModel` has a few padded lengths, as in lesson 11, and for each a few batch sizes,
# fewer where texts are long, and makes one program for each pair.

# %%
from course_lib.batching import ServedModel

served = ServedModel(first, lengths=(32, 64, 128))
print(len(served.shapes), "programs, such as", served.shapes[0], "and", served.shapes[-1], "(texts, tokens)")


def milliseconds(text):
    started = time.perf_counter()
    (ids,) = served.encode([text])
    served.run(served.padded_length(ids), [ids])
    return 1000 * (time.perf_counter() - started)


# %% [markdown]
# Now ask it 200 messages, one by one, as a single patient visitor would. **Predict.** All go through the same model on the same
# machine. Do all take about the same time?

# %%
alone = np.array([milliseconds(text) for text in test.texts[:200]])
mean, p50, p99 = alone.mean(), *np.percentile(alone, [50, 99])

fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
ax.hist(np.minimum(alone, 1.3 * p99), bins=60, color=plots.SKY)
behind = dict(facecolor="white", edgecolor="none", pad=1)
for value, name, height in ((p50, "p50", 0.92), (mean, "mean", 0.75), (p99, "p99", 0.92)):
    ax.axvline(value, color=plots.VERMILLION)
    ax.annotate(f" {name}: {value:.1f} ms", (value, height), xycoords=("data", "axes fraction"), bbox=behind)
title = f"One in a hundred waits {p99 / p50:.1f} times as long as the one in the middle"
plots.finish(ax, title, "time to the answer (ms)", "messages")
print("one in a hundred waits more than twice as long as the one in the middle:", bool(p99 > 2 * p50))
assert p99 > 2 * p50

# %% [markdown]
# The bumps are the padded lengths: a long message is more work. On top comes whatever else the machine does. That is why a latency is
# stated in **percentiles**: p50 is what half of the callers stay below, p99 what all but one in a hundred do.
#
# > **Common claim, tested.** *"p99 concerns one user in a hundred, so look at the average."*
#
# **Predict.** A page of the shop shows ten messages and asks for each. How many visitors meet at least one answer slower than p99?

# %%
print(f"{1 - 0.99**10:.1%} of the visitors")

# %% [markdown]
# **False.** Whoever asks ten times meets the slowest hundredth ten times as often. Dean and Barroso call it *the tail at scale*.
#
# ## What batching buys
#
# Running the model has a price for the call and a price for each message in it. For a single message, XLA starts hundreds of small
# operations, and fetches every weight from memory to use it a few times. **Predict.** How much longer than one message do 32 take,
# run together?

# %%
ids = [row for row in served.encode(test.texts) if served.padded_length(row) == 32][:32]
sizes = [1, 2, 4, 8, 16, 32]


def seconds_for(count):
    times = []
    for _ in range(8):
        started = time.perf_counter()
        served.run(32, ids[:count])
        times.append(time.perf_counter() - started)
    return min(times)  # the others were disturbed by something else


together = np.array([seconds_for(count) for count in sizes])

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(sizes, 1000 * together, "o-", color=plots.BLUE, label="measured")
left.plot(sizes, 1000 * together[0] * np.array(sizes), ":", color=plots.BLACK, label="one after the other")
left.legend(frameon=False)
plots.finish(left, "A batch takes less than its parts", "messages in one run", "time for the run (ms)")
right.plot(sizes, sizes / together, "o-", color=plots.GREEN)
right.set_ylim(bottom=0)
gain = sizes / together * together[0]
plots.finish(right, f"Up to {gain.max():.1f} times as many a second", "messages in one run", "messages a second")
print("messages a second grow by more than a third:", bool(gain.max() > 1.33))
assert gain.max() > 1.33

# %% [markdown]
# Two cores are soon fully busy, and the curve on the right flattens. On a GPU, a batch of one leaves nearly all of the chip idle, and
# the curve climbs far longer. The principle is the same: *together is cheaper*.
#
# ## The queue, on paper
#
# But visitors do not come in batches. They come when they like, and a batch has to be **collected**: from those who wait while the
# model is busy, or by waiting on purpose. What that does to latency is worth a simulation. A run costs 4 ms, and 1 ms more for each
# message in it; arrivals are random; a batch leaves when it is full or when its oldest message has waited `max_wait`.


# %%
def simulate(arrivals, max_batch, max_wait, fixed=0.004, each=0.001):
    """Seconds at which messages arrive → milliseconds until each is answered."""
    answered, free, i = np.empty(len(arrivals)), 0.0, 0
    while i < len(arrivals):
        full = arrivals[min(i + max_batch, len(arrivals)) - 1]  # when this batch would have its last message
        start = max(free, min(full, arrivals[i] + max_wait))
        count = min(max_batch, int(np.searchsorted(arrivals, start, side="right")) - i)
        free = start + fixed + each * count
        answered[i : i + count] = free
        i += count
    return 1000 * (answered - arrivals)


gaps = np.random.default_rng(0).exponential(size=4000)


def arrivals(rate):
    return np.cumsum(gaps) / rate  # in seconds, `rate` a second on average


# %% [markdown]
# One at a time takes 5 ms, so 200 a second is the most that can work. **Predict.** At 190 a second there are still 10 to spare. What
# is p99?

# %%
for rate in (100, 190, 220):
    for max_batch in (1, 32):
        p50, p99 = np.percentile(simulate(arrivals(rate), max_batch, max_wait=0), [50, 99])
        print(f"{rate} a second, batches of up to {max_batch:2}:  p50 {p50:5.0f} ms   p99 {p99:5.0f} ms")

# %%
rates = np.linspace(20, 880, 40)
fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
for max_batch, colour in ((1, plots.VERMILLION), (8, plots.ORANGE), (32, plots.BLUE)):
    slowest = [np.percentile(simulate(arrivals(rate), max_batch, 0), 99) for rate in rates]
    ax.plot(rates, slowest, color=colour, label=f"up to {max_batch} together" if max_batch > 1 else "one at a time")
ax.set_ylim(0, 250)
ax.legend(frameon=False)
plots.finish(ax, "Every queue has a cliff; batching moves it to the right", "messages a second", "p99 (ms)")

# %% [markdown]
# Two lessons for life. **Near its limit, a queue explodes**: at 95 % of what is possible the slowest wait more than twenty times the
# work itself. Beyond the limit it has no end, so a queue must be *bounded*, and somebody must be told "not now". And batching helps
# most where it is needed: the more wait, the larger the batches.
#
# > **Common claim, tested.** *"To get large batches, make messages wait for each other."*
#
# **Predict** what 20 ms of patience do on a quiet and on a busy day.

# %%
for rate in (50, 600):
    for max_wait in (0, 0.002, 0.02):
        p50, p99 = np.percentile(simulate(arrivals(rate), 32, max_wait), [50, 99])
        print(f"{rate:3} a second, waiting up to {1000 * max_wait:2.0f} ms:  p50 {p50:3.0f} ms   p99 {p99:3.0f} ms")

# %% [markdown]
# **False, mostly.** On a quiet day patience is pure loss, so a service has little of it; on a busy day the queue fills by itself.
#
# ## The service
#
# `course_lib.serve` puts this behind HTTP: FastAPI checks what comes in, a bounded queue collects batches, one thread runs the model.
# `running` starts it here, on a free port of this machine; from a terminal it is `course serve DIR --port 8000`.

# %%
from course_lib.serve import running
from course_lib.service import Settings

LENGTHS = (32, 64, 128)  # no ticket is longer
services = contextlib.ExitStack()
url = services.enter_context(running(first, Settings(lengths=LENGTHS, admin_key="only-for-the-operator")))
client = httpx.Client(base_url=url, trust_env=False, timeout=30)  # trust_env: no proxy stands between us and ourselves

answer = client.post("/predict", json={"text": "third week without my sofa and your map still shows the depot"})
print(answer.status_code, answer.json()["model"], "→", answer.json()["predictions"][0]["label"])
assert answer.json()["predictions"][0]["label"] == "delivery"

# %% [markdown]
# That went through a real socket. Any language can do it. And the page at `/` is for people: type a message and see the
# team, how sure the model is, and which words mattered. (It leaves out each word in turn and asks again; lesson 12 has finer tools.)

# %%
explained = client.post("/explain", json={"text": "my lamp arrived broken"}).json()
print("team:", explained["label"])
matters = {word["word"]: word["effect"] > 0.3 for word in explained["words"]}  # the probability falls by that much
for word, yes in matters.items():
    print(f"{word:8} {'matters' if yes else ''}".rstrip())
assert explained["label"] == "faulty" and matters["broken"]

# %% [markdown]
# ## What strangers send
#
# In a notebook you know what goes in. Behind a URL, anything does: by accident, from a broken client, on purpose. **Predict**, for
# each of these, what a careless service would do.

# %%
strange = {
    "not JSON": dict(content="{text: hello", headers={"Content-Type": "application/json"}),
    "a number": dict(json={"text": 12345}),
    "nothing": dict(json={"text": "   "}),
    "a novel": dict(json={"text": "a" * 100_000}),
    "10 MB": dict(json={"text": "a" * 10_000_000}),
    "control characters": dict(json={"text": "hello\x00\x1b[31m"}),
}
for name, request in strange.items():
    refused = client.post("/predict", **request)
    print(f"{name:19} {refused.status_code}  {refused.json()['error'][:75]}")
    assert 400 <= refused.status_code < 500
assert client.post("/predict", json={"text": "where is it"}).status_code == 200  # and it still works

# %% [markdown]
# Status 400 to 499 says *you can fix this*, and the text says how. 500 would say *I am broken*. Behind each refusal is a number that
# somebody chose and wrote down:

# %%
from course_lib.serve import MAX_BODY, MAX_CHARACTERS, MAX_TEXTS

chosen = Settings()
print(f"a text: {MAX_CHARACTERS:,} characters    a request: {MAX_TEXTS} texts, {MAX_BODY // 1024} KiB")
print(f"a run: up to {chosen.max_batch} texts    waiting for company: {1000 * chosen.max_wait:.0f} ms")
print(f"the queue: {chosen.max_queue} texts    an answer: within {chosen.timeout:.0f} s")

# %% [markdown]
# The other protection is not to be reachable. The service listens on this machine only. With `--host` for others it refuses to start
# until `COURSE_SERVE_KEY` is set, and then answers only who sends that key. A second key, `COURSE_SERVE_ADMIN_KEY`, is for changing
# the model. Encryption is the job of a proxy in front (nginx, Caddy, your cloud's).
#
# ## Under load
#
# Sixteen callers at once, each asking again as soon as it is answered: first a service that takes one message at a time, then one
# that batches.

# %%
from concurrent.futures import ThreadPoolExecutor


def ask(client, text):
    started = time.perf_counter()
    answer = client.post("/predict", json={"text": text})
    return answer, 1000 * (time.perf_counter() - started)


def load(client, texts, callers=16):
    """All texts, from so many callers at once → answers, their milliseconds, and answers a second."""
    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        answers, waits = zip(*pool.map(lambda text: ask(client, text), texts))
    return answers, np.array(waits), len(texts) / (time.perf_counter() - started)


# %%
def runs(client):
    """How often the model has been run: /metrics counts it, for Prometheus to collect."""
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith("course_batch_texts_count")]
    return float(line.split()[1])


texts = test.texts[:240]
some, rounds, before = texts[:80], {"single": [], "batched": []}, runs(client)
with running(first, Settings(lengths=LENGTHS, max_batch=1)) as single_url:
    with httpx.Client(base_url=single_url, trust_env=False, timeout=30) as single_client:
        for _ in range(3):  # in turn, so that what disturbs the machine disturbs both
            rounds["single"].append(load(single_client, some))
            rounds["batched"].append(load(client, some))
batched_runs = (runs(client) - before) / 3

# %%
single_answers, single_waits, single_rate = max(rounds["single"], key=lambda one: one[2])  # the fastest round of each
answers, waits, rate = max(rounds["batched"], key=lambda one: one[2])
labels = [answer.json()["predictions"][0]["label"] for answer in answers]
single_labels = [answer.json()["predictions"][0]["label"] for answer in single_answers]
print("both gave the same answers:", labels == single_labels)
print("the model ran less than half as often:", batched_runs < len(some) / 2)
assert labels == single_labels and batched_runs < len(some) / 2

# %%
fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
share = np.linspace(0, 100, len(waits))
ax.plot(np.sort(single_waits), share, color=plots.VERMILLION, label=f"one at a time, {single_rate:.0f} answers/s")
ax.plot(np.sort(waits), share, color=plots.BLUE, label=f"batched, {rate:.0f} answers/s")
ax.set_xlim(left=0)
ax.legend(frameon=False, loc="upper left")
title = f"Sixteen callers, {rate / single_rate:.1f} times the answers a second"
plots.finish(ax, title, "time to the answer (ms)", "callers answered (%)")

# %% [markdown]
# Far fewer runs, and more answers, though by much less: here callers and service share the cores and one Python process.
# `benchmarks/serve.py` measures properly, with 1, 8 and 64 callers in a process of their own, beside a transformers server
# with PyTorch, and writes a table of what came out.
#
# **Predict.** Now a service whose queue holds 8 messages meets 40 callers at once. What happens to the other callers?

# %%
with running(first, Settings(lengths=LENGTHS, max_queue=8)) as small_url:
    with httpx.Client(base_url=small_url, trust_env=False, timeout=30) as small_client:
        crowd, _, _ = load(small_client, test.texts[:200], callers=40)
statuses = [answer.status_code for answer in crowd]
told = {answer.headers.get("retry-after") for answer in crowd if answer.status_code == 503}
print("statuses:", sorted(set(statuses)), "  answered or refused, of 200:", statuses.count(200) + statuses.count(503))
print("everyone who was refused was told when to come back:", None not in told)
assert set(statuses) == {200, 503} and None not in told

# %% [markdown]
# Nobody is lost and nobody waits for ever. A refusal that comes at once, with a time to come back (`Retry-After`), is worth more
# than an answer after a minute to somebody who has left.
#
# ## A file that needs no course
#
# A service is one way to hand a model over. The other is a file. `jax.export` writes the computation as *StableHLO*, which is what
# JAX gives to its compiler: matrix products, additions, no Python. The weights are an argument of the program and lie beside it.
# **Predict.** How large is the program without them?

# %%
import jax.export

from course_lib.export import export

exported = export(first, versions / "exported")
program = jax.export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
sizes = {name: (exported / name).stat().st_size / 2**20 for name in ("model.stablehlo", "weights.safetensors")}
print(f"weights: {sizes['weights.safetensors']:.0f} MiB    program: under one MiB: {sizes['model.stablehlo'] < 1}")
print("lowered for", ", ".join(program.platforms), "   input_ids:", program.in_avals[-1].str_short())
assert sizes["model.stablehlo"] < 1

# %% [markdown]
# `batch` and `length` are symbols: the file takes any number of texts, of any length that the model can read. It was lowered for CUDA
# and TPU on a machine that has neither. Beside it lie the weights, the tokenizer, the labels, and a script:

# %%
print((exported / "predict.py").read_text())

# %%
import subprocess
import sys

messages = [
    "third week without my sofa and your map still shows the depot",
    "please make order 88121 a size 40 before you pack it",
]
ran = subprocess.run([sys.executable, exported / "predict.py", *messages], capture_output=True, text=True, check=True)
from_service = client.post("/predict", json={"text": messages}).json()["predictions"]
for line, answer in zip(ran.stdout.splitlines(), from_service):
    label, probability = line.split("\t")
    same = label == answer["label"] and abs(float(probability) - answer["probability"]) < 1e-5
    print(f"{label:9} what the service says, too: {same}")
    assert same

# %% [markdown]
# It needs the packages `jax`, `flatbuffers`, `tokenizers` and `safetensors`, and nothing of ours. From a terminal: `course export DIR`.
#
# ## Weights in 16 and in 8 bits
#
# Nearly all of what we ship is numbers of 32 bits. Do they need them? In 8 bits a number is one of 255 steps, $w \approx s \cdot q$
# with $q$ from −127 to 127, and all depends on the step $s$. Take a whole matrix, find its largest number, divide by 127. Or do
# that **for each column**, the weights of one output, by itself.

# %%
from course_lib.bert import BertModel
from course_lib.pretrained import fetch

kernel = load_pretrained(fetch(), architecture=BertModel).layers[0].intermediate.kernel
kernel = np.asarray(kernel[...])  # [384 in, 1536 out]
steps = {"one step for all": np.abs(kernel).max() / 127, "one a column": np.abs(kernel).max(axis=0, keepdims=True) / 127}
for name, step in steps.items():
    back = np.round(kernel / step).astype(np.int8) * step
    error = np.linalg.norm(back - kernel) / np.linalg.norm(kernel)
    print(f"{name:17} relative error {error:.1%}")

# %% [markdown]
# One large weight makes the step coarse for everybody who shares it. With a step for each column it is only its own column's problem.
# `course_lib.export` stores each matrix so, and each word of the embedding table with a step of its own.
#
# > **Common claim, tested.** *"8 bits make a model four times smaller and faster, and cost accuracy."*
#
# Three claims in one. **Predict** each, then look:

# %%
import pandas as pd
from flax import nnx

from course_lib.data import class_indices
from course_lib.export import STORAGE, parameters, probabilities_of, restore, store

teams = model.config.labels
true = class_indices(test, teams)[:160]
arrays = parameters(model)
examples = tokenize(tokenizer, texts[:160], 64)


def with_stored(stored):
    """The model with these weights in place of its own."""
    graph, state = nnx.split(model, nnx.Param)
    back = restore(stored)
    flat = [(path, v.replace(back[".".join(map(str, path))])) for path, v in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


# %%
one = np.array(served.encode(["where is my parcel"]), np.int32)  # [1, tokens]


def fastest(stored):
    """Milliseconds for one message, its weights turned back from `stored` in the same program."""
    call = jax.jit(probabilities_of(model)).lower(stored, one, one).compile()
    on_device, times = jax.device_put(stored), []
    for _ in range(20):
        started = time.perf_counter()
        call(on_device, one, one).block_until_ready()
        times.append(1000 * (time.perf_counter() - started))
    return min(times)


# %% tags=["nbval-ignore-output"] reason="It shows times and the last digits of a trained model. What it is there to show is asserted in the next cell."
print(f"{sum(array.size for array in arrays.values()) / 1e6:.1f} million numbers")
rows, predicted = {}, {}
for storage in STORAGE:
    stored = store(arrays, storage)
    predicted[storage] = predict_logits(with_stored(stored), examples, buckets=(32, 64)).argmax(-1)
    rows[storage] = {
        "MiB": sum(array.nbytes for array in stored.values()) / 2**20,
        "ms a message": fastest(stored),
        "accuracy": (predicted[storage] == true).mean(),
        "changed answers": int((predicted[storage] != predicted["float32"]).sum()),
    }
table = pd.DataFrame(rows).T
display(table.round({"MiB": 1, "ms a message": 1, "accuracy": 3}).astype({"changed answers": int}))

# %%
smaller = table.loc["float32", "MiB"] / table.loc["int8", "MiB"]
faster = table.loc["float32", "ms a message"] / table.loc["int8", "ms a message"]
print(f"smaller: {smaller:.1f} times")
print("faster:", bool(faster > 1))
print("changes at most one answer in fifty:", bool(table.loc["int8", "changed answers"] <= len(true) / 50))
assert smaller > 3.8 and faster < 1 and table.loc["int8", "changed answers"] <= len(true) / 50
del served, model, arrays, stored  # from here on the service alone answers; give their memory back

# %% [markdown]
# **Smaller: true. Faster: no, slower. Less accurate: not that we could see.** The weights arrive in 8 bits, but the arithmetic is done
# in 32 after all, so each call first turns every matrix back, and a single message waits for that; with bfloat16 it waits, too. A
# speed-up needs hardware that multiplies 8-bit numbers and a program that lets it. Where an answer changes it was a near-tie, as likely
# to become right as wrong; lesson 12's intervals say that so few messages cannot tell such models apart.
#
# bfloat16 halves the file at the least risk; int8 is for where every megabyte has to be downloaded. If speed matters, turn either back
# once, after loading.
#
# ## The world moves on
#
# A service that is up, fast and green in every graph can be wrong all day. Nobody tells it the true team, or weeks later. What can you
# watch *without* labels? What goes in, and what comes out: the share of each team, and how sure the model is. Three weeks:


# %%
def router(texts):
    """Through the service: each message's team and how sure the model was."""
    chunks = [texts[i : i + 64] for i in range(0, len(texts), 64)]
    answers = [answer for chunk in chunks for answer in client.post("/predict", json={"text": chunk}).json()["predictions"]]
    return np.array([answer["label"] for answer in answers]), np.array([answer["probability"] for answer in answers])


# %%
rng = np.random.default_rng(0)
order = rng.permutation(len(test))
known, ordinary = order[:200], order[200:400]
late = [i for i in ordinary if test.labels[i] == "delivery"]
weeks = {
    "an ordinary week": ([test.texts[i] for i in ordinary], ordinary),
    "a strike at the courier": ([test.texts[i] for i in [*ordinary, *late * 3]], [*ordinary, *late * 3]),
    "the web form cuts at 25 characters": ([test.texts[i][:25] for i in ordinary], ordinary),
}
reference = router([test.texts[i] for i in known])
seen = {name: router(texts) for name, (texts, _) in weeks.items()}

# %% [markdown]
# The *population stability index* compares two distributions, cut into the same bins, with shares $r_b$ before and $c_b$ now:
#
# $$\text{PSI} = \sum_b (c_b - r_b) \ln \frac{c_b}{r_b}$$
#
# It is 0 when nothing changed, and grows with every bin that gained or lost. For the teams the bins are the teams; for confidence
# they are fifths of what was seen before. **Predict** which of the two will notice which week.


# %%
def psi(before, now):
    """Counts in the same bins, before and now. An empty bin counts as half a message: no logarithm of 0."""
    r, c = np.maximum(before, 0.5), np.maximum(now, 0.5)
    r, c = r / r.sum(), c / c.sum()
    return float(((c - r) * np.log(c / r)).sum())


fifths = np.quantile(reference[1], [0.2, 0.4, 0.6, 0.8])


def shift(seen):
    sizes = [[(labels == team).sum() for team in teams] for labels in (reference[0], seen[0])]
    sure = [np.bincount(np.searchsorted(fifths, p), minlength=5) for p in (reference[1], seen[1])]
    return psi(*sizes), psi(*sure)


# %%
for name, (labels, probability) in seen.items():
    sizes, sure = ("shifted" if value > 0.2 else "quiet" for value in shift((labels, probability)))
    right = np.mean(labels == np.array([test.labels[i] for i in weeks[name][1]]))
    print(f"{name:36} teams: {sizes:8} confidence: {sure:8} right: {'as before' if right > 0.75 else 'far fewer'}")

# %%
fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
for (name, (_, probability)), colour in zip(seen.items(), (plots.BLUE, plots.GREEN, plots.VERMILLION)):
    ax.plot(np.sort(probability), np.linspace(0, 100, len(probability)), color=colour, label=name)
ax.plot(np.sort(reference[1]), np.linspace(0, 100, len(known)), ":", color=plots.BLACK, label="before")
ax.legend(frameon=False, loc="upper left")
title = "Cut messages leave the model unsure; a strike does not"
plots.finish(ax, title, "probability of the predicted team", "messages below it (%)")

# %% [markdown]
# A strike changes *what is asked*, and the team sizes show it: more people for deliveries, and the model is fine. The cut form changes
# *what the model can know*: confidence falls, and so do the right answers. (The team sizes move as well: what is left of a message points
# elsewhere.) Two gauges, two kinds of news. Neither says that the model is wrong; for that you need labels, a few dozen a week, read by a person.
#
# > **Common claim, tested.** *"A PSI above 0.2 means that the population has shifted."*
#
# The rule comes from credit scoring, with hundreds of thousands of applicants. **Predict.** Nothing at all changes; each week brings 60
# messages, compared with 150 from before, in ten bins. In how many weeks does the alarm ring?

# %%
def false_alarms(messages, bins, known=150, weeks=2000):
    rng = np.random.default_rng(0)  # one distribution for both sides, cut into equal bins
    draws = [rng.multinomial(n, np.full(bins, 1 / bins), size=weeks) for n in (known, messages)]
    return np.mean([psi(*week) > 0.2 for week in zip(*draws)])


for messages, bins in ((60, 10), (60, 5), (200, 10), (200, 5)):
    usual = (bins - 1) * (1 / 150 + 1 / messages)
    print(f"{messages:3} messages, {bins:2} bins: usual PSI {usual:.2f}, above 0.2 in {false_alarms(messages, bins):.0%} of the weeks")

# %% [markdown]
# **False for small numbers.** Without any shift PSI is about $(B - 1)(1/n + 1/m)$ for $B$ bins and $n$ and $m$ messages, and that is
# not 0. Set your threshold by such a simulation, or use a test that knows its own noise. The Kolmogorov–Smirnov test looks for the
# largest gap between two curves of the figure above; its *p-value* is how often chance alone makes one so large.

# %%
from scipy.stats import ks_2samp

for name, (_, probability) in seen.items():
    p_value = ks_2samp(reference[1], probability).pvalue
    print(f"{name:36} another distribution of confidence: {bool(p_value < 0.001)}")
assert p_value < 0.001

# %% [markdown]
# ## The new version, and the way back
#
# A colleague retrained the router. The loss is right, the shapes are right, the file loads. It goes live while callers are asking; the
# service loads it beside the old one, compiles, and only then changes over. Each answer names the version that gave it.
#
# What nobody noticed: the new script lists the teams by size, the old one by name.

# %%
import dataclasses
from collections import Counter

second = load_pretrained(first)
by_size = tuple(team for team, _ in Counter(load_tickets("train").labels).most_common())
second.config = dataclasses.replace(second.config, labels=by_size)
save_pretrained(second, versions / "router-2", tokenizer)
operator = {"Authorization": "Bearer only-for-the-operator"}

with ThreadPoolExecutor(5) as pool:
    traffic = pool.submit(load, client, texts, 4)
    print("now serving:", client.put("/model", json={"version": "router-2"}, headers=operator).json()["model"])
    answers, _, _ = traffic.result()
print("requests lost:", sum(answer.status_code != 200 for answer in answers))
assert {answer.status_code for answer in answers} == {200}

# %% [markdown]
# *Canaries* are a few messages with known answers, asked before and after each change. Ours: for each team the message that
# router-1 got right and was surest of. **Predict.** What do confidence, the team sizes and the canaries say of router-2?

# %%
true_team = np.array([test.labels[i] for i in ordinary])
named, sure = seen["an ordinary week"]
surest = {team: np.where((named == team) & (true_team == team), sure, 0).argmax() for team in teams}
canaries = {test.texts[ordinary[place]]: team for team, place in surest.items()}


def canaries_right():
    return sum(label == team for label, team in zip(router(list(canaries))[0], canaries.values()))


sizes, confidence = (value > 0.2 for value in shift(router([test.texts[i] for i in ordinary])))
print(f"confidence shifted: {confidence}    team sizes shifted: {sizes}    canaries right: {canaries_right()} of {len(canaries)}")
assert not confidence and canaries_right() == 0

# %% [markdown]
# Confidence sees nothing: every probability is as before, under another name. The team sizes moved, but it took a week of messages to
# see that. Eight canaries saw it at once, and say that it is *wrong* and not just different.
#
# Now quickly back. The old model is still in memory, so there is nothing to load and nothing to compile.

# %%
with ThreadPoolExecutor(5) as pool:
    traffic = pool.submit(load, client, test.texts[:100], 4)
    print("now serving:", client.post("/model/rollback", headers=operator).json()["model"])
    answers, _, _ = traffic.result()
print("requests lost:", sum(answer.status_code != 200 for answer in answers))
print(f"canaries right: {canaries_right()} of {len(canaries)}")
assert canaries_right() == len(canaries) and {answer.status_code for answer in answers} == {200}

# %% [markdown]
# The next version gets one line more in its script: ask the canaries before the change, not after. You write that rule in the
# exercises.
#
# At the end, the service stops taking requests, answers those it has accepted, and goes. On a server the same happens at
# SIGTERM, which is what `docker stop` and Kubernetes send.

# %%
client.close()
services.close()
shutil.rmtree(versions)

# %% [markdown]
# ## What you now know
#
# 1. A model is handed over as a folder that says what it said before, to the last bit, or as a StableHLO file that says it to 1e-5.
# 2. Latency is a distribution. State p50 and p99; a queue near its limit has a p99 that has nothing to do with the work.
# 3. Batching lets callers share a run. Compile every shape before you open, bound the queue, and refuse early, with a reason.
# 4. 16 or 8 bits make the weights two or four times smaller. Speed and accuracy you measure, with your model on your machine.
# 5. Watch what goes in and what comes out, keep canaries with known answers, and keep the version before within reach.
#
# **Exercises:** [14 · Exercises](../exercises/14_deploy_exercises.ipynb), six of them, 52 minutes.
#
# **Next:** there is no 15 yet. Take `course finetune` and `course serve` to a problem of your own; [lesson 00](00_start_here.ipynb) has the table that
# tells whether it is worth it.
#
# **Read more:** Dean and Barroso, [The Tail at Scale](https://cacm.acm.org/research/the-tail-at-scale/), 2013; Crankshaw et al.,
# [Clipper](https://www.usenix.org/conference/nsdi17/technical-sessions/presentation/crankshaw), 2017, section 4.3, on adaptive batching; Jacob et al.,
# [Quantization and Training](https://arxiv.org/abs/1712.05877), section 2; Rabanser et al., [Failing
# Loudly](https://arxiv.org/abs/1810.11953), section 3, on tests for drift; JAX, [Exporting and serialization](https://docs.jax.dev/en/latest/export/export.html).
