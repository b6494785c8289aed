# %% [markdown]
# # 04 · Exercises: where do gradients come from?
#
# Six exercises, 46 minutes. Replace each `...` by your answer and run the cell: its last line says `passed`, or what is wrong.
# You have as many tries as you like. Difficulty is ●○○, ●●○ or ●●●; hints open with a click. The lesson is
# [here](../notebooks/04_autodiff.ipynb).

# %%
import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks import autodiff as check

# %% [markdown]
# ## 4.1 Slopes where paths meet · 5 min · ●○○
#
# **Predict, then run.** A graph with forks, at $a = 3$:
#
# $$b = a \cdot a \qquad c = b + a \qquad d = c \cdot b$$
#
# With pencil and paper, from the back: the slope of $d$ in $c$, then in $b$, then in $a$. Three whole numbers.
#
# <details><summary>Nudge</summary>
#
# How many arrows leave b? Each brings a share, and the shares add. And how many leave a?
#
# </details>
# <details><summary>Outline</summary>
#
# In c: b. In b: c from the product, and the slope in c times 1 from the sum. In a: the slope in c times 1 from the sum, and
# twice the slope in b times a, because b uses a two times.
#
# </details>

# %%
slopes_in_c_b_a = [
    # BEGIN SOLUTION
    9, 21, 135  # fmt: skip
    # END SOLUTION
]

check.slopes_where_paths_meet(slopes_in_c_b_a)

# %% [markdown]
# ## 4.2 A gradient by nudging · 7 min · ●●○
#
# Your referee for the rest of the course. Write `numerical_gradient(f, x)` with central differences, in NumPy. `f` takes an array
# and returns a number; `x` is an array of 64-bit floats of *any* shape, which may be `()`. Return an array of the shape of `x`, and leave
# `x` as it was.
#
# <details><summary>Nudge</summary>
#
# One entry at a time. `np.ndindex(x.shape)` runs over the positions of an array of any shape. Which step did the lesson's figure recommend?
#
# </details>
# <details><summary>Outline</summary>
#
# For each position: a nudge of zeros with 1e-5 at that position; `(f(x + nudge) - f(x - nudge)) / 2e-5` goes into the result.
# `x + nudge` makes a new array.
#
# </details>


# %%
def numerical_gradient(f, x):
    # BEGIN SOLUTION
    step = 1e-5
    gradient = np.zeros_like(x)
    for position in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[position] = step
        gradient[position] = (f(x + nudge) - f(x - nudge)) / (2 * step)
    return gradient
    # END SOLUTION


check.numerical_gradient(numerical_gradient)

# %% [markdown]
# ## 4.3 Back through two layers · 10 min · ●●○
#
# The network of the lesson with ReLU in the place of tanh, and squared error: a model that predicts several numbers a message, such as
# hours of work and value of the order.
#
# $$Z = XW_1 + b_1 \qquad H = \max(Z, 0) \qquad S = HW_2 + b_2 \qquad L = \frac1n \sum_i \sum_k (S_{ik} - Y_{ik})^2$$
#
# `X` is `[n, features]`, `Y` is `[n, outputs]`. Write `two_layer_gradients`, which returns the four gradients in the order of the arguments, without
# `jax.grad`. (Where $Z$ is exactly 0, anything from 0 to 1 is a slope of ReLU.)
#
# <details><summary>Nudge</summary>
#
# A gradient has the shape of what it is the gradient of. Go through the forward lines from the last to the first. The mean is over
# messages, not over outputs.
#
# </details>
# <details><summary>Outline</summary>
#
# `dS = 2 * (S - Y) / n`; then `H.T @ dS` and the sum of `dS` over the rows; `dH = dS @ W2.T`; `dZ` is `dH` where `Z > 0`, else 0; then
# once more the same two lines with `X`.
#
# </details>


# %%
def two_layer_gradients(X, Y, W1, b1, W2, b2):
    # BEGIN SOLUTION
    Z = X @ W1 + b1  # [n, hidden]
    H = np.maximum(Z, 0)
    S = H @ W2 + b2  # [n, outputs]
    dS = 2 * (S - Y) / len(X)
    dZ = (dS @ W2.T) * (Z > 0)  # [n, hidden]
    return X.T @ dZ, dZ.sum(axis=0), H.T @ dS, dS.sum(axis=0)
    # END SOLUTION


check.two_layer_gradients(two_layer_gradients)

# %% [markdown]
# ## 4.4 Find the bugs in backward · 8 min · ●●○
#
# Here is the lesson's `Node` with two operations, and a colleague's `backward`. On a chain it is right. Then $d$ of exercise 4.1:


# %%
class Node:
    """A value, and the nodes it was computed from."""

    def __init__(self, value, parents=(), name=""):
        self.value = np.asarray(value, float)
        self.parents = parents  # pairs (node, pull): pull turns this node's slope into that node's share
        self.name = name
        self.grad = np.zeros_like(self.value)


