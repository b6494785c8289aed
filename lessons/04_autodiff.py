# %% [markdown]
# # 04 · Where do gradients come from?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 35 min | ten seconds | 01, 02, 03 | say what `jax.grad` does, build it yourself, and check any gradient you are given |
#
# A model for the support desk has millions of weights. Training asks the same question of each, after every batch: *if I raise
# you a little, how much does the loss rise?* The answers are the **gradient**. Since lesson 01, `jax.grad` has given it to us
# out of a closed box. In this lesson you open the box: you get slopes by nudging, then by hand, then from a program of your
# own that does what `jax.grad` does and trains a classifier with it.

# %%
import math
from inspect import getsource

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from course_lib import plots

jax.config.update("jax_default_matmul_precision", "highest")  # GPUs and TPUs may round matrix products more

# %% [markdown]
# ## Nudge it and look
#
# The smallest network that has two layers predicts how many hours of work a message will cost, from how long it is:
#
# $$z = w\,x \qquad h = \tanh z \qquad s = v\,h \qquad L = (s - y)^2$$
#
# $x$ is the length in hundreds of words, $y$ the hours it really took, $w$ and $v$ are the two weights.

# %%
x, y = 1.5, 1.0  # 150 words, one hour
w, v = 0.4, 0.8


def chain_loss(w, v):
    return (v * np.tanh(w * x) - y) ** 2


step = 1e-4
forward = (chain_loss(w + step, v) - chain_loss(w, v)) / step
central = (chain_loss(w + step, v) - chain_loss(w - step, v)) / (2 * step)
print(f"loss {chain_loss(w, v):.4f}")
print(f"slope in w: forward difference {forward:.4f}, central difference {central:.4f}")

# %% [markdown]
# Raise $w$ by a little, and the loss *falls* by nearly as much. The forward difference looks to one side, the central
# difference to both. They already disagree in the last digit.
#
# > **Common claim, tested.** *"The smaller the step, the more exact the slope."*
#
# **Predict.** Networks compute in 32 bits. What is left of the slope when the step is $10^{-8}$?


# %%
def rms(values):
    return np.sqrt(np.mean(values**2))


many_w = np.linspace(-1.5, 1.5, 301)
h = np.tanh(many_w * x)
exact = 2 * (v * h - y) * v * (1 - h**2) * x  # the next section derives it


def error_of_nudging(step, number, central):
    """RMS error of the slope in w, over many w, computed in the given kind of number."""
    w, step, x_, y_, v_ = many_w.astype(number), *map(number, (step, x, y, v))
    above, here, below = [(v_ * np.tanh(w_ * x_) - y_) ** 2 for w_ in (w + step, w, w - step)]
    slope = (above - below) / (2 * step) if central else (above - here) / step
    return rms(slope - exact)


# %%
steps = 10.0 ** -np.arange(1, 13)
kinds = {
    "32 bits, forward": (np.float32, False),
    "32 bits, central": (np.float32, True),
    "64 bits, central": (np.float64, True),
}
curves = {name: [error_of_nudging(step, *kind) for step in steps] for name, kind in kinds.items()}
print("                  smallest error   step 0.1 → 0.01        step 1e-8")
for name, errors in curves.items():
    gain = 10 ** np.round(np.log10(errors[0] / errors[1]))
    use = "worse than answering 0" if errors[7] > rms(exact) else "still of use"
    print(f"{name}  about 1e{np.log10(min(errors)):<3.0f}       error divided by {gain:<3.0f}   {use}")

# %%
fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for (name, errors), colour, marker in zip(curves.items(), (plots.ORANGE, plots.VERMILLION, plots.BLUE), "os^"):
    ax.loglog(steps, errors, color=colour, marker=marker, label=name)
ax.invert_xaxis()
ax.legend(frameon=False)
plots.finish(ax, "A smaller step helps, then ruins the slope", "step (smaller to the right)", "error of the slope (RMS)")

