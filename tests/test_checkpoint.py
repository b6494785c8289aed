"""Model folders in both directions: what is read, what is refused and how, and that a failed save loses nothing."""

import json
import logging
import os
import pickle
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from course_lib import CourseError, checkpoint
from course_lib.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.config_json import read_config

GOLDENS = Path(__file__).parent / "goldens"
OURS = GOLDENS / "ours"
LABELS = ("delivery", "refund", "Überraschung")
TENSORS = load_file(OURS / "model.safetensors")  # a classifier's, under `bert.`
ENCODER = {key: value for key, value in TENSORS.items() if "pooler" not in key and "classifier" not in key}
CONFIG = json.loads((OURS / "config.json").read_text("utf-8"))
SMALL = BertConfig.tiny(
    vocab_size=50, hidden_size=8, num_hidden_layers=1, intermediate_size=8, max_position_embeddings=8, labels=("a", "b")
)
ON_POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no modes, users or limits of this kind")


def write(folder: Path, tensors: dict | None = None, config: dict | None = None) -> Path:
    """A model's folder: `ours`, but with these tensors and this config."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config), "utf-8")
    save_file(TENSORS if tensors is None else tensors, folder / "model.safetensors")
    return folder


def write_shards(folder: Path, *shards: dict) -> Path:
    write(folder).joinpath("model.safetensors").unlink()
    weight_map = {}
    for i, tensors in enumerate(shards, start=1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return folder


def halves(tensors: dict) -> tuple[dict, dict]:
    middle = len(tensors) // 2
    return dict(list(tensors.items())[:middle]), dict(list(tensors.items())[middle:])


def without(*parts: str) -> dict:
    return {key: value for key, value in TENSORS.items() if not any(part in key for part in parts)}


def renamed(old: str, new: str, tensors: dict = TENSORS) -> dict:
    return {key.replace(old, new): value for key, value in tensors.items()}


def arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): np.asarray(value[...]) for path, value in state}


def assert_same(model: nnx.Module, other: nnx.Module) -> None:
    found, expected = arrays(model), arrays(other)
    assert found.keys() == expected.keys()
    for path, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


def random_model(architecture=BertForSequenceClassification, config: BertConfig = SMALL, seed: int = 0):
    """Every parameter drawn from N(0, 1), LayerNorms and biases too; by NumPy, which compiles nothing."""
    graph, state = nnx.split(nnx.eval_shape(lambda: architecture(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    return nnx.merge(graph, jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape), jnp.float32), state))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(folder: Path, **arguments) -> str:
    with pytest.raises(CourseError) as caught:
        load_pretrained(folder, **arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and str(folder) in message
    return message


@pytest.fixture(scope="module")
def ours():
    return load_pretrained(OURS)


@pytest.fixture(scope="module")
def tokenizer():
    """Long words: its file must be larger than a small model's."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # or it warns of missing PyTorch
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##s"] + [f"{'x' * 1000}{i}" for i in range(43)]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


# Both directions


@pytest.mark.parametrize("architecture", [BertModel, BertForSequenceClassification, BertForMaskedLM])
def test_what_is_saved_is_loaded_exactly(architecture, tmp_path, caplog):
    model = random_model(architecture)
    assert_same(load_pretrained(save_pretrained(model, tmp_path / "new" / "folder"), architecture=architecture), model)
    assert not caplog.records  # nothing was newly initialised


@pytest.mark.parametrize(
    "name, architecture", [("tiny", BertForSequenceClassification), ("tiny_masked_lm", BertForMaskedLM)]
)
def test_what_pytorch_saved_is_saved_again_under_the_same_keys(name, architecture, tmp_path):
    save_pretrained(load_pretrained(GOLDENS / name, architecture=architecture), tmp_path)
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, GOLDENS / name))
    assert found.keys() == expected.keys()
    for key in found:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses files without it


def test_the_folder_that_pytorch_opened_is_byte_for_byte_what_is_saved_now(ours, tmp_path):
    save_pretrained(ours, tmp_path)
    assert contents(tmp_path) == contents(OURS)


def test_logits_equal_those_of_pytorch_for_that_folder(ours):
    with np.load(GOLDENS / "ours.npz") as file:
        expected = dict(file)
    logits = expected.pop("logits")
    assert np.abs(jax.jit(lambda batch: ours(**batch))(expected) - logits).max() <= 1e-5
    assert ours.config.labels == LABELS


