"""Whatever a model's folder holds: it is loaded, or refused in one line. Nothing in it is run."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from hostile import assert_one_line, changed_json, damaged, json_values, texts
from hypothesis import event, given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from course_lib import CourseError
from course_lib.checkpoint import load_pretrained
from course_lib.data import load_tokenizer, tokenize
from course_lib.pretrained import describe

pytestmark = pytest.mark.filterwarnings("error")
OURS = Path(__file__).parents[1] / "goldens" / "ours"
CONFIG = json.loads((OURS / "config.json").read_text("utf-8"))
WEIGHTS = (OURS / "model.safetensors").read_bytes()
HEADER_SIZE = struct.unpack("<Q", WEIGHTS[:8])[0]
HEADER, NUMBERS = json.loads(WEIGHTS[8 : 8 + HEADER_SIZE]), WEIGHTS[8 + HEADER_SIZE :]


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "ours"
    shutil.copytree(OURS, folder)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The same model in two files, and what its index says."""
    folder = tmp_path_factory.mktemp("shards")
    shutil.copyfile(OURS / "config.json", folder / "config.json")
    tensors = list(load_file(OURS / "model.safetensors").items())
    save_file(dict(tensors[:20]), folder / SHARDS[0])
    save_file(dict(tensors[20:]), folder / SHARDS[1])
    index = {"metadata": {}, "weight_map": {key: SHARDS[i >= 20] for i, (key, _) in enumerate(tensors)}}
    return folder, index


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", "##s", "it", "a", "."]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def loads_or_is_refused(folder: Path) -> None:
    for how in (load_pretrained, describe):
        try:
            result = how(folder)
        except CourseError as error:
            event(f"{how.__name__}: refused")
            assert_one_line(error)
            assert str(error).startswith(f"{folder}")
            continue
        event(f"{how.__name__}: a result")
        if how is load_pretrained:
            for path, value in nnx.to_flat_state(nnx.state(result, nnx.Param)):
                assert value[...].dtype == np.float32 and np.isfinite(value[...]).all(), path
            assert all(isinstance(label, str) for label in result.config.labels) and len(result.config.labels)


headers = changed_json(HEADER).map(lambda header: json.dumps(header).encode())
lengths = st.sampled_from([0, 1, HEADER_SIZE - 1, HEADER_SIZE + 1, len(WEIGHTS), 10**8, 10**8 + 1, 2**63, 2**64 - 1])
weights = st.one_of(
    st.integers(0, len(WEIGHTS) - 1).map(lambda size: WEIGHTS[:size]),
    damaged(WEIGHTS),
    damaged(WEIGHTS[: 8 + HEADER_SIZE]).map(lambda start: start + NUMBERS),
    (lengths | st.integers(0, 2**64 - 1)).map(lambda length: struct.pack("<Q", length) + WEIGHTS[8:]),
    headers.map(lambda header: struct.pack("<Q", len(header)) + header + NUMBERS),
    st.binary(max_size=100),
)


@given(content=weights)
def test_any_weights_are_loaded_or_refused(folder, content):
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    (folder / "model.safetensors").write_bytes(content)
    loads_or_is_refused(folder)


@given(
    config=changed_json(CONFIG).map(lambda config: json.dumps(config).encode()) | damaged(json.dumps(CONFIG).encode())
)
def test_any_config_is_loaded_or_refused(folder, config):
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    loads_or_is_refused(folder)


@given(data=st.data())
def test_any_index_of_shards_is_loaded_or_refused(shards, data):
    folder, index = shards
    content = json.dumps(data.draw(changed_json(index) | json_values)).encode()
    content = data.draw(st.just(content) | damaged(content))
    (folder / "model.safetensors.index.json").write_bytes(content)
    try:
        load_pretrained(folder)
    except CourseError as error:
        event("refused")
        return assert_one_line(error)
    event("a result")


@given(data=st.data(), given=st.lists(texts, max_size=3))
def test_any_tokenizer_is_opened_and_works_or_is_refused(tokenizer_files, data, given):
    folder, files = tokenizer_files
    for name, content in files.items():
        (folder / name).write_bytes(content)
    name = data.draw(st.sampled_from(sorted(files)))
    content = data.draw(changed_json(json.loads(files[name])).map(json.dumps).map(str.encode) | damaged(files[name]))
    (folder / name).write_bytes(content)
    try:
        tokenizer = load_tokenizer(folder, 11)
        examples = tokenize(tokenizer, ["where is it?", *given], min(8, tokenizer.model_max_length))
    except CourseError as error:
        event("refused")
        return assert_one_line(error)
    event("tokens")
    for ids in examples.token_ids:
        assert len(ids) <= 8 and all(0 <= one < 11 for one in ids)


@pytest.mark.parametrize(
    "name, change, says",
    [
        ("tokenizer_config.json", {"model_max_length": "512"}, "TypeError"),
        ("tokenizer_config.json", {"model_max_length": -1}, "model_max_length is -1"),
        ("tokenizer_config.json", {"model_max_length": float("inf")}, "model_max_length is inf"),
        ("tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"}, "is not one of the package tokenizers"),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]",
                                      "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}}, "[UNK]"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_would_fail_later_is_refused_when_it_is_opened(tokenizer_files, name, change, says):
    folder, files = tokenizer_files
    for other, content in files.items():
        (folder / other).write_bytes(content)
    (folder / name).write_text(json.dumps(json.loads(files[name]) | change), "utf-8")
    with pytest.raises(CourseError, match="its tokenizer cannot be read") as caught:
        load_tokenizer(folder)
    assert says in str(caught.value) and str(caught.value).endswith("; fetch or save it again")


def test_no_program_in_a_models_folder_is_run(tokenizer_files, tmp_path, monkeypatch):
    """Where config.json names one, transformers would ask at the terminal whether to run it."""
    folder = tmp_path / "model"
    shutil.copytree(OURS, folder)
    for name, content in tokenizer_files[1].items():
        (folder / name).write_bytes(content)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\nclass Own: pass\n")
    own = {
        "model_type": "own",
        "tokenizer_class": "Own",
        "auto_map": {"AutoTokenizer": ["own.Own", None], "AutoConfig": "own.Own"},
    }
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text("utf-8")) | own), "utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(CourseError, match="its tokenizer cannot be read") as caught:
        load_tokenizer(folder)
    assert_one_line(caught.value)
    assert not (tmp_path / "it ran").exists()
