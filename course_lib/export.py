"""A fine-tuned model as files that run without this course: `course export DIR`.

    model.stablehlo      the computation, for CPU, CUDA and TPU, for any number of texts of any length
    weights.safetensors  its numbers, in 32, 16 or 8 bits
    tokenizer.json       opened by the package tokenizers
    about.json           the labels, the longest text in tokens, how the weights are stored
    predict.py           20 lines that load and run it; they need jax, flatbuffers, safetensors, tokenizers

StableHLO is what JAX hands to its compiler, in a form that is kept stable: a file can be read by the JAX of six months
later (https://docs.jax.dev/en/latest/export/export.html). The weights are an argument of the computation and not part
of it, so that they can be stored in another way, or replaced, without touching it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export as jax_export
from safetensors import SafetensorError
from safetensors.flax import save_file

from course_lib import CourseError
from course_lib.files import move_into
from course_lib.predict import Predictor

PLATFORMS = ("cpu", "cuda", "tpu")
STORAGE = ("float32", "bfloat16", "int8")
SCALE = "/scale"  # the scales of an int8 matrix are stored under its name with this behind it
PAD_TO = 16  # predict.py pads a batch to a multiple of this, so that few lengths are compiled

SCRIPT = Path(__file__).parent / "data" / "exported_predict.py"


def to_int8(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit weights: int8 values and float32 scales with matrix ≈ values · scales.

    The numbers along `axis` share a scale: the largest of them, in size, becomes ±127. A channel of zeros stays zeros.
    """
    scales = np.abs(matrix).max(axis=axis, keepdims=True) / 127
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.round(matrix / scales).astype(np.int8), scales


def store(arrays: Mapping[str, np.ndarray], storage: str) -> dict[str, np.ndarray]:
    """float32 arrays → what is saved. Matrices are stored as `storage` says; vectors, which are small, as they are.

    In int8, each output of a dense layer has a scale, and each row of an embedding table (a token, a position).
    """
    if storage not in STORAGE:
        raise CourseError(f"--weights {storage}: choose one of {', '.join(STORAGE)}")
    stored = {}
    for name, array in arrays.items():
        array = np.asarray(array, np.float32)
        if array.ndim < 2 or storage == "float32":
            stored[name] = array
        elif storage == "bfloat16":
            stored[name] = array.astype(jnp.bfloat16)
        else:
            stored[name], stored[name + SCALE] = to_int8(array, axis=0 if name.endswith("kernel") else 1)
    return stored


def restore(stored: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The float32 arrays again, as well as they were stored. Works inside jax.jit, where XLA can fuse it."""
    arrays = {}
    for name, array in stored.items():
        if not name.endswith(SCALE):
            array = jnp.asarray(array).astype(jnp.float32)
            arrays[name] = array * stored[name + SCALE] if name + SCALE in stored else array
    return arrays


def parameters(model: nnx.Module) -> dict[str, np.ndarray]:
    """Each parameter under its name with dots: "bert.layers.0.attention.query.kernel"."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in flat}


def probabilities_of(model: nnx.Module):
    """The function (stored weights, input_ids [B, T], attention_mask [B, T]) → float32 probabilities [B, classes]."""
    graph, state = nnx.split(model, nnx.Param)
    flat = nnx.to_flat_state(state)

    def probabilities(stored, input_ids, attention_mask):
        arrays = restore(stored)
        filled = [(path, variable.replace(arrays[".".join(map(str, path))])) for path, variable in flat]
        rebuilt = nnx.merge(graph, nnx.from_flat_state(filled))
        return jax.nn.softmax(rebuilt(input_ids, attention_mask))

    return probabilities


def export(folder: str | Path, out: str | Path, storage: str = "float32") -> Path:
    """Write the fine-tuned model in `folder` to `out` as described above; all files or none. Raises CourseError."""
    predictor, out = Predictor(folder), Path(out)
    stored = store(parameters(predictor.model), storage)
    longest = predictor.max_length
    batch, length = jax_export.symbolic_shape("batch, length", constraints=[f"length <= {longest}"])
    tokens = jax.ShapeDtypeStruct((batch, length), np.int32)
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in stored.items()}
    program = jax_export.export(jax.jit(probabilities_of(predictor.model)), platforms=PLATFORMS)(shapes, tokens, tokens)
    tokenizer = predictor.tokenizer.backend_tokenizer
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding(pad_to_multiple_of=PAD_TO if longest % PAD_TO == 0 else None)
    about = {"labels": predictor.labels, "longest": longest, "weights": storage, "platforms": PLATFORMS}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".exporting-") as half:
            half = Path(half)
            (half / "model.stablehlo").write_bytes(program.serialize())
            save_file(stored, half / "weights.safetensors")
            (half / "weights.safetensors").chmod(0o644)  # safetensors writes files that only their owner may read
            (half / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), "utf-8", newline="\n")
            (half / "about.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")
            (half / "predict.py").write_bytes(SCRIPT.read_bytes())
            move_into(out, half, first="weights.safetensors", last="about.json")
    except (OSError, SafetensorError) as error:  # of a full disk, safetensors says SafetensorError
        raise CourseError(f"{out}: could not be written ({getattr(error, 'strerror', None) or error})") from error
    return out