def test_config_is_read_by_transformers_and_back(tmp_path):
    from transformers import AutoConfig

    config = BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        hidden_act="relu", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3, type_vocab_size=3,
        max_position_embeddings=9, initializer_range=0.5, layer_norm_eps=1e-7, labels=("no", "yes"),
    )  # fmt: skip
    assert not [name for name, value in vars(config).items() if value == getattr(BertConfig, name)]
    save_pretrained(random_model(config=config), tmp_path)
    theirs = AutoConfig.from_pretrained(tmp_path, local_files_only=True)
    assert theirs.architectures == ["BertForSequenceClassification"]
    assert (theirs.id2label, theirs.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    assert {name: getattr(theirs, name, None) for name in vars(config)} | {"labels": config.labels} == vars(config)
    theirs.save_pretrained(tmp_path)
    read, labels = read_config(tmp_path)
    assert {**vars(read), "labels": labels} == vars(config)


# What is read


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param(TENSORS, id="bert prefix"),
        pytest.param(renamed("bert.", ""), id="no prefix"),
        pytest.param(renamed("LayerNorm.weight", "LayerNorm.gamma", renamed("LayerNorm.bias", "LayerNorm.beta")),
                     id="gamma and beta"),
        pytest.param(TENSORS | {"bert.embeddings.position_ids": np.arange(32)[None]}, id="position_ids"),
        pytest.param(renamed("bert.", "") | {"embeddings.position_ids": np.arange(32)}, id="position_ids, no prefix"),
        pytest.param({key: value.astype(np.float64) for key, value in TENSORS.items()}, id="float64"),
        pytest.param(TENSORS | {"cls.seq_relationship.weight": np.ones((2, 32), np.float32)}, id="left-over head"),
    ],
)  # fmt: skip
def test_the_same_model_is_read_from(tensors, ours, tmp_path, caplog):
    model = load_pretrained(write(tmp_path, tensors), seed=1)  # the seed touches nothing that is in the file
    assert_same(model, ours)
    assert model.config == ours.config and not caplog.records


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_files_become_float32_parameters(dtype, tmp_path):
    rounded = {key: value.astype(dtype) for key, value in TENSORS.items()}
    model = load_pretrained(write(tmp_path / "half", rounded))
    expected = {key: value.astype(np.float32) for key, value in rounded.items()}
    assert not np.array_equal(expected["classifier.weight"], TENSORS["classifier.weight"])
    assert_same(model, load_pretrained(write(tmp_path / "full", expected)))


def test_shards_are_read_as_one_file(ours, tmp_path):
    assert_same(load_pretrained(write_shards(tmp_path, *halves(TENSORS))), ours)


@pytest.fixture(scope="module")
def pretraining_folder(tmp_path_factory):
    """The kinds of keys in google-bert/bert-base-uncased: both pretraining heads, a decoder, gamma and beta."""
    head = save_pretrained(random_model(BertForMaskedLM), tmp_path_factory.mktemp("head")) / "model.safetensors"
    encoder = save_pretrained(random_model(BertModel), tmp_path_factory.mktemp("encoder")) / "model.safetensors"
    tensors = load_file(head) | {f"bert.{key}": value for key, value in load_file(encoder).items() if "pooler" in key}
    tensors |= {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        "cls.seq_relationship.weight": np.ones((2, 8), np.float32),
        "cls.seq_relationship.bias": np.ones(2, np.float32),
    }
    tensors = renamed("LayerNorm.weight", "LayerNorm.gamma", renamed("LayerNorm.bias", "LayerNorm.beta", tensors))
    config = {"model_type": "bert", **{name: value for name, value in vars(SMALL).items() if name != "labels"}}
    return write(tmp_path_factory.mktemp("pretraining"), tensors, config)


def test_a_pretraining_checkpoint_gives_the_masked_word_model(pretraining_folder, caplog):
    model = load_pretrained(pretraining_folder, architecture=BertForMaskedLM)
    assert_same(model, random_model(BertForMaskedLM))
    assert not caplog.records


