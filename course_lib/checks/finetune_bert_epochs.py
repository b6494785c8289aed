"""Three tiny BERTs that play the epochs of exercise 11.4, messages on which they differ, and what mistakes report."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

NUMBERED = "Labels and logits are numbered differently. What does logit 0 stand for? model.config.labels says it."
ON_TEST = "Was the epoch chosen by its score on test? Or is it always the last? Validation is there to choose it."
ON_VALIDATION = "That is the accuracy on validation. It chose the epoch, so it flatters as well."


def reports(snapshots, validation, test, classes) -> dict[str, tuple[int, float]]:
    """The right report under '', and what mistakes make of it under their hints, the most likely first."""
    guesses = {
        part: [np.asarray(model(*data[:2])).argmax(-1) for model in snapshots]
        for part, data in (("validation", validation), ("test", test))
    }

    def accuracies(part, names, order):
        true = np.array([order(names).index(name) for name in names])
        return [float(np.mean(guess == true)) for guess in guesses[part]]

    reports = {}
    for way, order in {
        "": lambda names: classes,
        " (In the order of the alphabet.)": lambda names: sorted(set(names)),
        " (In the order in which they come.)": lambda names: list(dict.fromkeys(names)),
    }.items():
        on_validation = accuracies("validation", validation[2], order)
        on_test = accuracies("test", test[2], order)
        best, tempting = int(np.argmax(on_validation)), int(np.argmax(on_test))
        wrong = NUMBERED + way if way else ""
        reports[wrong] = (best + 1, on_test[best])
        reports[f"{ON_TEST} {wrong}".strip()] = (tempting + 1, on_test[tempting])
        reports[f"{ON_VALIDATION} {wrong}".strip()] = (best + 1, on_validation[best])
    right = reports.pop("")
    return {"": right} | {hint: report for hint, report in reports.items() if report != right}


def watched(classes, seed, examined_with_rngs):
    """A tiny BERT that notes at each call whether it got rngs, and answers without dropout."""
    graph, params, plain = _tiny_bert(seed)

    class Watched:
        config = dataclasses.replace(plain, labels=classes)

        def __call__(self, input_ids, attention_mask, token_type_ids=None, *, rngs=None):
            examined_with_rngs.append(rngs is not None)
            return _logits(graph, params, jnp.asarray(input_ids), jnp.asarray(attention_mask), token_type_ids)

    return Watched()


@functools.partial(jax.jit, static_argnames="graph")  # operation by operation, the first check would take ten seconds
def _logits(graph, params, *texts):
    from flax import nnx

    return nnx.merge(graph, params)(*texts)


@functools.cache
def _tiny_bert(seed):
    """Random and large weights: their answers differ from text to text."""
    from flax import nnx

    from course_lib.bert import BertConfig, BertForSequenceClassification

    sizes = dict(vocab_size=50, max_position_embeddings=16, num_hidden_layers=1, initializer_range=0.5)
    config = BertConfig.tiny(**sizes, labels=tuple("abcd"))  # four, for whatever names
    return *nnx.split(BertForSequenceClassification(config, rngs=nnx.Rngs(seed))), config


def labelled(snapshots, best, second, count, classes, left_out, rng, share):
    """Texts with names such that epoch `best` has about `share` right, and `second` most of the others."""
    ids = rng.integers(1, 50, size=(160, 8))
    mask = np.ones_like(ids)
    mask[::2, 5:] = 0
    guesses = [np.asarray(model(ids, mask)).argmax(-1) for model in snapshots]
    true = np.where(rng.random(len(ids)) < share, guesses[best], guesses[second])
    usable = [i for i, label in enumerate(true) if classes[label] not in left_out][:count]
    names = [classes[true[i]] for i in usable]
    return jnp.asarray(ids[usable]), jnp.asarray(mask[usable]), names
