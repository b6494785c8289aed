"""Scores against scikit-learn, hand-computed cases and simulations; the baseline on what it must be able to learn."""

import json
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
from sklearn.model_selection import StratifiedKFold, cross_val_score
from threadpoolctl import threadpool_limits

from course_lib import CourseError
from course_lib.evaluate import Interval, evaluate, mean_sd, tfidf_baseline

ABC = ("a", "b", "c")


def random_predictions(n, k, seed, right=0.7):
    """`n` examples of `k` unequal classes, of which a share of about `right` is predicted right."""
    rng = np.random.default_rng(seed)
    true = rng.choice(k, size=n, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    return true, np.where(rng.random(n) < right, true, rng.integers(k, size=n))


@pytest.mark.parametrize(("n", "k"), [(400, 8), (30, 8), (7, 3), (50, 2)])
def test_scores_equal_scikit_learns(n, k):
    true, predicted = random_predictions(n, k, seed=n + k)
    result = evaluate(true, predicted, [f"class {i}" for i in range(k)])
    assert result.n == n
    assert result.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert result.macro_f1 == pytest.approx(f1_score(true, predicted, average="macro"))
    expected = precision_recall_fscore_support(true, predicted, labels=range(k), zero_division=0)
    ours = [[s.precision, s.recall, s.f1, s.support] for s in result.per_class]
    np.testing.assert_allclose(ours, np.transpose(expected))
    np.testing.assert_array_equal(result.confusion, confusion_matrix(true, predicted, labels=range(k)))


def test_a_case_computed_by_hand():
    #        a: tp 2, fp 1, fn 1      b: tp 1, fp 1, fn 1      c: tp 0, fp 1, fn 1
    result = evaluate(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 0]), ABC)
    assert result.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert [s.label for s in result.per_class] == ["a", "b", "c"]
    assert [s.f1 for s in result.per_class] == pytest.approx([2 / 3, 1 / 2, 0])
    assert [s.support for s in result.per_class] == [3, 2, 1]
    assert result.accuracy == pytest.approx(3 / 6)
    assert result.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_precision_and_recall_are_not_swapped():
    result = evaluate(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), ("a", "b"))
    assert (result.per_class[0].precision, result.per_class[0].recall) == pytest.approx((1, 1 / 3))


def test_a_class_that_never_occurs_is_left_out_of_macro_f1_and_zero_in_its_row():
    true, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    result = evaluate(true, predicted, ABC)
    assert result.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    absent = result.per_class[2]
    assert (absent.precision, absent.recall, absent.f1, absent.support) == (0, 0, 0, 0)


def test_a_class_that_is_only_predicted_counts_as_zero_in_macro_f1():
    result = evaluate(np.array([0, 0, 1]), np.array([0, 2, 1]), ABC)
    assert result.macro_f1 == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_accuracy_interval_is_wilsons():
    for right, n in [(40, 50), (0, 3), (1, 1), (452, 452), (311, 452)]:
        interval = evaluate(np.zeros(n, int), (np.arange(n) >= right).astype(int), ("a", "b")).accuracy_interval
        expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_accuracy_interval_stays_within_0_and_1_whatever_rounding_does():
    for n in range(1, 500):
        for share in (0, 1):
            interval = evaluate(np.zeros(n, int), np.full(n, 1 - share), ("a", "b")).accuracy_interval
            assert 0 <= interval.low < interval.high <= 1


def test_bootstrap_over_confusion_counts_agrees_with_resampling_examples():
    true, predicted = random_predictions(150, 4, seed=1)
    rng = np.random.default_rng(2)
    scores = []
    for _ in range(500):
        chosen = rng.integers(len(true), size=len(true))
        scores.append(f1_score(true[chosen], predicted[chosen], average="macro"))
    interval = evaluate(true, predicted, "abcd").macro_f1_interval
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(scores, [0.025, 0.975]), atol=0.02)


def test_a_class_that_is_never_predicted_counts_in_the_bootstrap_too():
    true, predicted = np.repeat([0, 1, 2], 10), np.repeat([0, 1, 0], 10)
    interval = evaluate(true, predicted, ABC).macro_f1_interval
    assert interval.high < 0.67  # it counts as zero: at most two of the three are right


