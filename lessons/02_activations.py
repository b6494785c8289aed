# %% [markdown]
# # 02 · Why does a network need a bend?
#
# | reading | runs in | needs | afterwards you can |
# |---|---|---|---|
# | 30 min | half a minute | 01 | choose an activation and the initialisation that goes with it, and say why a deep network learns or does not |
#
# Four customers of the shop write about a kettle: *good*, *not good*, *bad*, *not bad*. **Who is unhappy?** A child can say,
# and no straight-line model can. What it lacks is one bend.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from course_lib import plots

texts = ["good", "bad", "not good", "not bad"]
x = jnp.array([[0, 0], [1, 0], [0, 1], [1, 1]], jnp.float32)  # [4, 2]: says "bad" (not "good")? says "not"?
unhappy = jnp.array([0, 1, 1, 0])


def show(values):
    return "  ".join(f"{value:6.3f}" for value in values)


# %% [markdown]
# A linear model scores a message with $z = w_1 x_1 + w_2 x_2 + b$ and calls it unhappy where $z > 0$.
#
# **Predict.** Try all weights and biases on a fine grid. How many of the four does the best model get right?

# %%
grid = jnp.linspace(-2, 2, 21)
w1, w2, b = jnp.meshgrid(grid, grid, grid)  # 9,261 models
z = w1[..., None] * x[:, 0] + w2[..., None] * x[:, 1] + b[..., None]  # [21, 21, 21, 4 messages]
right = ((z > 0) == unhappy).sum(axis=-1)  # [21, 21, 21]
print(f"best of {right.size} linear models: {right.max()} of 4 right")
assert right.max() == 3

# %% [markdown]
# A finer grid would not help. For any weights, $z(\text{good}) + z(\text{not bad})$ and $z(\text{bad}) + z(\text{not good})$ are both
# $w_1 + w_2 + 2b$. The first sum should be negative or zero, the second positive; one number cannot be both.
#
# ## Two straight layers are one
#
# So put a second layer behind the first. Its input is the first one's output:
#
# $$(x W_1 + b_1)\, W_2 + b_2 \;=\; x\, \underbrace{(W_1 W_2)}_{W} + \underbrace{(b_1 W_2 + b_2)}_{b}$$
#
# The right-hand side is a single layer again. Here are 2 inputs, 50 hidden units and 3 outputs:

# %%
keys = jax.random.split(jax.random.key(0), 4)  # seeds for random numbers; lesson 03 is about them
W1, b1 = jax.random.normal(keys[0], (2, 50)), jax.random.normal(keys[1], (50,))
W2, b2 = jax.random.normal(keys[2], (50, 3)), jax.random.normal(keys[3], (3,))

two_layers = (x @ W1 + b1) @ W2 + b2  # [4, 3]
one_layer = x @ (W1 @ W2) + (b1 @ W2 + b2)  # [4, 3]
assert jnp.allclose(two_layers, one_layer, atol=1e-4)
print(f"{W1.size + b1.size + W2.size + b2.size} numbers do the work of {(W1 @ W2).size + b2.size}")

# %% [markdown]
# A hundred straight layers are one, too. A network needs something between its layers that is *not* straight: an
# **activation function**. The simplest is ReLU, $\max(0, x)$: a line with one bend.
#
# Two hidden units with weights set by hand. Both add up $x_1 + x_2$; the second has a bias of $-1$, so it wakes only when the
# message says *bad* and *not*. The output takes the first and subtracts twice the second.

# %%
hidden = jnp.maximum(0, x @ jnp.array([[1.0, 1.0], [1.0, 1.0]]) + jnp.array([0.0, -1.0]))  # [4, 2]
score = hidden @ jnp.array([1.0, -2.0])  # [4]
for text, units, s in zip(texts, hidden, score):
    answer = "unhappy" if s > 0.5 else "happy"
    print(f"{text:9} hidden {units[0]:.0f}, {units[1]:.0f}   score {s:.0f}   {answer}")
assert ((score > 0.5) == unhappy).all()

# %% [markdown]
# Four of four. What did the bend do? It moved *not bad* to a place where a line can reach it.