def add(a, b):  # without broadcasting
    return Node(a.value + b.value, [(a, lambda g: g), (b, lambda g: g)], "+")


def multiply(a, b):
    return Node(a.value * b.value, [(a, lambda g: g * b.value), (b, lambda g: g * a.value)], "×")


# %%
def broken_backward(loss):
    loss.grad = np.ones_like(loss.value)
    waiting = [loss]
    while waiting:
        node = waiting.pop(0)  # the one that has waited longest
        for parent, pull in node.parents:
            parent.grad = pull(node.grad)
            waiting.append(parent)


a = Node(3.0)
b = multiply(a, a)
c = add(b, a)
broken_backward(multiply(c, b))
print(f"slopes in c, b, a: {c.grad:.0f}, {b.grad:.0f}, {a.grad:.0f}")

# %% [markdown]
# Write `fixed_backward(loss)`, which is right for every graph, and also when called again on nodes that were used before. It calls each
# `pull` once, however many ways lead there. You may write more functions above it.
#
# <details><summary>Nudge</summary>
#
# What happens to the first share of a node when the second comes? And may a node pass its slope on before all shares have arrived?
#
# </details>
# <details><summary>Outline</summary>
#
# Three things. List the nodes with each after its parents (a function that calls itself on the parents first) and go through the list
# from the end. Add shares instead of overwriting. Begin with all slopes at zero, or a second call adds to the first.
#
# </details>


# %%
def fixed_backward(loss):
    # BEGIN SOLUTION
    order = {}

    def visit(node):
        if node not in order:
            for parent, _ in node.parents:
                visit(parent)
            order[node] = True

    visit(loss)
    for node in order:
        node.grad = np.zeros_like(node.value)
    loss.grad = np.ones_like(loss.value)
    for node in reversed(order):
        for parent, pull in node.parents:
            parent.grad = parent.grad + pull(node.grad)
    # END SOLUTION


check.fixed_backward(fixed_backward)

# %% [markdown]
# ## 4.5 A new operation for the engine · 10 min · ●●●
#
# The engine can tell two kinds of message apart. Teach it many. Write `cross_entropy(logits, labels)`: `logits` is a `Node` of shape
# `[n, K]`, `labels` an integer array of shape `[n]`. Return a `Node` whose value is the mean softmax cross-entropy, a single number, and whose one parent is
# `logits`, with its `pull`. It must survive logits of ±10,000.
#
# <details><summary>Nudge</summary>
#
# The value is exercise 1.3 in NumPy. The slope is lesson 01's p − y. What comes in as g when the loss is only one part of a bigger one?
#
# </details>
# <details><summary>Outline</summary>
#
# Log-probabilities with the maximum taken away first; the value is minus the mean of the right ones,
# `log_probs[np.arange(n), labels]`. The slope is `np.exp(log_probs)` with 1 taken from the right entries, divided by n. `pull` multiplies
# it by `g`. Then `Node(value, [(logits, pull)], "cross-entropy")`.
#
# </details>


# %%
def cross_entropy(logits, labels):
    # BEGIN SOLUTION
    shifted = logits.value - logits.value.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # [n, K]
    rows = np.arange(len(labels))
    slope = np.exp(log_probs)  # [n, K]: p
    slope[rows, labels] -= 1  # p − y
    slope /= len(labels)
    return Node(-log_probs[rows, labels].mean(), [(logits, lambda g: g * slope)], "cross-entropy")
    # END SOLUTION


check.cross_entropy(cross_entropy, Node)

# %% [markdown]
# ## 4.6 Curvature without the matrix · 6 min · ●●●
#
# How does the *gradient* change when the weights move in a direction $u$? That is $H u$, with $H$ the matrix of all second derivatives. For a
# million weights, $H$ has $10^{12}$ entries and fits nowhere; $Hu$ has a million. Write `hessian_vector(f, x, u)` for `f` from an array of any shape to
# a number, and `u` of the shape of `x`, so that nothing of the size of $H$ is ever made.
#
# <details><summary>Nudge</summary>
#
# Gradient is a function from n numbers to n numbers. What pushes one direction through a function?
#
# </details>
# <details><summary>Outline</summary>
#
# `jax.jvp` of `jax.grad(f)`, at `(x,)` in the direction `(u,)`. It returns two things: the gradient, and what you want.
#
# </details>
#
# A function to try yours on, whose $H$ is known: it has $6x$ on its diagonal and zeros elsewhere.


# %%
def cubes(x):
    return jnp.sum(x**3)


print("the whole H of three weights, which you must not make:", jax.hessian(cubes)(jnp.ones(3)).shape)


# %%
def hessian_vector(f, x, u):
    # BEGIN SOLUTION
    return jax.jvp(jax.grad(f), (x,), (u,))[1]
    # END SOLUTION


check.hessian_vector(hessian_vector)
