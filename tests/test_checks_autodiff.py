"""The exercises of lesson 04 keep the contract of every exercise."""

import jax
import jax.numpy as jnp
import numpy as np
from exercise_contract import ExerciseContract, from_notebook


def central(f, x, step=1e-5, divide=2e-5, back=1.0, positions=np.ndindex):
    gradient = np.zeros_like(x)
    for position in positions(x.shape):
        nudge = np.zeros_like(x)
        nudge[position] = step
        gradient[position] = (f(x + nudge) - f(x - back * nudge)) / divide
    return gradient


def nudged_in_place(f, x):
    gradient = np.zeros_like(x)
    for position in np.ndindex(x.shape):
        x[position] += 1e-5
        above = f(x)
        x[position] -= 2e-5
        gradient[position] = (above - f(x)) / 2e-5
    return gradient


def entry_alone(f, x):
    return np.array([(f(entry + 1e-5) - f(entry - 1e-5)) / 2e-5 for entry in x])


def all_at_once(f, x):
    return np.full(x.shape, (f(x + 1e-5) - f(x - 1e-5)) / 2e-5)


def two_layers(X, Y, W1, b1, W2, b2, back=lambda dH, Z, H: dH * (Z > 0), rows=None, saw=None, factor=2.0):
    Z = X @ W1 + b1
    H = np.maximum(Z, 0)
    dS = factor * (H @ W2 + b2 - Y) / (rows or len(X))
    dZ = back(dS @ W2.T, Z, H)
    return X.T @ dZ, dZ.sum(axis=0), (H if saw is None else saw(Z)).T @ dS, dS.sum(axis=0)


def changed(**change):
    return lambda *arrays: two_layers(*arrays, **change)


def per_row_bias(X, Y, W1, b1, W2, b2):
    dW1, _, dW2, _ = two_layers(X, Y, W1, b1, W2, b2)
    return dW1, b1, dW2, 2 * (np.maximum(X @ W1 + b1, 0) @ W2 + b2 - Y) / len(X)


def order_of(loss):
    order = {}

    def visit(node):
        if node not in order:
            for parent, _ in node.parents:
                visit(parent)
            order[node] = True

    visit(loss)
    return list(order)


def walk(order, loss, add=True, reset=True):
    for node in order if reset else ():
        node.grad = np.zeros_like(node.value)
    loss.grad = np.ones_like(loss.value)
    for node in order:
        for parent, pull in node.parents:
            parent.grad = parent.grad * add + pull(node.grad)


def nearest_first(loss):
    """Every node once, in the order in which a breadth-first search meets them: some too early."""
    found = [loss]
    for node in found:
        found += [parent for parent, _ in dict(node.parents).items() if parent not in found]
    walk(found, loss)


def along_every_path(loss):
    for node in order_of(loss):
        node.grad = np.zeros_like(node.value)

    def send(node, share):
        node.grad = node.grad + share
        for parent, pull in node.parents:
            send(parent, pull(share))

    send(loss, np.ones_like(loss.value))


def python_numbers(loss):
    loss.grad = 1.0
    for parent, pull in loss.parents:
        parent.grad = float(np.mean(pull(loss.grad)))
        python_numbers(parent)


def log_probs(z):
    return z - np.logaddexp.reduce(z, axis=1, keepdims=True)


def cross_entropy_with(slope, value=lambda right: -right.mean()):
    """A wrong answer to 4.5: slope(p, y, g, n) is what its pull returns."""

    def make(notebook):
        Node = notebook["Node"]

        def cross_entropy(logits, labels):
            lp = log_probs(logits.value)
            p, y, n = np.exp(lp), np.eye(lp.shape[1])[labels], len(labels)
            return Node(value(lp[np.arange(n), labels]), [(logits, lambda g: slope(p, y, g, n))], "cross-entropy")

        return cross_entropy, Node

    return from_notebook(make)


def overflowing(notebook):
    Node = notebook["Node"]

    def cross_entropy(logits, labels):
        p = np.exp(logits.value) / np.exp(logits.value).sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        slope = (p - np.eye(p.shape[1])[labels]) / len(labels)
        return Node(-np.log(p[rows, labels]).mean(), [(logits, lambda g: g * slope)])

    return cross_entropy, Node


def in_place(notebook):
    Node = notebook["Node"]

    def cross_entropy(logits, labels):
        lp = log_probs(logits.value)
        logits.value -= logits.value.max(axis=1, keepdims=True)
        slope = (np.exp(lp) - np.eye(lp.shape[1])[labels]) / len(labels)
        return Node(-lp[np.arange(len(labels)), labels].mean(), [(logits, lambda g: g * slope)])

    return cross_entropy, Node


def difference_of_gradients(f, x, u):
    return (jax.grad(f)(x + 1e-3 * u) - jax.grad(f)(x - 1e-3 * u)) / 2e-3


