"""Checks of lesson 08. The truth is NumPy in float64, written with loops from the definition, one pair at a time."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare, hinted
from course_lib.checks.core import Wrong, exercise

HIDDEN = np.finfo(np.float32).min
MASKED_NAN = (
    "Is exp() seeing the raw scores? jax.nn.softmax takes the largest away first. Or is a row divided by its sum after "
    "all of it was masked? Mask the scores, before the softmax."
)


def _softmax(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def _attend(query, key, value, mask) -> np.ndarray:
    """float64 [F, E]: each token's view for itself, over the tokens that it may see and no others."""
    rows = []
    for q, visible in zip(query, mask, strict=True):
        seen = np.flatnonzero(visible)
        scores = np.array([sum(q * key[t]) for t in seen]) / len(q) ** 0.5
        rows.append(sum(weight * value[t] for weight, t in zip(_softmax(scores), seen, strict=True)))
    return np.array(rows)


def _wrong_ones(mistakes: dict, want: np.ndarray) -> dict:
    """Without those that happen to be right for this input: where nothing is hidden, most ways to mask agree."""
    same = {
        hint for hint, came in mistakes.items() if np.shape(came) == want.shape and np.allclose(came, want, 1e-3, 1e-4)
    }
    return {hint: came for hint, came in mistakes.items() if hint not in same}


def _float32(*arrays: np.ndarray) -> tuple:
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


@exercise("8.1", minutes=4, difficulty=1)
def how_many_weights(shape, times_as_many, rng):
    pairs = np.einsum("bqnd,bknd->bnqk", np.zeros((8, 50, 12, 1)), np.zeros((8, 50, 12, 1)))  # D does not show in it
    order = "All four are there. In which order does the lesson write them?"
    because = {
        (8, 50, 12, 32): "That has a row of numbers for each token, as a query does. A weight lies between two tokens.",
        (8, 12, 50, 32): "That has a row of numbers for each token, as a query does. A weight lies between two tokens.",
        (8, 50, 50): "That would be one picture a message. Does each head draw its own?",
        (12, 50, 50): "That is one message. How many are in the batch?",
        (50, 50): "That is one head's picture of one message.",
        (8, 50, 384): "That is what goes in, and what comes out. The weights lie in between: who looks, and at whom?",
        (8, 12, 384, 384): "Do the weights lie between tokens, or between the numbers of a token's vector?",
    } | {other: order for other in itertools.permutations(pairs.shape) if other != pairs.shape}
    choose(shape, pairs.shape, because)
    because = {
        4: "Four times as many tokens look. And at how many does each of them look?",
        8: "Both numbers of tokens grow, each by the same factor. What do they make together?",
        64: "Two of the four letters grow, not three.",
        1: "Which letters of the shape are numbers of tokens?",
        150: "A factor was asked for: how many times as many?",
        64 * 50 * 50: "A factor was asked for: how many times as many?",
        8 * 12 * 200 * 200: "A factor was asked for: how many times as many?",
        8 * 12 * 150 * 250: "A factor was asked for: how many times as many?",
    }
    choose(times_as_many, (200 // 50) ** 2, because)


@exercise("8.2", minutes=10, difficulty=2)
def masked_attention(answer, rng):
    def ask(query, key, value, mask, given):
        size, length = query.shape[1], len(key)

        def by(mask, divide=size**0.5, axis=-1, hidden=HIDDEN):
            return _softmax(np.where(mask == 1, query @ key.T / divide, hidden), axis) @ value

        want, scores = _attend(query, key, value, mask), query @ key.T / size**0.5
        weak = "A hidden token comes through: your number for it is not low enough. Take the most negative float."
        mistakes = {
            weak: by(mask, hidden=-1e4),
            weak + " And set it, do not add it.": _softmax(scores - 1e4 * (1 - mask)) @ value,
            "Is the mask used?": by(np.ones_like(mask)),
            "The mask is the wrong way round: 1 may be seen.": by(1 - mask),
            "A score of 0 is not hidden: exp(0) is 1. Put something very negative.": by(mask, hidden=0),
            "Masked after the softmax, weights no longer sum to 1. Mask the scores.": (_softmax(scores) * mask) @ value,
            "Is the division by the root of D missing?": by(mask, divide=1),
            "Divide by the root of D, not by D.": by(mask, divide=size),
            "D is the length of one query, not the number of tokens.": by(mask, divide=length**0.5),
            "D is the length of one query; a value has E numbers.": by(mask, divide=value.shape[1] ** 0.5),
            "The softmax runs over who looks; it should run over who is looked at, the last axis.": by(mask, axis=0),
            "These are the weights. What do they mix?": _softmax(np.where(mask == 1, scores, HIDDEN)),
            "Is the softmax missing?": np.where(mask == 1, scores, 0) @ value,
        }
        with hinted(
            "Write the shapes below one another: query [F, D], key [T, D], scores [F, T].", (TypeError, ValueError)
        ):
            got = answer(*_float32(query, key, value), jnp.asarray(mask, jnp.int32))
        compare(got, want, given, mistakes=_wrong_ones(mistakes, want), nan=MASKED_NAN, rtol=1e-3, atol=1e-4)

    def arrays(looks, length, size, wide):
        return rng.normal(size=(looks, size)), rng.normal(size=(length, size)), rng.normal(size=(length, wide))

    some = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]])
    ask(*arrays(4, 5, 8, 3), some, "F 4, T 5, D 8, E 3")
    ask(*arrays(1, 3, 4, 2), np.ones((1, 3), int), "one token looks at three, nothing hidden")
    ask(*arrays(3, 1, 2, 5), np.ones((3, 1), int), "there is one token to look at")
    query, key, value = arrays(4, 5, 8, 3)
    query[2] = -key[3]  # the only token that it may see has a score far below those that it may not
    ask(200 * query, 200 * key, value, some, "scores of many thousands")


