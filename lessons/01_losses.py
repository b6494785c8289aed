# %% [markdown]
# # 01 · How wrong is a prediction?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 25 min | under half a minute | 00 | choose a loss, write it so that it never returns NaN, and read its gradient |
#
# The support desk has a model. A customer writes *"where is my parcel?"* and the model says: 70 % delivery,
# 20 % refund, 10 % billing. The right team is delivery. **How wrong is that, as one number?** Everything that
# training does, it does to make this number smaller; choose it badly and the model learns the wrong thing well.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from course_lib import plots

probs = jnp.array([0.7, 0.2, 0.1])  # what the model believes: delivery, refund, billing
target = jnp.array([1.0, 0.0, 0.0])  # what was true


def show(values):
    return "  ".join(f"{value:.3f}" for value in values)


print("shape of probs:", probs.shape)

# %% [markdown]
# ## Two candidates
#
# *Squared error* asks how far each probability is from the truth. *Cross-entropy* asks only one question: how much
# probability did the right answer get?
#
# $$\text{MSE} = \frac{1}{K}\sum_{k=1}^{K} (y_k - \hat y_k)^2 \qquad\qquad L(y, \hat y) = -\sum_{k=1}^{K} y_k \log \hat y_k$$
#
# $K$ is the number of teams, $y$ is `target`, $\hat y$ is `probs`. The logarithm is the natural one, and cross-entropy is measured in
# *nats*, as a length is in metres. By hand, for the parcel:

# %%
print(f"MSE           = (0.3² + 0.2² + 0.1²) / 3 = {(0.3**2 + 0.2**2 + 0.1**2) / 3:.4f}")
print(f"cross-entropy = -log 0.7                = {-np.log(0.7):.4f}")


def mse(probs, target):
    return jnp.mean((target - probs) ** 2)


def cross_entropy(probs, target):
    return -jnp.sum(target * jnp.log(probs))


print(f"the functions say {mse(probs, target):.4f} and {cross_entropy(probs, target):.4f}")

# %% [markdown]
# **Predict.** The model grows sure and wrong: the right team's probability falls from 0.7 to 0.001. Which loss grows more?

# %%
right = jnp.array([0.7, 0.1, 0.001])  # probability of the right team
rows = jnp.stack([right, 2 * (1 - right) / 3, (1 - right) / 3], axis=1)  # [3 models, 3 teams]
for p in rows:
    print(f"p(right) = {p[0]:<6.3g} MSE = {mse(p, target):.3f}   cross-entropy = {cross_entropy(p, target):.2f}")

# %% [markdown]
# The picture for two teams, where the other team gets what is left:

# %%
p = np.linspace(0.002, 1, 500)
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(p, -np.log(p), color=plots.BLUE, label="cross-entropy: −log p")
ax.plot(p, (1 - p) ** 2, color=plots.VERMILLION, label="squared error: (1 − p)²")
ax.legend(frameon=False)
plots.finish(ax, "Only cross-entropy has no ceiling", "probability given to the right team", "loss (blue: nats)")

# %% [markdown]
# Squared error can never exceed $2/K$: a hopeless answer costs it little more than a bad one. A model that is *sure and
# wrong* should pay dearly if it routes real messages without asking, and under cross-entropy it does.
#
# ## Where the formulas come from
#
# Neither was made up. Both answer one question: **how probable does the model make what really happened?** That
# probability is the *likelihood*. Here are five messages, and the probability that the model gave to the team that was
# right:

# %%
given_to_right = jnp.array([0.7, 0.9, 0.4, 0.8, 0.6])
likelihood = jnp.prod(given_to_right)
print(f"likelihood of all five labels: {likelihood:.4f}")
print(f"-log likelihood / 5:           {-jnp.log(likelihood) / 5:.4f}")
print(f"mean cross-entropy:            {-jnp.mean(jnp.log(given_to_right)):.4f}")

# %% [markdown]
# The last two lines are the same number: the logarithm turns the product into a sum. So *making the labels most
# probable* and *making the mean cross-entropy smallest* are one thing. Why not maximise the product itself?
#
# **Predict.** 500 messages, each right team given 0.6. What is the product, in 32 bits?

# %%
many = jnp.full(500, 0.6)
print(f"product of 500 probabilities: {jnp.prod(many)}")
print(f"sum of their logarithms:      {jnp.sum(jnp.log(many)):.1f}")
assert jnp.prod(many) == 0