def test_bootstrap_interval_holds_the_true_macro_f1_about_95_times_in_100():
    # A population of known confusion probabilities, so its macro-F1 is known: 2·p_kk / (p_k. + p_.k), averaged.
    population = np.array([[0.40, 0.05, 0.05], [0.06, 0.20, 0.04], [0.04, 0.04, 0.12]])
    truth = np.mean(2 * np.diag(population) / (population.sum(0) + population.sum(1)))
    rng = np.random.default_rng(0)
    hits, trials = 0, 300
    for _ in range(trials):
        true, predicted = np.divmod(rng.choice(9, size=250, p=population.ravel()), 3)
        interval = evaluate(true, predicted, ABC).macro_f1_interval
        hits += interval.low <= truth <= interval.high
    assert 0.91 <= hits / trials <= 0.985


def test_intervals_are_narrower_with_more_examples_and_the_same_for_the_same_seed():
    true, predicted = random_predictions(100, 3, seed=3)
    few, many = evaluate(true, predicted, ABC), evaluate(np.tile(true, 16), np.tile(predicted, 16), ABC)
    for name in ("accuracy_interval", "macro_f1_interval"):
        narrow, wide = getattr(many, name), getattr(few, name)
        assert (narrow.high - narrow.low) == pytest.approx((wide.high - wide.low) / 4, rel=0.15)
    assert evaluate(true, predicted, ABC).macro_f1_interval == few.macro_f1_interval
    assert evaluate(true, predicted, ABC, seed=1).macro_f1_interval != few.macro_f1_interval


@pytest.mark.parametrize(
    ("true", "predicted", "labels", "score"),
    [
        pytest.param([0] * 5, [0] * 5, ("only",), 1.0, id="one class"),
        pytest.param([1], [1], ABC, 1.0, id="one example, right"),
        pytest.param([1], [2], ABC, 0.0, id="one example, wrong"),
        pytest.param([0, 1, 2] * 9, [0, 1, 2] * 9, ABC, 1.0, id="perfect"),
        pytest.param([0, 1, 2] * 9, [1, 2, 0] * 9, ABC, 0.0, id="all wrong"),
    ],
)
def test_degenerate_cases_give_finite_numbers_without_a_warning(true, predicted, labels, score):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(np.array(true), np.array(predicted), labels)
    assert (result.accuracy, result.macro_f1) == (score, score)
    assert result.macro_f1_interval == Interval(score, score)
    assert 0 <= result.accuracy_interval.low < result.accuracy_interval.high <= 1  # Wilson's never shrinks to a point
    assert np.isfinite([[s.precision, s.recall, s.f1] for s in result.per_class]).all()


@pytest.mark.parametrize(
    ("true", "predicted", "error", "message"),
    [
        ([], [], CourseError, "no examples"),
        ([0, 1], [0], ValueError, "true has 2 examples and predicted has 1"),
        ([0, 3], [0, 1], ValueError, "true holds the class index 3: 3 labels go from 0 to 2"),
        ([0, 1], [0, -1], ValueError, "predicted holds the class index -1"),
        ([0.0, 1.0], [0, 1], ValueError, "vector of ints, not float64"),
        ([[0, 1]], [[0, 1]], ValueError, r"shape \(1, 2\)"),
        (["a", "b"], ["a", "b"], ValueError, "vector of ints"),
    ],
)
def test_bad_input_is_refused_by_name(true, predicted, error, message):
    with pytest.raises(error, match=message):
        evaluate(np.array(true), np.array(predicted), ABC)


def test_to_dict_survives_json_and_table_and_text_show_the_same_numbers():
    true, predicted = random_predictions(60, 3, seed=4)
    result = evaluate(true, predicted, ("refund", "a much longer label", "c"))
    back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert back["confusion"] == result.confusion.tolist()
    assert back["accuracy_interval"] == {"low": result.accuracy_interval.low, "high": result.accuracy_interval.high}
    assert back["per_class"][1]["label"] == "a much longer label"

    table = result.table()
    assert list(table.columns) == ["precision", "recall", "f1", "support"] and table.index.name == "label"
    assert table.loc["refund", "f1"] == round(result.per_class[0].f1, 3)
    assert table["support"].tolist() == [s.support for s in result.per_class]

    lines = str(result).splitlines()
    assert f"{result.macro_f1:.3f}" in lines[2] and str(result.macro_f1_interval) in lines[2]
    assert lines[6].split()[-4:] == [f"{v:.3f}" for v in table.iloc[1, :3]] + [str(table.iloc[1, 3])]
    assert len({len(line) for line in lines[4:]}) == 1, "columns line up"


