# %% [markdown]
# # 05 · How does a model learn?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 35 min | half a minute | 01 to 04 | write a training loop and its optimiser, choose a learning rate, and see and cure over-fitting |
#
# A loss says how wrong the model is (lesson 01). A gradient says which way is down (lesson 04). Learning is taking a step
# down, and another. This lesson takes the first step in slow motion, then builds the loop that will train BERT on the
# support desk's messages in lesson 11.
#
# Text has to wait until it is numbers (lesson 07). Until then we need real data that is numbers already: 569 breast
# tumours, each with 30 measurements of its cells taken from a microscope image, and what it turned out to be. It is small,
# so that a training run takes a second and you can afford hundreds. And a mistake here has a price that anyone can see.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from course_lib import plots

data = load_breast_cancer()
measurements = data.data  # float64 [569 tumours, 30 measurements]
malignant = 1 - data.target  # scikit-learn stores 1 for benign; we look for the malignant ones
spread = dict(zip(data.feature_names, measurements.std(axis=0)))
print(f"{measurements.shape} measurements, {malignant.sum()} of {len(malignant)} malignant")
for name in ("worst area", "mean radius", "mean smoothness"):
    print(f"standard deviation of {name:16} {spread[name]:8.3f}")

# %% [markdown]
# ## Set rows aside, then look
#
# Three groups of rows. *Training* rows move the parameters. *Validation* rows decide between models: which learning
# rate, when to stop. *Test* rows are for the last section; until then nobody looks at them.
#
# An area varies by hundreds and a smoothness by hundredths. So *standardise*: subtract the mean, divide by the standard
# deviation, **both of the training rows only**. Otherwise the model would know something about rows it has never seen.


# %%
def split(seed):
    """The row numbers of the three groups, each with the same share of malignant ones."""
    rest, test = train_test_split(np.arange(569), test_size=114, stratify=malignant, random_state=seed)
    train, validation = train_test_split(rest, test_size=114, stratify=malignant[rest], random_state=seed)
    return train, validation, test


def standardise(rows, train):
    mean, sd = measurements[train].mean(axis=0), measurements[train].std(axis=0)
    return jnp.array((measurements[rows] - mean) / sd, jnp.float32), jnp.array(malignant[rows], jnp.float32)


train_rows, validation_rows, test_rows = split(0)
x_train, y_train = standardise(train_rows, train_rows)
x_validation, y_validation = standardise(validation_rows, train_rows)
for name, x in {"training": x_train, "validation": x_validation}.items():
    furthest = jnp.abs(x.mean(axis=0)).max()  # over the 30 measurements
    print(f"{name:10} {x.shape}, means up to {furthest:.2f}, sd {x.std():.2f}")

# %% [markdown]
# The validation rows come out near mean 0 and standard deviation 1, not exactly: nothing was tuned to them.
#
# ## The baseline first
#
# A score means nothing alone. What does a model get that says *benign* to everyone? And the plainest real model, logistic
# regression with its default settings?

# %%
baseline = LogisticRegression().fit(x_train, y_train)
wrong = {
    "always benign": int(y_validation.sum()),
    "logistic regression": int((baseline.predict(x_validation) != y_validation).sum()),
}
for name, count in wrong.items():
    print(f"{name:20} {count:3} of {len(y_validation)} wrong: accuracy {1 - count / len(y_validation):.1%}")

# %% [markdown]
# Saying nothing is already right more often than not, and logistic regression makes a single mistake on these rows. Write
# that down before training anything larger.
#
# ## One step, in slow motion
#
# Six verbs: **initialise, forward, loss, backward, update, evaluate.** They do not change between here and GPT.
#
# **1. Initialise.** A network with one hidden layer, 30 → 16 → 1: weights random with variance 2/inputs (lesson 02 says
# why), biases zero. The parameters are a list of dictionaries, a pytree (lesson 03).


# %%
def initialise(key, sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (inputs, outputs)) * jnp.sqrt(2 / inputs), "b": jnp.zeros(outputs)}
        for k, inputs, outputs in zip(keys, sizes, sizes[1:])
    ]


params = initialise(jax.random.key(0), [30, 16, 1])
print(f"{sum(leaf.size for leaf in jax.tree.leaves(params))} parameters:", jax.tree.map(jnp.shape, params))

# %% [markdown]
# **2. Forward** gives one logit a tumour, **3. loss** gives one number for all of them.
#
# **Predict.** The model knows nothing yet. Roughly which loss? (Lesson 01, last habit.)