# %% [markdown]
# **False.** On the left, the error comes from the bend of the curve. With a step ten times smaller it shrinks tenfold for the forward
# difference, a hundredfold for the central one. On the right, two almost equal losses are subtracted and the rest is divided by
# next to nothing: rounding is all that is left. In 32 bits, about four digits are the best one can get. And there is the price:

# %%
weights, seconds = 22.7e6, 0.01  # the model of lesson 00; suppose one pass through it takes 10 ms
print(f"one gradient by central differences: {2 * weights * seconds / 86400:.1f} days")

# %% [markdown]
# So nudging is not for training. It is for *checking*: it needs no idea of how the function works, so it cannot share your
# mistakes. Use central differences in 64 bits, on a few weights.
#
# ## By hand, back through two layers
#
# Ask of each step how its result moves when its input does. This *local slope* needs one line of school mathematics.
#
# | step | local slope |
# |---|---|
# | $L = (s-y)^2$ | $\partial L/\partial s = 2(s-y)$ |
# | $s = v\,h$ | $\partial s/\partial v = h \qquad \partial s/\partial h = v$ |
# | $h = \tanh z$ | $\partial h/\partial z = 1 - h^2$ |
# | $z = w\,x$ | $\partial z/\partial w = x$ |
#
# The chain rule says: multiply the local slopes along the path from the loss back to the weight.
#
# **Predict.** The paths to $v$ and to $w$ begin with the same factor. Which?

# %%
h = np.tanh(w * x)  # forward: compute, and keep what the way back will need
s = v * h

slope_s = 2 * (s - y)  # backward: from the loss to the weights
slope_v = slope_s * h
slope_h = slope_s * v
slope_z = slope_h * (1 - h**2)
slope_w = slope_z * x
print(f"slope in v {slope_v:.4f}, slope in w {slope_w:.4f}")
assert abs(slope_w - central) < 1e-6

# %% [markdown]
# Every line uses the slope above it: nothing is computed twice. That is all of **backpropagation**: the chain rule, from the
# loss backwards, keeping what paths share.
#
# With real layers the same lines become matrices. Four messages, three features each, five hidden units, one logit, and the
# binary cross-entropy of lesson 01, $L = \frac1n\sum_i \big(\log(1 + e^{s_i}) - s_i y_i\big)$:

# %%
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(4, 3)), np.array([[1.0], [0.0], [1.0], [1.0]])  # [n, 3], [n, 1]
W1, b1 = rng.normal(size=(3, 5)), np.zeros(5)
W2, b2 = rng.normal(size=(5, 1)), np.zeros(1)


def two_layers(W1, b1, W2, b2):
    H = np.tanh(X @ W1 + b1)  # [n, 5]
    S = H @ W2 + b2  # [n, 1]: one logit a message
    return np.mean(np.logaddexp(0, S) - S * Y), H, S


loss, H, S = two_layers(W1, b1, W2, b2)
print(f"loss {loss:.4f}")

# %% [markdown]
# A gradient has the shape of what it is the gradient *of*. That settles most of a backward pass: `dW2` must be `[5, 1]`, we have
# `H` of shape `[4, 5]` and `dS` of shape `[4, 1]`, and there is one product that fits.
#
# **Predict.** A bias was added to all four rows. What happens to the four slopes that come back?

# %%
dS = (1 / (1 + np.exp(-S)) - Y) / len(Y)  # [n, 1]: p − y (lesson 01), and 1/n from the mean
dW2, db2 = H.T @ dS, dS.sum(axis=0)  # [5, 1], [1]: the bias served every row, so its slopes add
dH = dS @ W2.T  # [n, 5]
dZ = dH * (1 - H**2)  # [n, 5]
dW1, db1 = X.T @ dZ, dZ.sum(axis=0)  # [3, 5], [5]
print("shapes:", dW1.shape, db1.shape, dW2.shape, db2.shape)

# %% [markdown]
# Believe it only when something else says the same. Nudge a weight of the *first* layer, whose slope came through every line:

