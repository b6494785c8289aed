"""The exercises of lesson 09: every mistake that its checks name is made here."""

import jax
import jax.numpy as jnp
from exercise_contract import ExerciseContract, from_notebook

from course_lib.checks.bert import BASE

MULTILINGUAL = 177_853_440  # as published for google-bert/bert-base-multilingual-cased


def tril(mask, **keywords):
    return jnp.tril(jnp.ones((mask.shape[1],) * 2, int), **keywords)


def to(mask):
    return mask[:, None, :]


def message(mask, prefix):
    return (jnp.arange(mask.shape[1]) < prefix[:, None]).astype(int)


def prefixed(mask, prefix, k=0):
    return to(mask) * (tril(mask, k=k) | message(mask, prefix)[:, None, :])


def apart(mask, prefix):
    """The message sees itself, and the answer sees itself."""
    own = message(mask, prefix)
    same = own[:, :, None] == own[:, None, :]
    return prefixed(mask, prefix) * same


def unit(x, axis=-1):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-9)


def masked(hidden, mask):
    return (hidden * mask[:, :, None]).sum(axis=1)


def mean(hidden, mask):
    return masked(hidden, mask) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)


def loader(turn, name=lambda key, path: path):
    """to_flax with its own idea of what is turned: turn(key, path, array) → array."""
    return lambda saved, table, shapes: {name(k, path): turn(k, path, saved[k]) for k, path in table.items()}


def only(condition):
    return loader(lambda key, path, array: array.T if condition(key, path, array) else array)


def reshaped(saved, table, shapes):
    return {path: saved[key].reshape(shapes[path]) for key, path in table.items()}


def flat_kernels(saved, table, shapes):
    return {path: saved[key].ravel() if path.endswith("kernel") else saved[key] for key, path in table.items()}


def without_pooler(saved, table, shapes):
    return {path: saved[k].T if path.endswith("kernel") else saved[k] for k, path in table.items() if "pool" not in k}


def with_extra(saved, table, shapes):
    return only(lambda key, path, array: path.endswith("kernel"))(saved, table, shapes) | {"classifier.bias": 0}


def gpt2(order=(0, 1, 2), causal=True, scaled=True, approximate=True, epsilon=1e-5, post=False, residual=True,
         second_norm=True, turned="", heads_first=False, over_normed=False, wide=True):  # fmt: skip
    """The layer of 9.6 with a mistake in it."""

    def layer(p, x, heads):
        def dense(name, x):
            weight = p[f"{name}.weight"]
            return x @ (weight.T if name == turned else weight) + p[f"{name}.bias"]

        def norm(name, x):
            deviation = jnp.sqrt(x.var(-1, keepdims=True) + epsilon)
            return (x - x.mean(-1, keepdims=True)) / deviation * p[f"{name}.weight"] + p[f"{name}.bias"]

        def attention(x):
            fused, (batch, length, width) = dense("attn.c_attn", x), x.shape
            if heads_first:
                thirds = jnp.moveaxis(fused.reshape(batch, length, heads, 3, -1), 3, 0)
            else:
                thirds = [part.reshape(batch, length, heads, -1) for part in jnp.split(fused, 3, axis=-1)]
            query, key, value = (thirds[i] for i in order)
            scores = jnp.einsum("bqnd,bknd->bnqk", query, key) / (jnp.sqrt(width / heads) if scaled else 1)
            scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e30) if causal else scores
            mixed = jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(scores), value)
            return dense("attn.c_proj", mixed.reshape(x.shape))

        def mlp(x):
            inner = jax.nn.gelu(dense("mlp.c_fc", x), approximate=approximate)
            return dense("mlp.c_proj", inner) if wide else inner

        if post:
            x = norm("ln_1", x + attention(x))
            return norm("ln_2", x + mlp(x))
        normed = norm("ln_1", x)
        x = (normed if over_normed else x if residual else 0) + attention(normed)
        normed = norm("ln_2", x) if second_norm else x
        return (normed if over_normed else x if residual else 0) + mlp(normed)

    return layer


