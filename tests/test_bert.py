"""The model against PyTorch transformers' numbers (tests/goldens), and against the mistakes that ports make."""

import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import course_lib
from course_lib.bert import (
    BertConfig,
    BertEmbeddings,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    _dropout,
)
from course_lib.checkpoint import load_pretrained
from course_lib.pretrained import fetch

GOLDENS = Path(__file__).parent / "goldens"
TINY = GOLDENS / "tiny.npz"
MINILM = Path(course_lib.__file__).parent / "data" / "minilm_reference.npz"  # in the package: lesson 09 shows it
TOLERANCE = 1e-5


def golden(path):
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def inputs(arrays):
    return arrays["input_ids"], arrays["attention_mask"], arrays["token_type_ids"]


def differences(bert: BertModel, expected: dict) -> dict[str, float]:
    """Largest absolute difference at three depths, over the real tokens: what stands at padding is never used."""
    ids, mask, types = inputs(expected)
    hidden = {"after_embeddings": bert.embeddings(ids, types)}
    hidden["after_layer_1"] = bert.layers[0](hidden["after_embeddings"], mask)
    hidden["at_the_end"] = bert(ids, mask, types)
    real = mask.astype(bool)
    return {name: float(np.abs(np.asarray(x) - expected[name])[real].max()) for name, x in hidden.items()}


@pytest.fixture(scope="module")
def tiny():
    return load_pretrained(GOLDENS / "tiny")


def test_tiny_bert_equals_pytorch_at_every_depth(tiny):
    expected = golden(TINY)
    found = differences(tiny.bert, expected)
    assert max(found.values()) <= TOLERANCE, found
    assert np.abs(tiny(*inputs(expected)) - expected["classifier"]).max() <= TOLERANCE


def test_masked_lm_equals_pytorch():
    expected = golden(TINY)
    model = load_pretrained(GOLDENS / "tiny_masked_lm", architecture=BertForMaskedLM)
    real = expected["attention_mask"].astype(bool)
    logits = np.asarray(model(*inputs(expected)))
    assert logits.shape == (*expected["input_ids"].shape, 100)
    assert np.abs(logits - expected["masked_lm"])[real].max() <= TOLERANCE  # logits up to 30: 1e-5 is 3e-7 of that


@pytest.fixture(scope="module")
def minilm():
    return load_pretrained(fetch(), architecture=BertModel)


def test_real_minilm_equals_pytorch_at_every_depth(minilm):
    found = differences(minilm, golden(MINILM))
    assert max(found.values()) <= TOLERANCE, found


def _tanh_gelu(bert):
    for layer in bert.layers:
        layer.activation = "gelu_new"


def _flax_epsilon(bert):
    for norm in [bert.embeddings.norm, *(layer.output_norm for layer in bert.layers)]:
        norm.epsilon = 1e-6


def _untransposed(bert):
    query = bert.layers[0].attention.query  # square, so that nothing complains about its shape
    query.kernel[...] = query.kernel[...].T


def _no_mask(bert):
    for layer in bert.layers:
        layer.attention.weights = lambda x, mask, first, real=layer.attention.weights: real(
            x, jnp.ones_like(mask), first
        )


@pytest.mark.parametrize("mistake", [_tanh_gelu, _flax_epsilon, _untransposed, _no_mask])
def test_parity_fails_for_a_model_with(mistake, minilm):
    wrong = nnx.clone(minilm)
    mistake(wrong)
    found = differences(wrong, golden(MINILM))
    assert max(found.values()) > 10 * TOLERANCE, f"{mistake.__name__} went unnoticed: {found}"


def test_asking_for_the_first_tokens_only_gives_what_they_have_in_the_whole(tiny):
    ids, mask, _ = inputs(golden(TINY))
    embedded = tiny.bert.embeddings(ids)
    whole, first = tiny.bert.encode(embedded, mask), tiny.bert.encode(embedded, mask, first=1)
    assert first.shape == (len(ids), 1, whole.shape[-1])
    np.testing.assert_allclose(first, whole[:, :1], atol=1e-6)