# %%
def forward(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    logits = x @ params[-1]["w"] + params[-1]["b"]  # [batch, 1]
    return logits[:, 0]  # [batch, 1] → [batch]


def loss_fn(params, x, y):
    return optax.sigmoid_binary_cross_entropy(forward(params, x), y).mean()


loss = loss_fn(params, x_train, y_train)
print(f"first loss {loss:.3f}; log 2 = {np.log(2):.3f}")
assert abs(loss - np.log(2)) < 0.2

# %% [markdown]
# **4. Backward.** One gradient for every parameter, of the same shape, in the same tree.

# %%
loss, gradients = jax.jit(jax.value_and_grad(loss_fn))(params, x_train, y_train)
for number, (layer, gradient) in enumerate(zip(params, gradients), start=1):
    for name, g in gradient.items():
        print(f"layer {number} {name}: shape {g.shape}, length {np.linalg.norm(g):.3f}")
        assert g.shape == layer[name].shape

# %% [markdown]
# **5. Update.** Call all parameters together $\theta$ and the gradient $g$. Walk against it: $\theta \leftarrow \theta - \eta\, g$,
# with the *learning rate* $\eta$. On a plane, that lowers the loss by exactly $\eta \lVert g \rVert^2$: the slope's promise. The
# surface is no plane.
#
# **Predict.** For which of these learning rates is the promise kept?

# %%
def descend(params, gradients, rate):
    return jax.tree.map(lambda p, g: p - rate * g, params, gradients)


promise = sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients))
print(" rate   promised    found")
for rate in (0.01, 0.1, 1.0, 10.0):
    moved = descend(params, gradients, rate)
    print(f"{rate:5}   {rate * promise:8.4f}   {loss - loss_fn(moved, x_train, y_train):8.4f}")

# %% [markdown]
# A short step keeps it. At rate 1 about half of the promise is kept, and a step of 10 lands *higher* than it began: the gradient is the
# slope at one point, and we walked far from that point. All that follows is about how far to walk, and in which direction.
#
# **6. Evaluate**, on rows that did not move the parameters. Then all six in a loop, with every training row in every step:


# %%
def mistakes(params, x, y):
    return int(((forward(params, x) > 0) != y).sum())  # logit above 0: probability above one half


@jax.jit
def plain_step(params, rate):
    loss, gradients = jax.value_and_grad(loss_fn)(params, x_train, y_train)
    return descend(params, gradients, rate), loss


walked = params
for number in range(301):
    if number in (0, 10, 100, 300):
        found = mistakes(walked, x_validation, y_validation)
        loss = loss_fn(walked, x_train, y_train)
        print(f"after {number:3} steps: loss {loss:.3f}, {found:2} wrong in validation")
    walked, _ = plain_step(walked, 0.1)

# %% [markdown]
# It learns. That was *gradient descent*, and it is complete. What remains is to do it faster, and to know when to stop.
#
# ## Mini-batches: a cheap guess at the gradient
#
# 341 rows fit into one step. A million messages do not. A *mini-batch* of a few random rows gives a guess at the
# gradient. How good a guess? Below: the cosine between guess and full gradient (1 is the same direction, 0 is at right
# angles), the mean of 200 random batches of each size.

# %%
from jax.flatten_util import ravel_pytree

full = ravel_pytree(gradients)[0]  # the whole tree as one vector [513]


@jax.jit
def cosine(rows):
    guess = ravel_pytree(jax.grad(loss_fn)(params, x_train[rows], y_train[rows]))[0]
    return guess @ full / (jnp.linalg.norm(guess) * jnp.linalg.norm(full))


rng = np.random.default_rng(0)
for size in (1, 4, 31, 124):
    rows = np.array([rng.choice(341, size, replace=False) for _ in range(200)])  # [200 batches, size]
    print(f"batch of {size:3}: cosine {jax.vmap(cosine)(rows).mean():.2f}")

# %% [markdown]
# Thirty-one rows point almost where all 341 do, for a small part of the arithmetic. One pass over all rows, in random
# order, is an *epoch*. Since 341 = 11 · 31, an epoch is 11 steps and no row is left over.
#
# The loop takes the optimiser as an argument: a function that is given a learning rate and returns a pair `init`, `update`, as
# optax has them. `update` turns gradients into *updates*, what is to be added to the parameters.


# %%
@partial(jax.jit, static_argnames="optimiser")
def step(params, state, x, y, rate, optimiser):
    loss, gradients = jax.value_and_grad(loss_fn)(params, x, y)
    updates, state = optimiser(rate).update(gradients, state, params)
    return optax.apply_updates(params, updates), state, loss


