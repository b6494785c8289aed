"""Checks of lesson 04. The truth is finite differences and formulas, in NumPy float64."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import compare
from course_lib.checks.core import Failed, Wrong, exercise


def _slopes(f: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """The gradient of f at x (float64, any shape) by central differences; the error is about 1e-9."""
    nudges = 1e-5 * np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([(f(x + nudge) - f(x - nudge)) / 2e-5 for nudge in nudges]).reshape(x.shape)


def _roughly(got: Any, want: np.ndarray, rtol: float = 1e-4, atol: float = 1e-5) -> bool:
    """Right to two digits, not within the tolerance: what a bad step does."""
    if np.shape(got) != want.shape or not np.isfinite(got).all():
        return False
    return np.allclose(got, want, 0.05, 0.02) and not np.allclose(got, want, rtol, atol)


@exercise("4.1", minutes=5, difficulty=1)
def slopes_where_paths_meet(slopes, rng):
    if not isinstance(slopes, (list, tuple)) or len(slopes) != 3 or isinstance(slopes[0], str):
        raise Wrong("three numbers were expected: the slopes in c, b and a, in this order.")
    a = 3
    b = a * a
    c = b + a
    d_of_b, d_of_a = lambda b: (b + a) * b, lambda a: (a * a + a) * (a * a)
    want = [b, *((d(at + 1e-4) - d(at - 1e-4)) / 2e-4 for d, at in ((d_of_b, b), (d_of_a, a)))]
    via_product, via_sum = c, b  # the two shares of b
    of_b = via_product + via_sum
    hints = {
        "c": {c: "That is the value of c. How fast does c·b grow with c?", c * b: "That is the value of d."},
        "b": {
            via_product: "That is its share from the product. The sum c uses b, too.",
            via_sum: "That is its share from the sum c. The product uses b, too.",
            via_product * via_sum: "The two shares of b are added, not multiplied.",
        },
        "a": {
            2 * a * of_b: "That is what comes through b. The sum c uses a directly, too.",
            b + a * of_b: "b is a times a: it uses a two times, and each use brings a share.",
            a * of_b: "b uses a two times, and the sum c uses a directly, too: three shares.",
            b + 2 * a * via_product: "The slope in b that came with it is not complete: b has two shares.",
            a: "That is the value of a.",
        },
    }
    for (name, because), got, exact in zip(hints.items(), map(float, slopes), want, strict=True):
        if not abs(got - exact) < 1e-3:
            hint = because.get(got, "Follow each arrow that leaves it, and add what comes back.")
            raise Wrong(f"the slope in {name} is not {got:g}. {hint}")


@exercise("4.2", minutes=7, difficulty=2)
def numerical_gradient(answer, rng):
    for shape in ((3,), (2, 3), (), (1, 1), (2, 1, 4)):
        x, weight = rng.normal(size=shape), rng.uniform(0.5, 2, size=shape)
        seen = []

        def f(z, weight=weight, seen=seen):
            seen.append(np.array(z, float))
            return float(np.sum(weight * np.sin(z)) + np.sum(z) ** 2)

        given, before = f"x of shape {shape}", x.copy()
        want = weight * np.cos(x) + 2 * x.sum()
        got = answer(f, x)
        if not np.allclose(x, before, rtol=1e-12, atol=1e-12):
            raise Wrong(f"{given}: x came back changed. Nudge a copy of it.")
        if other := [z.shape for z in seen if z.shape != shape]:
            raise Wrong(f"{given}: f was given shape {other[0]}. It takes the whole x, with one entry nudged.")
        if seen and (all((z >= before - 1e-14).all() for z in seen) or all((z <= before + 1e-14).all() for z in seen)):
            raise Wrong(f"{given}: f was only asked on one side of x. A central difference asks on both.")
        if _roughly(got, want):
            worst = np.abs(np.asarray(got) - want).max()
            raise Wrong(f"{given}: nearly right, off by up to {worst:.1g}. Is the step too large or too small?")
        rows = np.broadcast_to(want.sum(axis=tuple(range(1, want.ndim)), keepdims=True), shape)
        mistakes = {
            "The two points lie two steps apart: divide by 2 · step.": 2 * want,
            "The signs are turned round: f above minus f below.": -want,
            "All entries seem to be nudged at once. One at a time.": np.full(shape, want.sum()),
            "A whole row seems to be nudged at once. np.ndindex(x.shape) goes through single entries.": rows,
            "That is the sum over all entries: keep one slope for each.": want.sum(),
            "One slope for each entry, in the shape of x.": want.ravel(),
        }
        compare(got, want, given, mistakes=mistakes, nan="Is something divided by a step that has become 0?")


@exercise("4.3", minutes=10, difficulty=2)
def two_layer_gradients(answer, rng):
    for n, features, hidden, outputs in ((5, 4, 6, 3), (1, 2, 3, 1), (6, 1, 1, 3), (4, 2, 7, 5)):
        Z = np.zeros(1)
        while np.abs(Z).min() < 1e-3 or (Z > 0).all() or not (Z > 0).any():  # away from the corner, on both sides of it
            sizes = ((n, features), (n, outputs), (features, hidden), (hidden,), (hidden, outputs), (outputs,))
            X, Y, *weights = [rng.normal(size=size) for size in sizes]
            Z = X @ weights[0] + weights[1]
        given = f"{n} messages, {features} features, {hidden} hidden, {outputs} outputs"
        got = answer(X, Y, *weights)
        if not isinstance(got, (tuple, list)) or len(got) != 4:
            raise Wrong(f"{given}: four gradients were expected, for W1, b1, W2, b2. {type(got).__name__} came back.")
        slips = _two_layer_slips(X, Y, *weights)
        for i, name in reversed(list(enumerate(("W1", "b1", "W2", "b2")))):  # from the back: the first mistake is named

            def loss(entry, X=X, Y=Y, weights=weights, i=i):
                W1, b1, W2, b2 = [*weights[:i], entry, *weights[i + 1 :]]
                return ((np.maximum(X @ W1 + b1, 0) @ W2 + b2 - Y) ** 2).sum() / len(X)

            want = _slopes(loss, weights[i])
            mistakes = {
                "The square brings a factor of 2.": want / 2,
                "Is the mean over the messages missing?": want * n,
                "The mean is over the messages only, not over the outputs.": want / outputs,
                "The signs are turned round: S − Y, not Y − S.": -want,
                "That is its transpose. A gradient has the shape of what it is the gradient of.": want.T,
                "Is the order W1, b1, W2, b2?": slips["right"][i - 2],
                **{hint: slip[i] for hint, slip in slips.items() if hint != "right"},
            }
            compare(got[i], want, f"gradient in {name} for {given}", mistakes=mistakes)


def _two_layer_slips(X, Y, W1, b1, W2, b2) -> dict[str, list[np.ndarray]]:
    """hint → the four gradients of someone who has that wrong; and the right ones."""
    Z = X @ W1 + b1
    H = np.maximum(Z, 0)
    dS = 2 * (H @ W2 + b2 - Y) / len(X)
    dH = dS @ W2.T
    dead = dH * (Z > 0)
    slips = {
        "ReLU is missing on the way back: no slope goes through where Z is negative.": (H, dH, dS),
        "1 − H² is the slope of tanh; that of ReLU is 1 or 0.": (H, dH * (1 - H**2), dS),
        "The other layer's input: W2 saw H, after ReLU.": (Z, dead, dS),
        "ReLU's slope is 1 where Z is positive, not Z or H itself.": (H, dH * H, dS),
    }
    named = {hint: [X.T @ dZ, dZ.sum(0), h.T @ dS, dS.sum(0)] for hint, (h, dZ, dS) in slips.items()}
    bias = "A bias serves every row: sum its slopes over the rows"
    named[f"{bias}, do not average them."] = [X.T @ dead, dead.mean(0), H.T @ dS, dS.mean(0)]
    named[f"{bias}."] = [X.T @ dead, dead, H.T @ dS, dS]
    return named | {"right": [X.T @ dead, dead.sum(0), H.T @ dS, dS.sum(0)]}


class _Node:
    """As in the lesson, and it counts how often each pull is called."""

    def __init__(self, value, parents=(), name=""):
        self.value, self.name, self.calls = np.asarray(value, float), name, 0
        self.parents = [(parent, self._counted(pull)) for parent, pull in parents]
        self.grad = np.zeros_like(self.value)

    def _counted(self, pull):
        def counted(g):
            self.calls += 1
            return pull(g)

        return counted


def _add(a: _Node, b: _Node) -> _Node:
    return _Node(a.value + b.value, [(a, lambda g: g), (b, lambda g: g)], "+")


def _multiply(a: _Node, b: _Node) -> _Node:
    return _Node(a.value * b.value, [(a, lambda g: g * b.value), (b, lambda g: g * a.value)], "×")


@exercise("4.4", minutes=8, difficulty=2)
def fixed_backward(answer, rng):
    backward = inspect.unwrap(answer)  # it returns nothing, and should not be told that
    early = "Did a node pass its slope on before all its shares had come?"
    overwritten = "Does a later share overwrite the earlier one?"
    again = "Slopes left from before were added to. Set them to zero first."

    a = _Node(rng.uniform(1, 2, size=3))
    once = _multiply(a, a)
    backward(once)
    if not np.any(a.grad):  # Failed: it may be the stub
        raise Failed("a·a: the slope in a is still 0. Where is parent.grad changed?")
    compare(a.grad, 2 * a.value, "slope in a of a·a", mistakes={overwritten: a.value})
    compare(once.grad, np.ones(3), "slope of the loss in itself, for a·a")

    backward(once)
    compare(a.grad, 2 * a.value, "slope in a of a·a, called a second time", mistakes={again: 4 * a.value})

    for shape in ((), (2, 3)):
        for c_first in (True, False):  # the same sum and product, with c used before b and after it
            a = _Node(rng.uniform(1, 2, size=shape))
            b = _multiply(a, a)
            c = _add(b, a)
            d = _multiply(c, b) if c_first else _multiply(b, c)
            backward(d)
            given = f"d = {'c·b' if c_first else 'b·c'}, with c = b + a and b = a·a: "
            if max(node.calls for node in (b, c, d)) > 2:
                raise Wrong(f"{given}a pull was called twice. A node passes on once, when all its shares have come.")
            x = a.value
            only_product, only_sum = x**2 + x, x**2  # the two shares of b
            in_b = {early: only_product, overwritten: only_sum}
            in_a = {early: x**2 + 2 * x * only_product, "It came from an unfinished b.": x**2 + 2 * x * only_sum}
            compare(c.grad, x**2, given + "slope in c")
            compare(b.grad, only_product + only_sum, given + "slope in b", mistakes=in_b)
            compare(a.grad, 4 * x**3 + 3 * x**2, given + "slope in a", mistakes=in_a)

    leaf, other = _Node(2.0), _Node(5.0)
    backward(_multiply(leaf, other))
    backward(_add(leaf, other))
    compare(leaf.grad, np.array(1.0), "slope in a of a + b, after that of a·b", mistakes={again: 6.0})
    alone = _Node(3.0)
    backward(alone)
    compare(alone.grad, np.array(1.0), "slope of a node in itself")


@exercise("4.5", minutes=10, difficulty=3)
def cross_entropy(answer, Node, rng):
    def loss(z, labels):
        return np.mean(np.logaddexp.reduce(z, axis=1) - z[np.arange(len(labels)), labels])

    for n, classes in ((5, 3), (7, 8), (1, 4), (6, 1)):
        z, labels = rng.normal(scale=2, size=(n, classes)), rng.integers(classes, size=n)
        given, logits = f"logits [{n}, {classes}]", Node(z.copy())
        result = answer(logits, labels.copy())
        pull = _only_pull(result, Node, logits, given)
        value, slope = loss(z, labels), _slopes(lambda z, labels=labels: loss(z, labels), z)
        mistakes = {"Sum or mean over the batch?": n * value, "Is the minus sign missing?": -value}
        compare(result.value, value, f"value for {given}", mistakes=mistakes)
        for g in (1.0, 0.3, 1.0):  # the third finds a pull that changed what it keeps
            mistakes = {
                "The incoming slope g is missing: right alone, wrong inside a bigger loss.": slope,
                "Is the mean over the batch missing?": g * slope * n,
                "The truth has not been taken away: p − y, not p.": g * (slope + np.eye(classes)[labels] / n),
                "The signs are turned round: p − y, not y − p.": -g * slope,
                "The slope of the mean is asked for each logit, not their sum over the batch.": g * slope.sum(axis=0),
            }
            compare(pull(np.array(g)), g * slope, f"pull({g}) for {given}", mistakes=mistakes, atol=1e-6)
        if not np.array_equal(logits.value, z):
            raise Wrong(f"{given}: logits.value was changed. Other nodes need it as it was: work on a copy.")
    z, labels = np.array([[1e4, 0, -1e4], [-1e4, 1e4, 0]]), np.array([1, 1])
    logits = Node(z)
    result = answer(logits, labels)
    nan = "Is exp() seeing the raw logits? Take each row's largest away first."
    low = {"An epsilon or a clip hides how wrong the model is. Stay with log-probabilities.": result.value}
    compare(result.value, np.array(5e3), "value for logits of ±1e4", nan=nan, mistakes=low)
    slope = np.array([[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]])
    pull = _only_pull(result, Node, logits, "logits of ±1e4")
    compare(pull(np.array(1.0)), slope, "pull(1.0) for logits of ±1e4", nan=nan)


def _only_pull(result: Any, Node: type, logits: Any, given: str) -> Callable[[np.ndarray], np.ndarray]:
    """The pull of the result's one parent; what is not as the exercise asks is told."""
    if not isinstance(result, Node):
        came = type(result).__name__
        raise Wrong(f"{given}: a Node was expected, {came} came back. Return Node(value, [(logits, pull)]).")
    if np.shape(result.value) != ():
        raise Wrong(f"{given}: a value of shape {np.shape(result.value)} came back, one number was expected: the mean.")
    if not isinstance(result.parents, (list, tuple)) or len(result.parents) != 1:
        raise Wrong(f"{given}: the result must have one parent, [(logits, pull)].")
    pair = result.parents[0]
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] is not logits or not callable(pair[1]):
        raise Wrong(f"{given}: the parent must be the pair (logits, pull): the node, then a function of g.")
    return pair[1]