# %%
fig, (before, after) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
colours = np.where(unhappy, plots.VERMILLION, plots.BLUE)
for ax, points in ((before, x), (after, hidden)):
    ax.scatter(points[:, 0], points[:, 1], c=colours, s=90, zorder=3)
    ax.set(xlim=(-0.4, 2.6), ylim=(-0.4, 1.5), xticks=[0, 1, 2], yticks=[0, 1])
for ax, points, labels in ((before, x, texts), (after, hidden, ["good", "bad, not good", "", "not bad"])):
    for point, label, below in zip(points, labels, unhappy):
        ax.annotate(label, point, xytext=(0, -19 if below else 9), textcoords="offset points", ha="center")
after.plot([0.3, 2.6], [-0.1, 1.05], "--", color=plots.BLACK)  # where the score is 0.5
plots.finish(before, "No line parts the unhappy (orange)", "says “bad”", "says “not”")
plots.finish(after, "After the bend, one line does", "hidden unit 1", "hidden unit 2")

# %% [markdown]
# ## Many bends make any curve
#
# How far does this go? Below is how many messages reach the desk at each hour of a day (invented: a morning peak and an evening
# peak). A sum of ReLUs changes its slope once at every unit. Put one unit at each of $n$ evenly spaced hours, and let it add
# just the change of slope that is needed there.

# %%
def desk_load(hour):
    return 4 + 14 * np.exp(-(((hour - 10) / 2.5) ** 2)) + 9 * np.exp(-(((hour - 19) / 2) ** 2))


def sum_of_relus(hour, n):
    knots = np.linspace(0, 24, n + 1)
    slopes = np.diff(desk_load(knots)) / np.diff(knots)  # [n], of each straight piece
    weights = np.diff(slopes, prepend=0)  # [n], the change of slope at each knot
    return desk_load(0) + np.maximum(0, hour[:, None] - knots[:-1]) @ weights  # [hours, n] @ [n]


hour = np.linspace(0, 24, 961)
for n in (6, 12, 24, 48, 96):
    off = np.abs(sum_of_relus(hour, n) - desk_load(hour)).max()
    print(f"{n:2} ReLUs: off by at most {off:5.2f} messages an hour")

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.3), layout="constrained")
ax.plot(hour, desk_load(hour), color=plots.BLACK, linewidth=4, alpha=0.25, label="the curve")
ax.plot(hour, sum_of_relus(hour, 6), color=plots.ORANGE, label="6 ReLUs")
ax.plot(hour, sum_of_relus(hour, 24), color=plots.BLUE, label="24 ReLUs")
ax.legend(frameon=False)
ax.set_xticks(range(0, 25, 6))
plots.finish(ax, "A sum of bends follows any curve", "hour of the day", "messages per hour")

# %% [markdown]
# In the end, twice the units leave a quarter of the error. With enough of them, any continuous curve is matched as closely as
# you like, and this also holds with many inputs and with any activation that is not a polynomial (Leshno et al., 1993). That good weights
# *exist* does not mean that training *finds* them. The rest of this page is about that, and it hangs on the **slopes** of
# the bends.
#
# ## Four bends and their slopes
#
# | | formula | slope | outputs |
# |---|---|---|---|
# | sigmoid | $\sigma(x) = \dfrac{1}{1 + e^{-x}}$ | $\sigma(x)\,(1 - \sigma(x))$ | 0 to 1 |
# | tanh | $\dfrac{e^x - e^{-x}}{e^x + e^{-x}}$ | $1 - \tanh^2 x$ | −1 to 1 |
# | ReLU | $\max(0, x)$ | 1 if $x > 0$, else 0 | 0 and up |
# | GELU | $x\, \Phi(x)$ | $\Phi(x) + x\,\varphi(x)$ | −0.17 and up |
#
# $\Phi$ is the share of a standard normal distribution that lies below $x$, and $\varphi$ its density (the bell curve). GELU is a ReLU
# with a soft bend, and the activation inside BERT.


# %%
def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def relu(x):
    return jnp.maximum(0, x)


def gelu(x):
    return x * 0.5 * (1 + jax.scipy.special.erf(x / jnp.sqrt(2)))  # Φ(x), written with the error function


def gelu_slope(x):
    density = jnp.exp(-(x**2) / 2) / jnp.sqrt(2 * jnp.pi)
    return 0.5 * (1 + jax.scipy.special.erf(x / jnp.sqrt(2))) + x * density


