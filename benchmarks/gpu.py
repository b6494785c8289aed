"""What holds a training step on this device? The variants, kernels and memory of gpu.md; PyTorch is step.py's part.

    python benchmarks/gpu.py [--batch 128] [--length 128] [--shape bert-base|tiny]

BERT's step in bfloat16 with and without dropout, waited for and queued, with cuDNN's attention in place of bert.py's,
without Triton's kernels; the kernels that take longest; and XLA's temporaries beside what capacity.py calculates.
About four minutes on a GPU, compiling included. `--shape tiny` tries it anywhere.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from course_lib import bert
from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.capacity import matrix_rate, step_flops, training_memory
from course_lib.data import empty_batch
from course_lib.train import TrainConfig, loss_and_gradients, make_optimizer, update

STATIC = ("graph", "accumulate", "remat")
ON_GPU = jax.default_backend() == "gpu"


def flash_attention(self, x, attention_mask, *, first=None, rngs=None):
    """In place of BertSelfAttention's; it knows no dropout and does not say the weights."""
    query, key, value = (self._split_heads(part) for part in (self.query(x[:, :first]), self.key(x), self.value(x)))
    if ON_GPU and first is None:
        lengths = attention_mask.sum(-1).astype(jnp.int32)
        mixed = jax.nn.dot_product_attention(
            query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn"
        )
    else:
        mixed = jax.nn.dot_product_attention(query, key, value, mask=attention_mask[:, None, None, :].astype(bool))
    return self.output(mixed.reshape(*mixed.shape[:2], -1))


def measure(name: str, config: BertConfig, rows, rate: float, key=None, options=None, kernels: int = 0) -> None:
    jax.clear_caches()  # or a variant would find the program of the one before
    graph, params = nnx.split(BertForSequenceClassification(config, dtype="bfloat16", rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = make_optimizer(TrainConfig(learning_rate=1e-5), 1000)
    opt_state = optimizer.init(params)
    gradients_of = jax.jit(loss_and_gradients, static_argnames=STATIC, compiler_options=options or {})
    update_of = jax.jit(update, static_argnames="optimizer", donate_argnames=("params", "opt_state"))

    def step() -> None:
        nonlocal params, opt_state
        _, gradients = gradients_of(graph, params, rows, key, 1, False)
        params, opt_state = update_of(optimizer, params, opt_state, gradients)

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        jax.block_until_ready(params)
        return (time.perf_counter() - started) / steps

    compiling = seconds(1)
    seconds(2)
    waited, queued = statistics.median(seconds(1) for _ in range(12)), statistics.median(seconds(10) for _ in range(3))
    flops = step_flops(config, *rows.input_ids.shape)
    print(
        f"{name}: {1000 * waited:.1f} ms waited for, {1000 * queued:.1f} ms queued "
        f"({flops / queued / rate:.0%} of the matrix rate); compiled in {compiling:.0f} s",
        flush=True,
    )
    if kernels and ON_GPU:
        show_kernels(lambda: seconds(3), 3, kernels)


def show_kernels(work, steps: int, most: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            work()
        [trace] = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(trace)).planes
        took = collections.Counter()
        for plane in planes:
            for line in plane.lines if "GPU" in plane.name else []:
                for event in line.events if "Stream" in line.name else []:
                    took[event.name] += event.duration_ns / steps / 1e6
    print(f"  kernels: {took.total():.1f} ms a step")
    for name, milliseconds in took.most_common(most):
        print(f"  {milliseconds:8.2f} ms  {name[:90]}")


def show_memory(config: BertConfig, batch: int, length: int) -> None:
    print("MiB of temporaries of the gradient's program: calculated, XLA's")
    settings = [
        {},
        {"dropout": True},
        {"remat": True},
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "dropout": True},
        {"dtype": "bfloat16", "remat": True},
        {"dtype": "bfloat16", "accumulate": 4},
    ]
    for chosen in settings:
        dtype, dropout = chosen.get("dtype", "float32"), chosen.get("dropout", False)
        accumulate, remat = chosen.get("accumulate", 1), chosen.get("remat", False)
        model = nnx.eval_shape(lambda dtype=dtype: BertForSequenceClassification(config, dtype=dtype, rngs=nnx.Rngs(0)))
        graph, params = nnx.split(model, nnx.Param)
        key = jax.random.key(0) if dropout else None
        program = jax.jit(loss_and_gradients, static_argnames=STATIC).lower(
            graph, params, empty_batch(batch, length), key, accumulate, remat
        )
        found = program.compile().memory_analysis().temp_size_in_bytes / 2**20
        asked = training_memory(config, batch, length, **chosen).activations / 2**20
        print(f"  {chosen}: {asked:,.0f}, {found:,.0f}, ratio {found / asked:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--shape", choices=["bert-base", "tiny"], default="bert-base")
    arguments = parser.parse_args()
    config = (BertConfig.tiny if arguments.shape == "tiny" else BertConfig.bert_base)(labels=tuple("abcdefgh"))
    rate = matrix_rate(dtype="bfloat16")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {rate / 1e12:.3g} TFLOP/s in a matrix product")
    rows, rng = empty_batch(arguments.batch, arguments.length), np.random.default_rng(0)
    rows.input_ids[:] = rng.integers(1000, 20_000, rows.input_ids.shape)
    rows.attention_mask[:], rows.weights[:] = 1, 1
    rows = jax.device_put(rows)
    measure("dropout", config, rows, rate, key=jax.random.key(0))
    measure("without dropout", config, rows, rate, kernels=20)
    if ON_GPU:
        measure("without Triton's kernels", config, rows, rate, options={"xla_gpu_enable_triton_gemm": False})
    own, bert.BertSelfAttention.__call__ = bert.BertSelfAttention.__call__, flash_attention
    measure("cuDNN's attention", config, rows, rate, kernels=20)
    bert.BertSelfAttention.__call__ = own
    show_memory(config, arguments.batch, arguments.length)


if __name__ == "__main__":
    main()
