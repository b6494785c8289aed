"""Are a classifier's probabilities honest, and from which one on should it decide without a human?

n           examples                      K  classes
confidence  float [n], the probability, 0 to 1, of the class that the model chose
right       bool [n], whether that class is the true one
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest

from course_lib import CourseError
from course_lib.evaluate import CONFIDENCE, Interval

COLDEST, HOTTEST = 0.05, 20.0  # where `fit_temperature` looks


@dataclass(frozen=True)
class Bin:
    """The `count` answers whose confidence lies within one bin: what they promised and what they kept."""

    count: int
    confidence: float  # mean
    accuracy: float
    interval: Interval  # of the accuracy, 95 %, Wilson's


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> list[Bin]:
    """Cut 0 to 1 into `bins` of equal width, (low, high]; those that hold an answer, from the lowest on.

    Guo et al. 2017, "On Calibration of Modern Neural Networks" (https://arxiv.org/abs/1706.04599), section 2. A
    confidence of exactly 0 falls into the first bin.

    Raises:
        CourseError: there are no examples.
        ValueError: the arrays do not pair up, or a confidence is not within 0 to 1.
    """
    confidence, right = _paired(confidence, right)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # [n]
    result = []
    for number in np.unique(place):
        inside = place == number
        kept, count = int(right[inside].sum()), int(inside.sum())
        wilson = binomtest(kept, count).proportion_ci(CONFIDENCE, method="wilson")
        interval = Interval(float(wilson.low), float(wilson.high))
        result.append(Bin(count, float(confidence[inside].mean()), kept / count, interval))
    return result


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """The gap between promise and truth, |accuracy − mean confidence|, averaged over answers; 0 to 1.

    Guo et al. 2017, equation 3. It is never 0 on few examples, even for a model that is perfectly calibrated: compare
    it with what labels drawn from the model's own probabilities would give. Raises as `reliability` does.
    """
    cells = reliability(confidence, right, bins)
    return sum(cell.count * abs(cell.accuracy - cell.confidence) for cell in cells) / sum(cell.count for cell in cells)


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """The mean loss, in nats, of softmax(logits / temperature). logits: float [n, K], labels: int [n]."""
    log_probs = log_softmax(np.asarray(logits, np.float64) / temperature, axis=-1)  # [n, K]
    return float(-log_probs[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T for which softmax(logits / T) has the smallest cross-entropy; on validation data, never on test data.

    Guo et al. 2017, section 4.2. One number for all classes: it moves no class past another, so no decision changes.
    Above 1 it takes certainty away, below 1 it adds some. The loss is convex in 1/T, so there is one best T; it is
    looked for between 0.05 and 20, and comes out near an end only where the labels set no limit (every answer right).

    logits: float [n, K], labels: int [n]. Raises CourseError where there are no examples.
    """
    if len(labels) == 0:
        raise CourseError("labels: there are no examples to fit a temperature on; give at least one")
    if len(logits) != len(labels):
        raise ValueError(f"logits has {len(logits)} examples and labels has {len(labels)}: they must pair up")
    found = minimize_scalar(
        lambda log_t: cross_entropy(logits, labels, np.exp(log_t)),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def handover_cost(
    confidence: np.ndarray, right: np.ndarray, threshold: float, *, mistake: float, handover: float
) -> float:
    """The mean cost of a message where a human gets whatever the model is less than `threshold` sure of.

    Of *all* messages: one that is handed over costs `handover`, one that goes to the wrong team by itself `mistake`,
    one that goes to the right team nothing. Both in the same unit, say minutes. Raises as `reliability` does.
    """
    confidence, right = _paired(confidence, right)
    human = confidence < threshold  # [n]
    return float(np.where(human, handover, np.where(right, 0.0, mistake)).mean())


def best_threshold(confidence: np.ndarray, right: np.ndarray, *, mistake: float, handover: float) -> float:
    """The threshold that would have cost least on these examples; of several, the one with the fewest hand-overs.

    0 hands nothing over, infinity everything. Choose on validation data and pay on test data: the least of many noisy
    costs is smaller than what it will cost tomorrow. For honest probabilities no search is needed: to hand over is
    worth it where the risk is greater than handover / mistake, that is below 1 − handover / mistake (Chow 1970, "On
    optimum recognition error and reject tradeoff", IEEE Transactions on Information Theory 16).
    """
    confidence, right = _paired(confidence, right)
    candidates = [0.0, *np.unique(confidence), np.inf]  # between two of them, nothing changes
    costs = [handover_cost(confidence, right, t, mistake=mistake, handover=handover) for t in candidates]
    return float(candidates[int(np.argmin(costs))])


def _paired(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [n] and bool [n], checked."""
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right)
    if confidence.size == 0:
        raise CourseError("confidence: there are no examples; give at least one")
    if confidence.ndim != 1 or confidence.shape != right.shape:
        raise ValueError(f"confidence {confidence.shape} and right {right.shape} must be two vectors of one length")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidence must lie within 0 and 1: is it a logit, or NaN?")
    return confidence, right.astype(bool)