# %% [markdown]
# Squared error has the same origin with another belief about the data. Say the model predicts *hours until a reply*,
# and the truth lies around the prediction $\hat y$ with Gaussian noise of standard deviation 1:
#
# $$-\log \mathcal N(y;\, \hat y, 1) = \tfrac12 (y - \hat y)^2 + \tfrac12 \log 2\pi$$
#
# The second term does not depend on the prediction. If the formula is right, the two sides differ by the same number
# whatever we predict.

# %%
hours = jnp.array([2.0, 5.0, 3.0])
for predicted in (jnp.array([2.5, 4.0, 3.0]), jnp.array([9.0, 0.0, 1.0])):
    negative_log_likelihood = -jax.scipy.stats.norm.logpdf(hours, loc=predicted).mean()
    squared = mse(predicted, hours)
    print(f"-log likelihood {negative_log_likelihood:6.3f} - MSE/2 {squared / 2:6.3f}", end="")
    print(f" = {negative_log_likelihood - squared / 2:.4f}")

# %% [markdown]
# So: numbers with Gaussian noise ask for squared error; one label out of $K$ asks for cross-entropy. One *yes or no*, such as
# "is this customer unhappy?", is the case of a coin (Bernoulli). With $\hat y$ the probability of yes,
#
# $$L_\text{binary} = -\,y \log \hat y - (1-y)\log(1-\hat y)$$
#
# ## The number that is not a number
#
# Networks do not output probabilities. They output *logits* $z$, any real numbers, and softmax turns them into
# probabilities: $\hat y_k = e^{z_k} / \sum_j e^{z_j}$. Written the way it reads:


# %%
def naive_softmax(logits):
    return jnp.exp(logits) / jnp.sum(jnp.exp(logits))


print("logits 2, 1, 0:     ", show(naive_softmax(jnp.array([2.0, 1.0, 0.0]))))
print("logits 100, 0, -100:", show(naive_softmax(jnp.array([100.0, 0.0, -100.0]))))

# %% [markdown]
# The largest number that fits into 32 bits is about $3.4 \cdot 10^{38}$. Which is the first whole number whose exponential does not?

# %%
powers = jnp.exp(jnp.arange(200.0))  # exp(0), exp(1), exp(2), ...
overflow = int(jnp.isinf(powers).argmax())  # the first that is infinite
print(f"exp({overflow - 1}) = {powers[overflow - 1]:.3g}, exp({overflow}) = {powers[overflow]}")

# %% [markdown]
# Beyond it, softmax is infinity divided by infinity: `nan`, not a number. How much harm does one such example do? A
# linear model, four messages, one of them with absurdly large features. We ask for the gradient of the mean loss
# (`jax.grad`; lesson 04 opens that box).
#
# **Predict.** How many of the 6 gradients will be `nan`?

# %%
features = jnp.array([[0.1, 0.5], [0.3, -0.2], [300.0, 200.0], [-0.4, 0.1]])  # [4 messages, 2 features]
weights = jnp.array([[1.0, 0.0, -1.0], [0.5, -0.5, 0.0]])  # [2 features, 3 teams]


def naive_loss(weights):
    probs = jax.vmap(naive_softmax)(features @ weights)  # [4, 3]: naive_softmax on each row
    return -jnp.mean(jnp.log(probs[:, 0]))  # team 0 is right for all four


gradient = jax.grad(naive_loss)(weights)
print(f"{jnp.isnan(gradient).sum()} of {gradient.size} gradients are nan")
assert jnp.isnan(gradient).all()

# %% [markdown]
# One example poisons the gradient of every weight, and with the next update every weight of the model. The other three
# messages cannot save it.
#
# ## The cure costs one subtraction
#
# Softmax does not change when the same number $m$ is taken from every logit: $e^{z_k - m} = e^{z_k} e^{-m}$, and the
# factor cancels. Take the largest logit, and no `exp` sees anything above 0. Better still, never compute the
# probability: the loss wants its logarithm.
#
# $$\log \hat y_k = z_k - \underbrace{\Big(m + \log \sum_j e^{z_j - m}\Big)}_{\text{log-sum-exp of } z}, \qquad m = \max_j z_j$$