def epochs(count, batch=31, seed=0):
    """The row numbers of one batch after another; every epoch has an order of its own."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield from rng.permutation(341).reshape(-1, batch)  # [341] → [341 / batch, batch]


def train(params, optimiser, rate, count, batch=31):
    state = optimiser(rate).init(params)
    for rows in epochs(count, batch):
        params, state, _ = step(params, state, x_train[rows], y_train[rows], rate, optimiser)
    return params


# %% [markdown]
# The first optimiser keeps nothing in mind, and equals `optax.sgd`:


# %%
def sgd(rate):
    def init(params):
        return ()  # no state

    def update(gradients, state, params=None):
        return jax.tree.map(lambda g: -rate * g, gradients), state

    return optax.GradientTransformation(init, update)


ours, theirs = (ravel_pytree(train(params, optimiser, 0.1, 2))[0] for optimiser in (sgd, optax.sgd))
print("equal to optax.sgd after 22 steps:", bool(jnp.allclose(ours, theirs, atol=1e-6)))
assert jnp.allclose(ours, theirs, atol=1e-6)

# %% [markdown]
# > **Common claim, tested.** *"A larger batch is better: its gradient is more exact."*
#
# More exact, yes. But for the same ten passes over the data, at the same learning rate:

# %%
for batch in (341, 31, 11):
    trained = train(params, optax.sgd, 0.1, 10, batch)
    print(f"batch {batch:3}: {341 // batch:2} steps an epoch, loss {loss_fn(trained, x_train, y_train):.3f}")

# %% [markdown]
# **False, per row read.** Many rough steps beat few exact ones. A large batch pays when its rows are computed side by side,
# on an accelerator, and it can take a higher learning rate.
#
# ## Momentum: remember where you were going
#
# Keep a running sum of past gradients, each older one counting less: $v \leftarrow \beta v + g$, $\;\theta \leftarrow \theta - \eta\, v$.
# Where gradients agree from step to step, the sum grows. Where they flip, it cancels.
#
# **Predict.** With $\beta = 0.9$ and the same gradient $g$ forever, how long does $v$ get?


# %%
def momentum(rate, beta=0.9):
    def init(params):
        return jax.tree.map(jnp.zeros_like, params)  # v: as many numbers as there are parameters

    def update(gradients, v, params=None):
        v = jax.tree.map(lambda v, g: beta * v + g, v, gradients)
        return jax.tree.map(lambda v: -rate * v, v), v

    return optax.GradientTransformation(init, update)


v = jnp.zeros(1)
for _ in range(100):
    _, v = momentum(1.0).update(jnp.ones(1), v)
print(f"after 100 equal gradients of 1: v = {v[0]:.2f}")

optax_momentum = partial(optax.sgd, momentum=0.9)
ours, theirs = (ravel_pytree(train(params, which, 0.01, 2))[0] for which in (momentum, optax_momentum))
assert jnp.allclose(ours, theirs, atol=1e-6)

# %% [markdown]
# $1/(1-\beta)$, ten times as far. So momentum is also a tenfold learning rate in disguise, wherever the way is straight: compare
# optimisers at each one's own best rate, never at the same one.
#
# ## Adam: a step size for every parameter
#
# Adam (Kingma and Ba, 2015) keeps two running means for every parameter: of its gradients, $m$, and of their squares, $v$.
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\, g \qquad v \leftarrow \beta_2 v + (1-\beta_2)\, g^2$$
#
# Both begin at zero, so after $t$ steps they are too small, by the factors $1-\beta_1^t$ and $1-\beta_2^t$. Divide that out:
#
# $$\hat m = \frac{m}{1-\beta_1^t} \qquad \hat v = \frac{v}{1-\beta_2^t} \qquad \theta \leftarrow \theta - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon}$$
#
# By hand, for one parameter and two gradients, with $\beta_1 = 0.9$, $\beta_2 = 0.999$, $\eta = 0.01$:

# %%
m = v = 0.0
for t, g in ((1, 2.0), (2, -1.0)):
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    print(f"t = {t}: m = {m:.3f}, v = {v:.6f}, m̂ = {m_hat:.3f}, v̂ = {v_hat:.3f}, ", end="")
    print(f"update = {-0.01 * m_hat / (v_hat**0.5 + 1e-8):.6f}")

# %% [markdown]
# **Predict.** At $t = 1$, one parameter has the gradient 0.0001 and another 10 000. How far does Adam move each?


# %%
def adam(rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return 0, zeros, zeros  # t, m, v

    def update(gradients, state, params=None):
        t, m, v = state
        t = t + 1
        m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, m, gradients)
        v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g**2, v, gradients)
        fix1, fix2 = 1 - beta1**t, 1 - beta2**t
        updates = jax.tree.map(lambda m, v: -rate * (m / fix1) / (jnp.sqrt(v / fix2) + epsilon), m, v)
        return updates, (t, m, v)

    return optax.GradientTransformation(init, update)


pair = jnp.array([1e-4, 1e4])
updates, _ = adam(0.01).update(pair, adam(0.01).init(pair))
print(f"updates {updates[0]:.4f} and {updates[1]:.4f}")

# %% [markdown]
# The same distance, the learning rate itself: at $t = 1$ the update is $-\eta\, g/|g|$. Adam asks for the *sign* of a gradient
# and how steadily it keeps it, not for its size. That is why it copes with layers whose gradients differ a
# thousandfold, and why multiplying the loss by a constant changes nothing (exercise 1).
#
# Is it really Adam? Step by step beside `optax.adam`, on the network:

# %%
ours = theirs = params
our_state, their_state = adam(0.01).init(params), optax.adam(0.01).init(params)
for number, rows in enumerate(epochs(3), start=1):
    batch = x_train[rows], y_train[rows], 0.01
    ours, our_state, our_loss = step(ours, our_state, *batch, adam)
    theirs, their_state, their_loss = step(theirs, their_state, *batch, optax.adam)
    same = jnp.allclose(ravel_pytree(ours)[0], ravel_pytree(theirs)[0], rtol=0, atol=1e-5)
    assert same, f"step {number}"
    if number in (1, 2, 3, 10, 33):
        print(f"step {number:2}: loss ours {our_loss:.4f}, optax {their_loss:.4f}; same parameters: {same}")

# %% [markdown]
# > **Common claim, tested.** *"Without the bias correction, Adam's first steps would be too small: m and v start at zero."*
#
# Both are too small, but the update divides one by the root of the other. For a steady gradient:

# %%
for t in (1, 10, 100, 1000):
    print(f"t = {t:4}: uncorrected step = {(1 - 0.9**t) / np.sqrt(1 - 0.999**t):.2f} × the corrected one")

# %% [markdown]
# **False, it is the other way round.** At $t = 1$, $m$ is 0.1 of the gradient but $\sqrt v$ only $\sqrt{0.001} \approx 0.03$ of it, and
# dividing by too little gives steps that are too *large*: more than sixfold after ten. The correction is a brake.
#
# The fourth of the family lies between: *RMSprop* divides by the root of the mean square and has no momentum (exercise 3).
#
# | | remembers | update |
# |---|---|---|
# | SGD | nothing | $-\eta\, g$ |
# | momentum | sum of gradients $v$ | $-\eta\, v$ |
# | RMSprop | mean of squares $v$ | $-\eta\, g / \sqrt{v}$ |
# | Adam | mean of gradients and of squares, $t$ | $-\eta\, \hat m / (\sqrt{\hat v} + \epsilon)$ |
#
# ## Four paths on one surface
#
# Two parameters can be drawn. Take one measurement, the mean radius (divided by ten, so that $w$ and $b$ fit into one picture), and
# $p = \sigma(w \cdot \text{radius} + b)$: each point $(w, b)$ is a model. We know the best point exactly, from Newton's method, and how steep the valley is
# across and along: the two eigenvalues of the matrix of second derivatives.

# %%
radius = {"raw": jnp.array(measurements[train_rows, 0] / 10, jnp.float32), "standardised": x_train[:, 0]}


def surface(point, x, y=y_train):
    return optax.sigmoid_binary_cross_entropy(point[0] * x + point[1], y).mean()


slope, curvature = jax.jit(jax.grad(surface)), jax.jit(jax.hessian(surface))  # [2], [2, 2]
bottom = {}
for kind, x in radius.items():
    point = np.zeros(2, np.float32)
    for _ in range(20):  # Newton: straight to the bottom of the parabola that fits here
        point -= np.linalg.solve(curvature(point, x), slope(point, x))
    bottom[kind] = point
    along, across = np.linalg.eigvalsh(curvature(point, x))
    ratio = across / along
    print(f"{kind:13} lowest loss {surface(point, x):.4f}; curvature across / along the valley: {ratio:5.1f}")

# %% [markdown]
# The same information in other units, the same lowest loss, and yet another valley. Now let four optimisers walk it, 100 steps
# with all rows. Each gets the learning rate that suits it best, out of 17 tried.

# %%
OPTIMISERS = {
    "SGD": (optax.sgd, plots.ORANGE),
    "momentum": (optax_momentum, plots.SKY),
    "RMSprop": (partial(optax.rmsprop, decay=0.9), plots.PURPLE),
    "Adam": (optax.adam, plots.VERMILLION),
}


@partial(jax.jit, static_argnames="optimiser")
@partial(jax.vmap, in_axes=(0, None, None))  # over the learning rates
def walk(rate, x, optimiser):
    def one(carry, _):
        point, state = carry
        updates, state = optimiser(rate).update(jax.grad(surface)(point, x), state, point)
        return (point + updates, state), point

    start = jnp.array([-4.0, 4.0])
    _, path = jax.lax.scan(one, (start, optimiser(rate).init(start)), length=100)  # path: [100, 2]
    return path, jax.vmap(surface, in_axes=(0, None))(path, x)


# %% [markdown]
# *Suits best* means: fewest of the 100 steps spent more than 0.01 above the lowest loss, and between equals the lower last loss.

# %% tags=["nbval-ignore-output"] reason="RMSprop trembles around the bottom: rounding, which differs between versions, moves its count."
rates = np.logspace(-2, 2, 17).astype(np.float32)
paths, away = {}, {}
for kind, x in radius.items():
    lowest = float(surface(bottom[kind], x))
    for name, (optimiser, _) in OPTIMISERS.items():
        path, losses = map(np.asarray, walk(rates, x, optimiser))  # [17 rates, 100 steps, 2], [17, 100]
        steps_away = (~(losses < lowest + 0.01)).sum(axis=1)  # [17]; nan is away, too
        best = np.nanargmin(steps_away + losses[:, -1])
        paths[kind, name], away[kind, name] = path[best], int(steps_away[best])
        print(f"{kind:13} {name:9} rate {rates[best]:6.3f}: {away[kind, name]:3} steps away from the bottom")

# %%
fig, axes = plt.subplots(2, 4, figsize=(12, 6), layout="constrained", sharex="row", sharey="row")
windows = {"raw": (-8, 16, -24, 10), "standardised": (-6, 8, -5, 6)}
heights_of = jax.jit(jax.vmap(surface, in_axes=(0, None)))
for row, (kind, x) in zip(axes, radius.items()):
    left, right, low, high = windows[kind]
    w, b = np.meshgrid(np.linspace(left, right, 80), np.linspace(low, high, 80))
    points = np.stack([w.ravel(), b.ravel()], axis=1)  # [80, 80] twice → [6400, 2]
    heights = np.reshape(heights_of(points, x), (80, 80))  # [6400] → [80, 80]
    for ax, (name, (_, colour)) in zip(row, OPTIMISERS.items()):
        ax.contourf(w, b, np.log(heights), levels=20, cmap="Greys", alpha=0.6)
        ax.plot(*paths[kind, name].T, ".-", color=colour, linewidth=1, markersize=4)
        ax.plot(*bottom[kind], "*", color=plots.BLACK, markersize=12)
        ax.set(xlim=(left, right), ylim=(low, high))
        plots.finish(ax, f"{name}: {away[kind, name]} steps away", f"weight w ({kind} radius)", "")
    row[0].set_ylabel("bias b")
fig.suptitle("In a narrow valley the optimiser matters; a round one suits even SGD (★ is the lowest point)");

# %% [markdown]
# In the narrow valley SGD bounces from wall to wall: a rate that is safe across it is tiny along it. Momentum cancels the bouncing
# and adds up the rest. Adam and RMSprop scale $w$ and $b$ separately, which helps little here: this valley lies *between* the axes. RMSprop
# does not arrive at all.
# In the round valley SGD is there at once.
#
# > **Common claim, tested.** *"Adam is the better optimiser."*
#
# **Not as such.** It came first in neither row. What paid most was no optimiser at all, but two numbers: the mean and the standard
# deviation of the input. (That is also why networks have LayerNorm inside; lesson 06.)

# %%
assert min(away["raw", name] for name in OPTIMISERS) == away["raw", "momentum"]
assert max(away["standardised", name] for name in OPTIMISERS) < away["raw", "SGD"]
assert away["standardised", "SGD"] < away["raw", "momentum"] < away["raw", "Adam"]

# %% [markdown]
# ## The learning rate, over four decades
#
# Back to the network and all 30 measurements. If you may tune one number, tune this one. Thirteen rates from 0.0001 to 1,
# three random starts each, 20 epochs. Write one run, and `vmap` makes 39 of it. Because you will train only once, we keep the *worst*
# of the three starts.

# %%
def stack(trees):
    """One tree from several of the same form: each leaf [...] becomes [len(trees), ...]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