@exercise("8.3", minutes=12, difficulty=2)
def three_bugs_in_attention(answer, rng):
    def by(query, key, mask, heads, *, right_reshape=True, right_size=True, right_axis=True):
        batch, length, width = query.shape
        size = width // heads
        if right_reshape:
            query, key = (x.reshape(batch, length, heads, size).transpose(0, 2, 1, 3) for x in (query, key))
        else:
            query, key = (x.reshape(batch, heads, length, size) for x in (query, key))
        scores = query @ key.swapaxes(2, 3) / (size if right_size else width) ** 0.5  # [B, N, T, T]
        visible = mask[:, None, None, :] if right_axis else mask[:, None, :, None]
        return _softmax(np.where(visible == 1, scores, HIDDEN))

    hints = {
        "right_reshape": "The reshape mixes tokens: which numbers of [B, T, H] does one token's head get?",
        "right_axis": "The mask hides tokens that look. It should hide those that are looked at, the last axis.",
        "right_size": "Divide by the root of what a single query has: the size of one head.",
    }
    for batch, length, heads, size in ((2, 5, 3, 4), (1, 4, 1, 6), (3, 2, 4, 1)):
        query, key = (2 * rng.normal(size=(batch, length, heads * size)) for _ in range(2))
        mask = (np.arange(length) < rng.integers(1, length, size=(batch, 1), endpoint=True)).astype(int)
        mask[0, -1] = 0  # some padding in any case
        want = by(query, key, mask, heads)
        mistakes = {
            "Is the attention mask used?": by(query, key, np.ones_like(mask), heads),
            "Divide by the root of the size, not by the size itself.": by(size**-0.5 * query, key, mask, heads),
            "Is the division gone?": by(size**0.5 * query, key, mask, heads),
            "Divide by the root of one head's size, not of the number of heads.": by(
                (size / heads) ** 0.5 * query, key, mask, heads
            ),
            "Only what is looked at is hidden. What padding itself sees, nobody uses.": _softmax(
                np.where(mask[:, None, :, None] == 1, np.log(np.maximum(want, 1e-300)), 0)
            ),
            "Each token's row is cut into N pieces, [B, T, N, D]; the other order of N and D mixes the heads.": by(
                *(x.reshape(batch, length, size, heads).swapaxes(2, 3).reshape(x.shape) for x in (query, key)),
                mask,
                heads,
            ),
        }
        for count in (1, 2, 3):
            for wrong in itertools.combinations(hints, count):
                value = by(query, key, mask, heads, **dict.fromkeys(wrong, False))
                more = f" ({count} bugs left.)" if count > 1 else " (One bug left.)"
                first = wrong[0] if wrong != ("right_reshape", "right_size") else wrong[1]  # each pair has its own
                mistakes[hints[first] + more] = value
        given = f"B {batch}, T {length}, N {heads}, D {size}"
        got = answer(*_float32(query, key), jnp.asarray(mask, jnp.int32), heads)
        nan = "Put the most negative float where the mask is 0, not infinity."
        compare(got, want, given, mistakes=_wrong_ones(mistakes, want), nan=nan, rtol=1e-3, atol=1e-4)
    got = np.asarray(answer(*_float32(query, key), jnp.zeros((batch, length), jnp.int32), heads))
    if not np.isfinite(got).all():
        raise Wrong(
            "a row of padding only, as it fills up a last batch, gave nan. Minus infinity hides too well: the softmax "
            "of nothing is 0/0. Use the most negative float."
        )