class TestBert(ExerciseContract):
    lesson = "09_bert"
    wrong = {
        "two_sizes": [
            ("Which table has one row", (BASE, BASE)),
            ("how long is its row?", (BASE + 89_025, BASE)),
            ("instead of the old one", (BASE + 119_547 * 768, BASE)),
            ("the new word table alone", (119_547 * 768, BASE)),
            ("And the rest of the model?", (89_025 * 768, BASE)),
            ("no layer back to the vocabulary", (BASE + 2 * 89_025 * 768, BASE)),
            ("no bias over the vocabulary", (MULTILINGUAL + 89_025, BASE)),
            ("What changes is their size", (MULTILINGUAL + 1, BASE)),
            ("Where would the number of heads be in it?", (MULTILINGUAL, BASE + 12 * 4 * 4 * 48 * 768)),
            ("a whole number was expected", (float(MULTILINGUAL), BASE)),
            ("a whole number was expected", (MULTILINGUAL, "the same")),
        ],
        "prefix_mask": [
            ("That is GPT's mask", lambda mask, prefix: to(mask) * tril(mask)),
            ("That is BERT's mask", lambda mask, prefix: jnp.broadcast_to(to(mask), (*mask.shape, mask.shape[1]))),
            ("And the padding?", lambda mask, prefix: tril(mask) | message(mask, prefix)[:, None, :]),
            ("A padding token may look", lambda *given: given[0][:, :, None] * prefixed(*given)),
            ("has to see the message, too", apart),
            ("may look at itself, too", lambda *given: prefixed(*given, k=-1)),
            ("This looks ahead", lambda mask, prefix: to(mask) * (tril(mask).T | message(mask, prefix)[:, None, :])),
            ("not *from*", lambda mask, prefix: to(mask) * (tril(mask) | message(mask, prefix)[:, :, None])),
            ("prefix is a number of tokens", lambda mask, prefix: prefixed(mask, prefix + 1)),
            ("a message of its own length", lambda mask, prefix: prefixed(mask, prefix[:1])),
            ("one is enough", lambda mask, prefix: to(mask) * tril(mask) * message(mask, prefix)[:, None, :]),
            ("one for the heads comes later", lambda *given: prefixed(*given)[:, None]),
            ("do mask, [B, T], and prefix, [B], lack?", lambda mask, prefix: mask * tril(mask)),
            ("integers were expected", lambda *given: prefixed(*given).astype(float)),
        ],
        "sentence_vectors": [
            ("Two things are wrong", from_notebook(lambda nb: nb["broken_vectors"])),
            ("What stands at padding is in the mean", lambda hidden, mask: unit(hidden.mean(axis=1))),
            ("over the whole batch", lambda hidden, mask: unit(mean(hidden, mask), None)),
            ("over the whole batch", lambda hidden, mask: unit(masked(hidden, mask), None)),
            ("the length is its root", lambda hidden, mask: masked(hidden, mask) / jnp.maximum(
                (masked(hidden, mask) ** 2).sum(-1, keepdims=True), 1e-9)),
            ("over the batch, axis 0", lambda hidden, mask: unit(mean(hidden, mask), 0)),
            ("Is the scaling to length 1 missing?", mean),
            ("That is the sum over the tokens", lambda hidden, mask: masked(hidden, mask)),
            ("the vector of [CLS]", lambda hidden, mask: unit(hidden[:, 0])),
            ("each token was scaled on its own", lambda hidden, mask: unit(masked(unit(hidden), mask))),
            ("not by the sum of sizes", lambda hidden, mask: mean(hidden, mask) / jnp.maximum(
                jnp.abs(mean(hidden, mask)).sum(-1, keepdims=True), 1e-9)),
            ("What keeps 0/0 away?", lambda hidden, mask: masked(hidden, mask) / jnp.linalg.norm(
                masked(hidden, mask), axis=-1, keepdims=True)),
        ],
        "to_flax": [
            ("It is square: no shape can tell you", from_notebook(lambda nb: nb["broken_to_flax"])),
            ("came as it was stored", only(lambda key, path, array: False)),
            ("It is a table", only(lambda key, path, array: array.ndim == 2)),
            ("It is a table", only(lambda key, path, array: key.endswith("weight"))),
            ("It is a table", only(lambda key, path, array: path.endswith("kernel") or array.shape == (4, 4))),
            ("a reshape does not", reshaped),
            ("Turn it, do not reshape", flat_kernels),
            ("the model's paths were expected", loader(lambda key, path, array: array.T, lambda key, path: key)),
            ("pooler", without_pooler),
            ("classifier.bias is no path of the model", with_extra),
            ("a dictionary path → array was expected", lambda saved, table, shapes: list(saved.values())),
        ],
        "first_depths": [
            ("Mistake 1", (("embeddings", "nowhere", "embeddings", "end", "nowhere"),)),
            ("Mistake 2", (("layer 1", "end", "embeddings", "end", "nowhere"),)),
            ("Mistake 3", (("layer 1", "nowhere", "nowhere", "end", "nowhere"),)),
            ("Mistake 4", (("layer 1", "nowhere", "embeddings", "layer 1", "nowhere"),)),
            ("Mistake 5", (("layer 1", "nowhere", "embeddings", "end", "embeddings"),)),
            ("five words were expected", (("layer 1", "nowhere"),)),
            ("'layer 2' is none of the choices", (("layer 1", "nowhere", "embeddings", "layer 2", "nowhere"),)),
        ],
        "gpt2_layer": [
            ("BERT's order", gpt2(post=True)),
            ("where is the causal mask?", gpt2(causal=False)),
            ("the tanh form", gpt2(approximate=False)),
            ("this one is BERT's", gpt2(epsilon=1e-12)),
            ("this one is Flax's", gpt2(epsilon=1e-6)),
            ("A square weight was turned", gpt2(turned="attn.c_proj")),
            ("is there a transpose left", gpt2(turned="mlp.c_fc")),
            ("in this order", gpt2(order=(2, 0, 1))),
            ("Which third is the values?", gpt2(order=(0, 2, 1))),
            ("queries ask", gpt2(order=(1, 0, 2))),
            ("square root of the head's size", gpt2(scaled=False)),
            ("Where are the residuals?", gpt2(residual=False)),
            ("not its normalised copy", gpt2(over_normed=True)),
            ("Is ln_2 used?", gpt2(second_norm=False)),
            ("each third into heads", gpt2(heads_first=True)),
            ("shape", gpt2(wide=False)),
        ],
    }  # fmt: skip