rates = np.logspace(-4, 0, 13).astype(np.float32)
keys = jax.random.split(jax.random.key(1), 3)
starts = stack([initialise(key, [30, 16, 1]) for key in keys])  # [3, ...] each
batches = np.array(list(epochs(20)))  # [220 steps, 31 row numbers]


# %%
def losses_after(optimiser, rate, net):
    """Training and validation loss after 20 epochs: [2]."""

    def one(carry, rows):
        net, state, _ = step(*carry, x_train[rows], y_train[rows], rate, optimiser)
        return (net, state), None

    (net, _), _ = jax.lax.scan(one, (net, optimiser(rate).init(net)), batches)
    return jnp.stack([loss_fn(net, x_train, y_train), loss_fn(net, x_validation, y_validation)])


# %%
def sweep(optimiser):
    """The same for each rate, the worst of the three starts: [2, 13]."""
    over_starts = jax.vmap(partial(losses_after, optimiser), in_axes=(None, 0))
    found = jax.jit(jax.vmap(over_starts, in_axes=(0, None)))(rates, starts)  # [13 rates, 3 starts, 2]
    return np.nan_to_num(found, nan=np.inf).max(axis=1).T


swept = {name: sweep(optimiser) for name, (optimiser, _) in OPTIMISERS.items()}

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
titles = ("Training: each optimiser has its own range", "Validation: none of the ranges is much wider")
for ax, group, title in zip(axes, (0, 1), titles):
    for name, losses in swept.items():
        ax.loglog(rates, losses[group], ".-", color=OPTIMISERS[name][1], label=name)
    ax.axhline(np.log(2), color=plots.BLACK, linestyle=":", linewidth=1)
    ax.annotate("knows nothing: log 2", (3e-3, np.log(2)), xytext=(0, 4), textcoords="offset points")
    ax.set_ylim(2e-4, 3)
    plots.finish(ax, title, "learning rate", "loss after 20 epochs, worst of 3 (nats)")
