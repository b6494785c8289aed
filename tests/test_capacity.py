"""The calculator against what JAX really does: parameters, arithmetic, and what is kept for the backward pass."""

import jax
import numpy as np
import pytest
from flax import nnx

from course_lib import train
from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.capacity import activation_bytes, kept_bytes, matrix_rate, parameter_count, step_flops, training_memory
from course_lib.data import Examples, empty_batch

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
    lowered = jax.jit(train.loss_and_gradients, static_argnums=0).lower(
        graph, params, empty_batch(16, length), jax.random.key(0)
    )
    counted = lowered.cost_analysis()["flops"]  # of all operations, also those that are not matrix products
    assert 0.85 * counted < step_flops(MINILM, 16, length) <= counted


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "batch", "length"),
    [(MINILM, 16, 104), (MINILM, 32, 24), (MINILM, 4, 512), (BertConfig.bert_base(labels=LABELS), 32, 128)],
)
def test_memory_for_the_backward_pass_within_15_percent(config, batch, length, dtype, remat, dropout):
    settings = (config, batch, length, dtype, remat, dropout)
    assert 0.85 < activation_bytes(*settings) / kept_bytes(*settings) < 1.15


def test_the_parts_add_up():
    whole, parts = training_memory(MINILM, 32, 64), training_memory(MINILM, 32, 64, accumulate=4)
    assert parts.activations * 4 == whole.activations and parts.gradients == 2 * whole.gradients
    assert parts.adam == whole.adam == 2 * whole.best == 2 * whole.parameters
    assert whole.total == whole.parameters * 5 + whole.activations
    assert training_memory(MINILM, 32, 64, dropout=True).activations > whole.activations


def buffers() -> dict[int, int]:
    """Address → bytes of each buffer that a JAX array lies in."""
    arrays = [array for array in jax.live_arrays() if not jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)]
    return {array.unsafe_buffer_pointer(): array.nbytes for array in arrays}


def test_fit_holds_what_the_calculator_says(monkeypatch):
    config = BertConfig.tiny(max_position_embeddings=64, labels=LABELS)  # nearly all of it is parameters
    held, (gradients, update) = [], train.programs()

    class Watched:
        lower = gradients.lower

        def __call__(self, *arguments):
            given = jax.block_until_ready(gradients(*arguments))
            held.append(sum(size for address, size in buffers().items() if address not in others))
            return given

    monkeypatch.setattr(train, "programs", lambda: (Watched(), update))
    examples = Examples([[101, 7592 + n, 102] for n in range(24)], np.arange(24, dtype=np.int32) % 3)
    kept = jax.live_arrays()  # of other tests: held here, so that no address of theirs is used again
    others = buffers()
    model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
    train.fit(model, examples, examples, train.TrainConfig(epochs=2, batch_size=8))
    memory = training_memory(config, 8, 8)
    del kept
    assert max(held) == pytest.approx(memory.total - memory.activations, rel=0.05)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradients_of_a_part_come_on_top_of_their_sum(accumulate):
    config = BertConfig.tiny(max_position_embeddings=64, labels=LABELS)
    graph, params = abstract(config)
    lowered = jax.jit(train.loss_and_gradients, static_argnums=(0, 4)).lower(
        graph, params, empty_batch(8, 8), None, accumulate
    )
    plan = lowered.compile().memory_analysis()
    memory = training_memory(config, 8, 8, accumulate=accumulate)
    planned = plan.output_size_in_bytes + plan.temp_size_in_bytes
    assert planned == pytest.approx(memory.gradients + memory.activations, rel=0.15)


def test_a_matrix_rate_is_measured():
    assert 1e8 < matrix_rate(256, repeats=2) < 1e16
