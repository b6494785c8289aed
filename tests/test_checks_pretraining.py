"""The exercises of lesson 10: every mistake that its checks name is made here."""

import jax
import jax.numpy as jnp
import numpy as np
from exercise_contract import ExerciseContract, from_notebook

MASK, FIRST_WORD = 4, 5
GLOBAL = np.random.default_rng(0)  # as np.random is: the same for all calls


def per_word(logits, targets):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]


def of_losses(combine):
    return lambda logits, targets, weights: combine(per_word(logits, targets), weights)


def naive_softmax(logits, targets, weights):
    p = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
    losses = -jnp.log(jnp.take_along_axis(p, targets[..., None], axis=-1)[..., 0])
    return jnp.exp((losses * weights).sum() / weights.sum())


def kept_above(floor):
    def perplexity(logits, targets, weights):
        p = jnp.take_along_axis(jax.nn.softmax(logits), targets[..., None], axis=-1)[..., 0]
        return jnp.exp(mean_of(-jnp.log(p + floor), weights))

    return perplexity


def mean_of(losses, weights):
    return (losses * weights).sum() / weights.sum()


def rows_of(losses, weights):
    return (losses * weights).sum(-1) / weights.sum(-1)


def batch_maker(masked=0.8, random=0.1, rate=0.15, special=False, in_place=False, low=FIRST_WORD, high=0, target=None,
                spoil=False, one_word=False, weights=np.float32, shared=False):  # fmt: skip
    """The solution of 10.4, with one thing about it wrong."""

    def mlm_batch(ids, rng, vocab_size):
        truth = ids.copy()
        chosen = rng.random(ids[:1].shape if shared else ids.shape) < rate
        chosen = np.broadcast_to(chosen, ids.shape) & (special | (ids >= FIRST_WORD))
        luck = rng.random(ids.shape)
        words = rng.integers(low, vocab_size + high, () if one_word else ids.shape)
        inputs = np.where(chosen & (luck < masked), MASK, ids)
        inputs = np.where(chosen & (luck >= masked) & (luck < masked + random), words, inputs)
        if spoil:
            inputs = np.where(~chosen & (luck < 0.01), words, inputs)
        if in_place:
            ids[...] = inputs
        return inputs, inputs if target == "inputs" else truth, chosen.astype(weights)

    return mlm_batch


def overwritten(ids, rng, vocab_size):
    chosen, luck = (ids >= FIRST_WORD) & (rng.random(ids.shape) < 0.15), rng.random(ids.shape)
    inputs = np.where(chosen & (luck < 0.8), MASK, ids)
    return np.where(chosen & (luck < 0.9), rng.integers(FIRST_WORD, vocab_size, ids.shape), inputs), ids, chosen * 1.0


def any_piece(words, rng, rate):
    pieces = (rng.random(words.shape) < rate) & (words >= 0)
    return np.array([[word >= 0 and pieces[b, row == word].any() for word in row] for b, row in enumerate(words)])


def draws_of(shape, rate=None, special=False):
    def choose_words(words, rng, given_rate):
        draws = rng.random(shape(*words.shape)) < (given_rate if rate is None else rate)
        draws = np.broadcast_to(draws, words.shape)
        return np.take_along_axis(draws, words if special else np.maximum(words, 0), 1) & (special | (words >= 0))

    return choose_words


whole_words = draws_of(lambda b, t: (b, t))


def so_many_words(words, rng, rate):
    """Of each row the same share of its words."""
    chosen = [rng.permutation(row.max() + 1)[: round(rate * (row.max() + 1))] for row in words]
    return np.array([np.isin(row, of_row) & (row >= 0) for row, of_row in zip(words, chosen, strict=True)])


def sampler(k=lambda k, v: k, scale=lambda logits, t: logits / t, kept=lambda logits, low: logits >= low, pick=None):
    def draw(logits, key, temperature, top_k):
        low = jax.lax.top_k(logits, k(top_k, logits.shape[-1]))[0][:, -1:]
        chosen = jnp.where(kept(logits, low), scale(logits, temperature), -jnp.inf)
        return (pick or jax.random.categorical)(key, chosen)

    return draw


