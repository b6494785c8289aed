"""The exercises of lesson 11: every mistake that its checks name is made here."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from exercise_contract import ExerciseContract, from_notebook
from flax import nnx


def crossing(labels, scores, target, place=np.log, back=np.exp):
    """A repaired `labels_needed`, whose scale can be replaced."""
    for i, score in enumerate(scores):
        if score >= target:
            if i == 0:
                return float(labels[0])
            share = (target - scores[i - 1]) / (score - scores[i - 1])
            return float(back(place(labels[i - 1]) + share * (place(labels[i]) - place(labels[i - 1]))))
    return float("inf")


def crossing_with(**changes):
    return lambda labels, scores, target: crossing(labels, scores, target, **changes)


def first_good_enough(labels, scores, target):
    return float(next((n for n, score in zip(labels, scores, strict=True) if score >= target), np.inf))


def backwards(labels, scores, target):
    if scores[0] >= target:
        return float(labels[0])
    for i in range(1, len(scores)):
        if scores[i] >= target:
            share = (target - scores[i - 1]) / (scores[i] - scores[i - 1])
            return float(labels[i] / (labels[i] / labels[i - 1]) ** share)
    return float("inf")


def extrapolating(labels, scores, target):
    if len(labels) > 1 and scores[0] >= target:
        share = (target - scores[0]) / (scores[1] - scores[0])
        return float(labels[0] * (labels[1] / labels[0]) ** share)
    return crossing(labels, scores, target)


def last_crossing(labels, scores, target):
    if scores[0] >= target:
        return float(labels[0])
    for i in reversed(range(1, len(scores))):
        if scores[i] >= target > scores[i - 1]:
            return crossing(labels[i - 1 : i + 1], scores[i - 1 : i + 1], target)
    return float("inf")


def last_too_few(labels, scores, target):
    want = crossing(labels, scores, target)
    return float(max((n for n in labels if n < want), default=want)) if np.isfinite(want) else want


def interpolated(labels, scores, target):
    if max(scores) < target:
        return float("inf")
    return float(np.exp(np.interp(target, scores, np.log(labels))))


def lost_is_never(labels, scores, target):
    return crossing(labels, scores, target) if scores[-1] >= target else float("inf")


def crossing_above(labels, scores, target):
    return crossing(labels, scores, target) if max(scores) > target else float("inf")


def no_infinity(labels, scores, target):
    result = crossing(labels, scores, target)
    return result if np.isfinite(result) else float(labels[-1])


def always_infinity(labels, scores, target):
    return float("inf")


def reports(classes=lambda model, names: model.config.labels, rngs=lambda: None, choose=0, tell=1, first=1):
    """A repaired `report`, with bugs put back in. choose, tell: 0 is validation, 1 is test."""

    def report(epochs, *data):
        def accuracy(model, data):
            ids, mask, names = data
            true = np.array([list(classes(model, names)).index(name) for name in names])
            return float(np.mean(np.asarray(model(ids, mask, rngs=rngs())).argmax(-1) == true))

        best = int(np.argmax([accuracy(model, data[choose]) for model in epochs]))
        return best + first, accuracy(epochs[best], data[tell])

    return report


def last_of_equals(epochs, validation, test):
    number, accuracy = reports()(epochs[::-1], validation, test)
    return len(epochs) + 1 - number, accuracy


def both_added_up(epochs, validation, test):
    def accuracy(model, data):
        return reports()([model], data, data)[1]

    best = int(np.argmax([accuracy(model, validation) + accuracy(model, test) for model in epochs]))
    return best + 1, accuracy(epochs[best], test)


def alphabet(model, names):
    return sorted(set(names))


def factors(head=0, embeddings=1, layers=None, steps=lambda n, count: count - n, number=r"\.layers\.(\d+)\."):
    """A repaired `rate_factors`, as powers of decay, with parts replaced."""

    def rate_factors(names, decay):
        found = [int(match[1]) for name in names if (match := re.search(r"\.layers\.(\d+)\.", name))]
        count = layers(names) if layers else 1 + max(found)

        def power(name):
            if match := re.search(number, name):
                return steps(int(match[1]), count)
            return count + embeddings if ".embeddings." in name else head

        return {name: decay ** power(name) for name in names}

    return rate_factors


def count_layers(names):
    return len({name.split(".")[2] for name in names if ".layers." in name})


def count_as_text(names):
    return 1 + int(max(name.split(".")[2] for name in names if ".layers." in name))


def without_head(names, decay):
    return {name: factor for name, factor in factors()(names, decay).items() if "classifier" not in name}


def by_rank(alpha, a):
    return alpha / a.shape[1]


def lora_dense(x, kernel, bias, a, b, alpha, *, scale=by_rank, base=1.0, stop=("kernel", "bias")):
    """A repaired `lora_dense`, with parts replaced."""
    values = dict(x=x, kernel=kernel, bias=bias, a=a, b=b)
    values |= {name: jax.lax.stop_gradient(values[name]) for name in stop}
    x, kernel, bias, a, b = values.values()
    return base * (x @ kernel + bias) + scale(alpha, a) * (x @ a @ b)


def lora_with(**changes):
    return lambda *arguments: lora_dense(*arguments, **changes)


def merge(kernel, a, b, alpha):
    return kernel + alpha / a.shape[1] * a @ b


def stop_in_extra(x, kernel, bias, a, b, alpha):
    x = jax.lax.stop_gradient(x)
    return lora_dense(x, kernel, bias, a, b, alpha)


def x_stopped_in_base(x, kernel, bias, a, b, alpha):
    return jax.lax.stop_gradient(x @ kernel + bias) + alpha / a.shape[1] * (x @ a @ b)


def swapped(x, kernel, bias, a, b, alpha):
    return lora_dense(x, kernel, bias, b, a, alpha)


class TestFinetuneBert(ExerciseContract):
    lesson = "11_finetune_bert"
    wrong = {
        "updates_and_warmup": [
            ("What becomes of the messages left over", (125, 12)),
            ("it is not dropped either", (124, 12)),
            ("updates of one epoch", (32, 3)),
            ("That counts messages", (4000, 400)),
            ("there are more epochs", (31, 3)),
            ("not of those of one epoch", (128, 3)),
            ("whole numbers", (128, 12.8)),
            ("rounds down", (128, 12)),
            ("how long the rate falls", (128, 115)),
        ],
        "best_of_twenty": [
            ("you do not take any one", ("0.800", "0.800")),
            ("higher than half of one above", ("0.810", "0.800")),
            ("do not get that far", ("0.880", "0.800")),
            ("It won this time by luck", ("0.835", "0.835")),
            ("did not make the model worse", ("0.835", "0.765")),
            ("such as", (0.835, 0.8)),
        ],
        "labels_needed": [
            ("the crossing lies before it", first_good_enough),
            ("interpolate log(labels)", crossing_with(place=float, back=float)),
            ("still a logarithm", crossing_with(back=float)),
            ("logarithm of base 2", crossing_with(place=np.log2, back=float)),
            ("logarithm of base 10", crossing_with(place=np.log10, back=float)),
            ("What undoes np.log10?", crossing_with(place=np.log10)),
            ("Do not round:", lambda *given: float(np.round(crossing(*given)))),
            ("Do not round up", lambda *given: float(np.ceil(crossing(*given)))),
            ("Do not round down", lambda *given: float(np.floor(crossing(*given)))),
            ("the crossing lies after it", last_too_few),
            ("lost again", interpolated),
            ("lost again", lost_is_never),
            ("reached at the last point", crossing_above),
            ("infinity was expected; 'inf' came", lambda *given: (
                n if np.isfinite(n := crossing(*given)) else "inf")),
            ("It starts at the earlier point", backwards),
            ("Nothing is known about fewer labels", extrapolating),
            ("asked for is the first", last_crossing),
            ("infinity was expected", no_infinity),
            ("Here it is.", always_infinity),
        ],
        "honest_report": [
            ("examined with dropout on", from_notebook(lambda nb: nb["broken_report"])),
            ("examined with dropout on", reports(rngs=lambda: nnx.Rngs(7))),
            ("numbered differently", reports(classes=alphabet)),
            ("numbered differently", reports(classes=lambda model, names: list(dict.fromkeys(names)))),
            ("Was the epoch chosen by its score on test?", reports(choose=1)),
            ("Validation is there to choose it. Labels", reports(choose=1, classes=alphabet)),
            ("Was the epoch chosen by its score on test?", both_added_up),
            ("flatters as well", reports(tell=0)),
            ("Epochs count from 1", reports(first=0)),
            ("Of equally good epochs the first", last_of_equals),
            ("not per cent", lambda *data: np.multiply(reports()(*data), [1, 100]).tolist()),
            ("comes first, then the accuracy", lambda *data: reports()(*data)[::-1]),
            ("a pair (epoch, accuracy)", lambda *data: reports()(*data)[1]),
        ],
        "rate_factors": [
            ("should move the least", factors(steps=lambda n, count: n + 1)),
            ("one step further", factors(steps=lambda n, count: count - 1 - n)),
            ("this is the first", factors(number=r"\.layers\.(\d)")),
            ("this is the last", factors(number=r"\.layers\.\d*(\d)\.")),
            ("as texts, '9' > '10'", factors(layers=count_as_text)),
            ("depend on the layer's number", factors(steps=lambda n, count: 1)),
            ("taken for part of the head", factors(steps=lambda n, count: 0)),
            ("the full rate", factors(head=1)),
            ("Not always 12", factors(layers=lambda names: 12)),
            ("Not always 6", factors(layers=lambda names: 6)),
            ("one step too high", factors(layers=lambda names: count_layers(names) - 1)),
            ("the pooler belongs to the head", lambda names, decay: {
                name: decay if "pooler" in name else factor for name, factor in factors()(names, decay).items()}),
            ("has both", lambda names, decay: factors(layers=lambda _: min(10, count_layers(names)),
                                                      number=r"\.layers\.(\d)")(names, decay)),
            ("for all below the head", lambda names, decay: {
                name: 1.0 if factor == 1 else decay for name, factor in factors()(names, decay).items()}),
            ("The head has 1.", lambda names, decay: {
                name: decay ** (count_layers(names) + 1) / factor for name, factor in factors()(names, decay).items()}),
            ("one step more", factors(embeddings=0)),
            ("far from the head", lambda names, decay: {
                name: 1.0 if "embeddings" in name else factor for name, factor in factors()(names, decay).items()}),
            ("not in the result", without_head),
            ("a dictionary, name", lambda names, decay: list(factors()(names, decay).values())),
        ],
        "lora": [
            ("by alpha / rank, not by alpha", (lora_with(scale=lambda alpha, a: alpha), merge)),
            ("scaled by alpha / rank?", (lora_with(scale=lambda alpha, a: 1.0), merge)),
            ("rank / alpha or alpha / rank?", (lora_with(scale=lambda alpha, a: a.shape[1] / alpha), merge)),
            ("Which size is the rank?", (lora_with(scale=lambda alpha, a: alpha / a.shape[0]), merge)),
            ("b has shape [rank, n_out]", (lambda *given: lora_dense(
                *given, scale=lambda alpha, a: alpha / given[4].shape[1]), merge)),
            ("merge: expected", (lora_dense, lambda kernel, a, b, alpha: kernel + alpha / len(a) * a @ b)),
            ("Where is the frozen part", (lora_with(base=0.0), merge)),
            ("Only the extra part is scaled", (lambda x, w, bias, a, b, alpha: alpha / a.shape[1] * (
                x @ w + bias + x @ a @ b), merge)),
            ("Is it added?", (lora_with(scale=lambda alpha, a: -alpha / a.shape[1]), merge)),
            ("in the extra part x is not frozen either", (lambda x, w, bias, a, b, alpha: lora_dense(
                x, w, bias, a, b, 0.0) + alpha / a.shape[1] * (jax.lax.stop_gradient(x) @ a @ b), merge)),
            ("rank / alpha or alpha / rank?", (
                lora_dense, lambda kernel, a, b, alpha: kernel + a.shape[1] / alpha * a @ b)),
            ("Where is the bias?", (lambda x, w, bias, *rest: lora_dense(x, w, 0 * bias, *rest), merge)),
            ("Where is the extra part?", (lora_with(scale=lambda alpha, a: 0.0), merge)),
            ("the kernel gets a gradient", (lora_with(stop=()), merge)),
            ("the bias gets a gradient", (lora_with(stop=("kernel",)), merge)),
            ("a gets no gradient", (lora_with(stop=("kernel", "bias", "a")), merge)),
            ("no gradient comes through x", (stop_in_extra, merge)),
            ("only the parameters are frozen", (x_stopped_in_base, merge)),
            ("raised", (swapped, merge)),
            ("merge: expected", (lora_dense, lambda kernel, a, b, alpha: kernel + 2 * a @ b)),
            ("by alpha / rank, not by alpha", (lora_dense, lambda kernel, a, b, alpha: kernel + alpha * a @ b)),
            ("Where is the frozen kernel?", (lora_dense, lambda kernel, a, b, alpha: alpha / a.shape[1] * a @ b)),
            ("shape", (lora_dense, lambda kernel, a, b, alpha: jnp.transpose(merge(kernel, a, b, alpha)))),
        ],
    }  # fmt: skip