bends = {  # name → the function, its slope, a colour
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x)), plots.VERMILLION),
    "tanh": (jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2, plots.ORANGE),
    "ReLU": (relu, lambda x: (x > 0).astype(x.dtype), plots.BLUE),
    "GELU": (gelu, gelu_slope, plots.GREEN),
}

# %% [markdown]
# Are the slopes right? Hold each against a finite difference (nudge $x$ and see how the output moves) and against `jax.grad`
# (lesson 04 opens that box), and each function against the library's.

# %%
xs = jnp.linspace(-4, 4, 80)  # 0 is not among them
library = {"sigmoid": jax.nn.sigmoid, "tanh": jax.nn.tanh, "ReLU": jax.nn.relu}
library["GELU"] = lambda x: jax.nn.gelu(x, approximate=False)
for name, (bend, slope, _) in bends.items():
    finite = (bend(xs + 0.01) - bend(xs - 0.01)) / 0.02
    assert jnp.allclose(slope(xs), finite, atol=1e-3)
    assert jnp.allclose(slope(xs), jax.vmap(jax.grad(library[name]))(xs), atol=1e-5)
    assert jnp.allclose(bend(xs), library[name](xs), atol=1e-6)
print("functions agree with the library, slopes with finite differences and with jax.grad")

# %%
xs = jnp.linspace(-4, 4, 801)
for name, (bend, slope, _) in bends.items():
    print(f"{name:8} steepest: {slope(xs).max():.3f}   lowest output: {bend(xs).min():6.3f}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
for (name, (bend, slope, colour)), style in zip(bends.items(), ("-", "--", "-", "--")):
    left.plot(xs, bend(xs), style, color=colour, label=name)
    right.plot(xs, slope(xs), style, color=colour)
left.set_ylim(-1.2, 3)
left.legend(frameon=False)
plots.finish(left, "Two flatten on both sides, two on one", "input x", "output")
plots.finish(right, "Sigmoid's slope never exceeds 1/4", "input x", "slope")

# %% [markdown]
# Two facts to keep. tanh is a sigmoid, stretched: $\tanh x = 2\sigma(2x) - 1$. That makes it four times as steep in the
# middle, and centres it on zero. And ReLU has no slope at 0 itself, so a library has to choose one. Both:

# %%
assert jnp.allclose(jnp.tanh(xs), 2 * sigmoid(2 * xs) - 1, atol=1e-6)
at_zero = {"jax.nn.relu(x)": jax.nn.relu, "jnp.maximum(0, x)": relu}
for name, function in at_zero.items():
    print(f"slope of {name:17} at 0: {jax.grad(function)(0.0):.1f}")

# %% [markdown]
# Any value between 0 and 1 is defensible, and two spellings of ReLU take different ones. It matters where inputs are
# *exactly* zero: a message without one known word, into layers whose biases start at zero.
#
# GELU has a second form, an approximation without the error function:
# $\tfrac12 x \left(1 + \tanh\!\left[\sqrt{2/\pi}\,(x + 0.044715\,x^3)\right]\right)$. It is what `jax.nn.gelu` computes unless you say `approximate=False`.
#
# > **Common claim, tested.** *"The two forms of GELU are the same."*


# %%
def gelu_tanh_form(x):
    return 0.5 * x * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * x**3)))


assert jnp.allclose(gelu_tanh_form(xs), jax.nn.gelu(xs), atol=1e-6)
difference = jnp.abs(gelu_tanh_form(xs) - gelu(xs))
print(f"largest difference: {difference.max():.5f}, at |x| = {jnp.abs(xs[difference.argmax()]):.1f}")
assert 1e-4 < difference.max() < 1e-3

# %% [markdown]
# **Close, not the same.** The error is small, but it comes again in every layer. Use the form that the weights were trained
# with; for BERT that is the exact one. Lesson 09 measures what the swap does to the real model.
#
# ## Softmax: the bend of the last layer
#
# The four above work on one number at a time. Softmax works on a whole row: raise one team's logit, and the other
# teams' probabilities must fall. So it has not one slope but a table of them, the *Jacobian*:
#
# $$\frac{\partial p_i}{\partial z_j} = p_i\,([i = j] - p_j) \qquad\text{or}\qquad J = \operatorname{diag}(p) - p\,p^\top$$
#
# **Predict.** Lesson 01's parcel: delivery 0.7, refund 0.2, billing 0.1. What does each row of $J$ add up to?

