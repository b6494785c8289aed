"""The exercises of lesson 08: every mistake that its checks name is made here."""

import jax
import jax.numpy as jnp
import numpy as np
from exercise_contract import ExerciseContract, from_notebook

HIDDEN = jnp.finfo(jnp.float32).min


def attend(query, key, value, mask, *, divide=None, axis=-1, hidden=HIDDEN):
    scores = query @ key.T / (query.shape[-1] ** 0.5 if divide is None else divide)
    return jax.nn.softmax(jnp.where(mask == 1, scores, hidden), axis=axis) @ value


def scores_of(query, key):
    return query @ key.T / query.shape[-1] ** 0.5


def late_mask(query, key, value, mask):
    return jax.nn.softmax(scores_of(query, key)) * mask @ value


def late_mask_mended(query, key, value, mask):
    weights = jax.nn.softmax(scores_of(query, key)) * mask
    return weights / weights.sum(-1, keepdims=True) @ value


def own_softmax(query, key, value, mask):
    powers = jnp.exp(scores_of(query, key)) * mask
    return powers / powers.sum(-1, keepdims=True) @ value


def heads_of(query, key, mask, heads, *, reshape=True, size=None, axis=True, hidden=HIDDEN, use=True):
    """The weights of 8.3, right as it stands; each keyword brings one of the bugs, or another, back."""
    batch, length, width = query.shape
    order = (batch, length, heads, -1) if reshape else (batch, heads, length, -1)
    query, key = (x.reshape(order).swapaxes(1, 2) if reshape else x.reshape(order) for x in (query, key))
    scores = query @ key.swapaxes(2, 3) / ((width // heads) ** 0.5 if size is None else size(width, width // heads))
    visible = mask[:, None, None, :] if axis else mask[:, None, :, None]
    return jax.nn.softmax(jnp.where(visible == 1, scores, hidden) if use else scores)


def both_ends(query, key, mask, heads):
    scores = jnp.log(jnp.maximum(heads_of(query, key, mask, heads), 1e-30))
    return jax.nn.softmax(jnp.where((mask[:, None, :, None] * mask[:, None, None, :]) == 1, scores, HIDDEN))


def root_of_width(width, size):
    return width**0.5


def tril(mask, k=0):
    return jnp.tril(jnp.ones((mask.shape[1], mask.shape[1]), bool), k)


def back_of(weights, mask, offset=-1):
    """What each token but the first gives to the one before it, [B, N, T - 1], and which of them are real."""
    return jnp.diagonal(weights, offset=offset, axis1=2, axis2=3), mask[:, None, 1:]


def mean_back(weights, mask, offset=-1, divide=None):
    back, counts = back_of(weights, mask, offset)
    return (back * counts).sum(axis=(0, 2)) / (counts.sum() if divide is None else divide)


def mean_of_means(weights, mask):
    back, counts = back_of(weights, mask)
    return ((back * counts).sum(axis=2) / counts.sum(axis=2)).mean(axis=0)


def mean_back_of_each(weights, mask):
    back, counts = back_of(weights, mask)
    return (back * counts).sum(axis=2) / counts.sum(axis=2)


def diagonal_itself(weights, mask):
    counts = mask[:, None, 1:]
    return (jnp.diagonal(weights, axis1=2, axis2=3)[..., 1:] * counts).sum(axis=(0, 2)) / counts.sum()


class TestAttention(ExerciseContract):
    lesson = "08_attention"
    wrong = {
        "how_many_weights": [
            ("as a query does", ((8, 50, 12, 32), 16)),
            ("Does each head draw its own?", ((8, 50, 50), 16)),
            ("In which order", ((8, 50, 50, 12), 16)),
            ("In which order", ((12, 8, 50, 50), 16)),
            ("A factor was asked for", ((8, 12, 50, 50), 8 * 12 * 200 * 200)),
            ("such as (8, 50, 12, 32).", ("8, 12, 50, 50", 16)),
            ("How many are in the batch?", ((12, 50, 50), 16)),
            ("what comes out", ((8, 50, 384), 16)),
            ("at how many does each of them look?", ((8, 12, 50, 50), 4)),
            ("What do they make together?", ((8, 12, 50, 50), 8)),
            ("not three", ((8, 12, 50, 50), 64)),
            ("a tuple was expected", (240_000, 16)),
        ],
        "masked_attention": [
            ("Is the mask used?", lambda q, k, v, mask: attend(q, k, v, jnp.ones_like(mask))),
            ("wrong way round", lambda q, k, v, mask: attend(q, k, v, 1 - mask)),
            ("exp(0) is 1", lambda *given: attend(*given, hidden=0)),
            ("no longer sum to 1", late_mask),
            ("divided by its sum after", late_mask_mended),
            ("seeing the raw scores", own_softmax),
            ("not low enough", lambda *given: attend(*given, hidden=-1e4)),
            ("do not add it", lambda q, k, v, mask: jax.nn.softmax(scores_of(q, k) - 1e4 * (1 - mask)) @ v),
            ("the root of D missing", lambda *given: attend(*given, divide=1)),
            ("not by D", lambda q, k, v, mask: attend(q, k, v, mask, divide=q.shape[-1])),
            ("not the number of tokens", lambda q, k, v, mask: attend(q, k, v, mask, divide=len(k) ** 0.5)),
            ("a value has E numbers", lambda q, k, v, mask: attend(q, k, v, mask, divide=v.shape[-1] ** 0.5)),
            ("over who looks", lambda *given: attend(*given, axis=0)),
            ("What do they mix?", lambda q, k, v, mask: attend(q, k, jnp.eye(len(k)), mask)),
            ("Is the softmax missing?", lambda q, k, v, mask: jnp.where(mask == 1, scores_of(q, k), 0) @ v),
            ("raised TypeError", lambda q, k, v, mask: q @ "k"),
            ("Write the shapes below one another", lambda q, k, v, mask: q @ k),
        ],
        "three_bugs_in_attention": [
            ("(3 bugs left.)", from_notebook(lambda notebook: notebook["broken_weights"])),
            ("does one token's head get? (One bug", lambda *given: heads_of(*given, reshape=False)),
            ("looked at, the last axis. (One bug", lambda *given: heads_of(*given, axis=False)),
            ("the size of one head. (One bug", lambda *given: heads_of(*given, size=root_of_width)),
            ("(2 bugs left.)", lambda *given: heads_of(*given, size=root_of_width, axis=False)),
            ("does one token's head get? (2", lambda *given: heads_of(*given, reshape=False, axis=False)),
            ("the size of one head. (2", lambda *given: heads_of(*given, reshape=False, size=root_of_width)),
            ("not of the number of heads", lambda *given: heads_of(*given, size=lambda width, d: (width // d) ** 0.5)),
            ("What padding itself sees", both_ends),
            ("the other order of N and D", lambda q, k, mask, heads: heads_of(*(
                x.reshape(*x.shape[:2], -1, heads).swapaxes(2, 3).reshape(x.shape) for x in (q, k)), mask, heads)),
            ("Is the attention mask used?", lambda *given: heads_of(*given, use=False)),
            ("not by the size itself", lambda *given: heads_of(*given, size=lambda width, size: size)),
            ("Is the division gone?", lambda *given: heads_of(*given, size=lambda width, size: 1)),
            ("hides too well", lambda *given: heads_of(*given, hidden=-jnp.inf)),
        ],
        "what_shuffling_changes": [
            ("Question 1", ((True, True, True, True),)),
            ("Question 2", ((False, True, True, True),)),
            ("Question 3", ((False, False, False, True),)),
            ("Question 4", ((False, False, True, False),)),
            ("four answers were expected, 3 came", ((False, False, True),)),
        ],
        "decoder_mask": [
            ("[B, T, T]. Is padding hidden, too?", lambda mask: tril(mask)),
            ("Is padding hidden, too?", lambda mask: tril(mask) & (mask[:, None, :] >= 0)),
            ("what comes later hidden", lambda mask: (tril(mask) >= 0) & (mask[:, None, :] == 1)),
            ("The wrong triangle", lambda mask: tril(mask).T & (mask[:, None, :] == 1)),
            ("may see itself", lambda mask: tril(mask, -1) & (mask[:, None, :] == 1)),
            ("not where it looks", lambda mask: tril(mask) & (mask[:, :, None] == 1)),
            ("not where it looks", lambda mask: tril(mask) & (mask[:, :, None] * mask[:, None, :] == 1)),
            ("not `|`", lambda mask: tril(mask) | (mask[:, None, :] == 1)),
            ("which one does the mask [B, T] lack?", lambda mask: tril(mask) & (mask == 1)),
            ("the other way round", lambda mask: ~(tril(mask) & (mask[:, None, :] == 1))),
            ("True or False were expected", lambda mask: tril(mask) * mask[:, None, :]),
        ],
        "look_back": [
            ("Is padding among", lambda weights, mask: back_of(weights, mask)[0].mean(axis=(0, 2))),
            ("long messages count more", mean_of_means),
            ("the next token", lambda *given: mean_back(*given, offset=1)),
            ("the diagonal itself", diagonal_itself),
            ("the first included", lambda weights, mask: (
                jnp.diagonal(weights, axis1=2, axis2=3) * mask[:, None]).sum(axis=(0, 2)) / mask.sum()),
            ("Which entries of the mask", lambda weights, mask: (
                back_of(weights, mask)[0] * mask[:, None, :-1]).sum(axis=(0, 2)) / mask[:, :-1].sum()),
            ("divide by fewer", lambda weights, mask: mean_back(weights, mask, divide=mask.sum())),
            ("the number to divide by.", lambda weights, mask: mean_back(weights, mask, divide=mask[:, 1:].size)),
            ("Nor is the first", lambda weights, mask: mean_back(weights, mask, divide=mask.size)),
            ("How many tokens took part?", lambda weights, mask: mean_back(weights, mask, divide=1)),
            ("a single number came back", lambda *given: mean_back(*given).mean()),
            ("over all messages", mean_back_of_each),
        ],
    }  # fmt: skip


def test_the_published_prediction_cell_runs_and_says_what_the_check_says():
    from exercise_contract import run_notebook

    names, _ = run_notebook("solutions", "08_attention")
    assert names["shuffle_test"]() == names["changed"]
    assert np.shape(names["shape"]) == (4,)