axes[0].legend(frameon=False);

# %%
for name, (training, validation) in swept.items():
    slowest = rates[np.flatnonzero(training < 0.15)[0]]
    best = rates[validation.argmin()]
    print(f"{name:9} needs at least {slowest:6.2g}; best at {best:6.2g}: validation loss {validation.min():.3f}")

# %% [markdown]
# The first number is where a network has learnt its training rows at all (loss below 0.15). Momentum needs a tenth of the rate of
# SGD, as its sum predicted. A rate borrowed from another optimiser is wrong by up to a factor of fifty.
#
# > **Common claim, tested.** *"Adam needs no tuning; 0.001 will do."*
#
# Two tests: the validation loss at 0.001 beside the best, and the range of rates that keep it below 0.09.

# %%
at_default = swept["Adam"][1][np.abs(rates - 0.001).argmin()]
print(f"Adam at 0.001: {at_default:.3f}, at its best: {swept['Adam'][1].min():.3f}")
for name, (_, losses) in swept.items():
    good = rates[losses < 0.09]
    factor = good.max() / good.min()
    print(f"{name:9} below 0.09 from {good.min():6.2g} to {good.max():5.2g}: a factor of {factor:.0f}")

# %% [markdown]
# **False.** After 20 epochs the default's loss is nearly three times the best, and Adam's range of good rates is no wider than momentum's. What is true: multiply the
# loss by a thousand and Adam's range stays where it is, while SGD's moves (exercise 1). Tune anyway, on a logarithmic grid,
# and choose by validation: in the left picture Adam's large rates look fine, in the right one they do not.
#
# ## Schedules: first fast, then fine
#
# A mini-batch is a guess, so at a constant rate the parameters never settle: they hover around the bottom, at a height that grows with the rate. A
# small rate hovers lower and takes forever to arrive. A *schedule* has both: start high, end at nothing. The usual one
# warms up over the first steps, then follows half a cosine down.