# %%
p = jnp.array([0.7, 0.2, 0.1])
jacobian = jnp.diag(p) - jnp.outer(p, p)  # [3, 3]
for team, row in zip(("delivery", "refund", "billing"), jacobian):
    print(f"{team:9} {show(row)}   sum {abs(row.sum()):.3f}")
assert jnp.allclose(jacobian, jax.jacobian(jax.nn.softmax)(jnp.log(p)), atol=1e-6)

# %% [markdown]
# Zero: adding the same number to all logits changes nothing. With two classes softmax *is* a sigmoid:
# $\operatorname{softmax}(z, 0)_1 = e^z / (e^z + 1) = \sigma(z)$. So: one label out of $K$, softmax; yes or no, or several labels
# at once, a sigmoid for each.
#
# > **Common claim, tested.** *"Sigmoid is for binary, tanh is for multi-class problems."*
#
# Eight teams, and a model as sure as it can be: the right team's logit is 20, all others are −20. Take tanh as the output layer,
# as it is and with softmax behind it.

# %%
logits = jnp.full(8, -20.0).at[0].set(20.0)
bent = jnp.tanh(logits)
print(f"tanh alone:        outputs {bent.min():.0f} to {bent.max():.0f}, sum {bent.sum():.0f}")
for name, last in {"softmax": logits, "softmax of tanh": bent}.items():
    p_right = jax.nn.softmax(last)[0]
    print(f"{name + ':':18} p(right) = {p_right:.3f}, cross-entropy {abs(jnp.log(p_right)):.3f}")
assert jnp.allclose(p_right, np.e / (np.e + 7 / np.e), atol=1e-6)
assert jnp.allclose(jax.nn.softmax(jnp.array([1.5, 0.0]))[0], sigmoid(1.5))

# %% [markdown]
# **False.** Alone, tanh gives numbers that are no probabilities. In front of softmax it caps what the model can ever say at
# $e/(e + 7e^{-1})$. tanh is a bend for *inside* a network.
#
# ## Saturation
#
# Training moves a weight by its gradient, and on the way back to the first layer a gradient is multiplied by one slope per
# layer. Where a bend is flat (*saturated*), little comes through.
#
# **Predict.** Thirty layers of sigmoid, each at its very steepest. What is left of a gradient of 1, from the slopes alone?

# %%
for z in (0.5, 2.5, 5.0):
    slopes = "   ".join(f"{name} {slope(jnp.float32(z)):7.1e}" for name, (_, slope, _) in bends.items())
    print(f"slope at {z:4}:   {slopes}")
print(f"thirty slopes of 1/4 multiplied: {0.25**30:.1e}")

# %% [markdown]
# The weights multiply as well, and could make up for it. That is the other half of the story.
#
# ## Thirty layers
#
# Each unit adds up $n$ products, $z = \sum_i h_i w_i$. If the weights are random with mean 0 and standard deviation $s$, then their
# cross terms cancel on average, and
#
# $$\operatorname{mean}(z^2) = n\, s^2 \operatorname{mean}(h^2)$$
#
# For the size of the signal to survive, $n s^2$ times what the bend does to it must be 1. Near zero, tanh changes nothing:
# $s = 1/\sqrt n$ (**Xavier**, when a layer has as many inputs as outputs). ReLU drops the negative half, and with it half of the mean square:
# $s = \sqrt{2/n}$ (**He**). By hand, on one layer:

# %%
n = 256
signal = jax.random.normal(jax.random.key(3), (64, n))  # [64 messages, n units], mean square about 1
weights = jax.random.normal(jax.random.key(4), (n, n))
for name, s in {"Xavier": np.sqrt(1 / n), "He": np.sqrt(2 / n)}.items():
    z = signal @ (s * weights)  # [64, n]
    print(f"{name:6} mean square: z {jnp.mean(z**2):.2f}, after ReLU {jnp.mean(relu(z) ** 2):.2f}")