# %%
nudge = np.zeros_like(W1)
nudge[0, 1] = 1e-5
finite = (two_layers(W1 + nudge, b1, W2, b2)[0] - two_layers(W1 - nudge, b1, W2, b2)[0]) / 2e-5
print(f"by hand {dW1[0, 1]:.5f}, nudged {finite:.5f}")
assert abs(dW1[0, 1] - finite) < 1e-8

# %% [markdown]
# ## Let the program do it
#
# Look back at the by-hand lines. Each belongs to *one* operation, and needs only the slope of that operation's result and the values
# that went in. So write the rule down once for each operation, let every value remember where it came from, and walk back.
# This is **reverse-mode automatic differentiation**. First, a value that remembers:


# %%
class Node:
    """A value, and the nodes it was computed from."""

    def __init__(self, value, parents=(), name=""):
        self.value = np.asarray(value, float)
        self.parents = parents  # pairs (node, pull): pull turns this node's slope into that node's share
        self.name = name
        self.grad = np.zeros_like(self.value)


# %% [markdown]
# Now the operations. Each computes forwards, and says for each input how a slope $g$ is *pulled back* to it. Find your by-hand
# lines in them.


# %%
def matmul(a, b):
    return Node(a.value @ b.value, [(a, lambda g: g @ b.value.T), (b, lambda g: a.value.T @ g)], "@")


def tanh(a):
    h = np.tanh(a.value)
    return Node(h, [(a, lambda g: g * (1 - h**2))], "tanh")


def softplus(a):
    """log(1 + exp(a)), which with a − y·a makes binary cross-entropy; its slope is the sigmoid."""
    return Node(np.logaddexp(0, a.value), [(a, lambda g: g * 0.5 * (1 + np.tanh(a.value / 2)))], "softplus")


def mean(a):
    return Node(a.value.mean(), [(a, lambda g: np.full(a.value.shape, g / a.value.size))], "mean")


# %% [markdown]
# `add` and `multiply` broadcast: a bias of shape `[5]` is added to every row of `[4, 5]`. What was copied on the way forward is summed
# on the way back. `fit` does that for any shape.


# %%
def fit(slope, shape):
    """Sum a slope over the axes along which a value of this shape was copied."""
    slope = slope.sum(axis=tuple(range(slope.ndim - len(shape))))  # axes that broadcasting put in front
    return slope.sum(axis=tuple(i for i, size in enumerate(shape) if size == 1), keepdims=True)


def add(a, b):
    return Node(a.value + b.value, [(a, lambda g: fit(g, a.value.shape)), (b, lambda g: fit(g, b.value.shape))], "+")


def multiply(a, b):
    to_a, to_b = lambda g: fit(g * b.value, a.value.shape), lambda g: fit(g * a.value, b.value.shape)
    return Node(a.value * b.value, [(a, to_a), (b, to_b)], "×")


Node.__matmul__, Node.__add__, Node.__mul__ = matmul, add, multiply  # so that a @ b + c works


# %% [markdown]
# Last, the walk. A node may pass its slope on only when its own is complete, that is, after every node that used it. So list the nodes
# with parents first, and go through the list from the end.


# %%
def in_order(loss):
    """All nodes that the loss was computed from, each after its parents; the loss itself is last."""
    order = {}  # a dict keeps the order in which it was filled

    def visit(node):
        if node not in order:
            for parent, _ in node.parents:
                visit(parent)
            order[node] = True

    visit(loss)
    return list(order)


def backward(loss):
    """Fill in .grad of every node with the slope of the loss in it."""
    for node in (order := in_order(loss)):
        node.grad = np.zeros_like(node.value)
    loss.grad = np.ones_like(loss.value)
    for node in reversed(order):
        for parent, pull in node.parents:
            parent.grad = parent.grad + pull(node.grad)  # a value used twice gets two shares: they add


# %%
engine = (Node.__init__, matmul, tanh, softplus, mean, fit, add, multiply, in_order, backward)
written = [line for part in engine for line in getsource(part).splitlines() if line.strip()]
lines = 3 + len(written)  # 3 stand outside these functions
print(f"the whole engine: {lines} lines")
assert lines <= 60