@exercise("8.4", minutes=6, difficulty=2)
def what_shuffling_changes(answer, rng):
    length, width = 6, 8
    words, positions = rng.normal(size=(2, length, width))
    matrices, everything = rng.normal(size=(2, 3, width, width)), np.ones((length, length))
    order = rng.permutation(length)

    def read(x, mask):  # two layers of attention, each added to what came in
        for query, key, value in matrices:
            x = x + _attend(x @ query, x @ key, x @ value, mask)
        return x

    def changes(before, after):
        return not np.allclose(before, after, atol=1e-6)

    causal = np.tril(everything)
    plain, shuffled = read(words, everything), read(words[order], everything)
    want = (
        changes(plain.mean(0), shuffled.mean(0)),
        changes(plain[order], shuffled),
        changes(read(words + positions, everything).mean(0), read(words[order] + positions, everything).mean(0)),
        changes(read(words, causal).mean(0), read(words[order], causal).mean(0)),
    )
    hints = (
        "Question 1: the lesson did this with the real model. What did the message's mean do there?",
        "Question 2: without positions, what could tell the word that it stands elsewhere now? Look at what it sees.",
        "Question 3: a word's vector at the start is word plus position. Is it the same vector after the shuffle?",
        "Question 4: no positions, so one thinks of question 1. But whom does the third token see, before and after?",
    )
    if isinstance(answer, (tuple, list)) and len(answer) != 4:
        raise Wrong(f"four answers were expected, {len(answer)} came.")
    because = {}
    for guess in itertools.product((True, False), repeat=4):
        wrong = [hint for hint, mine, true in zip(hints, guess, want, strict=True) if mine != true]
        if wrong:
            because[guess] = wrong[0]
    choose(answer, want, because)