# %% [markdown]
# Now thirty of them, forward and back. The gradient comes back by two rules that lesson 04 derives: through a bend, multiply by its slope; through $hW$, multiply by $W^\top$.


# %%
def propagate(bend, slope, s, layers=30):
    """What comes out of each layer, and what gradient arrives back at each; weights have standard deviation s."""
    h, gradient = signal, jax.random.normal(jax.random.key(5), signal.shape)  # [64, n] both
    weights, zs, outputs, gradients = [], [], [], []
    for key in jax.random.split(jax.random.key(6), layers):
        weights.append(s * jax.random.normal(key, (n, n)))
        zs.append(h @ weights[-1])
        h = bend(zs[-1])
        outputs.append(h)
    for W, z in zip(reversed(weights), reversed(zs)):
        gradient = (gradient * slope(z)) @ W.T
        gradients.append(gradient)
    return outputs, gradients[::-1]


def size(values):
    return jnp.sqrt(jnp.mean(values**2))


outputs, _ = propagate(*bends["sigmoid"][:2], np.sqrt(1 / n))
print(f"sigmoid, Xavier, after 30 layers: size of the outputs {size(outputs[-1]):.2f}")
print(f"for two different messages, unit 0 says {outputs[-1][0, 0]:.4f} and {outputs[-1][1, 0]:.4f}")

# %% [markdown]
# The size looks healthy, but it says nothing: every message gives the same output. A *signal* is what **differs between
# messages**. So we measure the standard deviation of each unit over the 64 messages, and take the mean over the units.


# %%
def differs(outputs):
    return jnp.std(outputs, axis=0).mean()  # [64, n] → [n] → one number


initialisations = {"too small (0.02)": 0.02, "Xavier": np.sqrt(1 / n), "He": np.sqrt(2 / n)}
signals, gradients = {}, {}
for start, s in initialisations.items():
    for name, (bend, slope, _) in bends.items():
        forward, backward = propagate(bend, slope, s)
        signals[start, name] = np.array([differs(h) for h in forward])
        gradients[start, name] = np.array([size(g) for g in backward])

# %% [markdown]
# **Predict.** Four bends times three initialisations. For which pairs do the signal *and* the gradient survive?

# %%
fig, axes = plt.subplots(2, 3, figsize=(11, 6), sharex=True, sharey=True, layout="constrained")
messages = (
    ("Too small: every signal fades", "Xavier: tanh carries it", "He: ReLU and tanh carry it"),
    ("… and so does every gradient", "… in both directions", "… tanh's gradient grows"),
)
measurements = (signals, "signal (sd over messages)"), (gradients, "gradient (root mean square)")
for row, (measured, ylabel) in enumerate(measurements):
    for ax, start, message in zip(axes[row], initialisations, messages[row]):
        for (name, (_, _, colour)), style in zip(bends.items(), ("-", "--", "-", "--")):
            line = measured[start, name]
            ax.semilogy(range(1, 31), np.where(line > 1e-6, line, np.nan), style, color=colour, label=name)
        ax.set_ylim(1e-6, 30)
        plots.finish(ax, message, "layer" if row else "", ylabel if ax is axes[row][0] else "")
axes[0, 0].legend(frameon=False);

# %% [markdown]
# Read the upper row from left to right, as the signal travels, and the lower row from right to left. A line ends where it
# falls below $10^{-6}$: next to a sigmoid's 0.5, that is a few dozen steps of a 32-bit number. Where do the lines end up?

# %%
def brief(value):
    return f"{value:.1e}" if value > 1e-6 else "< 1e-6"


for start in initialisations:
    print(start)
    for name in bends:
        last, first = signals[start, name][-1], gradients[start, name][0]
        print(f"  {name:8} signal after layer 30: {brief(last):8} gradient at layer 1: {brief(first)}")

# %% [markdown]
# Is the backward half right? `jax.vjp` computes the same gradient without our two rules:

# %%
def tower(h):
    for key in jax.random.split(jax.random.key(6), 30):
        h = jnp.tanh(h @ (np.sqrt(1 / n) * jax.random.normal(key, (n, n))))
    return h