def test_a_pretraining_checkpoint_gives_the_encoder_and_a_classifier_with_a_new_head(pretraining_folder, caplog):
    encoder = load_pretrained(pretraining_folder, architecture=BertModel)
    assert not caplog.records
    classifier = load_pretrained(pretraining_folder, labels=["a", "b", "c"])
    assert_same(classifier.bert, encoder)
    assert classifier.classifier.kernel.shape == (8, 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"{pretraining_folder.name}: no fitting classifier in the checkpoint, newly initialised; train it before use"
    ]


@pytest.mark.parametrize(
    "tensors, new",
    [
        pytest.param(without("pooler"), {"pooler"}, id="pooler"),
        pytest.param(without("classifier"), {"classifier"}, id="classifier"),
        pytest.param(without("pooler", "classifier"), {"pooler", "classifier"}, id="both"),
    ],
)
def test_what_is_missing_is_newly_initialised_from_the_seed_and_said(tensors, new, ours, tmp_path, caplog):
    def load(seed):
        return arrays(load_pretrained(write(tmp_path, tensors), labels=LABELS, seed=seed))

    first, again, other = load(3), load(3), load(4)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3 * len(new)
    assert {record.getMessage().split(" in the ")[0] for record in caplog.records} == {
        f"{tmp_path.name}: no fitting {part}" for part in new
    }
    for path, stored in arrays(ours).items():
        np.testing.assert_array_equal(first[path], again[path])
        if not new & set(path.split(".")):
            np.testing.assert_array_equal(first[path], stored)
        elif path.endswith("kernel"):
            assert not np.array_equal(first[path], other[path]) and not np.array_equal(first[path], stored)
            assert 0.2 < first[path].std() < 0.4  # config.json says initializer_range 0.3
        else:
            assert not first[path].any()


@pytest.mark.parametrize(
    "parts, said",
    [(["classifier"], "a classifier"), (["pooler"], "a pooler"), (["pooler", "classifier"], "a pooler and")],
)
def test_the_folders_own_classifier_is_meant_where_no_labels_are_given_and_must_be_there(parts, said, tmp_path):
    assert f"no weights of {said}" in (message := refusal(write(tmp_path, without(*parts))))
    assert "fine-tune it first: course finetune" in message


def test_what_is_newly_initialised_is_what_a_new_model_has(tmp_path):
    found = arrays(load_pretrained(write(tmp_path, ENCODER), labels=["a", "b"], seed=5))
    config = replace(read_config(tmp_path)[0], labels=("a", "b"))

    @jax.jit
    def expected():
        model = BertForSequenceClassification(config, rngs=nnx.Rngs(5))
        return {"bert.pooler.kernel": model.bert.pooler.kernel[...], "classifier.kernel": model.classifier.kernel[...]}

    for path, value in expected().items():
        np.testing.assert_allclose(found[path], value, rtol=1e-6)


def test_a_new_masked_word_head_is_said(tmp_path, caplog):
    model = load_pretrained(write(tmp_path, without("classifier")), architecture=BertForMaskedLM)
    assert "no fitting masked-word head in the checkpoint" in caplog.text
    np.testing.assert_array_equal(model.transform_norm.scale[...], np.ones(32))


# Labels


@pytest.mark.parametrize("arguments", [{}, {"labels": LABELS}, {"labels": list(LABELS)}, {"num_labels": 3}])
def test_the_stored_classifier_is_taken_for_the_stored_labels(arguments, ours, caplog):
    model = load_pretrained(OURS, **arguments)
    assert_same(model, ours)
    assert model.config.labels == LABELS and not caplog.records


@pytest.mark.parametrize(
    "arguments, labels",
    [
        ({"labels": ["up", "down"]}, ("up", "down")),
        ({"labels": LABELS[::-1]}, LABELS[::-1]),  # each row of the stored matrix stands for one class
        ({"labels": ("delivery", "refund", "other")}, ("delivery", "refund", "other")),
        ({"num_labels": 2}, ("LABEL_0", "LABEL_1")),
    ],
)
def test_other_labels_get_a_new_classifier(arguments, labels, ours, caplog):
    model = load_pretrained(OURS, **arguments)
    assert model.config.labels == labels
    assert_same(model.bert, ours.bert)
    assert model.classifier.kernel.shape == (32, len(labels))
    assert not np.array_equal(model.classifier.kernel[:, 0], ours.classifier.kernel[:, 0])
    assert "no fitting classifier in the checkpoint" in caplog.text