# %% [markdown]
# ## The graph of a loss
#
# The small chain again, now with the engine. It has no power, so the square is a node times itself: the residual `r` is used
# twice.

# %%
w_node, v_node = Node(w, name="w"), Node(v, name="v")
r = tanh(w_node * Node(x, name="x")) * v_node + Node(-y, name="−y")
chain = r * r
r.name, chain.name = "+  (r)", "×  (L)"
backward(chain)
print(f"slope in v {v_node.grad:.4f}, slope in w {w_node.grad:.4f}")
assert np.isclose(w_node.grad, slope_w) and np.isclose(v_node.grad, slope_v)

# %% [markdown]
# Same numbers as by hand. Because every value knows its parents, the computation can be drawn: each box is a node, inputs in grey.

# %%
def places(loss):
    """Where each node goes: operations in the top row, by depth; inputs below, one column before their use."""
    order, column, place, filled = in_order(loss), {}, {}, {}
    for node in order:
        column[node] = 1 + max((column[parent] for parent, _ in node.parents), default=-1)
    for node in order:
        column |= {parent: column[node] - 1 for parent, _ in node.parents if not parent.parents}
    for node in sorted(order, key=lambda node: not node.parents):  # operations first
        row = filled.get(column[node], 0)
        place[node], filled[column[node]] = (column[node], -row), row + 1
    return place


# %%
def draw(ax, loss, label, title):
    place = places(loss)
    for node, (x1, y1) in place.items():
        box = dict(boxstyle="round", facecolor="#DCEBF5" if node.parents else "#EEEEEE", edgecolor="none")
        ax.text(x1, y1, label.format(node), ha="center", va="center", fontsize=8, bbox=box)
        same = len(dict(node.parents)) < len(node.parents)  # one parent twice: bend its arrows apart
        for i, (parent, _) in enumerate(node.parents):
            x0, y0 = place[parent]
            bend = f"arc3,rad={(0.6 * i - 0.3) * same}"
            arrow = dict(arrowstyle="-|>", color="grey", shrinkA=0, shrinkB=0, connectionstyle=bend)
            ax.annotate("", (x1 - 0.28, y1), (x0 + 0.28, y0), arrowprops=arrow)
    ax.set(xlim=(-0.6, max(place.values())[0] + 0.6), ylim=(min(y for _, y in place.values()) - 0.5, 0.5))
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    ax.axis("off")


# %%
fig, ax = plt.subplots(figsize=(9, 2.3), layout="constrained")
draw(ax, chain, "{0.name}\nvalue {0.value:.3f}\nslope {0.grad:.3f}", "Values flow right, slopes flow left")

# %% [markdown]
# Read it from the right. The slope of the loss in itself is 1. Both inputs of the last × are `r`: two arrows, two shares of the same
# size, and their sum is $2r$. From there each box multiplies by its local slope.
#
# ## It trains
#
# Two numbers a message, and two kinds of message that no straight line separates. The classical toy for this is *two moons*.

# %%
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression

points, moon = make_moons(800, noise=0.2, random_state=0)
train_X, test_X = points[:300], points[300:]  # [300, 2], [500, 2]
train_Y, test_Y = moon[:300, None], moon[300:, None]  # [300, 1], [500, 1]: which moon, 0 or 1

line = LogisticRegression().fit(train_X, train_Y[:, 0])
print(f"a straight line: {line.score(test_X, test_Y[:, 0]):.0%} of {len(test_X)} new points right")


# %%
def network(weights, X, Y):
    """The loss of a network with one hidden layer, and the nodes of its weights."""
    nodes = {name: Node(value, name=name) for name, value in weights.items()}
    hidden = tanh(Node(X, name="X") @ nodes["W1"] + nodes["b1"])  # [n, 16]
    logit = hidden @ nodes["W2"] + nodes["b2"]  # [n, 1]
    return mean(softplus(logit) + logit * Node(-Y, name="−Y")), nodes


