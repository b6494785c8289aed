"""The exercise checks of lesson 09, BERT. The truth is NumPy in float64, or a tiny BERT that is broken here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare, hinted
from course_lib.checks.core import Failed, Wrong, exercise

BASE = 109_482_240  # BERT-base with its pooler; tests/test_bert.py counts it


@exercise("9.1", minutes=5, difficulty=1)
def two_sizes(multilingual, sixteen_heads, rng):
    old, new, width = 30_522, 119_547, 768
    want = BASE + (new - old) * width
    tempting = {
        BASE: "That is BERT-base. Which table has one row for each token of the vocabulary?",
        BASE + new - old: "A new token needs more than one number: how long is its row?",
        BASE + new * width: "The new word table comes instead of the old one, not beside it.",
        new * width: "That is the new word table alone. The rest of the model is still there.",
        (new - old) * width: "That is how many come on top. And the rest of the model?",
        want + (new - old) * width: "The word table is there once: BertModel has no layer back to the vocabulary.",
        want + new - old: "There is no bias over the vocabulary in BertModel: a look-up has none.",
    }
    if type(multilingual) is int and multilingual != want and multilingual not in tempting:
        raise Wrong(
            f"{multilingual:,} for the multilingual one is not what happens. Which arrays of the file have the "
            "vocabulary in their shape? What changes is their size, and nothing else."
        )
    choose(multilingual, want, tempting)
    if isinstance(sixteen_heads, int) and sixteen_heads != BASE:
        raise Wrong(
            f"{sixteen_heads:,} with 16 heads is not what happens. It is tempting: more heads, more matrices. But look "
            "at the shape of query.weight in the file. Where would the number of heads be in it?"
        )
    choose(sixteen_heads, BASE, {0: ""})


@exercise("9.2", minutes=6, difficulty=2)
def prefix_mask(answer, rng):
    for given, real, prefix, length in (
        ("no padding", (4, 4), (2, 2), 4),
        ("messages of 3 and 1 tokens", (5, 5), (3, 1), 5),
        ("padding at the end", (5, 3), (3, 2), 5),
        ("as many rows as tokens", (3, 2, 3), (2, 1, 3), 3),
        ("no message", (3,), (0,), 3),
        ("one token", (1,), (1,), 1),
    ):
        mask = (np.arange(length) < np.array(real)[:, None]).astype(int)
        want = np.array(
            [
                [[int(row[to] and (to <= at or to < n)) for to in range(length)] for at in range(length)]
                for row, n in zip(mask, prefix, strict=True)
            ]
        )
        places, starts = np.arange(length), np.array(prefix)[:, None]
        tril, to, at = np.tril(np.ones((length, length), int)), mask[:, None, :], mask[:, :, None]
        message = (places < starts).astype(int)
        seen, asks = message[:, None, :], message[:, :, None]
        mistakes = {
            "That is GPT's mask. In the message, each token sees what comes after it as well.": to * tril,
            "That is BERT's mask. What is still to be written must not be seen.": np.broadcast_to(to, want.shape),
            "And the padding? Nobody may look at it.": tril | seen,
            "A padding token may look; nobody uses what it sees. Only what is looked at is masked.": at * want,
            "The answer has to see the message, too.": to * (asks & seen | (1 - asks) & (1 - seen) & tril),
            "A token of the answer may look at itself, too.": to * (np.tril(tril, -1) | seen),
            "This looks ahead: to is the last axis, from the one before it.": to * (tril.T | seen),
            "The message is seen by all: it is *to* that has to belong to it, not *from*.": to * (tril | asks),
            "prefix is a number of tokens: the first that is not in the message has the place prefix.": to
            * (tril | (places <= starts)[:, None, :]),
            "Each row of the batch has a message of its own length.": to * (tril | seen[:1]),
            "The triangle or the message has to allow it: one is enough.": to * tril * seen,
            "The axes are B, from, to: one for the heads comes later, in the model.": want[:, None],
        }
        with hinted("Which axis do mask, [B, T], and prefix, [B], lack?", (TypeError, ValueError)):
            got = answer(jnp.asarray(mask), jnp.asarray(prefix))
        if str(getattr(got, "dtype", "")) == "bool":  # True and False serve as well
            got = got.astype(int)
        compare(got, want, f"mask of shape {list(mask.shape)}, {given}", mistakes=mistakes)


@exercise("9.3", minutes=8, difficulty=2)
def sentence_vectors(answer, rng):
    def unit(x, axis: Any = -1):
        norm = np.sqrt((x**2).sum(axis, keepdims=True))
        return x / np.maximum(norm, 1e-9)

    for given, lengths, width in (
        ("one message, no padding", (4,), 6),
        ("lengths 5, 2 and 3 in one batch", (5, 2, 3), 6),
        ("no padding", (5, 5, 5), 6),
        ("a batch of which one row is all padding", (4, 0), 5),
    ):
        hidden = rng.normal(size=(len(lengths), max(lengths), width)) + 0.5
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(int)
        total = (hidden * mask[:, :, None]).sum(axis=1)
        mean = total / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        mistakes = {
            "What stands at padding is in the mean.": unit(hidden.mean(axis=1)),
            "The length is taken over the whole batch: each row has its own, axis=-1.": unit(mean, None),
            "The length is taken over the whole batch: each row has one of its own, axis=-1.": unit(total, None),
            "Two things are wrong: padding in the mean, and one length for the whole batch.": unit(
                hidden.mean(axis=1), None
            ),
            "The length is taken over the batch, axis 0. A vector lies along the last axis.": unit(mean, 0),
            "Is the scaling to length 1 missing?": mean,
            "That is the sum over the tokens; is the scaling to length 1 missing?": total,
            "That is the vector of [CLS]. The mean over the real tokens is asked for.": unit(hidden[:, 0]),
            "Take the mean first and scale it once; here each token was scaled on its own.": unit(
                (unit(hidden) * mask[:, :, None]).sum(axis=1)
            ),
            "That is divided by the sum of squares. The length is its root.": mean
            / np.maximum((mean**2).sum(-1, keepdims=True), 1e-9),
            "That is divided by the sum of squares; the length is its root.": total
            / np.maximum((total**2).sum(-1, keepdims=True), 1e-9),
            "Divide by the length, the root of the sum of squares, not by the sum of sizes.": mean
            / np.maximum(np.abs(mean).sum(-1, keepdims=True), 1e-9),
        }
        nan = "A row without tokens has the sum 0 and the length 0. What keeps 0/0 away?"
        got = answer(jnp.asarray(hidden, jnp.float32), jnp.asarray(mask))
        compare(got, unit(mean), given, mistakes=mistakes, nan=nan)


@exercise("9.4", minutes=10, difficulty=2)
def to_flax(answer, rng):
    from course_lib.bert import BertConfig, BertModel
    from course_lib.checkpoint import key_table

    sizes = dict(hidden_size=4, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=6)
    for given, vocabulary, inner in (
        ("a BERT of width 4, with 6 inside", 10, 6),
        ("a BERT of width 4 with a vocabulary of 4", 4, 6),
        ("a BERT in which every layer is square", 10, 4),
    ):
        config = BertConfig(vocab_size=vocabulary, intermediate_size=inner, **sizes)
        table, saved, shapes = key_table(BertModel, config), {}, {}
        for key, path in table.items():
            shape = _stored_shape(path, config)
            saved[key] = rng.normal(size=shape).astype(np.float32)
            shapes[path] = shape[::-1] if path.endswith("kernel") else shape
        got = answer(dict(saved), dict(table), dict(shapes))
        if not isinstance(got, Mapping):
            raise Wrong(f"{given}: a dictionary path → array was expected, a {type(got).__name__} came back.")
        if got.keys() == table.keys():
            raise Wrong(f"{given}: the names are still Hugging Face's; the model's paths were expected, table[key].")
        for path in shapes.keys() - got.keys():
            raise Wrong(f"{given}: {path} is missing.")
        for path in got.keys() - shapes.keys():
            raise Wrong(f"{given}: {path} is no path of the model.")
        square_last = sorted(table.items(), key=lambda item: len(set(saved[item[0]].shape)) == 1)
        for key, path in square_last:  # in a square one, more mistakes look alike
            _compare_loaded(np.asarray(got[path]), saved[key], key, path, given)


@exercise("9.5", minutes=8, difficulty=2)
def first_depths(answer, rng):
    names = ("embeddings", "layer 1", "end", "nowhere")
    want = _first_depths(names)
    if not isinstance(answer, (tuple, list)) or len(answer) != len(want):
        raise Wrong(f"there are five mistakes, so five words were expected, such as {('end',) * 5}.")
    for word in answer:
        if word not in names:
            raise Wrong(f"{word!r} is none of the choices: {', '.join(map(repr, names))}.")
    hints = (
        "Mistake 1, the mask: who reads it first? And is there padding for it to hide?",
        "Mistake 2, the pooler: what does it work on, and which of the three depths come after it?",
        "Mistake 3, epsilon: it is tempting to think that a millionth cannot be seen. Where is the first LayerNorm?",
        "Mistake 4, swapped layers: which of the three depths lie before them?",
        "Mistake 5, segments: what does the model take when none are given, and what were they here?",
    )
    because = {}
    for guess in itertools.product(names, repeat=len(want)):
        wrong = [hint for hint, mine, true in zip(hints, guess, want, strict=True) if mine != true]
        if wrong:
            because[guess] = wrong[0]
    choose(answer, want, because)


@exercise("9.6", minutes=15, difficulty=3)
def gpt2_layer(answer, rng):
    for given, shape, heads, scale in (
        ("x of shape [2, 5, 8], 2 heads", (2, 5, 8), 2, 1.0),
        ("x of shape [1, 1, 6], 3 heads", (1, 1, 6), 3, 1.0),
        ("x of shape [2, 4, 6], 1 head, small numbers", (2, 4, 6), 1, 0.01),
    ):
        x, p = rng.normal(size=shape) * scale, _gpt2_parameters(shape[-1], rng)
        mistakes = {hint: _gpt2(p, x, heads, **change) for hint, change in GPT2_MISTAKES.items()}
        try:
            got = answer({k: jnp.asarray(v, jnp.float32) for k, v in p.items()}, jnp.asarray(x, jnp.float32), heads)
        except Failed as failed:
            if "dot_general" in str(failed) or "contracting" in str(failed):
                hint = "GPT-2 stores [in, out]: is there a transpose left, or two weights mixed up?"
                raise Wrong(f"{given}: {failed} {hint}") from failed
            raise
        nan = "Is a row of scores all masked, or a variance 0 without epsilon?"
        compare(got, _gpt2(p, x, heads), given, mistakes=mistakes, nan=nan, rtol=1e-4, atol=2e-5)


def _stored_shape(path: str, config: Any) -> tuple[int, ...]:
    """Of the array that ends at `path`, as PyTorch stores it: dense layers as [out, in]."""
    width, inner = config.hidden_size, config.intermediate_size
    rows = {"word": config.vocab_size, "position": config.max_position_embeddings, "token_type": config.type_vocab_size}
    *_, part, kind = path.split(".")
    if kind == "embedding":
        return rows[part], width
    widens, narrows = part == "intermediate", part == "output" and "attention" not in path
    if kind == "kernel":
        return (inner, width) if widens else (width, inner) if narrows else (width, width)
    return (inner,) if widens else (width,)


def _compare_loaded(got: np.ndarray, stored: np.ndarray, key: str, path: str, given: str) -> None:
    dense = path.endswith("kernel")
    want = stored.T if dense else stored
    if got.shape == want.shape and np.array_equal(got, want):
        return
    if got.shape == stored.shape and np.array_equal(got, stored):
        square = " It is square: no shape can tell you." if stored.shape[0] == stored.shape[1] else ""
        raise Wrong(f"{given}: {key} came as it was stored, [out, in]. A kernel is [in, out].{square}")
    if got.shape == stored.T.shape and np.array_equal(got, stored.T):
        raise Wrong(f"{given}: {key} was turned. It is a table, one row a token: only a kernel is turned.")
    if got.shape != want.shape:
        raise Wrong(f"{given}: {path} has shape {got.shape}, the model asks for {want.shape}. Turn it, do not reshape.")
    raise Wrong(f"{given}: {path} has the right shape and other numbers. A transpose swaps axes; a reshape does not.")


def _first_depths(names: tuple[str, ...]) -> tuple[str, ...]:
    """Break a tiny BERT in the five ways of 9.5, and see at which of three depths each first changes a real token."""
    from flax import nnx

    from course_lib.bert import BertConfig, BertModel

    config = BertConfig.tiny(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, intermediate_size=16, initializer_range=0.3
    )
    ids, mask = jnp.arange(10).reshape(2, 5), jnp.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])

    def look(bert, seen=mask, segments=True):
        x = bert.embeddings(ids, jnp.zeros_like(ids) if segments else None)
        values = x, bert.layers[0](x, seen), bert.encode(x, seen)
        return [np.asarray(value)[np.asarray(mask) == 1] for value in values]

    bert = BertModel(config, rngs=nnx.Rngs(0))
    right, found = look(bert), [look(bert, seen=jnp.ones_like(mask))]
    bert.pooler.kernel[...] = bert.pooler.kernel[...].T
    found.append(look(bert))
    norms = [bert.embeddings.norm, *(n for layer in bert.layers for n in (layer.attention_norm, layer.output_norm))]
    for norm in norms:
        norm.epsilon = 1e-6
    found.append(look(bert))
    for norm in norms:
        norm.epsilon = config.layer_norm_eps
    bert.layers[1], bert.layers[2] = bert.layers[2], bert.layers[1]
    found.append(look(bert))
    bert.layers[1], bert.layers[2] = bert.layers[2], bert.layers[1]
    found.append(look(bert, segments=False))

    def first(values):
        apart = (np.abs(a - b).max() for a, b in zip(right, values, strict=True))
        return next((name for name, gap in zip(names, apart, strict=False) if gap > 1e-7), names[-1])

    return tuple(map(first, found))


def _gpt2_parameters(width: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """float64, exact in float32 too; scales and biases away from 1 and 0, where mistakes would hide."""
    outs = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}  # fmt: skip
    p = {}
    for name, (n_in, n_out) in outs.items():
        p |= {f"{name}.weight": rng.normal(size=(n_in, n_out)) / np.sqrt(n_in), f"{name}.bias": rng.normal(size=n_out)}
    for name in ("ln_1", "ln_2"):
        p |= {f"{name}.weight": 1 + 0.5 * rng.normal(size=width), f"{name}.bias": rng.normal(size=width)}
    return {name: value.astype(np.float32).astype(np.float64) for name, value in p.items()}


def _gpt2(
    p: dict[str, np.ndarray],
    x: np.ndarray,
    heads: int,
    *,
    order: tuple[int, int, int] = (0, 1, 2),
    causal: bool = True,
    scaled: bool = True,
    exact_gelu: bool = False,
    epsilon: float = 1e-5,
    post: bool = False,
    residual: bool = True,
    second_norm: bool = True,
    turned: bool = False,
    heads_first: bool = False,
    over_normed: bool = False,
) -> np.ndarray:
    """A layer of GPT-2 in float64, head by head; each option but the first three arguments makes a mistake."""

    def dense(name, x):
        weight = p[f"{name}.weight"]
        weight = weight.T if turned and weight.shape[0] == weight.shape[1] else weight
        return x @ weight + p[f"{name}.bias"]

    def norm(name, x):
        deviation = np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return (x - x.mean(-1, keepdims=True)) / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]

    def gelu(x):
        if exact_gelu:
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def attention(x):
        fused, size = dense("attn.c_attn", x), x.shape[-1] // heads
        if heads_first:  # [B, T, N, 3, D] where it should be [B, T, 3, N, D]
            fused = fused.reshape(*x.shape[:2], heads, 3, size).swapaxes(2, 3).reshape(fused.shape)
        thirds = np.split(fused, 3, axis=-1)
        query, key, value = (thirds[i] for i in order)
        mixed = np.zeros_like(x)
        for start in range(0, x.shape[-1], size):
            at = slice(start, start + size)
            scores = query[..., at] @ key[..., at].swapaxes(1, 2) / (math.sqrt(size) if scaled else 1)  # [B, T, T]
            if causal:
                scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[..., at] = weights / weights.sum(-1, keepdims=True) @ value[..., at]
        return dense("attn.c_proj", mixed)

    def mlp(x):
        return dense("mlp.c_proj", gelu(dense("mlp.c_fc", x)))

    if post:
        x = norm("ln_1", x + attention(x))
        return norm("ln_2", x + mlp(x))
    normed = norm("ln_1", x)
    x = (normed if over_normed else x if residual else 0) + attention(normed)
    normed = norm("ln_2", x) if second_norm else x
    return (normed if over_normed else x if residual else 0) + mlp(normed)


GPT2_MISTAKES = {
    "That is BERT's order, norm after the sum; GPT-2 normalises what goes into each half.": {"post": True},
    "This layer sees what comes after a token: where is the causal mask?": {"causal": False},
    "GPT-2's GELU is the tanh form, approximate=True.": {"exact_gelu": True},
    "GPT-2's epsilon is 1e-5; this one is BERT's.": {"epsilon": 1e-12},
    "GPT-2's epsilon is 1e-5; this one is Flax's.": {"epsilon": 1e-6},
    "GPT-2 stores [in, out]. A square weight was turned, and no shape complained.": {"turned": True},
    "The thirds of c_attn are queries, keys, values, in this order.": {"order": (2, 0, 1)},
    "Which third is the values? The last; keys are in the middle.": {"order": (0, 2, 1)},
    "Queries and keys are swapped. Scores are [from, to]: queries ask.": {"order": (1, 0, 2)},
    "Are the scores divided by the square root of the head's size?": {"scaled": False},
    "Where are the residuals?": {"residual": False},
    "Add the x that came in, not its normalised copy.": {"over_normed": True},
    "Is ln_2 used?": {"second_norm": False},
    "Cut c_attn's output into thirds first, and each third into heads.": {"heads_first": True},
}