_, pull_back = jax.vjp(tower, signal)
(automatic,) = pull_back(jax.random.normal(jax.random.key(5), signal.shape))
assert jnp.allclose(size(automatic), gradients["Xavier", "tanh"][0], rtol=1e-3)
print(f"by hand {gradients['Xavier', 'tanh'][0]:.3f}, jax.vjp {size(automatic):.3f}")

# %% [markdown]
# > **Common claim, tested.** *"Xavier initialisation prevents vanishing gradients."*
#
# **Only with tanh.** With ReLU each layer halves the mean square, so thirty layers leave $2^{-15}$ of the size. Measured:

# %%
for start in ("Xavier", "He"):
    outputs, _ = propagate(*bends["ReLU"][:2], initialisations[start])
    a, b = outputs[0], outputs[-1]
    print(f"ReLU, {start:6} layer 1 → 30: size {size(a):.2f} → {size(b):.1e}, signal {differs(a):.2f} → {differs(b):.1e}")
print(f"2^-15 = {2**-15:.1e}")
assert size(outputs[-1]) > 0.5 and differs(outputs[-1]) < differs(outputs[0]) / 3

# %% [markdown]
# > **Common claim, tested.** *"With He initialisation the signal passes a deep ReLU network unchanged."*
#
# **Its size does, the signal does not quite.** The outputs keep their size, yet differ less and less between messages. Depth pulls
# messages together even at the best initialisation. Real deep networks need more than a good start: residual connections and
# normalisation (lesson 06), and BERT has both.
#
# Sigmoid's signal survives none of the three starts. GELU's fades fast at Xavier and slowly at He. And 0.02 is not absurd: BERT's
# own weights started there, because BERT does not rely on the start alone.
#
# **Predict.** Someone doubles He's weights. By what factor does the output of the 30-layer ReLU network grow?

# %%
once, _ = propagate(*bends["ReLU"][:2], np.sqrt(2 / n))
twice, _ = propagate(*bends["ReLU"][:2], 2 * np.sqrt(2 / n))
growth = size(twice[-1]) / size(once[-1])
print(f"{growth:.3g}; 2^30 = {2**30:.3g}")
assert jnp.allclose(growth, 2.0**30)

# %% [markdown]
# Exactly $2^{30}$: ReLU lets a positive factor through, layer after layer. Vanishing and exploding are one thing: a number multiplied
# by itself thirty times.
#
# ## Does it show in training?
#
# The desk's own messages. In goes which of the known words each one contains, out comes one of eight teams. Three hidden layers
# of 64 units; the same data and learning rate for all; Xavier for sigmoid and tanh, He for the rest.
#
# > **Common claim, tested.** *"ReLU speeds up training because its gradient is zero for negative inputs."*
#
# If that were the reason, *leaky ReLU* should be slower: its slope is 0.1 for negative inputs, so never zero. We let it compete.

# %%
from sklearn.feature_extraction.text import CountVectorizer

from course_lib.data import class_indices, load_tickets

tickets = load_tickets("train")
words = CountVectorizer(binary=True, min_df=5).fit_transform(tickets.texts).toarray()  # 0 or 1
inputs = jnp.asarray(words / np.sqrt(np.mean(words**2)), jnp.float32)  # [messages, words], mean square 1
labels = jnp.asarray(class_indices(tickets, tickets.classes))  # [messages]
print(f"{len(inputs)} messages, {inputs.shape[1]} known words, {len(tickets.classes)} teams")


# %%
def initialise(key, sizes, gain):
    """Weights and biases of each layer; weights have standard deviation gain / √inputs."""
    layers, keys = [], jax.random.split(key, len(sizes) - 1)
    for own, m, k in zip(keys, sizes, sizes[1:]):
        layers.append((gain / np.sqrt(m) * jax.random.normal(own, (m, k)), jnp.zeros(k)))
    W, b = layers[-1]
    return layers[:-1] + [(0.1 * W, b)]  # so that the loss starts near log 8, as lesson 01 asks


def network(layers, x, bend):
    for W, b in layers[:-1]:
        x = bend(x @ W + b)
    W, b = layers[-1]
    return x @ W + b  # logits [messages, 8]


# %% [markdown]
# A step of training: the loss, its gradient, and every weight moved a little against it (lesson 05 takes this apart).

# %%
from functools import partial