def test_a_damaged_classifier_does_not_matter_where_it_is_not_used(tmp_path):
    damaged = without("classifier.bias") | {"classifier.weight": np.zeros((7, 7), np.float32)}
    assert load_pretrained(write(tmp_path, damaged), labels=["up", "down"]).config.labels == ("up", "down")


@pytest.mark.parametrize("arguments", [{}, {"num_labels": 2}])
def test_a_classifier_of_transformers_with_its_default_labels_is_loaded(arguments, tmp_path, caplog):
    """transformers leaves id2label out of config.json for two labels without names of their own."""
    tensors = TENSORS | {"classifier.weight": TENSORS["classifier.weight"][:2], "classifier.bias": np.ones(2, "f4")}
    config = {key: value for key, value in CONFIG.items() if key not in ("id2label", "label2id")}
    model = load_pretrained(write(tmp_path, tensors, config), **arguments)
    assert model.config.labels == ("LABEL_0", "LABEL_1") and not caplog.records
    np.testing.assert_array_equal(model.classifier.kernel[...], TENSORS["classifier.weight"][:2].T)


def test_an_encoder_needs_labels_and_labels_must_make_sense(tmp_path):
    config = {key: value for key, value in CONFIG.items() if key not in ("id2label", "label2id")}
    folder = write(tmp_path, ENCODER, config)
    assert "no labels of its own; fine-tune it first: course finetune" in refusal(folder)
    for arguments in ({"labels": ["a", "a"]}, {"labels": ["a"]}, {"labels": []}, {"num_labels": 1}, {"num_labels": -1}):
        with pytest.raises(CourseError, match="at least two different labels"):
            load_pretrained(folder, **arguments)


# Refused: the weights


def test_everything_that_is_wrong_is_in_one_message(tmp_path):
    tensors = without("embeddings.LayerNorm.weight", "pooler.dense.bias", "layer.1.attention.self.key") | {
        "qa_outputs.weight": np.ones((2, 32), np.float32),
        "bert.encoder.layer.2.output.dense.bias": np.ones(32, np.float32),
        "bert.embeddings.word_embeddings.weight": np.ones((49, 32), np.float32),
        "bert.encoder.layer.0.intermediate.dense.weight": np.ones((32, 64), np.float32),  # as Flax keeps it
        "bert.encoder.layer.0.intermediate.dense.bias": np.ones((), np.float32),
        "bert.encoder.layer.0.output.dense.bias": np.ones(32, np.int64),
    }
    message = refusal(write(tmp_path, tensors))
    assert sorted(message.split("the weights do not fit config.json: ")[1].split("; ")) == [
        "embeddings.word_embeddings.weight has shape [49, 32], config.json asks for [50, 32]",
        "encoder.layer.0.intermediate.dense.bias has shape [], config.json asks for [64]",
        "encoder.layer.0.intermediate.dense.weight has shape [32, 64], config.json asks for [64, 32]",
        "encoder.layer.0.output.dense.bias is stored as I64, not as floating-point numbers",
        "missing: embeddings.LayerNorm.weight, encoder.layer.1.attention.self.key.weight, "
        "encoder.layer.1.attention.self.key.bias, pooler.dense.bias",
        "unknown: encoder.layer.2.output.dense.bias, qa_outputs.weight",
    ]


@pytest.mark.parametrize(
    "architecture, tensors, problem",
    [
        (BertForSequenceClassification, without("pooler.dense.weight"), "missing: pooler.dense.weight"),
        (BertModel, without("pooler.dense.bias"), "missing: pooler.dense.bias"),
        (BertForSequenceClassification, without("classifier.bias"), "missing: classifier.bias"),
        (BertForSequenceClassification, TENSORS | {"classifier.dense.weight": np.ones(2)},
         "unknown: classifier.dense.weight"),
        (BertForMaskedLM, ENCODER | {"cls.predictions.bias": np.ones(50)},
         "missing: cls.predictions.transform.dense.weight, cls.predictions.transform.dense.bias, "
         "cls.predictions.transform.LayerNorm.weight, cls.predictions.transform.LayerNorm.bias"),
    ],
)  # fmt: skip
def test_a_part_in_half_or_of_another_make_is_refused(architecture, tensors, problem, tmp_path):
    message = refusal(write(tmp_path, tensors), architecture=architecture)
    assert message.endswith(f"the weights do not fit config.json: {problem}")