class TestPretraining(ExerciseContract):
    lesson = "10_pretraining"
    wrong = {
        "perplexity_on_paper": [
            ("the mean of 1/p", (4.5, 2000)),
            ("1 over the mean of p", (3.56, 2000)),
            ("That is the mean of p.", (0.28125, 2000)),
            ("That is a probability.", (1 / 4, 2000)),
            ("the loss itself, in nats", (1.386, 2000)),
            ("the loss in bits", (2, 2000)),
            ("all four together", (256, 2000)),
            ("Write the mean of -log p first", (3, 2000)),
            ("2,000 equally likely words: 7.6 is not the perplexity. That is the loss, in nats", (4, 7.6)),
            ("That is the loss, in bits", (4, 10.97)),
            ("the probability of each word", (4, 1 / 2000)),
            ("unless it is sure", (4, 1)),
            ("a number was expected, a str came", ("four", 2000)),
        ],
        "perplexity": [
            ("where is the exponential?", of_losses(mean_of)),
            ("are the weights used?", of_losses(lambda losses, w: jnp.exp(losses.mean()))),
            ("not by all positions", of_losses(lambda losses, w: jnp.exp((losses * w).mean()))),
            ("not the mean of exponentials", of_losses(lambda losses, w: mean_of(jnp.exp(losses), w))),
            ("or the sum?", of_losses(lambda losses, w: jnp.exp((losses * w).sum()))),
            ("Is a sign wrong?", of_losses(lambda losses, w: jnp.exp(-mean_of(losses, w)))),
            ("base 2", of_losses(lambda losses, w: jnp.exp(mean_of(losses, w) / jnp.log(2)))),
            ("not one for each row", of_losses(lambda losses, w: jnp.exp(rows_of(losses, w)))),
            ("here every row does", of_losses(lambda losses, w: jnp.exp(rows_of(losses, w).mean()))),
            ("mean of the rows' perplexities", of_losses(lambda losses, w: jnp.exp(rows_of(losses, w)).mean())),
            ("Do probabilities of 0", naive_softmax),
            ("kept above 1e-09?", kept_above(1e-9)),
            ("kept above 1e-12?", kept_above(1e-12)),
        ],
        "who_learns": [
            ("Way 1: two vectors are in the loss", ((2, 8, 9),)),
            ("Way 2: is there a token", ((12, 12, 9),)),
            ("counted twice", ((12, 13, 9),)),
            ("a token sees itself", ((12, 7, 9),)),
            ("And position 7?", ((12, 5, 9),)),
            ("Way 3: what weight", ((12, 8, 12),)),
            ("Way 3: list whom", ((12, 8, 8),)),
            ("three numbers were expected; 2 came", ((12, 8),)),
        ],
        "mlm_batch": [
            ("Who else holds the array", from_notebook(lambda nb: nb["broken_mlm_batch"])),
            ("Who else holds the array", batch_maker(target="inputs")),
            ("ids itself was changed", batch_maker(in_place=True)),
            ("was chosen. Only words", batch_maker(special=True)),
            ("overwrite what became [MASK]", overwritten),
            ("are a random word, of the chosen; 10% was expected", batch_maker(random=0.2)),
            ("becomes a random word or stays", batch_maker(masked=1.0)),
            ("not of those that are left", batch_maker(random=0.02)),
            ("different seeds", lambda ids, rng, vocab_size: batch_maker()(ids, np.random.default_rng(0), vocab_size)),
            ("of the same seed", lambda ids, rng, vocab_size: batch_maker()(ids, GLOBAL, vocab_size)),
            ("are chosen, of the words", batch_maker(rate=0.5)),
            ("a random word is a special token", batch_maker(low=0)),
            ("is never drawn", batch_maker(high=-1)),
            ("whose weight is 0", batch_maker(spoil=True)),
            ("the same everywhere", batch_maker(one_word=True)),
            ("the same positions are chosen in every row", batch_maker(shared=True)),
            ("should be 0.0 or 1.0", batch_maker(weights=bool)),
            ("three arrays were expected", lambda ids, rng, vocab_size: ids),
        ],
        "choose_words": [
            ("not one a piece", lambda words, rng, rate: (rng.random(words.shape) < rate) & (words >= 0)),
            ("or one for each piece?", any_piece),
            ("Is rate used?", draws_of(lambda b, t: (b, t), rate=0.15)),
            ("What does indexing with -1 give", draws_of(lambda b, t: (b, t), special=True)),
            ("Draw anew for each row", draws_of(lambda b, t: (1, t))),
            ("only -1 is special", lambda words, rng, rate: whole_words(words, rng, rate) & (words > 0)),
            ("Each word for itself", so_many_words),
            ("different seeds", lambda words, rng, rate: whole_words(words, np.random.default_rng(0), rate)),
            ("of the same seed", lambda words, rng, rate: whole_words(words, GLOBAL, rate)),
            ("not once for each row", draws_of(lambda b, t: (b, 1))),
            ("True or False were expected", lambda words, rng, rate: (words == 0).astype(int)),
            ("that of words was expected", lambda words, rng, rate: words[0] > 0),
        ],
        "draw": [
            ("Words beyond the top_k", sampler(k=lambda k, v: v)),
            ("the k-th itself stays", sampler(kept=lambda logits, low: logits > low)),
            ("the second part of jax.lax.top_k", lambda logits, key, t, k: jax.random.categorical(
                key, jax.lax.top_k(logits, k)[0] / t)),
            ("with 0 it can still come up", sampler(pick=lambda key, logits: jax.random.categorical(
                key, jnp.where(jnp.isinf(logits), 0, logits)))),
            ("words that were cut come up", sampler(pick=lambda key, logits: jax.random.categorical(
                key, jax.nn.softmax(logits)))),
            ("beyond the top_k most likely", sampler(pick=lambda key, logits: jax.random.categorical(
                key, jnp.where(jnp.isinf(logits), -2, logits)))),
            ("One word too many", sampler(k=lambda k, v: min(k + 1, v))),
            ("Is temperature used?", sampler(scale=lambda logits, t: logits)),
            ("divide by it", sampler(scale=lambda logits, t: logits * t)),
            ("categorical wants logits", sampler(scale=lambda logits, t: jax.nn.softmax(logits / t))),
            ("is softmax in it?", sampler(scale=lambda logits, t: logits * 0)),
            ("the least likely", lambda logits, key, t, k: jax.random.categorical(
                key, jnp.where(logits <= -jax.lax.top_k(-logits, k)[0][:, -1:], logits / t, -jnp.inf))),
            ("gave the same word", sampler(pick=lambda key, logits: logits.argmax(-1))),
            ("gave the same word", sampler(pick=lambda key, logits: jnp.full(
                len(logits), jax.random.categorical(key, logits[0])))),
            ("Each has its own threshold", sampler(kept=lambda logits, low: logits >= low[:1])),
            ("must follow from `key` alone", sampler(pick=lambda key, logits: jax.random.categorical(
                jax.random.key(7), logits))),
            ("one id a row", sampler(pick=lambda key, logits: jax.nn.softmax(logits))),
        ],
    }  # fmt: skip
