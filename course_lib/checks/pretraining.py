"""The exercise checks of lesson 10, pretraining."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from course_lib.checks.compare import choose, compare
from course_lib.checks.core import Wrong, exercise

MASK, FIRST_WORD = 4, 5  # as in the notebook


@exercise("10.1", minutes=5, difficulty=1)
def perplexity_on_paper(four_gaps, knows_nothing, rng):
    p = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 4])
    mistakes = {
        "That is the mean of 1/p. The loss takes the mean of logarithms: is that the same?": np.mean(1 / p),
        "That is 1 over the mean of p. One impossible word should hurt, and here it hardly would.": 1 / p.mean(),
        "That is the loss itself, in nats. Perplexity undoes the logarithm.": -np.log(p).mean(),
        "That is the mean of p. Perplexity is never below 1.": p.mean(),
        "That is a probability. Perplexity is never below 1.": np.exp(np.log(p).mean()),
        "That is the loss in bits. Perplexity undoes the logarithm.": -np.log2(p).mean(),
        "That is 1 over the probability of all four together. Perplexity is a figure for one word.": 1 / p.prod(),
    }
    _number(four_gaps, np.exp(-np.log(p).mean()), "the four gaps", mistakes)
    mistakes = {
        "That is the loss, in nats. Perplexity undoes the logarithm.": np.log(2000),
        "That is the loss, in bits. Perplexity undoes the logarithm.": np.log2(2000),
        "That is the probability of each word. What is the loss, and what is e to that power?": 1 / 2000,
        "No model's perplexity is 1 unless it is sure of every word and right.": 1.0,
    }
    _number(knows_nothing, 2000.0, "2,000 equally likely words", mistakes)


def _number(got, want, given, mistakes):
    """As `compare`, but whole numbers may come for others, and the right one is not told: it is a prediction."""
    if isinstance(got, bool) or np.ndim(got) or np.asarray(got).dtype.kind not in "iuf":
        raise Wrong(f"{given}: a number was expected, a {type(got).__name__} came.")
    if not np.isclose(got, want, rtol=1e-2):
        hint = next((f" {hint}" for hint, other in mistakes.items() if np.isclose(got, other, rtol=1e-2)), "")
        raise Wrong(f"{given}: {got:.4g} is not the perplexity.{hint or ' Write the mean of -log p first.'}")


@exercise("10.2", minutes=8, difficulty=2)
def perplexity(answer, rng):
    def ask(logits, targets, weights, given):
        shifted = logits - logits.max(-1, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        losses = -np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
        mean = (losses * weights).sum() / weights.sum()
        rows = (losses * weights).sum(-1) / np.maximum(weights.sum(-1), 1)
        with np.errstate(over="ignore"):
            mistakes = {
                "That is the loss: where is the exponential?": mean,
                "All positions are in it: are the weights used?": np.exp(losses.mean()),
                "Divide by the number of words that count, not by all positions.": np.exp((losses * weights).mean()),
                "The exponential of the mean was expected, not the mean of exponentials.": (
                    (np.exp(losses) * weights).sum() / weights.sum()
                ),
                "Is it the mean, or the sum? Perplexity is a figure for one word.": np.exp((losses * weights).sum()),
                "Is a sign wrong? Perplexity is never below 1.": np.exp(-mean),
                "A logarithm to base 2 goes with a power of 2, not of e.": np.exp(mean / np.log(2)),
                "One number was expected for the whole batch, not one for each row.": np.exp(rows),
                "Every word counts the same; here every row does, however few words of it count.": np.exp(rows.mean()),
                "The mean of the rows' perplexities came; the mean over all words was asked for.": np.exp(rows).mean(),
            }
            for floor in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12):
                hint = f"Are probabilities kept above {floor:g}? log_softmax needs no such help."
                mistakes[hint] = np.exp((-np.log(np.exp(-losses) + floor) * weights).sum() / weights.sum())
        got = answer(jnp.asarray(logits, jnp.float32), jnp.asarray(targets), jnp.asarray(weights, jnp.float32))
        nan = "Do probabilities of 0 go into a logarithm? log_softmax never makes them."
        compare(got, np.exp(mean), given, mistakes=mistakes, nan=nan, rtol=1e-3)

    def batch(rows, length, words, scale=1.0):
        weights = (rng.random((rows, length)) < 0.4).astype(float)
        weights[:, 0] = 1
        return rng.normal(size=(rows, length, words)) * scale, rng.integers(words, size=(rows, length)), weights

    ask(*batch(3, 7, 11), "3 rows of 7 positions")
    ask(*batch(1, 4, 6), "a single row")
    logits, targets, weights = batch(2, 5, 4)
    ask(logits, targets, np.eye(2, 5), "one word in each row counts")
    ask(np.zeros((2, 3, 9)), np.zeros((2, 3), int), np.ones((2, 3)), "nine equally likely words")
    sure = np.full((1, 2, 3), -1e4)
    sure[..., 1] = 1e4
    ask(sure, np.array([[1, 0]]), np.array([[1.0, 0.0]]), "logits of 1e4, the right one the largest")
    surprised = np.zeros((1, 2, 3))
    surprised[..., 1] = 30.0
    ask(surprised, np.array([[0, 2]]), np.ones((1, 2)), "words of probability 1e-13")


@exercise("10.3", minutes=6, difficulty=2)
def who_learns(answer, rng):
    everybody = np.ones((12, 12), bool)
    not_padding = everybody & (np.arange(12) < 9)
    want = tuple(_reached(mask, (4, 7)) for mask in (everybody, np.tril(everybody), not_padding))
    if isinstance(answer, (tuple, list)) and len(answer) != 3:
        raise Wrong(f"there are three ways, so three numbers were expected; {len(answer)} came.")
    hints = (
        {2: "Way 1: two vectors are in the loss. What was mixed into them on the way?"},
        {
            2: "Way 2: two vectors are in the loss. What was mixed into them on the way?",
            12: "Way 2: is there a token that neither position 4 nor position 7 can see?",
            13: "Way 2: some tokens are seen from both positions. They were counted twice.",
            7: "Way 2: positions are counted from 0, and a token sees itself.",
            5: "Way 2: that is what position 4 sees. And position 7?",
        },
        {
            2: "Way 3: two vectors are in the loss. What was mixed into them on the way?",
            12: "Way 3: what weight does softmax give to padding?",
            3: "Way 3: those are the ones that do not.",
        },
    )
    because = {}
    for guess in itertools.product(range(14), repeat=3):
        wrong = [(n, mine) for n, (mine, true) in enumerate(zip(guess, want, strict=True)) if mine != true]
        if wrong:
            n, mine = wrong[0]
            because[guess] = hints[n].get(mine, f"Way {n + 1}: list whom 4 and 7 can see, and count.")
    choose(answer, want, because)


def _reached(mask, positions):
    """How many of T inputs get a gradient from `positions`, through two layers of attention with this mask [T, T]."""
    x = jax.random.normal(jax.random.key(0), (len(mask), 3))

    def network(x):
        for _ in range(2):
            x = x + jax.nn.softmax(jnp.where(mask, x @ x.T, -jnp.inf)) @ x
        return x[jnp.array(positions)].sum()

    return int((abs(jax.grad(network)(x)).max(-1) > 0).sum())


@exercise("10.4", minutes=10, difficulty=2)
def mlm_batch(answer, rng):
    def ask(rows, length, vocab_size, many):
        given = f"{rows} rows of {length} tokens"
        ids = rng.integers(FIRST_WORD, vocab_size, (rows, length))
        ids[:, 0], ids[:, -2], ids[:, -1] = 2, 3, 0  # [CLS] … [SEP] [PAD]
        before = ids.copy()
        came = answer(ids, np.random.default_rng(rng.integers(2**32)), vocab_size)
        if not isinstance(came, (tuple, list)) or len(came) != 3:
            raise Wrong("three arrays were expected: inputs, targets, weights.")
        inputs, targets, weights = map(np.asarray, came)
        for name, array in zip(("inputs", "targets", "weights"), (inputs, targets, weights), strict=True):
            if array.shape != ids.shape:
                raise Wrong(f"{given}: {name} has shape {array.shape}, that of ids was expected, {ids.shape}.")
        chosen, special = weights == 1, before < FIRST_WORD
        if not (targets == before)[chosen].all():
            at = tuple(np.argwhere(chosen & (targets != before))[0].tolist())
            hint = "The network would learn to copy what it sees. Who else holds the array that was written into?"
            raise Wrong(f"{given}: {before[at]} stood at {list(at)}, the target there is {targets[at]}. {hint}")
        if not (ids == before).all():
            raise Wrong(f"{given}: ids itself was changed, so the next epoch gets a spoilt text. Write into a copy.")
        if not np.isin(weights, (0, 1)).all() or weights.dtype.kind != "f":
            raise Wrong(f"{given}: weights should be 0.0 or 1.0, float32; {weights.dtype} came.")
        if (chosen & special).any():
            raise Wrong(f"{given}: a [CLS], [SEP] or [PAD] was chosen. Only words, from {FIRST_WORD} up, may be.")
        if ((inputs != before) & ~chosen).any():
            raise Wrong(f"{given}: a token was changed whose weight is 0. Nobody would learn what stood there.")
        if not many:
            return
        now, then = inputs[chosen], before[chosen]
        random = (now != MASK) & (now != then)
        if (now[random] < FIRST_WORD).any():
            raise Wrong(f"{given}: a random word is a special token. Draw from {FIRST_WORD} up to vocab_size - 1.")
        drawn = set(now[random].tolist())
        if random.sum() > 50 and len(drawn) == 1:
            raise Wrong(f"{given}: the random word is the same everywhere. Draw one for each position.")
        chance = 1 - 1 / (vocab_size - FIRST_WORD)  # that a random word is not the one that stood there
        shares = {
            "chosen, of the words": (chosen.sum() / (~special).sum(), 0.15),
            "[MASK], of the chosen": ((now == MASK).mean(), 0.8),
            "a random word, of the chosen": (random.mean() / chance, 0.1),
        }
        for what, (share, want) in shares.items():
            if abs(share - want) > 0.03:
                hint = ""
                if what.startswith("[MASK]"):
                    more = "One in five of the chosen becomes a random word or stays."
                    hint = more if share > want else "Does a later line overwrite what became [MASK]?"
                elif what.startswith("a random") and 0 < share < 0.04:
                    hint = "A tenth of all the chosen, not of those that are left."
                raise Wrong(f"{given}: {share:.0%} are {what}; {want:.0%} was expected. {hint}".rstrip())
        if drawn and max(drawn) < vocab_size - 1:
            raise Wrong(f"{given}: word {vocab_size - 1} is never drawn, the last of {vocab_size}. Is the range right?")
        if len({tuple(row) for row in chosen.tolist()}) < rows / 2:
            raise Wrong(f"{given}: the same positions are chosen in every row. Draw for each position.")

    ask(400, 50, 25, many=True)
    ask(150, 90, 17, many=True)
    ask(1, 5, 9, many=False)
    text = np.arange(FIRST_WORD, FIRST_WORD + 200).reshape(4, 50)
    _follows_rng(lambda rng: answer(text.copy(), rng, 205)[2])


def _follows_rng(chosen_with):
    """chosen_with(generator) → the array of what was chosen."""
    one, same, other = (np.asarray(chosen_with(np.random.default_rng(seed))) for seed in (1, 1, 2))
    if np.array_equal(one, other):
        hint = "Draw from the `rng` that is handed in, else each pass over the text hides the same."
        raise Wrong(f"two generators of different seeds, and the same was chosen with both. {hint}")
    if not np.array_equal(one, same):
        raise Wrong("two generators of the same seed, and not the same was chosen. Draw from `rng` and nothing else.")


@exercise("10.5", minutes=10, difficulty=2)
def choose_words(answer, rng):
    def ask(rows, length, rate, longest):
        given = f"{rows} rows of {length} tokens, rate {rate}"
        words = _random_words(rng, rows, length, longest)
        before = words.copy()
        chosen = np.asarray(answer(words, np.random.default_rng(rng.integers(2**32)), rate))
        if chosen.shape != words.shape:
            raise Wrong(f"{given}: shape {chosen.shape} came back, that of words was expected, {words.shape}.")
        if chosen.dtype != bool:
            raise Wrong(f"{given}: {chosen.dtype} came back, True or False were expected.")
        if not (words == before).all():
            raise Wrong(f"{given}: words itself was changed. Write into a copy.")
        if (chosen & (words < 0)).any():
            raise Wrong(f"{given}: a special token, -1, was chosen. What does indexing with -1 give in NumPy?")
        starts = np.diff(words, axis=1, prepend=-1) > 0  # the first piece of each word
        torn = (words[:, 1:] == words[:, :-1]) & (words[:, 1:] >= 0) & (chosen[:, 1:] != chosen[:, :-1])
        if torn.any():
            row, place = np.argwhere(torn)[0].tolist()
            hint = "are one word, only one of them is chosen. One draw a word, not one a piece."
            raise Wrong(f"{given}: tokens {place} and {place + 1} of row {row} {hint}")
        if rows < 100:
            return
        first, second = (np.array([row[w == n].any() for row, w in zip(chosen, words, strict=True)]) for n in (0, 1))
        if not first.any() and second.any() and not second.all():
            raise Wrong(f"{given}: word 0 is chosen in no row. Words count from 0, only -1 is special.")
        if first.all() or not first.any():
            raise Wrong(f"{given}: word 0 is chosen in all rows or in none. Draw anew for each row.")
        if (first == second).all():
            raise Wrong(f"{given}: words 0 and 1 always share their fate. Draw for each word, not once for each row.")
        sizes = np.array([[np.sum(row == word) for word in row] for row in words])  # pieces of each token's word
        one, many = chosen[starts & (sizes == 1)].mean(), chosen[starts & (sizes >= 3)].mean()
        if many > one + 0.1:
            hint = "Does a word get one draw, or one for each piece?"
            raise Wrong(f"{given}: {one:.0%} of short words, {many:.0%} of words of 3 pieces or more. {hint}")
        if abs(chosen[starts].mean() - rate) > 0.05:
            hint = "Is rate used?" if abs(chosen[starts].mean() - 0.15) < 0.03 else "Each word has the chance `rate`."
            raise Wrong(f"{given}: {chosen[starts].mean():.0%} of the words were chosen. {hint}")
        there, hit = words.max(axis=1) + 1, (starts & chosen).sum(axis=1)  # words of each row, and the chosen ones
        if all(np.ptp(hit[there == n]) == 0 for n in set(there.tolist())):
            hint = "Each word for itself: now more, now fewer."
            raise Wrong(f"{given}: rows with the same number of words all have the same number chosen. {hint}")

    ask(300, 24, 0.3, longest=5)
    ask(200, 30, 0.6, longest=4)
    ask(1, 6, 0.5, longest=3)
    none = np.asarray(answer(np.full((2, 4), -1), np.random.default_rng(0), 0.9))
    if none.shape != (2, 4) or none.any():
        raise Wrong("rows of nothing but special tokens: nothing can be chosen there.")
    _follows_rng(lambda rng: answer(_random_words(np.random.default_rng(0), 20, 24, 3), rng, 0.4))


def _random_words(rng, rows, length, longest):
    """[rows, length]: -1, then words 0, 1, 2, … of 1 to `longest` pieces, then -1."""
    words = np.full((rows, length), -1)
    for row in words:
        pieces = np.repeat(np.arange(length), rng.integers(1, longest + 1, length))
        end = length - 1 - rng.integers(0, 3) if length > 8 else length - 1
        row[1:end] = pieces[: end - 1]
    return words


@exercise("10.6", minutes=10, difficulty=3)
def draw(answer, rng):
    rows = 6000
    for words, temperature, top_k in ((7, 1.0, 4), (5, 0.5, 3), (6, 5.0, 3)):
        given = f"{words} words, temperature {temperature}, top_k {top_k}"
        logits = rng.permutation(np.linspace(-1.5, 1.5, words)) + rng.normal(size=words) * 0.05
        batch = jnp.asarray(np.tile(logits, (rows, 1)), jnp.float32)
        ids = _ids(answer(batch, jax.random.key(rng.integers(2**31)), temperature, top_k), rows, words, given)
        if len(set(ids.tolist())) == 1:
            hint = "Draw for each row; the most likely is not always it."
            raise Wrong(f"{given}: all {rows} rows gave the same word. {hint}")
        came = np.bincount(ids, minlength=words) / rows
        order = np.argsort(-logits)

        def shares(logits, k=top_k, order=order):
            p = np.zeros(len(logits))
            p[order[:k]] = np.exp(logits[order[:k]] - logits[order[:k]].max())
            return p / p.sum()

        def near(other, came=came):
            return np.abs(came - other).max() < 0.035

        want, weak = shares(logits / temperature), shares(logits * temperature)
        softmax = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        mistakes = {
            "Words beyond the top_k most likely came up.": shares(logits / temperature, words),
            "One word too few is left: the k-th itself stays.": shares(logits / temperature, max(top_k - 1, 1)),
            "One word too many is left.": shares(logits / temperature, min(top_k + 1, words)),
            "Is temperature used?": shares(logits),
            "A high temperature makes it more adventurous, not less: divide by it.": weak,
            "categorical wants logits; these look like draws from exp(probability).": shares(softmax),
            "The words kept come up equally often: is softmax in it?": shares(np.zeros(words)),
        }
        mistakes["Those are the least likely words."] = _least(logits / temperature, top_k)
        ranks = "That is a place in the order of the words, not a word: the second part of jax.lax.top_k holds those."
        mistakes[ranks] = np.sort(want)[::-1]
        cut = np.where(want > 0, logits / temperature, 0)
        mistakes["A word that is cut needs the logit -inf; with 0 it can still come up."] = shares(cut, words)
        mistakes["categorical wants logits: with probabilities words that were cut come up."] = shares(want, words)
        if not near(want):
            likeliest = min(mistakes, key=lambda hint, came=came: np.abs(came - mistakes[hint]).max())
            beyond = " Words beyond the top_k most likely came up." if came[order[top_k:]].any() else ""
            hint = f" {likeliest}" if near(mistakes[likeliest]) else beyond
            word = int(np.abs(came - want).argmax())
            raise Wrong(f"{given}: word {word} came in {came[word]:.0%} of draws, {want[word]:.0%} was expected.{hint}")
        if (came[order[top_k:]] > 0).any():
            raise Wrong(f"{given}: words beyond the top_k most likely came up.")

    logits = jnp.asarray([rng.permutation(9) + 3 * row for row in range(40)], jnp.float32)
    best = _ids(answer(logits, jax.random.key(1), 5.0, 1), 40, 9, "top_k 1")
    if not (best == np.asarray(logits.argmax(-1))).all():
        raise Wrong("top_k 1, rows that differ: only each row's most likely word is left. Each has its own threshold.")
    one, same, other = (np.asarray(answer(logits, jax.random.key(seed), 5.0, 9)) for seed in (2, 2, 3))
    if (one == other).all() or (one != same).any():
        raise Wrong("the draw must follow from `key` alone: the same key the same words, another key others.")
    _ids(answer(logits[:1], jax.random.key(0), 1.0, 3), 1, 9, "a batch of one")


def _ids(came, rows, words, given):
    ids = np.asarray(came)
    if ids.shape != (rows,):
        raise Wrong(f"{given}: shape {ids.shape} came back, one id a row was expected, ({rows},).")
    if ids.dtype.kind not in "iu":
        raise Wrong(f"{given}: {ids.dtype} came back, ids are integers. Draw a word, do not return its probability.")
    if ids.min() < 0 or ids.max() >= words:
        raise Wrong(f"{given}: id {ids.max()} came back, there are only {words} words.")
    return ids


def _least(logits, k):
    p, order = np.zeros(len(logits)), np.argsort(logits)[:k]
    p[order] = np.exp(logits[order])
    return p / p.sum()