@pytest.mark.parametrize("layers, problem", [(1, "unknown: encoder.layer.1."), (3, "missing: encoder.layer.2.")])
def test_another_number_of_layers_is_refused(layers, problem, tmp_path):
    message = refusal(write(tmp_path, config=CONFIG | {"num_hidden_layers": layers}))
    assert problem in message and message.count("encoder.layer") == 16


def test_a_classifier_for_another_number_of_classes_than_config_json_names_is_refused(tmp_path):
    message = refusal(write(tmp_path, config=CONFIG | {"id2label": {"0": "a", "1": "b"}}))
    assert "classifier.weight has shape [3, 32], config.json asks for [2, 32]" in message
    assert "classifier.bias has shape [3], config.json asks for [2]" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_refused_and_named(value, tmp_path):
    tensors = {key: array.copy() for key, array in TENSORS.items()}
    tensors["classifier.weight"][1, 5] = tensors["bert.embeddings.LayerNorm.bias"][0] = value
    message = refusal(write(tmp_path, tensors))
    assert "NaN or infinite weights in classifier.weight, embeddings.LayerNorm.bias;" in message


@pytest.mark.parametrize(
    "second, name",
    [
        ("pooler.dense.bias", "pooler.dense.bias"),
        ("bert.encoder.layer.0.output.LayerNorm.gamma", "encoder.layer.0.output.LayerNorm.weight"),
    ],
)
def test_a_parameter_under_two_names_is_refused(second, name, tmp_path):
    message = refusal(write(tmp_path, TENSORS | {second: np.ones(32, np.float32)}))
    assert f"model.safetensors has {name} a second time" in message


def test_a_parameter_in_two_shards_is_refused(tmp_path):
    first, second = halves(TENSORS)
    message = refusal(write_shards(tmp_path, first | {"classifier.bias": np.ones(3, np.float32)}, second))
    assert "model-00002-of-00002.safetensors has classifier.bias a second time" in message


HEADER = int.from_bytes((OURS / "model.safetensors").read_bytes()[:8], "little")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 8 + HEADER // 2, 7 + HEADER, 8 + HEADER, 9 + HEADER, 50_000, -1])
def test_a_truncated_file_is_refused(size, tmp_path):
    path = write(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "model.safetensors is truncated or not a safetensors file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html>" * 100, b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64, b"\0" * 64],
    ids=["web page", "git-lfs pointer", "all ones", "all zeros"],
)
def test_something_else_under_this_name_is_refused(content, tmp_path):
    (write(tmp_path) / "model.safetensors").write_bytes(content)
    assert "truncated or not a safetensors file" in refusal(tmp_path)


# Refused: shards


def test_missing_and_truncated_shards_are_all_named(tmp_path):
    first, second = halves(TENSORS)
    folder = write_shards(tmp_path, first, second, {"classifier.weight": np.ones(3, np.float32)}, {"x": np.ones(1)})
    (folder / "model-00001-of-00004.safetensors").unlink()
    (folder / "model-00004-of-00004.safetensors").unlink()
    (folder / "model-00003-of-00004.safetensors").write_bytes(b"")
    message = refusal(folder)
    assert "model-00001-of-00004.safetensors cannot be read (No such file" in message
    assert "model-00003-of-00004.safetensors is truncated" in message
    assert "model-00004-of-00004.safetensors cannot be read (No such file" in message
    assert "model-00002" not in message


@pytest.mark.parametrize("inside", ["../{}", "{folder}/../{}", "sub/{}", "..", ".", "", "model.bin", "..\\{}", "C:{}"])
def test_an_index_leads_to_no_file_outside_its_folder(inside, tmp_path):
    folder = write(tmp_path / "model")
    inside = inside.format("x.safetensors", folder=folder)
    (folder / "sub").mkdir()
    for place in (tmp_path, folder / "sub"):  # a good file, were it opened
        shutil.copy(OURS / "model.safetensors", place / "x.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(TENSORS, inside)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    message = refusal(folder)
    assert message.endswith(f"a shard is a .safetensors file in the same folder, not {inside}")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", "{}", '{"weight_map": [1]}', '{"weight_map": null}', '{"weight_map": {"a": 1}}',
     '{"weight_map": {"a": ["x"], "b": {}, "c": "model.safetensors"}}', "[" * 100_000],
    ids=lambda content: content[:40] or "empty",
)  # fmt: skip
def test_an_index_that_is_none_is_refused(content, tmp_path):
    (write(tmp_path) / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(content, "utf-8")
    assert "model.safetensors.index.json: " in refusal(tmp_path)


# Refused: the folder and config.json


class RunsCode:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_weights_are_refused_unopened(tmp_path):
    (write(tmp_path) / "model.safetensors").unlink()
    marker = tmp_path / "the pickle was opened"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(RunsCode(marker)))
    message = refusal(tmp_path)
    assert "only pickled weights (pytorch_model.bin)" in message and "save_pretrained" in message
    assert not marker.exists()


