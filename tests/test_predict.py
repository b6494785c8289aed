"""From texts to vectors, logits and labels: order kept, nothing dropped, fixed shapes."""

import json
import shutil

import numpy as np
import pytest
from flax import nnx

from course_lib import CourseError
from course_lib.bert import BertConfig, BertForSequenceClassification, BertModel
from course_lib.cache import compiled
from course_lib.checkpoint import load_pretrained, save_pretrained
from course_lib.data import Examples, tokenize
from course_lib.predict import Prediction, Predictor, _logits, buckets_for, embed, predict_file, predict_logits

LABELS = ("delivery", "refund", "product")
TEXTS = [
    "where is it",
    "a",
    "the lamp that I sent back a month ago is still not paid back, when will it be?",
    "b c d",
] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder, tokenizer):
    model = load_pretrained(tiny_folder, labels=LABELS)
    return save_pretrained(model, tmp_path_factory.mktemp("predict") / "model", tokenizer)


def one_by_one(model, tokenizer, text):
    ids = np.array(tokenizer(text)["input_ids"])[None]
    return np.asarray(model(ids, np.ones_like(ids)))[0]


def test_logits_are_those_of_each_text_on_its_own(folder, tokenizer):
    model = load_pretrained(folder)
    logits = predict_logits(model, tokenize(tokenizer, TEXTS, 64), batch_size=5)  # the last batch is not full
    assert logits.shape == (len(TEXTS), len(LABELS)) and logits.dtype == np.float32
    for i in range(4):
        np.testing.assert_allclose(logits[i], one_by_one(model, tokenizer, TEXTS[i]), atol=1e-5)
    np.testing.assert_allclose(logits[:4], logits[4:8], rtol=1e-4)


def test_no_examples_give_no_logits(folder):
    model = load_pretrained(folder)
    assert predict_logits(model, Examples([], np.zeros(0, np.int32))).shape == (0, len(LABELS))


def test_vectors_are_the_mean_over_real_tokens_of_length_one(tiny_folder, tokenizer):
    model = load_pretrained(tiny_folder, architecture=BertModel)
    vectors = embed(model, tokenize(tokenizer, TEXTS[:3], 64), batch_size=2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=False):
        mean = one_by_one(model, tokenizer, text).mean(0)  # [T, H] → [H], no padding here
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_real_model_puts_alike_meanings_close():
    from course_lib.data import load_tokenizer
    from course_lib.pretrained import fetch

    model = load_pretrained(fetch(), architecture=BertModel)
    texts = ["my card was declined, the bank says all is well", "Checkout refuses my Visa", "The kettle leaks."]
    a, b, c = embed(model, tokenize(load_tokenizer(fetch()), texts, 64), batch_size=4)
    assert a @ b > a @ c + 0.2


def test_a_predictor_gives_label_and_probability_in_order(folder):
    predictor = Predictor(folder, batch_size=4)
    answers = predictor(TEXTS)
    logits = predictor.logits(TEXTS)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert [answer.label for answer in answers] == [LABELS[i] for i in probabilities.argmax(-1)]
    np.testing.assert_allclose([answer.probability for answer in answers], probabilities.max(-1), rtol=1e-4)
    assert isinstance(answers[0], Prediction) and predictor([]) == []


def test_a_predictor_compiles_once_a_bucket(folder):
    predictor = Predictor(folder, batch_size=2)
    assert predictor.buckets == (16, 24, 32, 40, 48, 64)  # 64 positions: none longer
    programs = compiled(_logits, ("graph", "tree"))
    before = programs._cache_size()
    for length in (3, 9, 20, 40, 60, 200):
        predictor(["word " * length, "x"])
    assert programs._cache_size() - before <= len(predictor.buckets)


def test_what_is_longer_than_the_model_is_cut(folder):
    predictor = Predictor(folder)
    np.testing.assert_allclose(predictor.logits(["word " * 500]), predictor.logits(["word " * 62]), atol=1e-6)


def test_buckets_never_pass_the_models_positions():
    class Odd(nnx.Module):
        class config:
            max_position_embeddings = 50

    assert buckets_for(Odd(), Examples([[1] * 50, [1] * 3], np.zeros(2, np.int32))) == (8, 50)


def test_a_folder_without_a_classifier_is_refused(tiny_folder):
    with pytest.raises(CourseError, match="no labels of its own; fine-tune it first: course finetune"):
        Predictor(tiny_folder)


def test_a_folder_that_names_labels_and_has_no_classifier_is_refused(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "half")
    config = json.loads((tiny_folder / "config.json").read_text("utf-8"))
    config["id2label"] = dict(enumerate(LABELS))
    (tmp_path / "half" / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(CourseError, match="no weights of a classifier there; fine-tune it first"):
        Predictor(tmp_path / "half")


def test_a_text_that_is_no_unicode_is_refused(folder):
    with pytest.raises(CourseError, match=r"text 'caf\\udce9' is not UTF-8"):  # typed as Latin-1: caf\xe9
        Predictor(folder)(["tea", "caf\udce9"])


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, tokenizer):
    config = BertConfig.tiny(vocab_size=1000, labels=LABELS)
    model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
    save_pretrained(model, tmp_path, tokenizer)
    with pytest.raises(CourseError, match="the tokenizer has 30,522 tokens and the model 1,000; save both again"):
        Predictor(tmp_path)  # it would answer NaN for the tokens beyond, and the first label


def test_a_model_that_answers_with_no_number_is_refused(folder, tmp_path, tokenizer):
    model = load_pretrained(folder)
    model.classifier.kernel[...] = np.full_like(model.classifier.kernel[...], 3e38)
    save_pretrained(model, tmp_path, tokenizer)
    with pytest.raises(CourseError, match="this model answers with NaN or infinity; fine-tune it again"):
        Predictor(tmp_path)(["where is it"])


@pytest.mark.parametrize("how", ["the same name", "another name"])
def test_the_answers_never_replace_the_texts(folder, tmp_path, how):
    texts, target = tmp_path / "texts.csv", tmp_path / "texts.csv"
    texts.write_text("text\nhello\n")
    if how == "another name":
        target = tmp_path / "link.csv"
        target.hardlink_to(texts)
    with pytest.raises(CourseError, match="is the file with the texts itself"):
        predict_file(folder, texts, target, "text")
    assert texts.read_text() == "text\nhello\n"


def test_a_target_that_cannot_be_written_is_found_before_the_model_is_loaded(tmp_path):
    (tmp_path / "texts.csv").write_text("text\nhello\n")
    with pytest.raises(CourseError, match="there is no folder"):
        predict_file(tmp_path / "no model", tmp_path / "texts.csv", tmp_path / "none" / "out.csv", "text")
