"""The exercise checks of lesson 03: each wrong answer gets the message meant for it."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from exercise_contract import ExerciseContract, from_notebook

from course_lib.checks.core import exercises


def divide_by(count):
    """The mean of each team, but for its divisor, a function of the counts [n_teams, 1]."""

    def team_means(vectors, teams, n_teams):
        sums = jnp.zeros((n_teams, vectors.shape[1])).at[teams].add(vectors)
        return sums / count(jnp.zeros(n_teams).at[teams].add(1)[:, None])

    return team_means


def with_set(vectors, teams, n_teams):
    return jnp.zeros((n_teams, vectors.shape[1])).at[teams].set(vectors)


def by_mask(vectors, teams, n_teams):
    masks = [teams == team for team in range(n_teams)]
    return jnp.stack([vectors[mask].mean(0) if mask.any() else jnp.zeros(vectors.shape[1]) for mask in masks])


def one_row_too_few(vectors, teams, n_teams):
    return divide_by(lambda counts: jnp.maximum(counts, 1))(vectors, teams, n_teams)[: n_teams - 1]


def resample(key, values, size=None):
    return values[jax.random.randint(key, (size or values.size,), 0, values.size)].mean()


def shuffled(key, values, repeats):
    return jnp.stack([jax.random.permutation(k, values).mean() for k in jax.random.split(key, repeats)])


def key_made_inside(key, values, repeats):
    return jnp.stack([resample(jax.random.key(i), values) for i in range(repeats)])


def key_made_inside_at_times(key, values, repeats):
    keys = [jax.random.key(i) if i % 2 else jax.random.fold_in(key, i) for i in range(repeats)]
    return jnp.stack([resample(k, values) for k in keys])


def with_numpy(key, values, repeats):
    return jnp.asarray(np.random.choice(values, (repeats, values.size)).mean(1), jnp.float32)


def each_key_for_two(key, values, repeats):
    return jnp.stack([resample(jax.random.fold_in(key, i // 2), values) for i in range(repeats)])


def too_few_picked(key, values, repeats):
    return jnp.stack([resample(k, values, 5) for k in jax.random.split(key, repeats)])


def mean_over_the_wrong_axis(key, values, repeats):
    return values[jax.random.randint(key, (repeats, values.size), 0, values.size)].mean(axis=0)


def lesson_route(probs, threshold):
    return jnp.where(probs.max() < threshold, -1, probs.argmax())


def with_if(probs, threshold):
    return -1 if probs.max() < threshold else probs.argmax()


def both(route, in_axes=(0, None)):
    return route, jax.jit(jax.vmap(route, in_axes=in_axes))


def leaves_only(average, params, decay):
    pairs = zip(jax.tree.leaves(average), jax.tree.leaves(params), strict=True)
    return [decay * a + (1 - decay) * p for a, p in pairs]


def flat_dict_only(average, params, decay):
    return {name: decay * average[name] + (1 - decay) * params[name] for name in average}


def in_place(average, params, decay):
    for name in average:
        average[name] = decay * average[name] + (1 - decay) * params[name]
    return average


def on_leaves(combine):
    return lambda average, params, decay: jax.tree.map(lambda a, p: combine(a, p, decay), average, params)


def stopwatch(summary=np.median, warm_up=1, wait=jax.block_until_ready, counted=slice(1, None)):
    def median_seconds(function, *args, repeats=5):
        seconds = []
        for _ in range(repeats + warm_up):
            start = time.perf_counter()
            wait(function(*args))
            seconds.append(time.perf_counter() - start)
        return summary(seconds[counted])

    return median_seconds


def waits_at_the_end(function, *args, repeats=5):
    start = time.perf_counter()
    for _ in range(repeats + 1):
        result = function(*args)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats


class TestJaxArrays(ExerciseContract):
    lesson = "03_jax_arrays"
    wrong = {
        "traced_or_reused": [
            ("Not every call is traced", 7),
            ("cut from one of 4", 5),
            ("which of them has JAX met before", 3),
            ("floats and integers need programs of their own", 2),
            ("a whole number was expected", "four"),
        ],
        "team_means": [
            ("These are the sums", divide_by(lambda counts: 1.0)),
            ("not by how many there are", lambda v, t, n: divide_by(lambda counts: len(v))(v, t, n)),
            ("has only its last message", with_set),
            ("0 / 0", divide_by(lambda counts: counts)),
            ("one too many for every team", divide_by(lambda counts: counts + 1)),
            ("no mask", by_mask),
            ("shape (2, 4) came back", one_row_too_few),
        ],
        "bootstrap_means": [
            ("Is the same key used for every repeat?", from_notebook(lambda nb: nb["broken_bootstrap"])),
            ("only shuffled", shuffled),
            ("Is a key made inside the function?", key_made_inside),
            ("Do all repeats' keys come from `key`?", key_made_inside_at_times),
            ("Does all randomness come from the key?", with_numpy),
            ("Does each repeat have a key of its own?", each_key_for_two),
            ("by theory it is", too_few_picked),
            ("one mean for each repeat", mean_over_the_wrong_axis),
        ],
        "route": [
            ("Python's `if` cannot decide", both(with_if)),
            ("Is the argument used?", both(lambda probs, threshold: lesson_route(probs, 0.6))),
            ("is not below it", both(lambda p, threshold: jnp.where(p.max() <= threshold, -1, p.argmax()))),
            ("not each of them", both(lambda p, threshold: jnp.where(p < threshold, -1, p.argmax()))),
            ("turned round", both(lambda p, threshold: jnp.where(p.max() < threshold, p.argmax(), -1))),
            ("integers were expected", both(lambda p, threshold: jnp.where(p.max() < threshold, -1.0, p.argmax()))),
            ("route_all is not compiled yet", (lesson_route, jax.vmap(lesson_route, in_axes=(0, None)))),
            ("in_axes=(0, None)", both(lesson_route, in_axes=0)),
            ("That ran along the teams", both(lesson_route, in_axes=(1, None))),
            ("a single number came back", (lesson_route, jax.jit(lesson_route))),
        ],
        "moving_average": [
            ("have changed places", on_leaves(lambda a, p, decay: (1 - decay) * a + decay * p)),
            ("Is the factor 1 - decay", on_leaves(lambda a, p, decay: decay * a + p)),
            ("Is decay used?", on_leaves(lambda a, p, decay: (a + p) / 2)),
            ("Does jax.tree.map build the result?", leaves_only),
            ("`average` was changed", in_place),
            ("jax.tree.map takes all", flat_dict_only),
        ],
        "median_seconds": [
            ("not there yet: wait for them", stopwatch(wait=lambda result: result)),
            ("Another comes first, to warm up", stopwatch(warm_up=0, counted=slice(None))),
            ("Was the first call counted", stopwatch(counted=slice(None))),
            ("That is the mean: one call", stopwatch(np.mean)),
            ("That is the shortest", stopwatch(np.min)),
            ("takes them all", stopwatch(wait=lambda result: result.block_until_ready())),
            ("Each call's result must be there", waits_at_the_end),
            ("in milliseconds", stopwatch(lambda seconds: 1000 * np.median(seconds))),
        ],
    }


def judge(name, *answers):
    return {exercise.name: exercise for exercise in exercises()}[name].judge(*answers)


def test_other_right_answers_pass():
    def one_hot_means(vectors, teams, n_teams):
        one_hot = jax.nn.one_hot(teams, n_teams)  # [messages, n_teams]
        return one_hot.T @ vectors / jnp.maximum(one_hot.sum(0), 1)[:, None]

    def all_drawn_at_once(key, values, repeats):
        return values[jax.random.randint(key, (repeats, values.size), 0, values.size)].mean(axis=1)

    def chained(key, values, repeats):
        means = []
        for _ in range(repeats):
            key, now = jax.random.split(key)
            means.append(resample(now, values))
        return jnp.stack(means)

    def with_cond(probs, threshold):
        return jax.lax.cond(probs.max() < threshold, lambda p: -1, lambda p: p.argmax(), probs)

    assert judge("team_means", one_hot_means).message == "passed"
    assert judge("team_means", functools.partial(jax.jit, static_argnames="n_teams")(one_hot_means)).message == "passed"
    assert judge("bootstrap_means", all_drawn_at_once).message == "passed"
    assert judge("bootstrap_means", chained).message == "passed"
    assert judge("route", *both(with_cond)).message == "passed"
