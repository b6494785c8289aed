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
        ],
        "small_steps": [
            ("Not one step arrived", from_notebook(lambda notebook: notebook["broken_train"])),
            ("the sum was rounded", rounded_at_the_end),
            ("uphill", uphill),
            ("bfloat16 came back", lambda weight, gradients, rate: weight.astype(jnp.bfloat16)),
        ],
        "combine": [
            ("weigh by rows", lambda gradients, rows: gradients.mean(axis=0)),
            ("sum over all rows", lambda gradients, rows: (rows[:, None] * gradients).sum(axis=0)),
            ("The parts' means were added up", lambda gradients, rows: gradients.sum(axis=0)),
            ("even 0 · nan is nan", weighted_with_nan),
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
            ("does not exist", lambda p, processes, n, done=0: list(range(p + 1, n + 1, processes))),
        ],
    }


def test_the_solutions_arithmetic():
    assert np.isclose(hours(1e9, 100, 1e6, 1, 10, 1e14, 0.5), 6e17 / 5e14 / 3600)