def test_what_is_no_model_folder_is_refused(tmp_path):
    assert "no config.json" in refusal(tmp_path / "not there")
    assert "no config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    assert "no model.safetensors" in refusal(tmp_path)
    refusal(tmp_path / "config.json")  # a file in place of the folder


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nonsense", b"[]", b"3", b"null", b'"bert"', b"\xff\xfe{}", b"[" * 100_000, b"1" * 5_000],
    ids=lambda content: str(content[:12]),
)
def test_a_config_that_is_no_json_object_is_refused(content, tmp_path):
    (write(tmp_path) / "config.json").write_bytes(content)
    assert "config.json: cannot be read as JSON" in refusal(tmp_path)


NOT_SIZES = [0, -1, 2.5, 32.0, True, "32", None, [32], {}, 2**70]
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "max_position_embeddings", "type_vocab_size")  # fmt: skip
RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps")


@pytest.mark.parametrize(
    "changes, problem",
    [
        *[({field: value}, f"{field} is {value!r}, not a whole number") for field in SIZES for value in NOT_SIZES],
        *[({field: value}, f"{field} is {value!r}, not a number from 0 to 1")
          for field in RATES for value in (-0.1, 1, float("nan"), float("inf"), True, "0.1", None, [0.1])],
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not a whole number from 1 to 1,000"),
        ({"hidden_size": 30}, "hidden_size 30 cannot be divided among 4 attention heads"),
        ({"num_attention_heads": 64}, "hidden_size 32 cannot be divided among 64 attention heads"),
        *[({"hidden_act": value}, f"hidden_act is {value!r}, supported are gelu, gelu_new, relu")
          for value in ("swish", "", None, 1, ["gelu"], {})],
        *[({"model_type": value}, f"model_type is {value!r}, not 'bert'")
          for value in ("roberta", "distilbert", "BERT", None, ["bert"])],
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type is 'relative_key_query'"),
        ({"is_decoder": True}, "is_decoder is true"),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is false"),
        *[({"id2label": value}, "id2label does not number its labels from 0")
          for value in ({"1": "a", "2": "b"}, {"0": "a", "2": "b"}, {"a": "0"}, {"00": "a", "1": "b"}, ["a", "b"], 3)],
        *[({"id2label": {"0": "a", "1": value}}, "id2label has labels that are not text, or the same one twice")
          for value in ("a", 1, None, ["b"], {})],
    ],
)  # fmt: skip
def test_a_config_that_this_bert_cannot_be_is_refused(changes, problem, tmp_path):
    message = refusal(write(tmp_path, {}, CONFIG | changes))  # no weights: it must not come so far
    assert "config.json: " in message and problem in message


def test_all_problems_of_a_config_are_in_one_message(tmp_path):
    changes = {"vocab_size": "50", "hidden_dropout_prob": 7, "hidden_act": "swish", "is_decoder": True, "id2label": [1]}
    message = refusal(write(tmp_path, config=CONFIG | changes))
    assert message.count(";") == len(changes) - 1 and all(field in message for field in changes)


def test_a_config_without_model_type_is_refused_and_one_without_sizes_is_bert_base(tmp_path):
    (tmp_path / "config.json").write_text("{}", "utf-8")
    assert "model_type is None" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "id2label": null}', "utf-8")
    assert read_config(tmp_path) == (BertConfig.bert_base(), ())


def test_layers_that_the_file_does_not_hold_are_found_at_once(tmp_path):
    started = time.process_time()
    assert "missing: encoder.layer.2.attention" in refusal(write(tmp_path, config=CONFIG | {"num_hidden_layers": 1000}))
    assert time.process_time() - started < 10  # laid out with all of them, minutes