rng = np.random.default_rng(0)
weights = {"W1": rng.normal(size=(2, 16)), "b1": np.zeros(16)}
weights |= {"W2": rng.normal(size=(16, 1)) / 4, "b2": np.zeros(1)}
loss, nodes = network(weights, train_X, train_Y)
print(f"loss before training: {loss.value:.3f}; a model that knows nothing has log 2 = {np.log(2):.3f}")

# %% [markdown]
# **Predict.** The graph below has one fork. Which value is used twice?

# %%
fig, ax = plt.subplots(figsize=(10, 2.1), layout="constrained")
count = sum(bool(node.parents) for node in in_order(loss))
title = f"From the points to the loss: {count} operations, one value used twice"
draw(ax, loss, "{0.name}\n{0.value.shape}", title)

# %% [markdown]
# The logit: once for softplus, once for the product with $-Y$. Training is now three lines, repeated: build the graph, walk back, take a step
# down each slope. (Lesson 05 is about that step.)

# %%
start, history = dict(weights), []
for _ in range(1000):
    loss, nodes = network(weights, train_X, train_Y)
    backward(loss)
    weights = {name: weights[name] - 1.0 * nodes[name].grad for name in weights}
    history.append(float(loss.value))


def logits(weights, X):
    return np.tanh(X @ weights["W1"] + weights["b1"]) @ weights["W2"] + weights["b2"]  # [n, 1]


accuracy = np.mean((logits(weights, test_X) > 0) == test_Y)
print(f"loss {history[0]:.3f} → {history[-1]:.3f}; {accuracy:.0%} of {len(test_X)} new points right")
assert accuracy > line.score(test_X, test_Y[:, 0]) + 0.05

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
left.plot(range(1, 1001), history, color=plots.BLUE)
left.set_ylim(bottom=0)
plots.finish(left, "The engine's gradients bring the loss down", "step", "mean loss (nats, training)")
across, up = np.meshgrid(np.linspace(-2, 3, 200), np.linspace(-1.5, 2, 200))  # [200, 200] each
grid = np.stack([across.ravel(), up.ravel()], axis=1)  # [40000, 2]
surface = logits(weights, grid).reshape(200, 200)  # [40000, 1] → [200, 200]
right.contourf(across, up, surface, levels=[-np.inf, 0, np.inf], colors=["#DCEBF5", "#F9E3D5"])
for kind, colour, marker in ((0, plots.BLUE, "o"), (1, plots.VERMILLION, "s")):
    right.scatter(*test_X[test_Y[:, 0] == kind].T, color=colour, marker=marker, s=14, label=f"moon {kind}")
right.legend(frameon=False, loc="lower left")
plots.finish(right, "A boundary that no straight line draws", "first feature", "second feature")

# %% [markdown]
# ## Is it really jax.grad?
#
# The same loss in JAX, differentiated by JAX, before and after training. JAX computes in 32 bits, our engine in 64; beyond the
# rounding of 32 bits they must not differ.


# %%
def jax_loss(weights, X, Y):
    hidden = jnp.tanh(X @ weights["W1"] + weights["b1"])  # [n, 16]
    logit = hidden @ weights["W2"] + weights["b2"]  # [n, 1]
    return jnp.mean(jax.nn.softplus(logit) - logit * Y)


for when, values in {"before": start, "after": weights}.items():
    loss, nodes = network(values, train_X, train_Y)
    backward(loss)
    theirs = jax.grad(jax_loss)(jax.tree.map(jnp.float32, values), jnp.float32(train_X), jnp.float32(train_Y))
    largest = max(np.abs(nodes[name].grad - theirs[name]).max() for name in values)
    print(f"{when} training: all four gradients agree within 1e-6: {bool(largest < 1e-6)}")
    assert largest < 1e-6

# %% [markdown]
# What you wrote and what JAX does are the same idea. JAX has a rule for each of its operations, we have six, and what it derives can
# be compiled. It also keeps values on the way forward until the way back has used them. How many did we keep?

# %%
order = in_order(loss)
kept = sum(node.value.size for node in order if node.parents)
count = sum(value.size for value in weights.values())
print(f"{count} weights, and {kept:,} intermediate numbers kept for the way back")

