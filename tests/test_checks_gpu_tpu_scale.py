"""The exercises of lesson 13: every mistake that its checks name is made here."""

import jax.numpy as jnp
import numpy as np
from exercise_contract import ExerciseContract, from_notebook


def hours(weights, tokens, texts, epochs, chips, peak, utilisation):
    return 6 * weights * tokens * texts * epochs / (chips * peak * utilisation) / 3600


def hours_but(change):
    """The right estimate, changed by `change` of what is given."""

    def answer(*given):
        return hours(*given) * change(*given)

    return answer


def rounded(array):
    return array.astype(jnp.bfloat16).astype(jnp.float32)


def summed(weight, gradients, rate):
    return weight - rate * rounded(gradients).sum(axis=0)


def rounded_before_every_step(weight, gradients, rate):
    for gradient in gradients:
        weight = rounded(weight) - rate * gradient
    return weight


def summed_in_bfloat16(weight, gradients, rate):
    total = jnp.zeros_like(weight, jnp.bfloat16)
    for gradient in gradients:
        total += (rate * gradient).astype(jnp.bfloat16)
    return weight - total


def rounded_at_the_end(weight, gradients, rate):
    return (weight - rate * gradients.sum(axis=0)).astype(jnp.bfloat16).astype(jnp.float32)


def uphill(weight, gradients, rate):
    return weight + rate * gradients.astype(jnp.bfloat16).astype(jnp.float32).sum(axis=0)


def weighted_with_nan(gradients, rows):
    return (rows[:, None] / rows.sum() * gradients).sum(axis=0)


def dealt(process, processes, n):
    return list(range(process, n, processes))


class TestGpuTpuScale(ExerciseContract):
    lesson = "13_gpu_tpu_scale"
    wrong = {
        "what_grows": [
            ("Is there a parameter for each token", ("twice", "twice", "more than twice")),
            ("T is the length", ("same", "more than twice", "more than twice")),
            ("How often does T occur there?", ("same", "twice", "twice")),
            ("none of the choices", ("same", "double", "twice")),
        ],
        "training_hours": [
            ("That is in seconds", hours_but(lambda *given: 3600)),
            ("the backward pass, too", hours_but(lambda *given: 1 / 3)),
            ("not less: divide by the utilisation", hours_but(lambda *given: given[-1] ** 2)),
            ("Are all chips at work", hours_but(lambda *given: given[4])),
            ("Are the epochs in it?", hours_but(lambda *given: 1 / given[3])),
            (
                "Are the epochs in it?",
                lambda w, tokens, texts, *rest: 6 * w * tokens * texts / np.prod(rest[1:]) / 3600,
            ),
            ("divide by the chips", hours_but(lambda *given: given[4] ** 2)),
            ("That is in days", hours_but(lambda *given: 1 / 24)),
            ("2 forward, 4 backward", hours_but(lambda *given: 1 / 6)),
            ("the tokens of a text", hours_but(lambda *given: 1 / given[1])),
            ("Are the texts in it?", hours_but(lambda *given: 1 / given[2])),
            ("leave the fraction", lambda *given: round(hours(*given))),
            (
                "expected",
                lambda w, tokens, texts, epochs, chips, peak, use: hours(3e8, tokens, texts, 4, chips, 2e14, use),
            ),
        ],
        "small_steps": [
            ("Not one step arrived", from_notebook(lambda notebook: notebook["broken_train"])),
            ("the sum was rounded", rounded_at_the_end),
            ("uphill", uphill),
            ("before the first step", lambda weight, gradients, rate: summed(rounded(weight), gradients, rate)),
            ("before every step", rounded_before_every_step),
            ("lost beside a large sum", summed_in_bfloat16),
            ("The sum of the steps was rounded", lambda w, g, rate: w - rate * g.astype(jnp.bfloat16).sum(axis=0)),
            ("where are the steps?", lambda weight, gradients, rate: weight),
            ("one step, rate 0.02", lambda weight, gradients, rate: summed(weight, gradients, 0.01)),
            ("bfloat16 came back", lambda weight, gradients, rate: weight.astype(jnp.bfloat16)),
        ],
        "combine": [
            ("weigh by rows", lambda gradients, rows: gradients.mean(axis=0)),
            ("sum over all rows", lambda gradients, rows: (rows[:, None] * gradients).sum(axis=0)),
            ("The parts' means were added up", lambda gradients, rows: gradients.sum(axis=0)),
            ("even 0 · nan is nan", weighted_with_nan),
            ("row by row", lambda gradients, rows: (gradients * rows).sum(axis=0) / rows.sum()),
        ],
        "still_to_read": [
            (
                "the remainder of n / processes",
                lambda p, processes, n, done=0: list(range(p * (n // processes), (p + 1) * (n // processes)))[done:],
            ),
            ("more than one process", lambda p, processes, n, done=0: list(range(n))[done:]),
            (
                "keeps all others waiting",
                lambda p, processes, n, done=0: list(
                    range(p * (n // processes), n if p == processes - 1 else (p + 1) * (n // processes))
                )[done:],
            ),
            ("done counts the messages of this process", lambda *given: dealt(*given[:3])[sum(given[3:]) * 2 :]),
            ("1 of [0, 3, 6, 9] done", lambda p, processes, n, done=0: dealt(p, processes, n)[2 if done else 0 :]),
            ("In order was asked for", lambda p, processes, n, done=0: dealt(p, processes, n)[::-1][done:]),
            ("whole numbers were expected", lambda p, processes, n, done=0: [str(i) for i in dealt(p, processes, n)]),
            ("whole numbers were expected", lambda p, processes, n, done=0: [i + 0.5 for i in dealt(p, processes, n)]),
            ("does not exist", lambda p, processes, n, done=0: list(range(p + 1, n + 1, processes))),
        ],
    }


def test_the_solutions_arithmetic():
    assert np.isclose(hours(1e9, 100, 1e6, 1, 10, 1e14, 0.5), 6e17 / 5e14 / 3600)
