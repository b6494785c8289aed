import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.explain import attention_maps, attention_rollout, integrated_gradients

IDS = [101, 2073, 2003, 2026, 20463, 1029, 102]
BASELINE = [101, 0, 0, 0, 0, 0, 102]


@pytest.fixture(scope="module")
def model():
    config = BertConfig.tiny(max_position_embeddings=32, initializer_range=0.3, labels=("a", "b", "c"))
    return BertForSequenceClassification(config, rngs=nnx.Rngs(0))


def logit_of(model, x, target):
    """The logit of `target` for embedded tokens float [T, H], without padding."""
    mask = jnp.ones((1, len(x)), jnp.int32)
    return model.classifier(model.bert.pool(model.bert.encode(x[None], mask)))[0, target]


def embed(model, ids):
    return model.bert.embeddings(jnp.asarray([ids]))[0]  # [T, H]


@pytest.mark.parametrize("target", [0, 2])
def test_scores_are_the_path_integral_of_each_tokens_slope(model, target):
    x, start = embed(model, IDS), embed(model, BASELINE)
    nodes, weights = np.polynomial.legendre.leggauss(40)  # another rule than the library's, and no padding
    slope = jax.jit(jax.grad(lambda x: logit_of(model, x, target)))
    expected = np.zeros(len(IDS))
    for alpha, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        gradient = slope(start + alpha * (x - start))
        expected += weight * np.asarray((gradient * (x - start)).sum(axis=-1))
    got = integrated_gradients(model, IDS, BASELINE, target, points=512)
    np.testing.assert_allclose(got.scores, expected, atol=1e-3 * np.abs(expected).max())


def test_the_ends_are_the_models_own_logits(model):
    got = integrated_gradients(model, IDS, BASELINE, 1)
    ones = jnp.ones((1, len(IDS)), jnp.int32)
    assert got.at_input == pytest.approx(float(model(jnp.asarray([IDS]), ones)[0, 1]), abs=1e-4)
    assert got.at_baseline == pytest.approx(float(model(jnp.asarray([BASELINE]), ones)[0, 1]), abs=1e-4)


def test_scores_add_up_and_more_points_come_closer(model):
    few, many = (integrated_gradients(model, IDS, BASELINE, 1, points=points) for points in (3, 256))
    assert many.gap < 0.005 < few.gap
    assert many.scores.sum() == pytest.approx(many.at_input - many.at_baseline, rel=0.005)


@pytest.mark.parametrize("points", [2, 31, 32, 33])
def test_points_that_do_not_fill_a_batch_change_nothing_but_the_sum(model, points):
    x, start = embed(model, IDS), embed(model, BASELINE)
    alphas = np.linspace(0, 1, points)
    slope = jax.jit(jax.grad(lambda x: logit_of(model, x, 1)))
    slopes = [slope(start + a * (x - start)) for a in alphas]
    expected = (np.trapezoid(np.stack(slopes), alphas, axis=0) * (x - start)).sum(axis=-1)
    got = integrated_gradients(model, IDS, BASELINE, 1, points=points)
    np.testing.assert_allclose(got.scores, expected, atol=1e-4)
    assert got.at_input == pytest.approx(float(logit_of(model, x, 1)), abs=1e-4)


def test_a_token_that_is_in_both_inputs_scores_nothing(model):
    baseline = [101, 0, 2003, 0, 0, 0, 102]
    scores = integrated_gradients(model, IDS, baseline, 0).scores
    assert (scores[[0, 2, 6]] == 0).all() and (scores[[1, 3, 4, 5]] != 0).all()


def test_input_and_baseline_must_be_of_one_length(model):
    with pytest.raises(ValueError, match="token_ids has 7 tokens and baseline_ids 6"):
        integrated_gradients(model, IDS, BASELINE[:-1], 0)


def test_attention_maps_are_those_of_the_forward_pass(model):
    maps = attention_maps(model, IDS)
    assert maps.shape == (2, 4, 7, 7)
    np.testing.assert_allclose(maps.sum(axis=-1), 1, atol=1e-5)  # nothing goes to the padding
    x, ones = model.bert.embeddings(jnp.asarray([IDS])), jnp.ones((1, 7), jnp.int32)
    for layer, got in zip(model.bert.layers, maps, strict=True):
        np.testing.assert_allclose(got, layer.attention.weights(x, ones)[0], atol=1e-5)
        x = layer(x, ones)


def test_rollout_by_hand_for_two_layers_and_two_tokens():
    first = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])  # two heads, mean: all 1/2
    second = np.array([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])  # all look at token 1
    # Half attention, half residual: [[3/4, 1/4], [1/4, 3/4]], then [[1/2, 1/2], [0, 1]] times that.
    np.testing.assert_allclose(attention_rollout(np.stack([first, second])), [[0.5, 0.5], [0.25, 0.75]])


def test_rollout_gives_shares(model):
    rollout = attention_rollout(attention_maps(model, IDS))
    assert rollout.shape == (7, 7) and (rollout >= 0).all()
    np.testing.assert_allclose(rollout.sum(axis=-1), 1, atol=1e-5)