# %% [markdown]
# That is why training needs so much more memory than predicting, and why it grows with the batch. Lesson 13 trades some of it for time.
#
# ## What JAX sees: the jaxpr
#
# Our engine records while it computes. JAX *traces* the function once, with stand-ins that have a shape and no value, and writes
# down the operations. That record is called a **jaxpr**. For the small chain:

# %%
def jax_chain(w, bend=jnp.tanh):
    return (v * bend(w * x) - y) ** 2


def operations(function, *args):
    return [equation.primitive.name for equation in jax.make_jaxpr(function)(*args).jaxpr.eqns]


print("loss:", *operations(jax_chain, w))

# %% [markdown]
# The lines of the table, read upwards; only the squared difference is two operations. `jax.grad` gives back a function, and that has a jaxpr, too.
#
# **Predict.** We put a sine in the place of tanh, because its slope is easy to spot. Which operation is in the gradient's jaxpr
# that is not in the loss's?

# %%
print("grad with sin:", *operations(jax.grad(lambda w: jax_chain(w, jnp.sin)), w))
print(f"slope in w with tanh: by hand {slope_w:.4f}, jax.grad {jax.grad(jax_chain)(w):.4f}")

# %% [markdown]
# The cosine is the rule for the sine. First come the steps forward, with the local slopes beside them; the products at the end are the way
# back. No step size anywhere. And since the gradient is a function like any other, it can be differentiated again:
# `jax.grad(jax.grad(f))` is the second derivative.
#
# > **Common claim, tested.** *"Automatic differentiation is just symbolic differentiation, done by a computer."*
#
# Symbolic differentiation turns a formula into a formula. Repeat $x \leftarrow x(1-x)$ and compare how the written-out formula grows with how the
# program for its gradient grows.


# %%
def repeat(x, times):
    for _ in range(times):
        x = x * (1 - x)
    return x


def formula(times):
    text = "x"
    for _ in range(times):
        text = f"({text}*(1-{text}))"
    return text


print("twice, written out:", formula(2))
grown = len(formula(20)) / len(formula(10))
programs = [len(operations(jax.grad(lambda x, t=times: repeat(x, t)), 0.3)) for times in (10, 20)]
ratio = programs[1] / programs[0]
print(f"from 10 to 20 repetitions: formula {grown:.0f} times as long, gradient program {ratio:.1f} times")
assert grown > 1000 and ratio < 2.5

# %% [markdown]
# **False.** The formula doubles with every step, because it repeats what it uses twice. The program gives each intermediate
# value a name and uses the name twice. Automatic differentiation works on the program.
#
# ## Forwards or backwards: JVP and VJP
#
# Let $f$ take $n$ numbers and give $m$. Its slopes form the *Jacobian* $J$, $m$ rows by $n$ columns: row = which output, column = which
# input. One can go through the steps of $f$ in two directions.
#
# - **JVP** (forward mode): start with a nudge $\dot x$ of the input, carry it along, get $J\dot x$. A nudge in one input gives one *column*.
# - **VJP** (reverse mode): start with a weight $\bar y$ for each output, pull it back, get $\bar y^\top J$. A weight on one output gives one *row*.
#
# A router from three features to two teams has a Jacobian of two rows and three columns:

# %%
M = jnp.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]])  # [2 teams, 3 features]
message = jnp.array([0.2, 0.4, 0.1])


def router(features):
    return jnp.tanh(M @ features)


J = jax.jacobian(router)(message)  # [2, 3]
_, column = jax.jvp(router, (message,), (jnp.array([1.0, 0.0, 0.0]),))  # nudge the first feature
_, pull = jax.vjp(router, message)
(row,) = pull(jnp.array([1.0, 0.0]))  # all weight on the first team
print("shapes: J", J.shape, "one JVP", column.shape, "one VJP", row.shape)
assert jnp.allclose(column, J[:, 0]) and jnp.allclose(row, J[0])