# %%
def log_softmax(logits):
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)  # the largest is now 0: no exp() can overflow
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))


extreme = jnp.array([100.0, 0.0, -100.0])
print("log-probabilities:", show(log_softmax(extreme)))
assert jnp.allclose(log_softmax(extreme), jax.nn.log_softmax(extreme))

# %% [markdown]
# `axis=-1` with `keepdims=True` makes it work for one row `[K]` and for a batch `[batch, K]`. The cured model:


# %%
def stable_loss(weights):
    log_probs = log_softmax(features @ weights)  # [4, 3]
    return -jnp.mean(log_probs[:, 0])


gradient = jax.grad(stable_loss)(weights)
bad = jnp.isnan(gradient).sum()
print(f"{bad} of {gradient.size} gradients are nan; the loss is {stable_loss(weights):.3f}")
assert jnp.isfinite(gradient).all()

# %% [markdown]
# Binary cross-entropy has the same disease at another spot. In 32 bits, a sigmoid near 1 *is* 1, and $\log(1 - 1)$
# is minus infinity. Put $\hat y = 1/(1+e^{-z})$ into the formula: $-\log \hat y = \log(1 + e^{-z})$, and $-\log(1 - \hat y)$ is the same
# plus $z$. Together that is $z - z\,y + \log(1 + e^{-z})$, fine as long as $z$ is positive. For negative $z$ the exponential is large, so
# take it out of the bracket, $\log(1 + e^{-z}) = -z + \log(1 + e^{z})$. One line says both:
#
# $$L_\text{binary}(z, y) = \max(z, 0) - z\,y + \log\!\left(1 + e^{-|z|}\right)$$


# %%
def naive_bce(z, y):
    p = 1 / (1 + jnp.exp(-z))
    return -y * jnp.log(p) - (1 - y) * jnp.log(1 - p)


def bce(z, y):
    return jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))


for z in (2.0, 10.0, 20.0):
    print(f"sure of yes with z = {z:4}, truth is no: naive {naive_bce(z, 0.0):6.3f}, stable {bce(z, 0.0):6.3f}")

# %% [markdown]
# > **Common claim, tested.** *"Add a small epsilon inside the log and the problem is gone."*
#
# Then nothing is infinite any more. But what does a model learn from its worst mistake? Below, team 0 is right and
# team 1 is ahead by a growing margin. The slope of the loss in the right team's logit should be close to −1: raise it!

# %%
def loss_with_epsilon(logits):
    return -jnp.log(jax.nn.softmax(logits)[0] + 1e-7)


def loss_from_logits(logits):
    return -log_softmax(logits)[0]


for margin in (5.0, 10.0, 20.0, 40.0):
    wrong = jnp.array([0.0, margin, 0.0])
    slopes = [jax.grad(loss)(wrong)[0] for loss in (loss_with_epsilon, loss_from_logits)]
    print(f"behind by {margin:4}: slope with epsilon {slopes[0]:9.3g}, from logits {slopes[1]:7.4f}")
assert abs(slopes[0]) < 1e-6 and abs(slopes[1] + 1) < 1e-6

# %% [markdown]
# **False.** Once $\hat y \ll \epsilon$ the slope is $-\hat y (1 - \hat y)/(\hat y + \epsilon) \approx 0$: the worst
# mistake teaches nothing, and no error message says so. Work from logits instead.
#
# ## The gradient is p − y
#
# From logits, the loss of an example whose right class is $c$ is $L = -z_c + \log \sum_j e^{z_j}$. Differentiate by one logit:
#
# $$\frac{\partial L}{\partial z_k} = \underbrace{\frac{e^{z_k}}{\sum_j e^{z_j}}}_{\hat y_k} - \underbrace{[k = c]}_{y_k} = \hat y_k - y_k$$
#
# ($[k = c]$ is 1 where $k$ is $c$, else 0.) The exponential of softmax and the logarithm of the loss cancel, and what is left is *what you said minus what was
# true*. Verify it twice: by finite differences (nudge each logit and see how the loss moves), and by `jax.grad`.
#
# **Predict.** For `probs` = 0.7, 0.2, 0.1 and the truth delivery: which three numbers?

# %%
logits = jnp.log(probs)  # logits that give these probabilities


def loss(logits):
    return -jnp.sum(target * log_softmax(logits))