# Saving


def test_saving_over_a_model_replaces_it(tmp_path):
    save_pretrained(random_model(), tmp_path)
    (tmp_path / "metrics.json").write_text("{}", "utf-8")
    other = random_model(config=replace(SMALL, labels=("x", "y", "z"), num_hidden_layers=2), seed=1)
    save_pretrained(other, tmp_path)
    model = load_pretrained(tmp_path)
    assert_same(model, other)
    assert model.config == other.config
    assert sorted(contents(tmp_path)) == ["config.json", "metrics.json", "model.safetensors"]


def test_a_model_can_be_saved_where_it_was_loaded_from(tmp_path):
    model = load_pretrained(save_pretrained(random_model(), tmp_path))
    before = contents(tmp_path)
    save_pretrained(model, tmp_path)
    assert contents(tmp_path) == before
    assert_same(load_pretrained(tmp_path), random_model())


def test_tokenizer_is_saved_with_the_model_and_opened_by_transformers(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    save_pretrained(random_model(), tmp_path, tokenizer)
    opened = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert opened("Hellos hello what")["input_ids"] == [2, 5, 6, 5, 1, 3]
    assert len(opened) == SMALL.vocab_size
    assert_same(load_pretrained(tmp_path), random_model())


@ON_POSIX
@pytest.mark.parametrize("full_at, room", [("config.json", 100), ("weights", 4_000), ("tokenizer", 30_000)])
def test_a_disk_that_is_full_leaves_the_old_model_and_no_stray_files(full_disk, full_at, room, tokenizer, tmp_path):
    save_pretrained(random_model(), tmp_path, tokenizer)
    before = contents(tmp_path)
    sizes = {"config.json": "config.json", "weights": "model.safetensors", "tokenizer": "tokenizer.json"}
    assert next(part for part, file in sizes.items() if len(before[file]) > room) == full_at
    with full_disk(room), pytest.raises(CourseError) as caught:
        save_pretrained(random_model(seed=1), tmp_path, tokenizer)
    assert "could not save the model" in str(caught.value) and "what was there is unchanged" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert contents(tmp_path) == before and not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert_same(load_pretrained(tmp_path), random_model())


def test_an_interrupted_save_leaves_the_old_model_and_no_stray_files(tmp_path, monkeypatch):
    save_pretrained(random_model(), tmp_path)
    before = contents(tmp_path)

    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(random_model(seed=1), tmp_path)
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 2


def test_weights_that_cannot_be_replaced_leave_the_old_config(tmp_path):
    save_pretrained(random_model(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()  # for any system what a file in use is for Windows
    before = contents(tmp_path)
    with pytest.raises(CourseError, match="what was there is unchanged"):
        save_pretrained(random_model(config=replace(SMALL, labels=("x", "y"))), tmp_path)
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 2


@ON_POSIX
def test_a_read_only_folder_is_refused_and_unchanged():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to the user that root becomes here
        folder = Path(folder)
        before = contents(save_pretrained(random_model(), folder))
        folder.chmod(0o555)
        user = os.geteuid()
        try:
            if user == 0:  # modes do not bind root
                os.seteuid(65534)
            with pytest.raises(CourseError, match="could not save the model .*Permission denied"):
                save_pretrained(random_model(seed=1), folder)
        finally:
            os.seteuid(user)
            folder.chmod(0o755)
        assert contents(folder) == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine", "utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CourseError, match="could not save the model"):
            save_pretrained(random_model(), folder)
    assert (tmp_path / "file").read_text("utf-8") == "mine"


@ON_POSIX
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_saved_files_may_be_read_by_whom_the_umask_lets(umask, mode, tokenizer, tmp_path):
    before = os.umask(umask)
    try:
        save_pretrained(random_model(), tmp_path / "model", tokenizer)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys(modes, mode) and {"model.safetensors", "config.json", "tokenizer.json"} <= set(modes)


def test_files_are_flushed_to_disk_before_they_get_their_names(tokenizer, tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor):
        os.write(descriptor, b"")  # fails where it is open for reading only, and so does Windows' flush
        flushed.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    save_pretrained(random_model(), tmp_path, tokenizer)
    assert sorted(flushed) == sorted(path.stat().st_ino for path in tmp_path.iterdir())
