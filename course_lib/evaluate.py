"""How good is a classifier, how sure are we, and what would a simple method have scored?

A score measured on n examples is an estimate: another n messages would have given another number. So each headline
number here comes with a 95 % interval, and the first model to beat is a bag of words.

    K  classes, in the order of `labels`            n  examples
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from course_lib import CourseError, shown

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

CONFIDENCE = 0.95
RESAMPLES = 1_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """From `low` to `high`, both within 0 to 1."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """One class: of those called `label`, how many were (precision); of those that were, how many were found (recall);
    the harmonic mean of the two (f1); and how many there are in the data (support)."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclasses.dataclass(frozen=True, eq=False)  # eq=False: == between arrays gives an array, not an answer
class Evaluation:
    """What `evaluate` measured: `str()` for a terminal, `.table()` for a notebook, `.to_dict()` for a file."""

    n: int
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    per_class: tuple[ClassScore, ...]
    confusion: np.ndarray  # int [K true, K predicted]

    def to_dict(self) -> dict[str, Any]:
        """The same fields in types that `json.dumps` takes; `confusion` is a list of rows."""
        return dataclasses.asdict(self) | {"confusion": self.confusion.tolist()}

    def table(self) -> pd.DataFrame:
        """One row a class: precision, recall, f1 (rounded to 3 digits) and support."""
        import pandas as pd

        table = pd.DataFrame([dataclasses.asdict(score) for score in self.per_class]).set_index("label")
        return table.map(lambda value: round(value, 3))  # rounds as str() does; DataFrame.round makes 0.7125 0.712

    def __str__(self) -> str:
        labels = [shown(score.label, 40) for score in self.per_class]
        width = max(len("class"), *map(len, labels))
        lines = [
            f"{'examples':<10}{self.n:>6}",
            f"{'accuracy':<10}{self.accuracy:>6.3f}   95 % interval {self.accuracy_interval}",
            f"{'macro-F1':<10}{self.macro_f1:>6.3f}   95 % interval {self.macro_f1_interval}",
            "",
            f"{'class':<{width}}  precision  recall     F1  support",
        ]
        for label, s in zip(labels, self.per_class, strict=True):
            lines.append(f"{label:<{width}}  {s.precision:>9.3f}  {s.recall:>6.3f}  {s.f1:>5.3f}  {s.support:>7}")
        return "\n".join(lines)


def evaluate(true: np.ndarray, predicted: np.ndarray, labels: Sequence[str], *, seed: int = 0) -> Evaluation:
    """Score predictions against the truth.

    *Classes that never occur*, neither in `true` nor in `predicted`, are left out of macro-F1, as
    `sklearn.metrics.f1_score(true, predicted, average="macro")` does: nothing was learned about them. A class that
    occurs but is never right counts as 0. In `per_class`, every ratio 0/0 is written as 0 (scikit-learn's
    `zero_division=0`); its support of 0 says that it means nothing.

    *The accuracy's interval* is Wilson's (1927, "Probable inference, the law of succession, and statistical
    inference", JASA 22). Unlike accuracy ± 1.96 standard errors it stays within 0 to 1 and does not shrink to nothing
    when every answer is right.

    *Macro-F1's interval* is the percentile bootstrap over examples (Efron and Tibshirani 1993, "An Introduction to the
    Bootstrap", chapter 13), 1,000 resamples. When every answer is right it is [1, 1]: no resample can hold an
    error that the data does not. Read the accuracy's interval then.

    Both say what another sample of examples would change. They say nothing about another training run: for that, train
    with several seeds and use `mean_sd`.

    Args:
        true: int [n], indices into `labels`.
        predicted: int [n], likewise.
        labels: the K class names.
        seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        CourseError: there are no examples.
        ValueError: the arrays are not two int vectors of one length, or an index is not in 0 to K-1.
    """
    labels = tuple(labels)
    true, predicted = _indices(true, "true", labels), _indices(predicted, "predicted", labels)
    if len(true) != len(predicted):
        raise ValueError(f"true has {len(true)} examples and predicted has {len(predicted)}: they must pair up")
    n = len(true)
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (true, predicted), 1)  # not `confusion[true, predicted] += 1`, which counts each cell once
    hits, support, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = hits / np.maximum(said, 1), hits / np.maximum(support, 1)
    f1 = _f1(confusion)
    right = int(np.trace(confusion))
    return Evaluation(
        n=n,
        accuracy=right / n,
        accuracy_interval=_wilson(right, n),
        macro_f1=float(_macro_f1(confusion)),
        macro_f1_interval=_bootstrap_macro_f1(confusion, seed),
        per_class=tuple(
            ClassScore(label, float(p), float(r), float(f), int(s))
            for label, p, r, f, s in zip(labels, precision, recall, f1, support, strict=True)
        ),
        confusion=confusion,
    )


