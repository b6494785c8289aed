"""Checks of lesson 11. The truth is counting, simulation and NumPy in float64; 11.4 asks three tiny BERTs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare
from course_lib.checks.core import Failed, Wrong, exercise
from course_lib.checks.finetune_bert_epochs import labelled, reports, watched


@exercise("11.1", minutes=4, difficulty=1)
def updates_and_warmup(updates, warmup, rng):
    an_epoch = len(range(0, 1000, 32))
    want = 4 * an_epoch
    because = {
        4 * 1000 // 32: "1000 is no multiple of 32. What becomes of the messages left over at the end of an epoch?",
        4 * (1000 // 32): "The last batch of an epoch is not full, and it is not dropped either.",
        an_epoch: "Those are the updates of one epoch.",
        4 * 1000: "That counts messages. One update serves a whole batch.",
        1000 // 32: "Those are the full batches of one epoch. There is one more, and there are more epochs.",
    }
    choose(updates, want, because)
    because = {
        round(0.1 * an_epoch): "Warm-up is a tenth of all updates, not of those of one epoch.",
        0.1 * want: "Updates are counted in whole numbers: round.",
        int(0.1 * want): "That rounds down. `make_optimizer` rounds to the nearest whole number.",
        want - round(0.1 * want): "That is how long the rate falls. For how many updates does it climb?",
    }
    if warmup in because and not isinstance(warmup, bool):  # 12.8 is no whole number, so `choose` would refuse its type
        raise Wrong(f"warmup = {warmup:g}: {because[warmup]}")
    choose(warmup, round(0.1 * want), because)


@exercise("11.2", minutes=5, difficulty=2)
def best_of_twenty(reported, on_new_messages, rng):
    choices = np.array([0.80, 0.81, 0.835, 0.88])
    best = (rng.binomial(452, 0.8, size=(2000, 20)) / 452).max(axis=1).mean()
    want = f"{choices[np.abs(choices - best).argmin()]:.3f}"
    sd = "The standard deviation of one score is the root of 0.8 · 0.2 / 452."
    because = {
        "0.800": "That is what one of them scores on average. But you do not take any one, you take the highest score.",
        "0.810": f"{sd} Of twenty draws, how many come out higher than half of one above the mean?",
        "0.880": f"{sd} How many of those lie between 0.80 and 0.88? Twenty draws do not get that far.",
    }
    choose(reported, want, because)
    lucky = "It won this time by luck, and luck stays with these 452 messages. All twenty are equally good."
    low = "Luck made its score too high. It did not make the model worse than it is."
    choose(on_new_messages, "0.800", {want: lucky, "0.810": lucky, "0.880": lucky, "0.765": low})


@exercise("11.3", minutes=8, difficulty=2)
def labels_needed(answer, rng):
    def ask(labels, scores, target, what=""):
        want = _crossing(labels, scores, target)
        given = f"{what}labels {labels}, scores {scores}, target {target}"
        got = answer(list(labels), list(scores), target)
        reached = [n for n, score in zip(labels, scores, strict=True) if score >= target]
        if not reached:
            if np.shape(got) != () or isinstance(got, str) or not np.isinf(got) or got < 0:
                raise Wrong(f"{given}: the target is never reached, so infinity was expected; {_short(got)} came.")
            return
        last = max(
            (i for i, score in enumerate(scores[:-1]) if score < target), default=0
        )  # the last way up starts here
        mistakes = {
            "The first count that is good enough: the crossing lies before it.": reached[0],
            "Labels count on a logarithmic scale: interpolate log(labels), then take exp.": (
                _crossing(labels, scores, target, scale=np.array, back=float, clip=False)
            ),
            "That is still a logarithm. What undoes it?": np.log(want),
            "That is a logarithm of base 2. What undoes it?": np.log2(want),
            "That is a logarithm of base 10. What undoes it?": np.log10(want),
            "np.exp undoes np.log. What undoes np.log10?": np.exp(np.log10(want)),
            "Do not round: a float was asked for.": float(round(want)),
            "Do not round up: a float was asked for.": float(np.ceil(want)),
            "Do not round down: a float was asked for.": float(np.floor(want)),
            "That is the last count that was too few: the crossing lies after it.": max(
                (n for n in labels if n < want), default=np.nan
            ),
            "Which way does the line go? It starts at the earlier point.": _backwards(labels, scores, target),
            "The first point is already good enough. Nothing is known about fewer labels: give its count.": (
                _crossing(labels, scores, target, clip=False)
            ),
            "That is the last crossing; asked for is the first.": _crossing(labels[last:], scores[last:], target),
        }
        mistakes = {hint: value for hint, value in mistakes.items() if not np.isclose(value, want, rtol=1e-6)}
        nan = "Is this the answer for a target that is never reached? Here it is."
        compare(float(got) if np.shape(got) == () else got, want, given, mistakes=mistakes, nan=nan, rtol=1e-3)

    ask([100, 400], [0.5, 0.7], 0.6, "half way up: ")
    ask([64, 160, 400, 911], [0.31, 0.52, 0.66, 0.74], 0.6)
    ask([50, 200, 1000], [0.42, 0.61, 0.83], 0.61, "a target that was measured: ")
    ask([50, 200], [0.42, 0.61], 0.61, "reached at the last point: ")
    ask([10, 40, 90, 500], [0.3, 0.6, 0.4, 0.8], 0.5, "a score that falls on the way: ")
    ask([10, 40, 90], [0.3, 0.6, 0.4], 0.5, "reached, then lost again: ")
    ask([64, 160], [0.7, 0.75], 0.6, "good enough from the start: ")
    ask([64, 160], [0.4, 0.5], 0.9, "never: ")
    ask([200], [0.8], 0.7, "one point: ")


def _crossing(labels, scores, target, scale=np.log, back=np.exp, clip=True) -> float:
    """Where the line through (scale(labels), score) first reaches `target`; inf where it never does."""
    if scores[0] >= target and (clip or len(scores) == 1):
        return float(labels[0])
    places = scale(np.asarray(labels, float))
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(places, scores, strict=True)):
        if y1 >= target:
            return float(back(x0 + (x1 - x0) * (target - y0) / (y1 - y0)))
    return float("inf")


def _backwards(labels, scores, target) -> float:
    for (n0, y0), (n1, y1) in itertools.pairwise(zip(labels, scores, strict=True)):
        if y1 >= target > y0:
            return float(np.exp(np.log(n1) - np.log(n1 / n0) * (target - y0) / (y1 - y0)))
    return float("nan")


@exercise("11.4", minutes=10, difficulty=2)
def honest_report(answer, rng):
    for classes, left_out, seeds in (
        (("refund", "change", "faulty", "delivery"), (), (0, 1, 2)),  # not in the order of the alphabet
        (("change", "delivery", "faulty", "refund"), ("change",), (2, 1, 1)),  # nobody asks for a change; a tie
    ):
        examined_with_rngs = []
        snapshots = [watched(classes, seed, examined_with_rngs) for seed in seeds]
        chosen, tempting = (1, 0) if left_out else (1, 2)  # the best epoch on validation, and the one on test
        # By far the best on test: whoever adds up both scores chooses it, too.
        validation = labelled(snapshots, chosen, tempting, 24, classes, left_out, rng, share=0.6)
        test = labelled(snapshots, tempting, chosen, 40, classes, left_out, rng, share=0.9)
        want = reports(snapshots, validation, test, classes)
        examined_with_rngs.clear()
        got = answer(snapshots, validation, test)
        given = f"{len(seeds)} epochs, classes {', '.join(classes)}" + (", none of the first" if left_out else "")
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong(f"{given}: a pair (epoch, accuracy) was expected, {_short(got)} came back.")
        if any(examined_with_rngs):
            raise Wrong(f"{given}: the model got rngs, so it was examined with dropout on. What if it gets none?")
        _compare_report(got, want, given)


def _compare_report(got, want, given):
    """`want`: what each combination of mistakes reports → its hint; the right report has the hint ''."""
    best, right = want[""]
    if abs(got[0] - right) < 1e-4 and got[1] == best:
        raise Wrong(f"{given}: the epoch's number comes first, then the accuracy.")
    epoch, accuracy = int(got[0]), float(got[1])
    for hint, (best, right) in want.items():
        if epoch == best and abs(accuracy - right) < 1e-4:
            if hint:
                raise Wrong(f"{given}: {hint}")
            return
    best, right = want[""]
    hint = ""
    if abs(accuracy - right) < 1e-4:
        hint = {best - 1: " Epochs count from 1.", best + 1: " Of equally good epochs the first."}.get(epoch, "")
    elif abs(accuracy - 100 * right) < 0.1:
        hint = " The share that is right, from 0 to 1, not per cent."
    raise Wrong(f"{given}: expected epoch {best} with accuracy {right:.4f}, got {epoch} with {accuracy:.4f}.{hint}")


@exercise("11.5", minutes=10, difficulty=3)
def rate_factors(answer, rng):
    parts = ("attention.query.kernel", "attention_norm.scale", "output.bias")
    for layers, decay in ((6, 0.5), (2, 0.9), (12, 0.9), (1, 0.8), (3, 1.0)):
        names = [f"bert.layers.{n}.{part}" for n in range(layers) for part in parts]
        names += ["bert.embeddings.word.embedding", "bert.embeddings.norm.scale", "bert.pooler.kernel"]
        names += ["classifier.kernel", "classifier.bias"]
        names = [str(name) for name in rng.permutation(names)]
        given = f"{layers} layer{'s' * (layers > 1)}, decay {decay}"
        got = answer(list(names), decay)
        if not isinstance(got, dict):
            raise Wrong(f"{given}: a dictionary, name → factor, was expected; {_short(got)} came back.")
        if got.keys() != set(names):
            lost = sorted(set(names) - got.keys()) or sorted(got.keys() - set(names))
            raise Wrong(f"{given}: {lost[0]} is {'not in the result' if lost[0] in names else 'not a parameter'}.")
        if _near(got["classifier.kernel"], 1) and not _near(got["bert.pooler.kernel"], 1):
            raise Wrong(f"{given}: the pooler belongs to the head, as the classifier does: the full rate.")
        flaw = ""
        for hint, flawed in FLAWED_STEPS.items():
            if not flaw and all(_near(got[name], decay ** flawed(*_place(name, layers))) for name in names):
                flaw = hint
        for name in names:
            want = decay ** _steps(*_place(name, layers))
            compare(got[name], want, f"{given}: {name}", mistakes={flaw: got[name]} if flaw else {})


def _place(name: str, layers: int) -> tuple[int | str, int]:
    """(the layer's number, or "head" or "embeddings"; how many layers there are)."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else "embeddings" if ".embeddings." in name else "head", layers


def _steps(place: int | str, layers: int) -> int:
    """How far below the head."""
    return {"head": 0, "embeddings": layers + 1}.get(place, layers - place if isinstance(place, int) else 0)


def _except(where: str, steps: Callable[[int], int]) -> Callable[[int | str, int], int]:
    """The right steps, except for "layers", "head" or "embeddings", where they are `steps(layers)` or a layer's."""

    def flawed(place, layers):
        here = "layers" if isinstance(place, int) else place
        return steps(place, layers) if here == where else _steps(place, layers)

    return flawed


FLAWED_STEPS = {
    "Is that the right way round? Layer 0 lies next to the embeddings and should move the least.": _except(
        "layers", lambda n, layers: n + 1
    ),
    "That counts the layers above this one. The head is one step further.": _except(
        "layers", lambda n, layers: layers - 1 - n
    ),
    "A layer's number can have two digits; this is the first.": _except(
        "layers", lambda n, layers: layers - int(str(n)[0])
    ),
    "A layer's number can have two digits; this is the last.": _except("layers", lambda n, layers: layers - n % 10),
    "One factor for each layer: does it depend on the layer's number?": _except("layers", lambda n, layers: 1),
    "Are the layers taken for part of the head?": _except("layers", lambda n, layers: 0),
    "How many layers are there? Compare their numbers as numbers: as texts, '9' > '10'.": lambda place, layers: _steps(
        place, min(layers, 10)
    ),
    "How many layers are there? Not always 12: the names tell.": lambda place, layers: _steps(place, 12),
    "How many layers are there? Not always 6: the names tell.": lambda place, layers: _steps(place, 6),
    "Everything below the head is one step too high. Layers 0 to 5 are six layers.": (
        lambda place, layers: _steps(place, layers) - (place != "head")
    ),
    "A layer's number can have two digits; name.split('.')[2] has both.": lambda place, layers: (
        min(layers, 10) - int(str(place)[0]) if isinstance(place, int) else _steps(place, min(layers, 10))
    ),
    "One factor for all below the head: does it depend on the layer's number?": lambda place, layers: int(
        place != "head"
    ),
    "Is that the right way round? The head has 1.": lambda place, layers: layers + 1 - _steps(place, layers),
    "The embeddings lie below layer 0: one step more.": _except("embeddings", lambda _, layers: layers),
    "The embeddings lie at the bottom, far from the head.": _except("embeddings", lambda _, layers: 0),
    "Pooler and classifier are the head: the full rate.": _except("head", lambda _, layers: 1),
}


def _near(got, want) -> bool:
    return np.shape(got) == () and bool(np.isclose(got, want, rtol=1e-5))


@exercise("11.6", minutes=12, difficulty=3)
def lora(lora_dense, merge, rng):
    for shape, n_out, rank, alpha in (
        ((4, 6), 5, 2, 8.0),
        ((2, 3, 7), 7, 3, 1.5),
        ((5,), 3, 1, 4.0),
    ):
        n_in = shape[-1]
        x, kernel, bias = rng.normal(size=shape), rng.normal(size=(n_in, n_out)), rng.normal(size=n_out)
        a, b = rng.normal(size=(n_in, rank)), rng.normal(size=(rank, n_out))
        given = f"x of shape {list(shape)}, rank {rank}, alpha {alpha:g}"
        arrays = [jnp.asarray(array, jnp.float32) for array in (x, kernel, bias, a, b)]
        base, extra = x @ kernel + bias, x @ a @ b
        mistakes = {
            "The extra part is scaled by alpha / rank, not by alpha.": base + alpha * extra,
            "Is the extra part scaled by alpha / rank?": base + extra,
            "rank / alpha or alpha / rank?": base + rank / alpha * extra,
            "Where is the frozen part, x @ kernel + bias?": alpha / rank * extra,
            "Only the extra part is scaled.": alpha / rank * (base + extra),
            "Is it added?": base - alpha / rank * extra,
            "Where is the bias?": base - bias + alpha / rank * extra,
            "Where is the extra part?": base,
            "The bias is added once; the extra part has none.": base + bias + alpha / rank * extra,
            "Which size is the rank? a has shape [n_in, rank].": base + alpha / n_in * extra,
            "Which size is the rank? b has shape [rank, n_out].": base + alpha / n_out * extra,
        }
        want = base + alpha / rank * extra
        compare(lora_dense(*arrays, alpha), want, given, mistakes=mistakes, rtol=1e-3, atol=1e-3)
        if x.ndim == 2:
            _compare_slopes(lora_dense, arrays, alpha, given)
        mistakes = {
            "The extra part is scaled by alpha / rank, not by alpha.": kernel + alpha * a @ b,
            "Is the extra part scaled by alpha / rank?": kernel + a @ b,
            "rank / alpha or alpha / rank?": kernel + rank / alpha * a @ b,
            "Which size is the rank? b has shape [rank, n_out].": kernel + alpha / n_out * a @ b,
            "Where is the frozen kernel?": alpha / rank * a @ b,
            "Is it added?": kernel - alpha / rank * a @ b,
            "Which size is the rank? a has shape [n_in, rank].": kernel + alpha / n_in * a @ b,
        }
        got = merge(arrays[1], arrays[3], arrays[4], alpha)
        compare(got, kernel + alpha / rank * a @ b, f"{given}: merge", mistakes=mistakes, rtol=1e-3, atol=1e-3)


def _compare_slopes(lora_dense, arrays, alpha, given):
    """Of the sum of squares: none for what is frozen, some for a and b, and through x to the layers below."""
    slopes = jax.grad(lambda arrays: jnp.sum(lora_dense(*arrays, alpha) ** 2))(arrays)
    for name, slope in zip(("x", "kernel", "bias", "a", "b"), slopes, strict=True):
        moves = bool(np.abs(slope).max() > 0)
        if name in ("kernel", "bias") and moves:
            raise Wrong(f"{given}: the {name} gets a gradient, and it is to be frozen. See jax.lax.stop_gradient.")
        if name in ("a", "b") and not moves:
            raise Wrong(f"{given}: {name} gets no gradient, and it is to be trained. What is stopped?")
        if name == "x" and not moves:
            raise Wrong(f"{given}: no gradient comes through x, so the layers below could not learn. What is stopped?")
    scale = alpha / arrays[3].shape[-1]
    x, kernel, bias, a, b = (np.asarray(array, np.float64) for array in arrays)
    merged = kernel + scale * a @ b
    compare(slopes[0], 2 * (x @ merged + bias) @ merged.T, f"{given}: gradient by x", rtol=1e-2, atol=1e-2,
            mistakes={
                "Part of it is missing: only the parameters are frozen, x is not.": (
                    2 * scale * (x @ merged + bias) @ (a @ b).T),
                "Part of it is missing: in the extra part x is not frozen either.": 2 * (x @ merged + bias) @ kernel.T,
            })  # fmt: skip


def _short(value) -> str:
    if value is None or value is Ellipsis:
        raise Failed("nothing came back. Is a `return` missing?")
    return repr(value) if isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"