def test_a_long_label_is_cut_to_40_characters_in_the_text_only():
    result = evaluate(np.array([0, 1]), np.array([0, 1]), ("x" * 40, "y" * 41))
    rows = [line.split()[0] for line in str(result).splitlines()[5:]]
    assert rows == ["x" * 40, "y" * 35 + "…" + "y" * 4] and result.table().index[1] == "y" * 41


def test_mean_sd_divides_by_n_minus_one_and_needs_two_values():
    assert mean_sd([0.8, 0.9]) == pytest.approx((0.85, np.sqrt(0.005)))
    with pytest.raises(ValueError, match="at least two values, and here there are 1"):
        mean_sd([0.8])


def keyword_texts(n, seed=0, words=400):
    """Labelled texts of 15 random words, one of them the class's own. The classes are unequal."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(8, size=n, p=np.array([20, 15, 14, 13, 13, 10, 9, 6]) / 100)
    texts = []
    for label in labels:
        filler = [f"word{i}" for i in rng.zipf(1.3, size=14) % words]
        texts.append(" ".join([*filler, f"key{label}x{rng.integers(3)}"]))
    return texts, [f"class {label}" for label in labels]


def test_baseline_learns_what_words_can_say():
    texts, labels = keyword_texts(400)
    model = tfidf_baseline(texts[:300], labels[:300])
    assert f1_score(labels[300:], model.predict(texts[300:]), average="macro") > 0.9


def test_baseline_is_deterministic_even_where_the_folds_decide():
    texts, _ = keyword_texts(40)
    labels = ["a", "b", "a", "b", "b"] * 8  # nothing to learn: which C wins is chance
    first, second = ([tfidf_baseline(texts, labels, seed=seed)["classifier"].C for seed in range(4)] for _ in range(2))
    assert first == second and len(set(first)) > 1


def test_baseline_does_not_favour_the_frequent_class():
    texts = ["hello parcel", "parcel please", "hello"] * 20 + ["hello refund", "refund please", "hello"] * 3
    model = tfidf_baseline(texts, ["delivery"] * 60 + ["refund"] * 9)
    np.testing.assert_allclose(model.predict_proba(["hello"]), [[0.5, 0.5]], atol=0.1)  # unweighted: 0.86


def test_baseline_sees_word_pairs():
    good, bad = ["not slow but quick", "quick and not slow"], ["not quick but slow", "slow and not quick"]
    model = tfidf_baseline(good * 5 + bad * 5, ["good"] * 10 + ["bad"] * 10)
    assert model.predict(["not slow", "not quick"]).tolist() == ["good", "bad"]


@pytest.mark.parametrize("n", [80, 120])
def test_baseline_takes_the_c_that_cross_validation_scores_highest(n):
    texts, labels = keyword_texts(n)
    model = tfidf_baseline(texts, labels)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = {}
    with threadpool_limits(limits=1):
        for c in (1, 10, 100):
            candidate = clone(model).set_params(classifier__C=c)
            scores[c] = cross_val_score(candidate, texts, labels, scoring="f1_macro", cv=folds).mean()
    assert model["classifier"].C == max(scores, key=scores.get) == {80: 1, 120: 100}[n]


@pytest.mark.parametrize("per_class", [1, 2, 3])
def test_baseline_works_with_very_few_examples_a_class_and_without_a_warning(per_class):
    texts = ["where is my parcel", "parcel is late", "parcel not here", "money back", "refund money", "money please"]
    labels = ["delivery"] * 3 + ["refund"] * 3
    chosen = [i for start in (0, 3) for i in range(start, start + per_class)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = tfidf_baseline([texts[i] for i in chosen], [labels[i] for i in chosen])
    assert model.predict(["parcel", "money"]).tolist() == ["delivery", "refund"]
    assert model["classifier"].C == (10 if per_class == 1 else 1)  # no search; the first of equals


def test_baseline_damps_words_that_are_repeated():
    words = tfidf_baseline(["parcel", "money"] * 2, ["delivery", "refund"] * 2)["tfidf"]
    money, parcel = words.transform(["parcel parcel parcel money"]).toarray()[0]
    assert parcel / money == pytest.approx(1 + np.log(3))


def test_baseline_refuses_what_it_cannot_learn_from():
    with pytest.raises(CourseError, match=r"at least two classes, found \['refund'\]"):
        tfidf_baseline(["a b", "c d"], ["refund", "refund"])
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        tfidf_baseline(["a b", "c d"], ["refund"])