@exercise("4.6", minutes=6, difficulty=3)
def hessian_vector(answer, rng):
    tight = {"rtol": 3e-6, "atol": 2e-5}  # 32 bits allow it, a difference of gradients does not reach it
    for shape in ((3,), (2, 3), (), (1,)):
        n = int(np.prod(shape))
        A = rng.normal(size=(n, n)).astype(np.float32)
        x, u = [rng.uniform(0.5, 1.5, size=shape).astype(np.float32) for _ in range(2)]

        def f(z, A=A):
            z = z.ravel()
            return jnp.sum(A * z[:, None] * z) / 2 + jnp.sum(z**4)  # no matrix product: a GPU may round it more

        A, z, v = A.astype(float), x.astype(float).ravel(), u.astype(float).ravel()
        H = (A + A.T) / 2 + np.diag(12 * z**2)
        want, gradient = (H @ v).reshape(shape), (A + A.T) @ z / 2 + 4 * z**3
        got = answer(f, jnp.asarray(x), jnp.asarray(u))
        if _roughly(got, want, **tight):
            raise Wrong(f"x of shape {shape}: nearly right. A difference of two gradients loses digits to rounding.")
        mistakes = {
            "That is the gradient. jax.jvp returns it first, and its change second.": gradient.reshape(shape),
            "That is the slope of f in the direction u. It takes the change of the gradient.": gradient @ v,
            "That is the gradient times u, entry by entry. It takes its change.": (gradient * v).reshape(shape),
            "That is the change in all directions, H itself.": H.reshape(shape + shape),
            "That is u H u, one number. H u has the shape of x.": v @ H @ v,
            "That is the diagonal of H times u. The other entries count, too.": (np.diag(H) * v).reshape(shape),
            "Is u used? That is what u = 1 everywhere would give.": H.sum(axis=1).reshape(shape),
        }
        compare(got, want, f"x of shape {shape}", mistakes=mistakes, **tight)

    size = 300

    def chain(z):
        return jnp.sum(z[1:] * z[:-1]) + jnp.sum(jnp.sin(z))

    z = jnp.ones(size)
    largest = max(_sizes(jax.make_jaxpr(lambda x, u: answer(chain, x, u))(z, z).jaxpr))
    if largest >= size**2:
        raise Wrong(f"right, but with {size} weights an array of {largest:,} numbers was made. Can H be avoided?")


def _sizes(jaxpr: Any) -> Iterator[int]:
    """How many numbers each result in a jaxpr has, inner jaxprs included."""
    yield 0
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _sizes(inner)