def test_a_triangular_mask_hides_what_comes_later(tiny):
    ids, mask, _ = inputs(golden(TINY))
    seen = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1]), int)) * mask[:, None, :]  # [B, T from, T to]
    changed = ids.copy()
    changed[:, 5:] = 7
    before, after = tiny.bert(ids, seen), tiny.bert(changed, seen)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not np.allclose(before[:, 5], after[:, 5], atol=1e-3)
    np.testing.assert_allclose(tiny.bert.encode(tiny.bert.embeddings(ids), seen, first=2), before[:, :2], atol=1e-6)


def test_what_stands_at_padding_changes_nothing(tiny):
    ids, mask, types = inputs(golden(TINY))
    other = np.where(mask == 1, ids, 42)
    np.testing.assert_allclose(tiny(ids, mask, types), tiny(other, mask, types), atol=1e-6)


def test_a_row_that_is_all_padding_gives_finite_logits_and_gradients(tiny):
    ids, mask = np.zeros((2, 4), int), np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    loss, grads = nnx.jit(nnx.value_and_grad(lambda model: (model(ids, mask) ** 2).sum()))(tiny)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_attention_weights_sum_to_one_and_skip_padding(tiny):
    ids, mask, _ = inputs(golden(TINY))
    weights = np.asarray(tiny.bert.layers[0].attention.weights(tiny.bert.embeddings(ids), mask))
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    hidden = np.broadcast_to(mask[:, None, None, :] == 0, weights.shape)
    assert weights[hidden].max() == 0


def test_rngs_mean_dropout_and_no_rngs_mean_none(tiny):
    ids, mask, types = inputs(golden(TINY))
    assert (tiny(ids, mask, types) == tiny(ids, mask, types)).all()
    first, second = tiny(ids, mask, types, rngs=nnx.Rngs(1)), tiny(ids, mask, types, rngs=nnx.Rngs(2))
    assert not np.allclose(first, second) and not np.allclose(first, tiny(ids, mask, types))
    assert (first == tiny(ids, mask, types, rngs=nnx.Rngs(1))).all()