# %%
def warmup_cosine(number, warmup, total, peak):
    rising = peak * number / warmup
    falling = peak * (1 + jnp.cos(jnp.pi * (number - warmup) / (total - warmup))) / 2
    return jnp.where(number < warmup, rising, falling)


numbers = jnp.arange(800)
scheduled = warmup_cosine(numbers, 40, 800, 1.0)
reference = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=40, decay_steps=800)
assert jnp.allclose(scheduled, jax.jit(jax.vmap(reference))(numbers), atol=1e-6)
print("at steps 0, 20, 40, 420, 799:", " ".join(f"{scheduled[n]:.3f}" for n in (0, 20, 40, 420, 799)))

# %% [markdown]
# On the round valley, where the lowest loss is known, SGD with batches of four rows. How far above the bottom is it?

# %%
x = radius["standardised"]
fours = np.random.default_rng(0).integers(341, size=(800, 4))  # [steps, rows]


@jax.jit
def noisy_walk(rates):
    def one(point, inputs):
        rows, rate = inputs
        slope = jax.grad(lambda p: surface(p, x[rows], y_train[rows]))(point)
        return point - rate * slope, surface(point, x) - surface(bottom["standardised"], x)

    return jax.lax.scan(one, jnp.array([-4.0, 4.0]), (fours, rates))[1]  # [800]


plans = {"constant 1": jnp.ones(800), "constant 0.03": jnp.full(800, 0.03), "warm-up, cosine": scheduled}
above = {name: noisy_walk(plan) for name, plan in plans.items()}
for name, height in above.items():
    early, late = height[50:100].mean(), height[-50:].mean()
    print(f"{name:15} mean of steps 51-100: {early:.3f}, of the last 50: {late:.4f}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for (name, plan), colour in zip(plans.items(), (plots.VERMILLION, plots.SKY, plots.BLUE)):
    left.plot(plan, color=colour, label=name)
    right.semilogy(above[name], color=colour, linewidth=0.8)
left.legend(frameon=False, bbox_to_anchor=(1, 0.95))
plots.finish(left, "High first, nothing at the end", "step", "learning rate")
plots.finish(right, "Only the schedule is fast and fine", "step", "loss above the lowest (nats)")

# %% [markdown]
# The schedule keeps up with the high rate and ends below both.
#
# Why warm up? Because Adam's first steps are its longest and least informed. The mean length of an update, as a share of the learning
# rate, on the network:

# %%
state, current = adam(0.001).init(params), params
for number, rows in enumerate(epochs(10), start=1):
    after, state, _ = step(current, state, x_train[rows], y_train[rows], 0.001, adam)
    moved = jnp.abs(ravel_pytree(after)[0] - ravel_pytree(current)[0]).mean() / 0.001
    current = after
    if number in (1, 2, 10, 100):
        print(f"step {number:3}: {moved:.2f}")

# %% [markdown]
# At step 1 every parameter moves by the full rate, on the word of one batch. Later the batches disagree, and disagreement shortens the
# step. A pretrained model has something to lose in such a start, so lesson 11 warms up.
#
# ## Clipping: a seat belt
#
# In the sweep, momentum at rate 1 ended far above *knows nothing*. Watch it happen: the length of the gradient, all parameters taken
# as one vector.

# %%
@jax.jit
def gradient_length(params, x, y):
    return optax.global_norm(jax.grad(loss_fn)(params, x, y))


current, state, lengths = params, optax_momentum(1.0).init(params), []
for rows in epochs(20):
    lengths.append(float(gradient_length(current, x_train[rows], y_train[rows])))
    current, state, _ = step(current, state, x_train[rows], y_train[rows], 1.0, optax_momentum)
longer = max(lengths) > 10 * lengths[0]
print(f"first gradient {lengths[0]:.2f}; some later one more than ten times as long: {longer}")
assert longer

# %% [markdown]
# One step too far lands where it is steep, the steep gradient throws it further, and so on. *Clipping by the global norm* shortens a
# gradient that is longer than a limit, and leaves others alone.


# %%
def clip(gradients, limit):
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients)))
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, limit / norm), gradients)