step = 1e-2
nudges = step * jnp.eye(3)  # row k nudges logit k alone
finite = jnp.array([(loss(logits + nudge) - loss(logits - nudge)) / (2 * step) for nudge in nudges])
automatic = jax.grad(loss)(logits)
for name, values in {"p - y": probs - target, "finite differences": finite, "jax.grad": automatic}.items():
    print(f"{name:19} {show(values)}")
assert jnp.allclose(finite, probs - target, atol=1e-3)
assert jnp.allclose(automatic, probs - target, atol=1e-6)

# %% [markdown]
# Delivery's logit is pushed up with force 0.3, the others down with forces that sum to the same. The gradient of each
# loss, side by side ($\sigma$ is the sigmoid, $p = \sigma(z)$):
#
# | loss | gradient |
# |---|---|
# | MSE in the prediction $\hat y$ | $\frac{2}{K}(\hat y - y)$ |
# | softmax cross-entropy in the logits | $\hat y - y$ |
# | binary cross-entropy in the logit | $p - y$ |
# | squared error of a sigmoid, in the logit | $2\,(p - y)\; p\,(1-p)$ |

# %%
z, y = jnp.float32(-1.5), 1.0
p = jax.nn.sigmoid(z)
by_hand = {
    "MSE": (jax.grad(mse)(probs, target), 2 / 3 * (probs - target)),
    "binary cross-entropy": (jax.grad(bce)(z, y), p - y),
    "squared error of a sigmoid": (
        jax.grad(lambda z: (jax.nn.sigmoid(z) - y) ** 2)(z),
        2 * (p - y) * p * (1 - p),
    ),
}
for name, (automatic, formula) in by_hand.items():
    print(f"{name:27} jax.grad {show(jnp.ravel(automatic))}, formula {show(jnp.ravel(formula))}")
    assert jnp.allclose(automatic, formula, atol=1e-6)

# %% [markdown]
# ## Why squared error on a sigmoid learns slowly
#
# Look at the last row of the table. The factor $p(1-p)$ is at most 1/4, and next to nothing when $p$ is near 0 or 1: also
# when it is near the *wrong* end. Take a model that is sure that a customer is content ($z = -8$) when she is not ($y = 1$),
# and let each loss pull it right, learning rate 1.


# %%
def steps_until_right(gradient, z, limit=10_000):
    """Steps of gradient descent until p > 0.9, and p on the way."""
    path = []
    while len(path) < limit and (p := 1 / (1 + np.exp(-z))) <= 0.9:
        path.append(p)
        z = z - gradient(p)
    return len(path), path


def cross_entropy_slope(p):
    return p - 1


def squared_error_slope(p):
    return 2 * (p - 1) * p * (1 - p)


for start in (0.0, -4.0, -8.0):
    counts = [steps_until_right(slope, start)[0] for slope in (cross_entropy_slope, squared_error_slope)]
    print(f"from z = {start:4}: cross-entropy needs {counts[0]:3} steps, squared error {counts[1]:5}")

# %%
z = np.linspace(-10, 10, 400)
p = 1 / (1 + np.exp(-z))
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
for name, slope, colour in (
    ("cross-entropy", cross_entropy_slope, plots.BLUE),
    ("squared error", squared_error_slope, plots.VERMILLION),
):
    left.plot(z, -slope(p), color=colour, label=name)
    path = steps_until_right(slope, -8.0)[1]
    right.semilogx(np.arange(1, len(path) + 1), path, color=colour, label=name)
left.legend(frameon=False)
title = "Squared error does not pull where it is most wrong"
plots.finish(left, title, "logit z (the truth is yes)", "pull: −dL/dz")
plots.finish(right, "So it waits before it learns", "step (logarithmic)", "probability of the truth")

# %% [markdown]
# > **Common claim, tested.** *"Squared error cannot train a classifier."*
#
# **Too strong.** From $z = 0$ it arrives within a few dozen steps. It is slow exactly where it is sure and wrong. But
# that is where the examples lie that most need learning.
#
# ## The surface that training walks on
#
# Now two parameters: $p = \sigma(w x + b)$, where $x$ says how angry a message sounds, for 60 messages. Every pair $(w, b)$ is a model
# and has a loss. Seen from above, what does each loss look like?