class TestAutodiff(ExerciseContract):
    lesson = "04_autodiff"
    wrong = {
        "slopes_where_paths_meet": [
            ("That is the value of c.", [12, 21, 135]),
            ("The sum c uses b, too", [9, 12, 81]),
            ("The product uses b, too", [9, 9, 63]),
            ("The sum c uses a directly, too.", [9, 21, 126]),
            ("each use brings a share", [9, 21, 72]),
            ("three shares", [9, 21, 63]),
            ("is not complete", [9, 21, 81]),
            ("is not 100. Follow each arrow", [9, 21, 100]),
            ("three numbers were expected", [9, 21]),
        ],
        "numerical_gradient": [
            ("only asked on one side of x", lambda f, x: central(f, x, 1e-6, 1e-6, back=0.0)),
            ("divide by 2 · step", lambda f, x: central(f, x, divide=1e-5)),
            ("x came back changed", nudged_in_place),
            ("It takes the whole x", entry_alone),
            (
                "A whole row seems to be nudged at once",
                lambda f, x: central(f, x, positions=lambda shape: range(shape[0])),
            ),
            ("All entries seem to be nudged at once", all_at_once),
            ("Is the step too large", lambda f, x: central(f, x, 0.3, 0.6)),
            ("too small?", lambda f, x: central(f, x, 1e-13, 2e-13)),
            ("in the shape of x", lambda f, x: central(f, x).ravel()),
            ("signs are turned round", lambda f, x: -central(f, x)),
        ],
        "two_layer_gradients": [
            ("ReLU is missing on the way back", changed(back=lambda dH, Z, H: dH)),
            ("the slope of tanh", changed(back=lambda dH, Z, H: dH * (1 - H**2))),
            ("not Z or H itself", changed(back=lambda dH, Z, H: dH * H)),
            ("W2 saw H, after ReLU", changed(saw=lambda Z: Z)),
            ("mean over the messages missing", changed(rows=1)),
            ("not over the outputs", lambda X, Y, *w: two_layers(X, Y, *w, rows=Y.size)),
            ("a factor of 2", changed(factor=1.0)),
            ("not Y − S", changed(factor=-2.0)),
            ("sum its slopes over the rows.", per_row_bias),
            ("its transpose", lambda *arrays: [gradient.T for gradient in two_layers(*arrays)]),
            ("Is the order W1", lambda *arrays: two_layers(*arrays)[2:] + two_layers(*arrays)[:2]),
            ("four gradients were expected", lambda *arrays: two_layers(*arrays)[:2]),
        ],
        "fixed_backward": [
            ("slope in a of a·a: expected", from_notebook(lambda nb: nb["broken_backward"])),
            ("c·b, with c = b + a and b = a·a: slope in b", lambda loss: walk(order_of(loss), loss)),
            ("slope in a: expected", nearest_first),
            ("called a second time", lambda loss: walk(order_of(loss)[::-1], loss, reset=False)),
            ("a pull was called twice", along_every_path),
            ("is still 0", lambda loss: None),
            ("slope in a of a·a", python_numbers),
        ],
        "cross_entropy": [
            ("The incoming slope g is missing", cross_entropy_with(lambda p, y, g, n: (p - y) / n)),
            ("mean over the batch missing", cross_entropy_with(lambda p, y, g, n: g * (p - y))),
            ("p − y, not p.", cross_entropy_with(lambda p, y, g, n: g * p / n)),
            ("p − y, not y − p", cross_entropy_with(lambda p, y, g, n: g * (y - p) / n)),
            ("Sum or mean", cross_entropy_with(lambda p, y, g, n: g * (p - y), lambda right: -right.sum())),
            ("one number was expected", cross_entropy_with(lambda p, y, g, n: g * (p - y), lambda right: -right)),
            ("Is exp() seeing the raw logits?", from_notebook(overflowing)),
            ("logits.value was changed", from_notebook(in_place)),
            ("a Node was expected, float64 came back", from_notebook(lambda nb: (plain_number, nb["Node"]))),
            ("one parent", from_notebook(lambda nb: (lambda logits, labels: nb["Node"](0.0), nb["Node"]))),
        ],
        "hessian_vector": [
            ("That is the gradient.", lambda f, x, u: jax.jvp(jax.grad(f), (x,), (u,))[0]),
            ("a tuple came back", lambda f, x, u: jax.jvp(jax.grad(f), (x,), (u,))),
            ("slope of f in the direction u", lambda f, x, u: jax.jvp(f, (x,), (u,))[1]),
            ("entry by entry", lambda f, x, u: jax.grad(f)(x) * u),
            ("H itself", lambda f, x, u: jax.hessian(f)(x)),
            ("Can H be avoided?", lambda f, x, u: jnp.tensordot(jax.hessian(f)(x), u, axes=u.ndim)),
            ("Is u used?", lambda f, x, u: jax.jvp(jax.grad(f), (x,), (jnp.ones_like(u),))[1]),
            ("loses digits to rounding", difference_of_gradients),
            ("That is u H u", lambda f, x, u: jnp.sum(u * jax.jvp(jax.grad(f), (x,), (u,))[1])),
        ],
    }


def plain_number(logits, labels):
    return -log_probs(logits.value)[np.arange(len(labels)), labels].mean()


def test_a_hessian_vector_product_by_grad_of_a_dot_product_passes():
    from course_lib.checks import autodiff

    verdict = autodiff.hessian_vector.judge(lambda f, x, u: jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), u))(x))
    assert verdict.status == "passed", verdict.message


def test_a_numerical_gradient_that_puts_x_back_passes():
    from course_lib.checks import autodiff

    def restored(f, x):
        gradient = np.zeros_like(x)
        for position in np.ndindex(x.shape):
            kept = x[position].copy()
            x[position] = kept + 1e-5
            above = f(x)
            x[position] = kept - 1e-5
            gradient[position] = (above - f(x)) / 2e-5
            x[position] = kept
        return gradient

    verdict = autodiff.numerical_gradient.judge(restored)
    assert verdict.status == "passed", verdict.message
