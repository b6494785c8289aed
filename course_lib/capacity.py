"""What training a BERT takes, before anything is trained: arithmetic, memory, and how to measure both.

The formulas count what `bert.BertForSequenceClassification` does, whose last layer computes [CLS] only. Letters as in
bert.py: B examples, T tokens each, H hidden size, N heads; I is the intermediate size.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.data import empty_batch
from course_lib.train import classification_loss


def parameter_count(config: BertConfig) -> int:
    """Of the classifier with pooler: embeddings, layers, pooler, one row a label."""
    width, wide = config.hidden_size, config.intermediate_size
    tables = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    layer = 4 * (width * width + width) + (width * wide + wide) + (wide * width + width) + 4 * width
    head = width * width + width + (width + 1) * len(config.labels)
    return tables * width + 2 * width + config.num_hidden_layers * layer + head


def step_flops(config: BertConfig, batch: int, length: int) -> int:
    """Floating-point operations of the matrix products in one training step; a multiply-add counts as two.

    The backward pass has two products for each one of the forward pass (Kaplan et al. 2020,
    https://arxiv.org/abs/2001.08361, section 2.1), so a step is three forward passes.
    """
    width, wide = config.hidden_size, config.intermediate_size

    def layer(queries: int) -> int:
        keys_and_values = 2 * length * width * width
        rest = queries * (2 * width * width + 2 * width * wide)  # query, output and the two dense layers
        attention = 2 * queries * length * width  # scores and mixing
        return 2 * batch * (keys_and_values + rest + attention)

    return 3 * ((config.num_hidden_layers - 1) * layer(length) + layer(1))


def activation_bytes(
    config: BertConfig, batch: int, length: int, dtype: str = "float32", remat: bool = False, dropout: bool = False
) -> int:
    """What the forward pass keeps for the backward pass, without the parameters.

    For each layer: 4 arrays [B, T, I], 6 [B, T, H] and 1 [B, N, T, T] in `dtype`; always in float32 6 [B, T, H], the
    inputs and outcomes of LayerNorm, and 2 [B, N, T, T], the softmax; 1 [B, N, T, T] of one byte, the attention mask.
    With `dropout` 2 more [B, T, H] and 1 more [B, N, T, T], each with a mask of one byte. With `remat` only what enters
    a layer.

    This is what JAX asks to keep. XLA may compute some of it again where that is cheaper: an H200 held 0.5 to 0.8 of it
    (benchmarks/gpu.md), a CPU may hold more, and with jax 0.10 ignores `remat`.
    """
    size = jnp.dtype(dtype).itemsize
    one = batch * length * config.hidden_size
    embeddings = 3 * one * 4 + dropout * one * (size + 1)
    if remat:
        return config.num_hidden_layers * one * size + embeddings
    last = (2 * size + 4) * one  # keys, values, and what they are made from
    return (config.num_hidden_layers - 1) * _layer_bytes(config, batch, length, size, dropout) + last + embeddings


def _layer_bytes(config: BertConfig, batch: int, length: int, size: int, dropout: bool) -> int:
    one, wide = batch * length * config.hidden_size, batch * length * config.intermediate_size
    squares = batch * config.num_attention_heads * length * length
    for_dropout = dropout * (2 * one + squares) * (size + 1)
    return size * (4 * wide + 6 * one) + 6 * 4 * one + squares * (2 * 4 + size + 1) + for_dropout


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that `train.fit` holds at once, on each device of a data-parallel run (the best epoch: on the first)."""

    parameters: int  # float32, whatever the model computes in
    gradients: int  # with `accumulate`, the sum and those of the part at work
    adam: int  # two running means a parameter
    best: int  # the parameters of the best epoch so far
    activations: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def training_memory(
    config: BertConfig,
    batch: int,
    length: int,
    dtype: str = "float32",
    remat: bool = False,
    accumulate: int = 1,
    dropout: bool = False,
) -> Memory:
    """For `batch` examples of `length` tokens on one device, in `accumulate` parts.

    With `remat` one layer's inside, the one at work, comes on top of what is kept.
    """
    whole, part = 4 * parameter_count(config), batch // accumulate
    activations = activation_bytes(config, part, length, dtype, remat, dropout)
    if remat:
        activations += _layer_bytes(config, part, length, jnp.dtype(dtype).itemsize, dropout)
    return Memory(whole, whole if accumulate == 1 else 2 * whole, 2 * whole, whole, activations)


def kept_bytes(
    config: BertConfig, batch: int, length: int, dtype: str = "float32", remat: bool = False, dropout: bool = False
) -> int:
    """`activation_bytes`, measured: JAX traces the step, and what its backward pass closes over is added up.

    Nothing is computed, so this also works for models that do not fit here.
    """
    model = nnx.eval_shape(lambda: BertForSequenceClassification(config, dtype=dtype, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(model, nnx.Param)
    rows = empty_batch(batch, length)

    def loss_of(params):
        model = nnx.merge(graph, params)
        rngs = nnx.Rngs(dropout=jax.random.key(0)) if dropout else None
        logits = model(rows.input_ids, rows.attention_mask, remat=remat, rngs=rngs)
        return classification_loss(logits, rows)

    kept = jax.tree.leaves(jax.eval_shape(lambda params: jax.vjp(loss_of, params)[1], params))
    of_parameters = {leaf.shape for leaf in jax.tree.leaves(params)}  # they are there anyway
    arrays = [
        leaf for leaf in kept if leaf.shape not in of_parameters and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    return sum(array.size * array.dtype.itemsize for array in arrays)


def matrix_rate(size: int | None = None, dtype: str = "float32", repeats: int = 5) -> float:
    """FLOP/s of this device in the product of two square matrices: the most that a step can hope for. Median.

    `size` is the matrices' width: unless given, 2048 on a CPU and 8192 on what needs more work to be busy. Their
    numbers are random: a GPU multiplies zeros and ones at a tenth more than it keeps up with real ones.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    started = time.perf_counter()
    while time.perf_counter() - started < 0.3:  # a GPU at rest takes a moment to reach its clock
        product(a, a).block_until_ready()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready([product(a, a) for _ in range(4)])  # one waits while another is computed
        seconds.append((time.perf_counter() - started) / 4)
    return 2 * size**3 / float(np.median(seconds))