@exercise("8.5", minutes=6, difficulty=2)
def decoder_mask(answer, rng):
    for batch, length, kind in ((3, 5, "padding on the right"), (1, 1, "one token"), (2, 4, "padding on the left")):
        real = rng.integers(1, length, size=batch, endpoint=True)
        real[0] = max(1, length - 2)
        mask = (np.arange(length) < real[:, None]).astype(int)
        if kind.endswith("left"):
            mask = mask[:, ::-1]
        want = np.zeros((batch, length, length), bool)
        for b, f, t in np.ndindex(want.shape):
            want[b, f, t] = t <= f and mask[b, t] == 1
        visible, hides_looking = mask[:, None, :] == 1, mask[:, :, None] == 1
        causal = np.tril(np.ones((length, length), bool))
        mistakes = {
            "Is padding hidden, too?": np.broadcast_to(causal, want.shape),
            "One mask a message is asked for, [B, T, T]. Is padding hidden, too?": causal,
            "Is what comes later hidden, too?": np.broadcast_to(visible, want.shape),
            "The wrong triangle: this one sees what comes later, and not what came before.": causal.T & visible,
            "A token may see itself: the diagonal belongs to the mask.": np.tril(causal, -1) & visible,
            "Hide padding where it is looked at, not where it looks: rows of padding may see what came before.": (
                causal & hides_looking
            ),
            "Both masks must allow it: `&`, not `|`.": causal | visible,
            "True is what may be seen; this is the other way round.": ~want,
        }
        with hinted("Both need three axes: which one does the mask [B, T] lack?", (TypeError, ValueError)):
            got = answer(jnp.asarray(mask, jnp.int32))
        compare(got, want, f"B {batch}, T {length}, {kind}", mistakes=_wrong_ones(mistakes, want))


@exercise("8.6", minutes=10, difficulty=3)
def look_back(answer, rng):
    for batch, heads, length in ((3, 4, 7), (1, 2, 3), (4, 1, 5)):
        real = rng.integers(2, length, size=batch, endpoint=True)
        real[0] = length - 1  # some padding, and messages of different lengths
        mask = (np.arange(length) < real[:, None]).astype(int)
        scores = 2 * rng.normal(size=(batch, heads, length, length)) + np.eye(length, k=-1)
        weights = _softmax(np.where(mask[:, None, None] == 1, scores, HIDDEN))  # padding looks, and is not looked at
        back = [[weights[b, :, t, t - 1] for t in range(1, real[b])] for b in range(batch)]
        forward = [weights[b, :, t - 1, t] for b in range(batch) for t in range(1, real[b])]
        own = [weights[b, :, t, t] for b in range(batch) for t in range(1, real[b])]
        every_own = [weights[b, :, t, t] for b in range(batch) for t in range(real[b])]
        shifted = [weights[b, :, t, t - 1] for b in range(batch) for t in range(1, min(real[b] + 1, length))]
        every = [weights[b, :, t, t - 1] for b in range(batch) for t in range(1, length)]
        total = sum(row for rows in back for row in rows)
        pairs = sum(map(len, back))
        mistakes = {
            "Is padding among the tokens that look? It gives weights, too, and they mean nothing.": np.mean(every, 0),
            "Each token counts once, so long messages count more: not the mean of the messages' means.": (
                np.mean([np.mean(rows, 0) for rows in back], 0)
            ),
            "That is the next token. Rows look, columns are looked at.": np.mean(forward, 0),
            "That is the diagonal itself: what each token gives to itself.": np.mean(own, 0),
            "That is the diagonal itself: what each token gives to itself, the first included.": np.mean(every_own, 0),
            "Entry i of that diagonal is what token i + 1 gives. Which entries of the mask belong to it?": np.mean(
                shifted, 0
            ),
            "The first token of a message has nothing before it and takes no part: divide by fewer.": (
                total / mask.sum()
            ),
            "The padding is left out of the sum, but not out of the number to divide by.": (
                total / (batch * (length - 1))
            ),
            "The padding is left out of the sum, but not out of the number to divide by. Nor is the first token.": (
                total / (batch * length)
            ),
            "That is a sum. How many tokens took part?": total,
            "One number for each head was asked for.": total.mean() / pairs,
            "One number for each head was asked for, over all messages.": np.array([np.mean(r, 0) for r in back]),
        }
        got = answer(*_float32(weights), jnp.asarray(mask, jnp.int32))
        want = total / pairs
        compare(got, want, f"B {batch}, N {heads}, T {length}", mistakes=_wrong_ones(mistakes, want))