def loss(layers, bend):
    return optax.softmax_cross_entropy_with_integer_labels(network(layers, inputs, bend), labels).mean()


@partial(jax.jit, static_argnames="bend")  # compiled once for each bend; lesson 03 explains
def step(layers, rate, bend):
    value, gradient = jax.value_and_grad(loss)(layers, bend)
    return jax.tree.map(lambda old, slope: old - rate * slope, layers, gradient), value


def train(bend, gain, rate, hidden=(64, 64, 64), steps=300):
    layers = initialise(jax.random.key(0), (inputs.shape[1], *hidden, 8), gain)
    losses = []
    for _ in range(steps):
        layers, value = step(layers, rate, bend)
        losses.append(float(value))
    return layers, np.array(losses)


# %%
def leaky_relu(x):
    return jnp.where(x > 0, x, 0.1 * x)


he = np.sqrt(2)
entries = {"sigmoid": (sigmoid, 1.0), "tanh": (jnp.tanh, 1.0), "ReLU": (jax.nn.relu, he)}
entries |= {"leaky ReLU": (leaky_relu, he), "GELU": (gelu, he)}
losses = {name: train(bend, gain, rate=0.05)[1] for name, (bend, gain) in entries.items()}
for name, curve in losses.items():
    steps = (curve < 0.5).argmax() or "more than 300"  # the first below 0.5
    print(f"{name:10} loss {curve[0]:.2f} → {curve[-1]:.3f}, below 0.5 after {steps} steps")

# %%
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
colours = {name: colour for name, (_, _, colour) in bends.items()} | {"leaky ReLU": plots.SKY}
for name, curve in losses.items():
    ax.plot(curve, "--" if name in ("leaky ReLU", "tanh") else "-", color=colours[name], label=name)
ax.legend(frameon=False)
plots.finish(ax, "Leaky ReLU keeps up; three layers of sigmoid do not learn", "step", "training loss (nats)")
assert (losses["leaky ReLU"] < 0.5).argmax() <= (losses["ReLU"] < 0.5).argmax() * 1.1

# %% [markdown]
# **False.** Leaky ReLU, which has no zero slope anywhere, keeps up with ReLU. What helps is the other half: where it lets a
# signal through, ReLU's slope is *one*, so nothing is lost on the way back. Sigmoid has learned one thing only, how often each team
# comes up. Its loss has stopped at the entropy of those frequencies:

# %%
frequencies = np.bincount(labels) / len(labels)
entropy = -np.sum(frequencies * np.log(frequencies))
print(f"entropy of the teams' frequencies: {entropy:.3f}; sigmoid's loss: {losses['sigmoid'][-1]:.3f}")
assert abs(losses["sigmoid"][-1] - entropy) < 0.02

_, rescued = train(sigmoid, gain=4.0, rate=1.0)
print("sigmoid with weights 4 times as large and learning rate 1 learns:", bool(rescued.min() < 0.1))
assert rescued.min() < 0.1

# %% [markdown]
# So sigmoid is no dead end. Weights four times as large undo its slope of 1/4, and with a learning rate 20 times as high it
# learns as well. The bend, the initialisation and the learning rate are one choice, not three.
#
# ## The unit that died
#
# A zero slope does have a price. One ReLU unit $f(wx + b)$ should learn $\max(0, x)$ from inputs between −2 and 2. A step that was too
# large has thrown its bias far down. How many steps of gradient descent until its error is below 0.01?
#
# **Predict.** The bias is −3. Which of ReLU, leaky ReLU and GELU recover?

# %%
points = jnp.linspace(-2, 2, 41)


def error(unit, bend):
    w, b = unit
    return jnp.mean((bend(w * points + b) - jax.nn.relu(points)) ** 2)


slope_of_error = jax.jit(jax.value_and_grad(error), static_argnames="bend")


def steps_to_recover(bend, b, limit=1000):
    unit = jnp.array([1.0, b])
    for count in range(limit):
        value, gradient = slope_of_error(unit, bend)
        if value < 0.01:
            return count
        unit = unit - 0.5 * gradient
    return "never"