# %% [markdown]
# Your engine's `pull` functions are VJPs, and `backward` is the VJP of the whole graph, started with 1. A loss has $m = 1$ output
# and millions of inputs: its Jacobian is a single row, so **one VJP is the whole gradient**. By JVPs it would take one pass for
# each weight.
#
# > **Common claim, tested.** *"A million slopes cost about a million times as much as the loss."*
#
# We count instead of timing: the multiplications inside matrix products, read off the jaxpr. The network has three square layers.


# %%
def multiplications(function, *args):
    total = 0
    for equation in jax.make_jaxpr(function)(*args).jaxpr.eqns:
        if equation.primitive.name == "dot_general":  # a matrix product
            (summed, _), _ = equation.params["dimension_numbers"]
            length = math.prod(equation.invars[0].aval.shape[axis] for axis in summed)
            total += equation.outvars[0].aval.size * length
    return total


def deep_loss(layers):
    h = jnp.ones((8, len(layers[0])))  # [8 messages, width]
    for layer in layers:
        h = jnp.tanh(h @ layer)
    return jnp.mean(h**2)


for width in (4, 16, 64):
    layers = [jnp.ones((width, width))] * 3
    once = multiplications(deep_loss, layers)
    backwards = multiplications(jax.grad(deep_loss), layers) / once
    forwards = multiplications(jax.jacfwd(deep_loss), layers) / once  # jacfwd: one JVP for each weight
    print(f"{3 * width**2:6,} weights: gradient by VJP {backwards:.2f} losses, by JVPs {forwards:8,.0f} losses")
    assert backwards < 3

# %% [markdown]
# **False**, if one goes backwards. Then the gradient costs less than three losses at *any* size: the forward product of each layer, and two products
# on the way back, one for the slope of the weights and one for the slope of the input. (The first layer needs no slope of its input, hence
# a little less than three.) That one fact made it possible to train large networks. When there are few inputs and many outputs, forward
# mode is the cheaper one, and it keeps no intermediate values.
#
# ## When the rule is right and the number is wrong
#
# > **Common claim, tested.** *"Guard a division or a root with `jnp.where` and there are no NaNs."*
#
# The square root has an infinite slope at 0. Someone guards it:


# %%
def guarded(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


print(f"value at 0: {guarded(0.0):.1f}, slope at 0: {jax.grad(guarded)(0.0):.1f}")
assert jnp.isnan(jax.grad(guarded)(0.0))

# %% [markdown]
# **False.** `where` computes both branches, and picks. On the way back it sends the slope 0 to the branch that was not picked, and the root
# multiplies it by its own slope at 0: $0 \cdot \infty$ is NaN. The cure is to change what the root *sees*, so that both branches are
# harmless:


# %%
def safe(x):
    inner = jnp.where(x > 0, x, 1.0)  # the root never sees a 0
    return jnp.where(x > 0, jnp.sqrt(inner), 0.0)


print(f"value at 0: {safe(0.0):.1f}, slope at 0: {jax.grad(safe)(0.0):.1f}, slope at 4: {jax.grad(safe)(4.0):.2f}")
assert jax.grad(safe)(0.0) == 0

# %% [markdown]
# ## A rule of your own: custom_vjp
#
# In the engine, `softplus` had a backward rule that we wrote ourselves. Let JAX derive one from $\log(1 + e^z)$, and it overflows:


# %%
def naive_softplus(z):
    return jnp.log(1 + jnp.exp(z))


print(f"at z = 100: value {naive_softplus(100.0):.1f}, slope {jax.grad(naive_softplus)(100.0):.1f}; the slope is 1")

# %% [markdown]
# `jax.custom_vjp` attaches a rule to a function, in two parts. `forward` returns the value, and what the way back will need;
# `backward` gets that and the incoming slope `g`, and returns one slope for each argument.


# %%
@jax.custom_vjp
def stable_softplus(z):
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


def softplus_forward(z):
    return stable_softplus(z), z


def softplus_backward(z, g):
    return (g * jax.nn.sigmoid(z),)


stable_softplus.defvjp(softplus_forward, softplus_backward)
print(f"at z = 100: value {stable_softplus(100.0):.1f}, slope {jax.grad(stable_softplus)(100.0):.1f}")

# %% [markdown]
# JAX now believes us blindly. So nudge: `check_grads` compares a function's rule with finite differences, in a random direction.
#
# **Predict.** Below is the same rule with a slip. Would you have seen it? Will the check?

# %%
from jax.test_util import check_grads

z = jnp.linspace(-5, 5, 11)
check_grads(stable_softplus, (z,), order=1, modes=["rev"])
print("our rule: agrees with finite differences")

slipped = jax.custom_vjp(lambda z: stable_softplus(z))
slipped.defvjp(softplus_forward, lambda z, g: (jax.nn.sigmoid(z),))
try:
    check_grads(slipped, (z,), order=1, modes=["rev"])
except AssertionError:
    print("the rule with the slip: check_grads says no")

# %% [markdown]
# The incoming slope `g` is missing. With `g = 1`, as in `jax.grad(slipped)(2.0)`, nobody would notice; inside a larger loss, every slope
# below it is wrong.

# %%
print(f"alone:        {jax.grad(slipped)(2.0):.4f}, should be {jax.grad(stable_softplus)(2.0):.4f}")
inside = [jax.grad(lambda z, f=f: 0.1 * f(z))(2.0) for f in (slipped, stable_softplus)]
print(f"0.1 times it: {inside[0]:.4f}, should be {inside[1]:.4f}")

# %% [markdown]
# Sometimes the true slope is of no use, and a false one is wanted. Lesson 14 stores weights as whole numbers in 8 bits. Rounding is
# a staircase: its slope is 0 wherever there is one, and nothing could be learned through it. The *straight-through* rule pretends
# that it was never there.

# %%
@jax.custom_vjp
def round_through(w):
    return jnp.round(w)


round_through.defvjp(lambda w: (jnp.round(w), None), lambda _, g: (g,))


def rounded_loss(w, rounding):
    return (rounding(w) - 7.0) ** 2  # the best rounded weight is 7


for name, rounding in {"true slope": jnp.round, "straight-through": round_through}.items():
    w_ = 1.2
    for _ in range(20):
        w_ = w_ - 0.1 * jax.grad(rounded_loss)(w_, rounding)
    print(f"{name:17} 1.2 → {w_:.2f}, rounded {jnp.round(w_):.0f}")

# %% [markdown]
# Ask the referee:

# %%
try:
    check_grads(round_through, (1.2,), order=1, modes=["rev"])
except AssertionError:
    print("straight-through: check_grads says no")

# %% [markdown]
# Rightly: it is not the derivative. It is a choice, and should be named as one.
#
# ## What you now know
#
# 1. Finite differences need two passes for each weight and lose digits to rounding: they check gradients, they do not train.
# 2. Backpropagation is the chain rule from the loss backwards. Every operation needs one local rule; where a value is used twice, its slopes add.
# 3. Your own engine of under 60 lines does it for arrays, trains a classifier, and agrees with `jax.grad` within 1e-6.
# 4. JVP pushes a nudge forwards (a column of the Jacobian), VJP pulls a slope back (a row). A loss has one row: its gradient costs less than three losses.
# 5. `custom_vjp` sets a rule by hand, `check_grads` tests it. A `where` does not protect the branch that it does not pick.
#
# **Exercises:** [04 · Exercises](../exercises/04_autodiff_exercises.ipynb), six of them, 46 minutes.
#
# **Next:** [05 · How does a model learn?](05_training.ipynb)
#
# **Read more:** Baydin et al., [Automatic Differentiation in Machine Learning: a Survey](https://arxiv.org/abs/1502.05767), sections 2 and 3;
# Rumelhart, Hinton and Williams, *Learning representations by back-propagating errors*, Nature 323, 1986; Griewank and Walther, *Evaluating
# Derivatives*, chapter 4, on the cost; the JAX documentation, *The Autodiff Cookbook*; Bengio et al.,
# [Estimating or Propagating Gradients Through Stochastic Neurons](https://arxiv.org/abs/1308.3432), on straight-through.
