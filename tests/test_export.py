"""The exported model: it runs without the course, and says the same."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from jax import export as jax_export
from safetensors.flax import load_file

from course_lib import CourseError, cli
from course_lib.bert import BertConfig, BertForSequenceClassification
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.export import PLATFORMS, SCRIPT, export, parameters, restore, store, to_int8
from course_lib.predict import Predictor

TEXTS = ["where is it", "a", "the lamp that I sent back a month ago is still not paid back " * 3]
FILES = {"model.stablehlo", "weights.safetensors", "tokenizer.json", "about.json", "predict.py"}
# Runs predict.py as it is, in a Python that cannot import the course.
WITHOUT_COURSE = "import runpy, sys; sys.modules['course_lib'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0])"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder, tokenizer):
    model = load_pretrained(tiny_folder, labels=("delivery", "refund", "product"))
    return save_pretrained(model, tmp_path_factory.mktemp("export") / "router", tokenizer)


@pytest.fixture(scope="module")
def probabilities(folder):
    logits = Predictor(folder).logits(TEXTS)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    return {
        storage: export(folder, tmp_path_factory.mktemp(storage), storage)
        for storage in ("float32", "bfloat16", "int8")
    }


def opened(folder):
    return jax_export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))


def test_everything_is_there_and_readable_by_others(exported):
    for storage, out in exported.items():
        assert {path.name for path in out.iterdir()} == FILES
        assert all(path.stat().st_mode & 0o044 for path in out.iterdir())
        about = json.loads((out / "about.json").read_text())
        assert about["labels"] == ["delivery", "refund", "product"] and about["weights"] == storage


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_the_script_runs_without_the_course_and_says_the_same(exported, probabilities, storage, tmp_path):
    command = [sys.executable, "-c", WITHOUT_COURSE, str(exported[storage] / "predict.py"), *TEXTS]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [label for label, _ in rows] == [("delivery", "refund", "product")[i] for i in probabilities.argmax(-1)]
    tolerance = 2e-6 if storage == "float32" else 0.02
    np.testing.assert_allclose([float(p) for _, p in rows], probabilities.max(-1), atol=tolerance)


def test_no_label_drives_the_terminal_that_the_script_prints_on(exported, tmp_path):
    shutil.copytree(exported["float32"], tmp_path / "exported")
    about = json.loads((tmp_path / "exported" / "about.json").read_text("utf-8"))
    about |= {"labels": ["\x1b[2Jü", "\u202eü", "ü\nü"]}
    (tmp_path / "exported" / "about.json").write_text(json.dumps(about), "utf-8")
    command = [sys.executable, str(tmp_path / "exported" / "predict.py"), *TEXTS]
    lines = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
    assert {line.split("\t")[0] for line in lines} <= {"\\x1b[2Jü", "\\u202eü", "ü\\nü"} and len(lines) == len(TEXTS)


def test_the_script_without_texts_says_in_one_line_how_it_is_used():
    ran = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.startswith("Label the texts that it is given: python predict.py ")
    assert len(ran.stderr.splitlines()) == 1


def test_the_script_is_short_and_names_no_module_of_the_course():
    lines = [line for line in SCRIPT.read_text().splitlines() if line.strip()]
    assert len(lines) <= 20 and "course_lib" not in SCRIPT.read_text()


def test_the_file_is_lowered_for_all_platforms_and_any_batch_and_length(exported, folder):
    program = opened(exported["float32"])
    assert program.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
    weights = load_file(exported["float32"] / "weights.safetensors")
    model = nnx.jit(load_pretrained(folder))
    for shape in ((1, 3), (5, 17), (2, 64)):
        ids = np.random.default_rng(0).integers(1000, 2000, shape).astype(np.int32)
        mask = np.ones_like(ids)
        want = jax.nn.softmax(model(ids, mask))
        np.testing.assert_allclose(program.call(weights, ids, mask), want, atol=1e-6)
    with pytest.raises(ValueError):
        ids = np.ones((1, 65), np.int32)  # this model has 64 positions
        program.call(weights, ids, ids)


def test_smaller_weights_make_a_smaller_file(exported):
    sizes = {storage: (out / "weights.safetensors").stat().st_size for storage, out in exported.items()}
    assert sizes["bfloat16"] < 0.52 * sizes["float32"] and sizes["int8"] < 0.30 * sizes["float32"]


def test_int8_rounds_each_channel_by_its_own_scale():
    matrix = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * [[1e-3, 1, 100, 0]]
    values, scales = to_int8(matrix, axis=0)
    assert values.dtype == np.int8 and scales.shape == (1, 4) and scales.dtype == np.float32
    assert np.abs(values).max(axis=0).tolist() == [127, 127, 127, 0]
    assert (np.abs(values * scales - matrix) <= scales / 2 * 1.001).all()
    rows, scales = to_int8(matrix.T, axis=1)
    assert scales.shape == (4, 1) and (rows.T == values).all()


def test_what_is_stored_comes_back_as_well_as_its_bits_allow(folder):
    arrays = parameters(load_pretrained(folder))
    for storage, error in (("float32", 0), ("bfloat16", 2**-8), ("int8", 0.5 / 127 * 1.001)):
        stored = store(arrays, storage)
        back = restore(stored)
        assert back.keys() == arrays.keys()
        for name, array in arrays.items():
            axis = 0 if name.endswith("kernel") else -1
            allowed = error * np.abs(array).max(axis=axis, keepdims=True) if array.ndim == 2 else 0
            assert (np.abs(np.asarray(back[name]) - array) <= allowed).all(), (storage, name)


def test_a_model_whose_longest_text_is_no_multiple_of_the_padding(tiny_folder, tokenizer, tmp_path):
    config = BertConfig.tiny(max_position_embeddings=50, labels=("a", "b"))
    folder = save_pretrained(BertForSequenceClassification(config, rngs=nnx.Rngs(0)), tmp_path / "odd", tokenizer)
    command = [sys.executable, str(export(folder, tmp_path / "out") / "predict.py"), "word " * 200, "hi"]
    assert len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()) == 2


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    for weights, code in (("int8", 0), ("int4", 2)):
        monkeypatch.setattr(
            sys, "argv", ["course", "export", str(folder), "--out", str(tmp_path), "--weights", weights]
        )
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert (end.value.code or 0) == code
    said = capsys.readouterr()
    assert "predict.py" in said.out and "choose one of float32, bfloat16, int8" in said.err
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_folder_that_cannot_be_written_is_said(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="could not be written"):
        export(folder, tmp_path / "file" / "out")
