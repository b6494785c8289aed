"""The calculator against what JAX really does: parameters, arithmetic, and what is kept for the backward pass."""

import jax
import pytest
from flax import nnx

from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.capacity import activation_bytes, kept_bytes, matrix_rate, parameter_count, step_flops, training_memory
from course_lib.data import empty_batch
from course_lib.train import loss_and_gradients

LABELS = ("a", "b", "c")
MINILM = BertConfig.minilm_l6(labels=LABELS)


def abstract(config):
    return nnx.split(nnx.eval_shape(lambda: BertForSequenceClassification(config, rngs=nnx.Rngs(0))), nnx.Param)


@pytest.mark.parametrize("config", [MINILM, BertConfig.tiny(labels=LABELS), BertConfig.bert_large(labels=LABELS)])
def test_parameters_are_counted_to_the_last_one(config):
    assert parameter_count(config) == sum(leaf.size for leaf in jax.tree.leaves(abstract(config)[1]))


@pytest.mark.parametrize("length", [24, 128])
def test_the_arithmetic_is_what_xla_counts(length):
    graph, params = abstract(MINILM)
    lowered = jax.jit(loss_and_gradients, static_argnums=0).lower(
        graph, params, empty_batch(16, length), jax.random.key(0)
    )
    counted = lowered.cost_analysis()["flops"]  # of all operations, also those that are not matrix products
    assert 0.85 * counted < step_flops(MINILM, 16, length) <= counted


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "batch", "length"),
    [(MINILM, 16, 104), (MINILM, 32, 24), (BertConfig.bert_base(labels=LABELS), 32, 128)],
)
def test_memory_for_the_backward_pass_within_15_percent(config, batch, length, dtype, remat):
    ratio = activation_bytes(config, batch, length, dtype, remat) / kept_bytes(config, batch, length, dtype, remat)
    assert 0.85 < ratio < 1.15


def test_the_parts_add_up():
    whole, parts = training_memory(MINILM, 32, 64), training_memory(MINILM, 32, 64, accumulate=4)
    assert parts.activations * 4 == whole.activations and parts.adam == whole.adam == 2 * whole.parameters
    assert whole.total == whole.parameters * 4 + whole.activations


def test_a_matrix_rate_is_measured():
    assert 1e8 < matrix_rate(256, repeats=2) < 1e16
