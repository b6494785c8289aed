"""The exercise checks of lesson 03, JAX arrays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare, hinted
from course_lib.checks.core import Wrong, exercise

# What an `if`, a mask or NumPy raises where it needs the numbers and there are none, only a tracer:
_NEEDS_NUMBERS = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)


@exercise("3.1", minutes=4, difficulty=1)
def traced_or_reused(answer, rng):
    traces = 0

    @jax.jit
    def scale(x, factor):
        nonlocal traces
        traces += 1
        return x * factor

    for x, factor in (
        (jnp.ones(3), 2.0),
        (jnp.zeros(3), 2.0),
        (jnp.ones(3), 5.0),
        (jnp.ones((3, 1)), 2.0),
        (jnp.ones(3, int), 2.0),
        (jnp.ones(3), 2),
        (jnp.ones(4)[:3], 2.0),
    ):
        scale(x, factor)
    because = {
        1: "A new shape needs a new program, and so does a new kind of number.",
        2: "Two shapes, yes. But floats and integers need programs of their own, also as Python numbers.",
        3: "The shape (3, 1), the array of integers, the Python integer: which of them has JAX met before?",
        5: "Does it matter that factor is 5.0 and not 2.0, or that an array of 3 was cut from one of 4?",
        6: "Neither the values in an array nor the value of a Python number counts.",
        7: "Not every call is traced: what has been met before is reused, whatever the values.",
    }
    choose(answer, traces, because)


@exercise("3.2", minutes=8, difficulty=2)
def team_means(answer, rng):
    def ask(function, messages, n_teams, d, given, teams=None):
        vectors = rng.normal(size=(messages, d)) + 1
        teams = rng.integers(n_teams, size=messages) if teams is None else np.asarray(teams)
        sums, last = np.zeros((n_teams, d)), np.zeros((n_teams, d))
        for vector, team in zip(vectors, teams, strict=True):
            sums[team] += vector
            last[team] = vector
        counts = np.bincount(teams, minlength=n_teams)[:, None]  # [n_teams, 1]
        got = function(jnp.asarray(vectors, jnp.float32), jnp.asarray(teams, jnp.int32), n_teams)
        mistakes = {
            "These are the sums: divide by how many messages each team has.": sums,
            "Divide by how many messages the team has, not by how many there are.": sums / messages,
            "Each team has only its last message: .set keeps one where an index comes twice, .add adds them up.": last,
            "Each sum holds only the last message: .set keeps one where an index comes twice, .add adds them up.": last
            / np.maximum(counts, 1),
            "That divides by one too many for every team that has messages.": sums / (counts + 1),
        }
        nan = "Is that 0 / 0, for a team without messages? It gets zeros."
        compare(got, sums / np.maximum(counts, 1), given, mistakes=mistakes, nan=nan)

    ask(answer, 12, 3, 4, "12 messages for 3 teams", teams=[2, 0, 1, 2, 2, 0, 1, 1, 2, 0, 2, 2])
    ask(answer, 9, 5, 3, "5 teams, two of them without messages", teams=[1, 1, 3, 0, 3, 3, 1, 0, 1])
    ask(answer, 1, 2, 6, "a single message", teams=[1])
    with hinted(
        "Under jit the numbers in `teams` are not known: no `if`, no mask like vectors[teams == k].", _NEEDS_NUMBERS
    ):
        ask(jax.jit(answer, static_argnums=2), 40, 8, 2, "under jax.jit, 40 messages for 8 teams")


@exercise("3.3", minutes=8, difficulty=2)
def bootstrap_means(answer, rng):
    values = jnp.asarray(rng.normal(3, 2, size=50), jnp.float32)
    given, repeats = "64 repeats of 50 values", 64
    first, second = jax.random.split(jax.random.key(int(rng.integers(2**31))))
    got = answer(first, values, repeats)
    if np.shape(got) != (repeats,):
        raise Wrong(f"{given}: shape {np.shape(got)} came back, ({repeats},) was expected: one mean for each repeat.")
    means = np.asarray(got, np.float64)
    if np.ptp(means) < 1e-5 and np.isclose(means[0], values.mean(), atol=1e-4):
        raise Wrong(f"{given}: each mean is that of all 50. Are values picked with repetition, or only shuffled?")
    if np.ptp(means) < 1e-5:
        raise Wrong(f"{given}: all {repeats} means are {means[0]:.4g}. Is the same key used for every repeat?")
    if not np.allclose(means, answer(first, values, repeats), atol=1e-5):
        raise Wrong(f"{given}: the same key gave other means the second time. Does all randomness come from the key?")
    others = np.asarray(answer(second, values, repeats), np.float64)
    if np.allclose(means, others, atol=1e-5):
        raise Wrong(f"{given}: another key gave the same means. Is a key made inside the function?")
    if np.isin(means.round(5), others.round(5)).mean() > 0.2:
        raise Wrong(f"{given}: two unrelated keys share many of their means. Do all repeats' keys come from `key`?")
    different = len(np.unique(means.round(5)))
    if different < 0.8 * repeats:
        raise Wrong(f"{given}: only {different} of {repeats} means differ. Does each repeat have a key of its own?")
    spread, theory = np.std([means, others]), np.std(values) / np.sqrt(values.size)
    if not 0.7 < spread / theory < 1.3:
        raise Wrong(
            f"{given}: the means scatter by {spread:.3f}, by theory it is {theory:.3f}. "
            "Are as many values picked as there are, from all of them, and each with the same chance?"
        )
    compare(answer(first, values[:1], 3), np.full(3, values[0]), "a single value")


@exercise("3.4", minutes=9, difficulty=2)
def route(answer, all_at_once, rng):
    def truth(probs, threshold):
        return np.where(probs.max(axis=-1) < threshold, -1, probs.argmax(axis=-1))

    def ask(function, probs, threshold, given):
        probs = np.asarray(probs, np.float32)
        sure = probs.max() >= threshold
        mistakes = {
            "A probability equal to the threshold is not below it.": -1 if probs.max() == threshold else None,
            "The sure ones go to a team, the others to a person: is the comparison turned round?": -1
            if sure
            else probs.argmax(),
            "Is that a probability? The number of the team was asked for.": probs.max(),
            "Compare the highest probability with the threshold, not each of them.": np.where(
                probs < threshold, -1, probs.argmax()
            ),
        }
        mistakes = {hint: value for hint, value in mistakes.items() if value is not None}
        compare(function(jnp.asarray(probs), threshold), truth(probs, threshold), given, mistakes=mistakes)

    probs = jnp.array([0.1, 0.8, 0.1])
    if np.array_equal(answer(probs, 0.5), answer(probs, 0.9)):
        raise Wrong("route of 0.1, 0.8, 0.1 is the same for thresholds 0.5 and 0.9. Is the argument used?")
    ask(answer, [0.1, 0.8, 0.1], 0.6, "route of 0.1, 0.8, 0.1, threshold 0.6")
    ask(answer, [0.3, 0.3, 0.4], 0.6, "route of 0.3, 0.3, 0.4, threshold 0.6")
    ask(answer, [0.25, 0.25, 0.5], 0.5, "route of 0.25, 0.25, 0.5, threshold 0.5")
    ask(answer, [0.1, 0.8, 0.1], 0.9, "route of 0.1, 0.8, 0.1, threshold 0.9")
    with hinted("Under jit no numbers are known, so Python's `if` cannot decide: jnp.where can.", _NEEDS_NUMBERS):
        compiled = jax.jit(answer)
        ask(compiled, [0.7, 0.1, 0.1, 0.1], 0.5, "under jax.jit, 0.7, 0.1, 0.1, 0.1, threshold 0.5")
        ask(compiled, [0.7, 0.1, 0.1, 0.1], 0.8, "under jax.jit, the same with threshold 0.8")

    if not hasattr(getattr(all_at_once, "__wrapped__", all_at_once), "lower"):  # what jax.jit returns can be lowered
        raise Wrong("route_all is not compiled yet: put jax.jit around it.")
    for messages, teams, threshold in ((6, 8, 0.3), (5, 5, 0.4), (1, 3, 0.5)):
        probs = rng.dirichlet(np.full(teams, 0.7), size=messages).astype(np.float32)
        given = f"route_all, {messages} message{'s' if messages > 1 else ''}, {teams} teams"
        with hinted("Along the first argument's messages, along nothing of the second: in_axes=(0, None).", Exception):
            got = all_at_once(jnp.asarray(probs), threshold)
        mistakes = {"That ran along the teams: in_axes says which axis holds the messages.": truth(probs.T, threshold)}
        compare(got, truth(probs, threshold), given, mistakes=mistakes)


@exercise("3.5", minutes=6, difficulty=2)
def moving_average(answer, rng):
    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def layer():
        return {"w": array(3, 4), "b": array(4)}

    kinds: dict[str, Callable[[], Any]] = {
        "a dict of two arrays": layer,
        "a list of two layers": lambda: [layer(), layer()],
        "a dict with a tuple in it": lambda: {"embedding": array(5, 2), "rest": (array(2), {"scale": array()})},
        "a tree that is one array": lambda: array(3),
    }
    for (given, make), decay in zip(kinds.items(), (0.9, 0.99, 0.75, 0.5), strict=True):
        average, params = make(), make()
        structure = jax.tree.structure(average)
        old, new = ([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)] for tree in (average, params))
        with hinted(
            "A tree may be a dict, a list or one array, with others inside: jax.tree.map takes all.", TypeError
        ):
            got = answer(average, params, decay)
        for name, tree, before in (("average", average, old), ("params", params, new)):
            now = jax.tree.leaves(tree)
            if jax.tree.structure(tree) != structure or not all(map(np.allclose, now, before)):
                raise Wrong(f"{given}: the argument `{name}` was changed. Return a new tree.")
        if jax.tree.structure(got) != structure:
            raise Wrong(
                f"{given}: the structure {_outline(got)} came back, {_outline(average)} was expected. "
                "Does jax.tree.map build the result?"
            )
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(average)]
        for path, leaf, a, p in zip(paths, jax.tree.leaves(got), old, new, strict=True):
            mistakes = {
                "decay and 1 - decay have changed places.": (1 - decay) * a + decay * p,
                "Is the factor 1 - decay at the parameters missing?": decay * a + p,
                "That is the plain mean of the two. Is decay used?": (a + p) / 2,
            }
            compare(leaf, decay * a + (1 - decay) * p, f"{given}, leaf {path}" if path else given, mistakes=mistakes)


def _outline(tree: Any) -> str:
    return str(jax.tree.structure(tree)).removeprefix("PyTreeDef(").removesuffix(")")


class _Device:
    """A function that behaves as a device does: calls return at once, results are ready `durations` seconds later."""

    def __init__(self, durations: list[float], wrap: Callable[[Any], Any] = lambda result: result):
        self.durations, self.wrap = durations, wrap
        self.calls: list[tuple] = []  # the arguments of each
        self.took: dict[int, float] = {}  # call → seconds until its result was there, where someone waited for it

    def __call__(self, *args: Any) -> Any:
        self.calls.append(args)
        return self.wrap(_Pending(self, len(self.calls) - 1))


class _Pending:
    """A result that is not there yet. Sleeping may take longer than asked for: what counts is what it took."""

    def __init__(self, device: _Device, call: int):
        self.device, self.call, self.start = device, call, time.perf_counter()

    def block_until_ready(self) -> _Pending:
        ready = self.start + self.device.durations[min(self.call, len(self.device.durations) - 1)]
        time.sleep(max(0.0, ready - time.perf_counter()))
        self.device.took.setdefault(self.call, time.perf_counter() - self.start)
        return self


@exercise("3.6", minutes=12, difficulty=3)
def median_seconds(answer, rng):
    first = "a first call of 90 ms, then 80, 12 and 30 ms, repeats=3"
    _time_device(answer, _Device([0.09, 0.08, 0.012, 0.03]), 3, first)
    with hinted("The result may be any pytree: jax.block_until_ready(result) takes them all.", AttributeError):
        device = _Device([0.05, 0.012, 0.03, 0.024, 0.08, 0.018], wrap=lambda result: {"loss": result, "scores": [1.0]})
        _time_device(answer, device, 5, "results in a dict, 12 to 80 ms, repeats=5")


def _time_device(answer: Callable[..., Any], device: _Device, repeats: int, given: str) -> None:
    got = answer(device, 1.5, "x", repeats=repeats)
    if any(args != (1.5, "x") for args in device.calls):
        raise Wrong(f"{given}: the function was not called with the arguments that came with it.")
    calls, waited = len(device.calls), len(device.took)
    if not calls:
        raise Wrong(f"{given}: the function was never called.")
    try:
        seconds = float(got)
    except (TypeError, ValueError):
        raise Wrong(f"{given}: one number of seconds was expected, a {type(got).__name__} came back.") from None
    if not waited:
        raise Wrong(f"{given}: got {1000 * seconds:.1g} ms. The results were not there yet: wait for them.")
    if waited < calls:
        raise Wrong(f"{given}: {calls} calls, {waited} waited for. Each call's result must be there before the next.")
    took = np.array([device.took[call] for call in range(calls)])
    counted = took[1 : repeats + 1]
    if len(counted) < repeats and calls == repeats:
        raise Wrong(f"{given}: {calls} calls for repeats={repeats}. Another comes first, to warm up, uncounted.")
    if calls != repeats + 1:
        raise Wrong(f"{given}: {calls} calls. One to warm up and {repeats} that count were expected.")

    def near(want: float) -> bool:
        return abs(seconds - want) < 0.15 * want + 0.002  # a busy machine adds to what the learner's clock sees

    if near(float(np.median(counted))):
        return
    for hint, value in {
        "That is in milliseconds.": 1000 * np.median(counted),
        "Was the first call counted, too?": np.median(took),
        "That is the mean: one call that was held up spoils it. The median was asked for.": np.mean(counted),
        "That is the shortest. The median was asked for.": np.min(counted),
        "That is the sum.": np.sum(counted),
        "That is the mean, with the first call in it.": np.mean(took),
    }.items():
        if near(float(value)):
            raise Wrong(f"{given}: {hint}")
    raise Wrong(
        f"{given}: got {1000 * seconds:.3g} ms, the median is {1000 * np.median(counted):.3g} ms. "
        "Does the clock start right before each call, and stop when its result is there?"
    )
