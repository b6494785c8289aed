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
print(f"training   {x_train.shape}, mean {jnp.abs(x_train.mean(axis=0)).max():.2f}, sd {x_train.std():.2f}")
print(f"validation {x_validation.shape}, mean up to {jnp.abs(x_validation.mean(axis=0)).max():.2f}, sd {x_validation.std():.2f}")

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
loss, gradients = jax.value_and_grad(loss_fn)(params, x_train, y_train)
for number, (layer, gradient) in enumerate(zip(params, gradients), start=1):
    for name in layer:
        print(f"layer {number} {name}: shape {gradient[name].shape}, length {jnp.linalg.norm(gradient[name]):.3f}")
        assert gradient[name].shape == layer[name].shape

# %% [markdown]
# **5. Update.** Call all parameters together $\theta$ and the gradient $g$. Walk against it: $\theta \leftarrow \theta - \eta\, g$,
# with the *learning rate* $\eta$. On a plane, that lowers the loss by exactly $\eta \lVert g \rVert^2$: the slope's promise. The
# surface is no plane.
#
# **Predict.** For which of these learning rates is the promise kept?

# %%
promise = sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients))
print(" rate   promised    found")
for rate in (0.01, 0.1, 1.0, 10.0):
    moved = jax.tree.map(lambda p, g: p - rate * g, params, gradients)
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
    return jax.tree.map(lambda p, g: p - rate * g, params, gradients), loss


walked = params
for number in range(301):
    if number in (0, 10, 100, 300):
        found = mistakes(walked, x_validation, y_validation)
        print(f"after {number:3} steps: loss {loss_fn(walked, x_train, y_train):.3f}, {found:2} wrong in validation")
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
# Thirty-one rows point almost where all 341 do, for a tenth of the arithmetic. One pass over all rows, in random
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
ours, theirs = (ravel_pytree(train(params, optimiser, 0.01, 2))[0] for optimiser in (momentum, optax_momentum))
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
    apart = jnp.abs(ravel_pytree(ours)[0] - ravel_pytree(theirs)[0]).max()
    assert apart < 1e-4, f"step {number}: {apart}"
    if number in (1, 2, 3, 10, 33):
        print(f"step {number:2}: loss ours {our_loss:.4f}, optax {their_loss:.4f}; same parameters: {bool(apart < 1e-4)}")

# %% [markdown]
# > **Common claim, tested.** *"Without the bias correction, Adam's first steps would be too small: m and v start at zero."*
#
# Both are too small, but the update divides one by the root of the other. For a steady gradient:

# %%
for t in (1, 10, 100, 1000):
    print(f"t = {t:4}: uncorrected step = {(1 - 0.9**t) / np.sqrt(1 - 0.999**t):.2f} × the corrected one")

# %% [markdown]
# **False, it is the other way round.** $v$ is further from home than the square of $m$ is, so the steps would be too *large*, more than
# sixfold after ten. The correction is a brake.
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
# Two parameters can be drawn. Take one measurement, the mean radius in tens of the file's units, and $p = \sigma(w \cdot \text{radius} + b)$:
# each point $(w, b)$ is a model. We know its best point exactly, from Newton's method, and how steep the valley is
# across and along: the two eigenvalues of the matrix of second derivatives.

# %%
radius = {"raw": jnp.array(measurements[train_rows, 0] / 10, jnp.float32), "standardised": x_train[:, 0]}


def surface(point, x):
    return optax.sigmoid_binary_cross_entropy(point[0] * x + point[1], y_train).mean()


def lowest(x):
    point = jnp.zeros(2)
    for _ in range(30):  # Newton: go to the bottom of the parabola that fits here
        point -= jnp.linalg.solve(jax.hessian(surface)(point, x), jax.grad(surface)(point, x))
    return point


for name, x in radius.items():
    along, across = jnp.linalg.eigvalsh(jax.hessian(surface)(lowest(x), x))
    print(f"{name:13} lowest loss {surface(lowest(x), x):.4f}, {across / along:5.1f} times as steep across as along")

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
# "Best" means the lowest mean loss along the way: quick and without wild jumps. *Arrived* means within 0.01 of the lowest loss.

# %%
rates = jnp.logspace(-2, 2, 17)
paths, arrived = {}, {}
for kind, x in radius.items():
    for name, (optimiser, _) in OPTIMISERS.items():
        path, losses = walk(rates, x, optimiser)  # [17, 100, 2], [17, 100]
        best = jnp.nanargmin(losses.mean(axis=1))
        there = np.flatnonzero(losses[best] < surface(lowest(x), x) + 0.01)
        paths[kind, name] = path[best]
        arrived[kind, name] = f"{there[0]} steps" if len(there) else "not in 100"
        print(f"{kind:13} {name:9} rate {rates[best]:6.3g}: arrived {arrived[kind, name]}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
windows = {"raw": (-8, 16, -24, 10), "standardised": (-6, 6, -4, 6)}
for ax, (kind, x) in zip(axes, radius.items()):
    left, right, bottom, top = windows[kind]
    grid = np.stack(np.meshgrid(np.linspace(left, right, 80), np.linspace(bottom, top, 80)), axis=-1)  # [80, 80, 2]
    heights = jax.vmap(surface, in_axes=(0, None))(grid.reshape(-1, 2), x).reshape(80, 80)  # [6400, 2] → [6400] → [80, 80]
    ax.contourf(grid[..., 0], grid[..., 1], jnp.log(heights), levels=20, cmap="Greys", alpha=0.6)
    for name, (_, colour) in OPTIMISERS.items():
        ax.plot(*paths[kind, name].T, ".-", color=colour, linewidth=1, markersize=4, label=name)
    ax.plot(*lowest(x), "*", color=plots.BLACK, markersize=14)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    plots.finish(ax, f"{kind.capitalize()} radius", "weight w", "bias b")
axes[1].legend(frameon=False);