# %%
rng = np.random.default_rng(0)
anger = rng.normal(size=60)
unhappy = (rng.random(60) < 1 / (1 + np.exp(-2 * anger))).astype(float)  # the truth, with chance in it
print(f"{unhappy.sum():.0f} of {len(unhappy)} customers are unhappy")

# %%
w, b = np.meshgrid(np.linspace(-12, 12, 121), np.linspace(-12, 12, 121))
z = w[..., None] * anger + b[..., None]  # [121, 121, 60 messages]
surfaces = {
    "Cross-entropy: one bowl, steep where wrong": np.asarray(bce(z, unhappy)).mean(-1),
    "Squared error: flat where most wrong": ((1 / (1 + np.exp(-z)) - unhappy) ** 2).mean(-1),
}
fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax, (title, surface) in zip(axes, surfaces.items()):
    shades = ax.contourf(w, b, surface, levels=14, cmap="cividis")
    best = np.unravel_index(surface.argmin(), surface.shape)
    ax.plot(w[best], b[best], "*", color="white", markersize=14)
    fig.colorbar(shades, ax=ax, label="mean loss (★ is the lowest)")
    plots.finish(ax, title, "weight w", "bias b")

# %% [markdown]
# How flat is flat? Stand at $w = -12$, $b = 0$, where the model believes the opposite of the truth, and measure the slope in $w$.

# %%
middle = 60  # the row where b = 0
slopes = [(surface[middle, 1] - surface[middle, 0]) / (w[0, 1] - w[0, 0]) for surface in surfaces.values()]
print(f"cross-entropy {slopes[0]:.3g}, squared error {slopes[1]:.3g}: {slopes[0] / slopes[1]:.0f} times less")
assert slopes[0] / slopes[1] > 100

# %% [markdown]
# The bowl is no accident: in $w$ and $b$, cross-entropy is *convex*. It has one lowest point, and every way down leads there.
# Squared error behind a sigmoid promises neither. (With a deep network in front of it, no loss does.)

# %% [markdown]
# ## A batch, and the library's version
#
# You have written each loss once. From here on we use those of `optax`, JAX's library of losses and optimisers, after checking
# that they say the same, on random logits for 32 messages and 8 teams, some of them large.
#
# **Predict.** `optax.l2_loss` differs from our squared error by a factor. Which?

# %%
key = jax.random.key(1)
logits = 20 * jax.random.normal(key, (32, 8))  # [batch, K]
labels = jax.random.randint(key, (32,), 0, 8)  # [batch]
one_hot = jax.nn.one_hot(labels, 8)  # [batch, K]: a 1 in the right team's column

ours = -jnp.sum(one_hot * log_softmax(logits), axis=-1)  # [batch]
assert jnp.allclose(ours, optax.softmax_cross_entropy(logits, one_hot), atol=1e-4)
assert jnp.allclose(ours, optax.softmax_cross_entropy_with_integer_labels(logits, labels), atol=1e-4)
assert jnp.allclose(bce(logits, one_hot), optax.sigmoid_binary_cross_entropy(logits, one_hot), atol=1e-4)
ratio = (logits - one_hot) ** 2 / optax.l2_loss(logits, one_hot)
print(f"one loss a message: {ours.shape}; (y - ŷ)² / optax.l2_loss = {ratio.mean():.3f}")
assert jnp.allclose(ratio, 2)

# %% [markdown]
# One habit to keep. Before training, a classifier knows nothing and should say $1/K$ for every team. Its loss is then
# $\log K$. A first loss far from that means a bug, before any time is spent on training.

# %%
start = optax.softmax_cross_entropy_with_integer_labels(jnp.zeros((32, 8)), labels).mean()
print(f"loss of a model that knows nothing: {start:.3f}; log 8 = {np.log(8):.3f}")
assert jnp.allclose(start, np.log(8))

# %% [markdown]
# ## Label smoothing: pay for being too sure
#
# Cross-entropy is never content: it always rewards a larger logit, and some labels are simply wrong. *Label smoothing*
# takes a share $\epsilon$ of the target and spreads it over all $K$ classes: $y' = (1-\epsilon)\,y + \epsilon/K$.

# %%
smooth = (1 - 0.1) * one_hot + 0.1 / 8  # ε = 0.1
assert jnp.allclose(smooth, optax.smooth_labels(one_hot, 0.1))
print(f"target of the right team: {smooth.max():.4f}, of every other: {smooth.min():.4f}")