@pytest.mark.parametrize(("rate", "dtype"), [(0.1, jnp.float32), (0.7, jnp.float32), (0.1, jnp.bfloat16)])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate, dtype):
    x = jnp.ones((8, 250, 30), dtype)  # 30 is not a multiple of 4
    dropped = _dropout(rate, x, nnx.Rngs(0))
    assert dropped.dtype == dtype
    zeros = np.asarray(dropped == 0)
    assert abs(zeros.mean() - round(rate * 256) / 256) < 0.006  # 4 standard deviations of 60,000 draws at most
    assert abs(float(dropped.astype(jnp.float32).mean()) - 1) < 0.01 + 4 * (rate / (1 - rate) / x.size) ** 0.5
    kept = 256 / (256 - round(rate * 256))
    np.testing.assert_allclose(np.unique(np.asarray(dropped, np.float32)), [0, kept], rtol=float(jnp.finfo(dtype).eps))
    for one, other in ((zeros[..., :-1], zeros[..., 1:]), (zeros[0], zeros[1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.06  # neighbours share a random word, and no fate
    assert (_dropout(rate, x, None) == x).all() and (_dropout(0.0, x, nnx.Rngs(0)) == x).all()


def test_without_segments_all_tokens_are_of_the_first(tiny):
    ids, mask, _ = inputs(golden(TINY))
    np.testing.assert_allclose(tiny(ids, mask), tiny(ids, mask, np.zeros_like(ids)), atol=1e-5)


def test_rematerialisation_changes_no_gradient(tiny):
    ids, mask, types = inputs(golden(TINY))

    @nnx.jit(static_argnames="remat")
    def gradients(model, remat):
        return nnx.grad(lambda model: (model(ids, mask, types, remat=remat) ** 2).sum())(model)

    with_remat, without = (jax.tree.leaves(gradients(tiny, remat=remat)) for remat in (True, False))
    for one, other in zip(with_remat, without, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_inputs_can_be_given_by_name(tiny):
    ids, mask, types = inputs(golden(TINY))
    by_name = tiny(input_ids=ids, attention_mask=mask, token_type_ids=types)
    assert (by_name == tiny(ids, mask, types)).all()


def test_layer_norm_keeps_its_digits_where_the_mean_is_large(tiny):
    """E[x²] − E[x]² in float32 would be off by more than the variance."""
    x = 3_000 + np.random.default_rng(0).normal(size=(1, 5, tiny.config.hidden_size))
    norm = nnx.clone(tiny.bert.embeddings.norm)
    norm.scale[...], norm.bias[...] = jnp.ones_like(norm.scale[...]), jnp.zeros_like(norm.bias[...])
    expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(norm(jnp.float32(x)), expected, atol=1e-3)


def test_modules_store_parameters_and_nothing_else(tiny):
    _, params, rest = nnx.split(tiny, nnx.Param, ...)
    assert params and not jax.tree.leaves(rest)


def test_bfloat16_computes_in_bfloat16_close_to_float32():
    expected = golden(TINY)
    model = load_pretrained(GOLDENS / "tiny", dtype=jnp.bfloat16)
    ids, mask, types = inputs(expected)
    assert model.bert(ids, mask, types).dtype == jnp.bfloat16
    assert model.bert.layers[0].output.kernel[...].dtype == jnp.float32
    logits = model(ids, mask, types)
    assert logits.dtype == jnp.float32
    assert 1e-4 < np.abs(logits - expected["classifier"]).max() < 0.5  # logits of size 5, 8 bits of precision


def test_the_named_sizes_have_the_published_number_of_parameters():
    def count(config):
        model = nnx.eval_shape(lambda: BertModel(config, rngs=nnx.Rngs(0)))
        return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))

    assert count(BertConfig.bert_base()) == 109_482_240
    assert count(BertConfig.bert_large()) == 335_141_888
    assert count(BertConfig.minilm_l6()) == 22_713_216
    assert BertConfig.tiny() == BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )


def test_impossible_sizes_and_inputs_are_refused(tiny):
    with pytest.raises(ValueError, match="hidden_size 30 cannot be divided among 4"):
        BertConfig.tiny(hidden_size=30)
    with pytest.raises(ValueError, match="hidden_act 'swish' is not one of"):
        BertConfig.tiny(hidden_act="swish")
    with pytest.raises(ValueError, match="65 tokens a row, this model has positions for 64"):
        tiny(np.ones((1, 65), int), np.ones((1, 65), int))
    ids = np.ones((2, 3), int)
    for shape in [(2,), (3, 3), (1, 3), (2, 1, 3), (2, 3, 4)]:
        with pytest.raises(ValueError, match=r"for 2 × 3 tokens it must be \[2, 3\] or \[2, 3, 3\]"):
            tiny(ids, np.ones(shape, int))
    with pytest.raises(ValueError, match="made with with_pooler=False"):
        BertModel(BertConfig.tiny(), with_pooler=False, rngs=nnx.Rngs(0)).pool(jnp.ones((1, 2, 32)))
    with pytest.raises(ValueError, match="a classifier needs class names"):
        BertForSequenceClassification(replace(BertConfig.tiny(), labels=()), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_adds_up_token_by_token_for_the_word_table_only_and_in_float32(dtype):
    """A GPU does additions to one place one after the other: the segment's row took four fifths of a training step."""
    embeddings = BertEmbeddings(BertConfig.tiny(), dtype=dtype, rngs=nnx.Rngs(0))
    graph, params = nnx.split(embeddings)
    lowered = jax.jit(jax.grad(lambda params: nnx.merge(graph, params)(jnp.ones((2, 8), int)).sum())).lower(params)
    added_to = re.findall(r"stablehlo\.scatter.*?\}\) : \(tensor<(\S+)>", lowered.as_text(), re.DOTALL)
    assert added_to == ["30522x32xf32"]