reference, _ = optax.clip_by_global_norm(0.1).update(gradients, optax.EmptyState())  # those of the first step
for name, tree in {"as it came": gradients, "clipped": clip(gradients, 0.1), "by optax": reference}.items():
    print(f"{name:10} length {optax.global_norm(tree):.3f}")
assert jnp.allclose(ravel_pytree(clip(gradients, 0.1))[0], ravel_pytree(reference)[0], atol=1e-6)

# %% [markdown]
# Fasten it, and repeat the sweep of momentum. What becomes of the runs that failed, at rate 1?


# %%
def clipped_momentum(rate):
    return optax.chain(optax.clip_by_global_norm(0.1), optax_momentum(rate))


for name, found in {"momentum": swept["momentum"], "clipped momentum": sweep(clipped_momentum)}.items():
    best, last = found[1].min(), found[1, -1]  # validation
    print(f"{name:17} best {best:.3f}, at rate 1 {f'{last:.2f}' if last < 1 else 'above 1'}")
assert last < np.log(2)

# %% [markdown]
# > **Common claim, tested.** *"Clipping changes the gradient's length, not its direction."*
#
# There is also clipping *by value*, each entry on its own:

# %%
by_value, _ = optax.clip(0.01).update(gradients, optax.EmptyState())  # every entry into ±0.01
for name, tree in {"global norm": reference, "value": by_value}.items():
    a, b = ravel_pytree(gradients)[0], ravel_pytree(tree)[0]
    likeness = a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    print(f"clipped by {name:11} cosine with the gradient {likeness:.3f}")

# %% [markdown]
# **True of the global norm, false of the other.** Clipping is a seat belt, and here it even let momentum's best run end lower. But it is
# no good rate: what survives at rate 1 does better at a smaller one.
#
# ## Over-fitting: when better is worse
#
# A larger network, 30 → 64 → 64 → 1, can learn 341 rows by heart. One split may mislead, so take ten, each with its own
# training, validation and test rows, and train on all ten at once.

# %%
splits = [split(seed) for seed in range(10)]
GROUPS = [  # training, validation, test: x [10, n, 30] and y [10, n] of each
    stack([standardise(rows[group], rows[0]) for rows in splits]) for group in range(3)
]
nets = stack([initialise(key, [30, 64, 64, 1]) for key in jax.random.split(jax.random.key(5), 10)])  # [10, ...] each
count = sum(leaf[0].size for leaf in jax.tree.leaves(nets))
print(f"{count} parameters a network, {GROUPS[0][0].shape[1]} rows")

# %% [markdown]
# Again one run, written once. It takes a *decay*; at 0 it is plain Adam, and other values come into play below.


# %%
def judge(net, x, y):
    """Loss and share of wrong answers: [2]."""
    return jnp.stack([loss_fn(net, x, y), ((forward(net, x) > 0) != y).mean()])


def sixty_epochs(net, groups, decay):
    """What `judge` says of training, validation and test rows after each epoch: [60, 3, 2]."""
    optimiser = optax.adamw(0.003, weight_decay=decay)
    x, y = groups[0]

    def one_step(carry, rows):
        net, state = carry
        updates, state = optimiser.update(jax.grad(loss_fn)(net, x[rows], y[rows]), state, net)
        return (optax.apply_updates(net, updates), state), None

    def one_epoch(carry, batches):  # [11 steps, 31 rows]
        carry, _ = jax.lax.scan(one_step, carry, batches)
        return carry, jnp.stack([judge(carry[0], *group) for group in groups])

    order = np.array(list(epochs(60))).reshape(60, 11, 31)  # [660, 31] → [60, 11, 31]
    return jax.lax.scan(one_epoch, (net, optimiser.init(net)), order)[1]


# %%
decays = jnp.array([0.0, 0.3, 1.0, 3.0, 10.0])
ten_runs = jax.vmap(sixty_epochs, in_axes=(0, 0, None))  # [10, 60, 3, 2]
runs = np.array(jax.jit(jax.vmap(ten_runs, in_axes=(None, None, 0)))(nets, GROUPS, decays))  # [5, 10, 60, 3, 2]
plain = runs[0]  # [10 splits, 60 epochs, 3 groups, 2]

# %% [markdown]
# **Predict.** Loss by epoch: what will the training curve do, what the validation curve?


# %%
def show_run(runs, title):
    fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for group, name, colour in ((0, "training", plots.BLUE), (1, "validation", plots.VERMILLION)):
        losses = runs[:, :, group, 0]  # [10 splits, 60 epochs]
        ax.plot(range(1, 61), losses.T, color=colour, linewidth=0.4, alpha=0.5)
        ax.plot(range(1, 61), losses.mean(axis=0), color=colour, linewidth=2, label=f"{name}, mean of 10 splits")
    ax.set_ylim(0, 0.5)
    ax.legend(frameon=False)
    plots.finish(ax, title, "epoch", "loss (nats)")


show_run(plain, "Over-fitting: training falls, validation turns")

# %%
training, validation = plain[:, :, 0].mean(axis=0), plain[:, :, 1].mean(axis=0)  # [60 epochs, loss and share wrong]
turn = validation[:, 0].argmin()
for epoch in (turn, 59):
    print(f"after epoch {epoch + 1:2}: training loss {training[epoch, 0]:.3f}, validation {validation[epoch, 0]:.2f}")