# %%
ahead = jnp.linspace(0, 12, 241)  # how far the right team's logit is above the seven others
rows = jnp.zeros((241, 8)).at[:, 0].set(ahead)
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for epsilon, colour in ((0.0, plots.BLUE), (0.1, plots.ORANGE)):
    targets = optax.smooth_labels(jax.nn.one_hot(jnp.zeros(241, int), 8), epsilon)
    losses = optax.softmax_cross_entropy(rows, targets)
    ax.plot(ahead, losses, color=colour, label=f"ε = {epsilon}")
lowest = losses.argmin()
ax.plot(ahead[lowest], losses[lowest], "o", color=plots.BLACK)
ax.legend(frameon=False)
title = "With smoothing there is such a thing as sure enough"
plots.finish(ax, title, "lead of the right logit", "loss (nats)")
best = jax.nn.softmax(rows[lowest])[0]
print(f"lowest with smoothing where p(right) = {best:.3f}")
assert abs(best - smooth.max()) < 0.01

# %% [markdown]
# The lowest point lies where the model says exactly the smoothed target. Beyond it, more confidence costs.
#
# ## Class weights: when one team is rare
#
# Some teams get more messages than others. Multiply each example's loss by a weight $w_c$ of its class, and divide by the
# sum of the weights, so that the size of the loss stays comparable. The usual choice, $w_c = n / (K\, n_c)$, gives every class
# the same say: $n$ messages in all, $n_c$ of them for class $c$.

# %%
from course_lib.data import class_indices, load_tickets

tickets = load_tickets("train")
labels = class_indices(tickets, tickets.classes)  # [n]
counts = np.bincount(labels)
class_weights = counts.sum() / (len(counts) * counts)
for c in (counts.argmax(), counts.argmin()):
    print(f"{tickets.classes[c]:9} {counts[c]:3} messages, weight {class_weights[c]:.2f}")

# %% [markdown]
# What do the weights change? Take the plainest model, one that gives the same logits to every message. Without weights its
# best answer is how often each team comes up. **Predict:** and with weights?

# %%
def constant_loss(logits, weight):
    rows = jnp.tile(logits, (len(labels), 1))  # [K] → [n, K]: the same for every message
    losses = optax.softmax_cross_entropy_with_integer_labels(rows, labels)  # [n]
    return jnp.sum(weight[labels] * losses) / jnp.sum(weight[labels])


answers = {"frequencies": jnp.log(counts / counts.sum()), "all equal": jnp.zeros(len(counts))}
weightings = {"no weights": jnp.ones(len(counts)), "weights": jnp.array(class_weights, jnp.float32)}
for name, weight in weightings.items():
    for answer, logits in answers.items():
        loss, slope = jax.value_and_grad(constant_loss)(logits, weight)
        print(f"{name:10} | {answer:11} | loss {loss:.3f} | largest slope {jnp.abs(slope).max():.3f}")

# %% [markdown]
# Where the slope is zero, the model would stay. Without weights that is at the frequencies, with weights at *all equal*: the
# rare team is no longer written off. The price: what the model calls a probability is no longer how often it is right. Lesson
# 12 measures that.
#
# ## What you now know
#
# 1. A loss is a negative log-likelihood: Gaussian noise gives squared error, one label out of $K$ gives cross-entropy.
# 2. Losses are computed from logits, with log-sum-exp. Otherwise one example can turn the whole model into NaN.
# 3. The gradient of softmax cross-entropy is $\hat y - y$. Squared error behind a sigmoid goes flat where it is most wrong.
# 4. A model that knows nothing has loss $\log K$. Check this before you train.
# 5. Label smoothing limits confidence; class weights give rare classes their say. Both change what a probability means.
#
# **Exercises:** [01 · Exercises](../exercises/01_losses_exercises.ipynb), six of them, 42 minutes.
#
# **Next:** [02 · Why does a network need a bend?](02_activations.ipynb)
#
# **Read more:** Bishop, *Pattern Recognition and Machine Learning*, sections 1.2.5 and 4.3.2; Goodfellow et al.,
# [Deep Learning](https://www.deeplearningbook.org/), sections 5.5 and 6.2.2; Szegedy et al., [Rethinking the Inception
# Architecture](https://arxiv.org/abs/1512.00567), section 7, on label smoothing.