def _wilson(right: int, n: int) -> Interval:
    """The interval of Wilson 1927 (https://doi.org/10.1080/01621459.1927.10502953) for a share of `right` in `n`.

    scipy.stats has it, too, and takes longer to import than all the rest of this module.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = right / n
    centre, half = share + z**2 / (2 * n), z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return Interval(max(0.0, (centre - half) / (1 + z**2 / n)), min(1.0, (centre + half) / (1 + z**2 / n)))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation (divisor n - 1) of, say, one score over several training seeds.

    Raises:
        ValueError: fewer than two values; one run says nothing about the spread.
    """
    if len(values) < 2:
        raise ValueError(f"a standard deviation needs at least two values, and here there are {len(values)}")
    return float(np.mean(values)), float(np.std(values, ddof=1))


def tfidf_baseline(train_texts: Sequence[str], train_labels: Sequence[str], *, seed: int = 0) -> Pipeline:
    """Train the model to beat: TF-IDF of words and word pairs, then logistic regression.

    It is given a fair chance: words are damped (1 + log count), rare classes count as much as frequent ones, as
    macro-F1 will count them, and C, the inverse of the regularisation strength, is chosen by macro-F1 in 5-fold
    cross-validation on the training data. Each fold finds its own vocabulary: with one from all the training data,
    held-out words look known and a worse C wins. It is not the best that a bag can do: on the course's tickets,
    character 3- to 5-grams beside the words gained 1 to 4 points of macro-F1 more, for 4 to 8 times the time.

    With fewer than 5 examples in the smallest class there are that many folds; with a single one, no search and C = 10.

    Returns:
        A fitted pipeline: `.predict(texts)` gives labels, `.predict_proba(texts)` probabilities in the order of
        `.classes_`, and `["classifier"].C` is the strength chosen.

    Raises:
        CourseError: the training data holds one class only, or none.
        ValueError: there are not as many labels as texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import Pipeline
    from threadpoolctl import threadpool_limits

    if len(train_texts) != len(train_labels):
        raise ValueError(f"{len(train_texts)} texts and {len(train_labels)} labels: they must pair up")
    counts = Counter(train_labels)
    if len(counts) < 2:
        raise CourseError(f"training labels: a classifier needs at least two classes, found {sorted(counts)}")
    model = Pipeline(
        [
            ("tfidf", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)),
            # newton-cg takes a third of the default solver's time here: few examples, very many weights.
            ("classifier", LogisticRegression(C=10, class_weight="balanced", solver="newton-cg", max_iter=1_000)),
        ]
    )
    folds = min(5, *counts.values())
    # One thread: on matrices this small, BLAS threads mostly wait for each other (measured: 4 times the CPU time).
    with threadpool_limits(limits=1, user_api="blas"):
        if folds < 2:
            return model.fit(train_texts, train_labels)
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
        search = GridSearchCV(model, {"classifier__C": [1, 10, 100]}, scoring="f1_macro", cv=splits)
        return search.fit(train_texts, train_labels).best_estimator_


def _indices(values: np.ndarray, name: str, labels: tuple[str, ...]) -> np.ndarray:
    """`values` as an int array [n], checked."""
    values = np.asarray(values)
    if values.size == 0:
        raise CourseError(f"{name}: there are no examples to evaluate; give at least one")
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be a vector of ints, not {values.dtype} of shape {values.shape}")
    if values.min() < 0 or values.max() >= len(labels):
        wrong = values.min() if values.min() < 0 else values.max()
        raise ValueError(f"{name} holds the class index {wrong}: {len(labels)} labels go from 0 to {len(labels) - 1}")
    return values


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Macro-F1 of each confusion matrix, [..., K, K] → [...], over the classes that occur in it: truly or predicted."""
    occurs = confusion.sum(axis=-1) + confusion.sum(axis=-2) > 0  # [..., K]
    return _f1(confusion).sum(axis=-1) / occurs.sum(axis=-1)


def _f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class, [..., K, K] → [..., K]: 2 · right / (times true + times predicted), 0 where it never occurs."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return 2 * right / np.maximum(confusion.sum(axis=-1) + confusion.sum(axis=-2), 1)


def _bootstrap_macro_f1(confusion: np.ndarray, seed: int) -> Interval:
    """The percentile interval of macro-F1.

    F1 depends on the examples only through how many fall into each cell of the confusion matrix. Drawing n examples
    with replacement and counting cells is one multinomial draw over the cells: no loop, and no resampled examples.
    """
    n, cells = confusion.sum(), confusion.ravel()
    draws = np.random.default_rng(seed).multinomial(n, cells / n, size=RESAMPLES)  # [resamples, K·K]
    scores = _macro_f1(draws.reshape(RESAMPLES, *confusion.shape))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(float(low), float(high))