assert training[-1, 0] < 0.001 and validation[-1, 0] > 1.5 * validation[turn, 0]

# %% [markdown]
# > **Common claim, tested.** *"You see over-fitting when validation accuracy falls."*

# %%
for epoch in (turn, 59):
    print(f"after epoch {epoch + 1:2}: wrong in validation {validation[epoch, 1]:.0%}")

# %% [markdown]
# **Accuracy does not notice.** About as many rows are wrong as before, but the model has become surer of them: every training row rewards
# it for larger logits. Watch the validation *loss*. If your desk leaves unsure messages to a human (lesson 12), this is the damage that counts.
#
# Two cures. **Early stopping**: keep the parameters of the epoch with the lowest validation loss, for each run its own (exercise 5).
# **Weight decay**: at each step also pull every parameter a little towards zero,
#
# $$\theta \leftarrow \theta - \eta \left( \frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda\, \theta \right)$$
#
# so that only what the data keeps asking for grows large. With Adam it is called AdamW (exercise 6). How large should $\lambda$ be? Five values
# have run above, side by side. Which one is good is a question for the validation rows.
#
# **Predict.** What will far too much decay look like?

# %%
last = runs[:, :, -1, :, 0]  # loss after epoch 60: [5 decays, 10 splits, 3 groups]
for decay, (training, validation, _) in zip(decays, last.mean(axis=1)):
    print(f"decay {decay:4.1f}: training loss {training:.2f}, validation {validation:.2f}")
choice = last[:, :, 1].argmin(axis=0)  # [10]: each split asks its own validation rows
decayed = runs[choice, np.arange(10)]  # [10 splits, 60 epochs, 3 groups, 2]
show_run(decayed, "Cured: with weight decay, validation stays down")
chosen = [f"{(choice == number).sum()} × {decay:g}" for number, decay in enumerate(decays)]
print("chosen by the ten splits:", ", ".join(chosen))
assert decayed[:, -1, 1, 0].mean() < 0.6 * plain[:, -1, 1, 0].mean()

# %% [markdown]
# Too little changes nothing; too much holds down the training loss as well, and that is under-fitting. In between, a decay that is
# hundreds of times larger than the usual 0.01, for there is little data. The splits do not agree on one: 114 validation rows choose
# no more exactly than that.
#
# ## The test, once
#
# Now the test rows may speak; every choice so far was made without them. The mean of ten splits, 114 test rows each. (The ten share
# rows: they are not ten independent experiments.)
#
# > **Common claim, tested.** *"A neural network beats logistic regression."*

# %%
stop = plain[:, :, 1, 0].argmin(axis=1)  # [10]: each run's best epoch
results = {
    "network, 60 epochs": plain[:, -1, 2],  # [10, 2]
    "network, stopped early": plain[np.arange(10), stop, 2],
    "network, weight decay": decayed[:, -1, 2],
}
rows_of_ten = []
for x, y, x_test, y_test in zip(*GROUPS[0], *GROUPS[2]):
    found = LogisticRegression().fit(x, y).decision_function(x_test)  # logits
    loss = optax.sigmoid_binary_cross_entropy(jnp.array(found, jnp.float32), y_test).mean()
    rows_of_ten.append([loss, ((found > 0) != y_test).mean()])
results["logistic regression"] = np.array(rows_of_ten)
for name, result in results.items():
    loss, share = result.mean(axis=0)
    print(f"{name:23} test loss {loss:.2f}, {114 * share:.0f} of 114 wrong")

# %% [markdown]
# **Not here.** With 341 rows and measurements that someone designed well, the plainest model is the best.
# Both cures bring the network near it; nothing brings it past. Baseline first is no courtesy: it is how you notice
# that you need no network. Text is different (lesson 11 measures by how much), because nobody designed its columns.
#
# ## What you now know
#
# 1. Initialise, forward, loss, backward, update, evaluate: the loop, and mini-batches make its steps cheap.
# 2. Momentum sums gradients. Adam divides by their size, so its steps are about as long as the learning rate; you wrote both.
# 3. Scale the inputs first. Then tune the learning rate on a logarithmic grid, by validation loss.
# 4. A schedule is fast and fine; clipping survives steps that were too long.
# 5. Over-fitting shows in the validation loss before it shows in accuracy. Stop early, or decay the weights. And keep the baseline.
#
# **Exercises:** [05 · Exercises](../exercises/05_training_exercises.ipynb), six of them, 48 minutes.
#
# **Next:** [06 · How do I build big ones without losing track?](06_flax_modules.ipynb)
#
# **Read more:** Goodfellow et al., [Deep Learning](https://www.deeplearningbook.org/), chapter 8; Kingma and Ba,
# [Adam](https://arxiv.org/abs/1412.6980), sections 2 and 3; Pascanu et al., [On the difficulty of training recurrent neural
# networks](https://arxiv.org/abs/1211.5063), section 3.2, on clipping; Loshchilov and Hutter, [Decoupled weight decay
# regularization](https://arxiv.org/abs/1711.05101), section 2; Goh, [Why momentum really works](https://distill.pub/2017/momentum/).