# %%
contenders = {"ReLU": jax.nn.relu, "leaky ReLU": leaky_relu, "GELU": gelu}
for b in (-1.0, -2.0, -3.0, -10.0):
    counts = [f"{name} {steps_to_recover(bend, b)!s:5}" for name, bend in contenders.items()]
    print(f"bias {b:5}:   " + "   ".join(counts))
assert (slope_of_error(jnp.array([1.0, -3.0]), jax.nn.relu)[1] == 0).all()

# %% [markdown]
# From −2 down, ReLU never sees a positive input. Its gradient is exactly zero, and no number of steps brings it back: it is *dead*.
#
# > **Common claim, tested.** *"GELU cannot die, because its slope is not zero for negative inputs."*
#
# **False.** From −3 it does not come back either. Below its lowest point GELU's slope is *negative*: whoever wants a larger output
# pushes the input further down. The next cell shows where, and how little slope is left at −10.

# %%
slopes = gelu_slope(jnp.array([-2.0, -10.0]))
print(f"GELU is lowest at x = {xs[gelu(xs).argmin()]:.2f}; slope at -2: {slopes[0]:.3f}")
print("slope at -10 less than 1e-20:", bool(abs(slopes[1]) < 1e-20))

# %% [markdown]
# > **Common claim, tested.** *"As much as 40 % of a ReLU network can be dead."*
#
# The tickets again, one hidden layer of 64, with learning rates that are right, high, and far too high. A unit is dead if it
# answers *no* message.

# %%
for rate in (0.1, 1.0, 10.0):
    layers, _ = train(jax.nn.relu, he, rate, hidden=(64,))
    W, b = layers[0]
    dead = jnp.mean((inputs @ W + b <= 0).all(axis=0))  # [messages, 64] → [64] → a share
    correct = jnp.mean(network(layers, inputs, jax.nn.relu).argmax(axis=-1) == labels)
    share = "under a quarter" if dead < 0.25 else "over half" if dead > 0.5 else "many"
    learned = "over 90 %" if correct > 0.9 else "under a third" if correct < 1 / 3 else "some"
    print(f"rate {rate:4}: dead units {share:15}   training messages routed right: {learned}")
assert dead > 0.5 and correct < 1 / 3

# %% [markdown]
# **True, but you would know.** More than 40 % can die. Where that happened, the network fails on the very messages it was trained on,
# and the loss says so before anyone counts units. At the rates that work, dead units are few. (The cell prints words, not numbers: training at too
# high a rate is chaotic, and its digits change from machine to machine.)
#
# ## Which bend where
#
# | place | bend | why |
# |---|---|---|
# | output, one label of $K$ | softmax | probabilities that add up to 1 |
# | output, yes or no, or several labels | sigmoid | each is a probability of its own |
# | hidden layers, in general | ReLU with He | slope 1 where it is on; cheap |
# | hidden layers of BERT | GELU, exact form | the weights were trained with it |
# | a summary of bounded size (BERT's pooler) | tanh | between −1 and 1, centred |
#
# ## What you now know
#
# 1. Layers without a bend collapse into one layer. One bend solves what no line can; many bends make any curve.
# 2. On the way back, each layer multiplies the gradient by its bend's slope: at most 1/4 for sigmoid, 1 for an active ReLU.
# 3. A bend and an initialisation belong together: Xavier ($1/\sqrt n$) with tanh, He ($\sqrt{2/n}$) with ReLU.
# 4. A healthy size is not a signal. Measure what differs between messages.
# 5. Units die, GELU's too. The usual cause is a learning rate that is too high, and the loss shows it first.
#
# **Exercises:** [02 · Exercises](../exercises/02_activations_exercises.ipynb), six of them, 40 minutes.
#
# **Next:** [03 · What changes when arrays are JAX arrays?](03_jax_arrays.ipynb)
#
# **Read more:** Goodfellow et al., [Deep Learning](https://www.deeplearningbook.org/), sections 6.1 to 6.3; Glorot and
# Bengio, [Understanding the difficulty of training deep feedforward neural
# networks](https://proceedings.mlr.press/v9/glorot10a.html), section 4.2; He et al., [Delving Deep into
# Rectifiers](https://arxiv.org/abs/1502.01852), section 2.2; Hendrycks and Gimpel, [Gaussian Error Linear
# Units](https://arxiv.org/abs/1606.08415), section 2.
