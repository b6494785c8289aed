import numpy as np
import pytest
from scipy.stats import norm

from course_lib import CourseError
from course_lib.calibrate import (
    best_threshold,
    cross_entropy,
    expected_calibration_error,
    fit_temperature,
    handover_cost,
    reliability,
)


def sharpened(n, classes, temperature, seed=0):
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(n, classes))
    gumbel = rng.gumbel(size=logits.shape)
    return logits, (logits / temperature + gumbel).argmax(-1)


def confidences(logits, temperature=1.0):
    scaled = np.exp(logits / temperature)
    return (scaled / scaled.sum(-1, keepdims=True)).max(-1)


def test_calibration_error_of_a_worked_example():
    confidence = np.array([0.9, 0.8, 0.95, 0.85, 0.55, 0.6])
    right = np.array([True, True, False, True, False, True])
    # Two bins hold answers, (0.5, 0.75] and (0.75, 1]: 2 of mean 0.575, one right; 4 of mean 0.875, three right.
    assert expected_calibration_error(confidence, right, bins=4) == pytest.approx(2 / 6 * 0.075 + 4 / 6 * 0.125)


def test_bins_are_closed_on_the_right_and_hold_every_answer_once():
    cells = reliability(np.array([0.0, 0.25, 0.25, 0.26, 0.5, 1.0]), np.ones(6, bool), bins=4)
    assert [cell.count for cell in cells] == [3, 2, 1]  # (0.5, 0.75] is empty and left out
    assert [cell.confidence for cell in cells] == pytest.approx([0.5 / 3, 0.38, 1.0])


def test_a_bins_interval_is_wilsons():
    cell = reliability(np.full(50, 0.9), np.arange(50) < 40, bins=10)[0]
    p, n, z = 0.8, 50, norm.ppf(0.975)
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    assert (cell.interval.low, cell.interval.high) == pytest.approx(expected)


def test_an_honest_model_has_a_small_error_and_an_overconfident_one_a_large_one():
    logits, labels = sharpened(20_000, 8, temperature=2.0)
    right = logits.argmax(-1) == labels
    assert expected_calibration_error(confidences(logits, 2.0), right) < 0.02
    assert expected_calibration_error(confidences(logits), right) > 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, labels = sharpened(20_000, 8, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.04)


def test_no_other_temperature_has_a_smaller_loss():
    logits, labels = sharpened(200, 4, 1.7, seed=3)
    found = cross_entropy(logits, labels, fit_temperature(logits, labels))
    assert found <= min(cross_entropy(logits, labels, t) for t in np.geomspace(0.1, 10, 400)) + 1e-9


def test_cross_entropy_is_minus_the_log_probability_and_survives_large_logits():
    assert cross_entropy(np.log([[0.7, 0.3], [0.2, 0.8]]), np.array([0, 0])) == pytest.approx(-np.log(0.14) / 2)
    assert cross_entropy(np.array([[1e4, 0.0]]), np.array([1]), temperature=2.0) == pytest.approx(5e3)


def test_a_temperature_that_the_labels_do_not_limit_stays_within_the_range():
    assert 0.05 <= fit_temperature(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([0, 1])) < 0.06  # all right
    assert 19 < fit_temperature(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([1, 0])) <= 20  # all wrong


def test_cost_of_a_worked_example():
    confidence, right = np.array([0.9, 0.8, 0.6, 0.4]), np.array([True, False, False, True])
    costs = [handover_cost(confidence, right, t, mistake=8, handover=1) for t in (0.0, 0.4, 0.6, 0.7, 0.9, 0.95)]
    assert costs == pytest.approx([16 / 4, 16 / 4, 17 / 4, 10 / 4, 3 / 4, 4 / 4])


def test_the_best_threshold_is_no_dearer_than_any_other_and_hands_over_the_fewest():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.2, 1, 80)
    right = rng.random(80) < confidence
    best = best_threshold(confidence, right, mistake=5, handover=1)
    cost = handover_cost(confidence, right, best, mistake=5, handover=1)
    grid = np.linspace(0, 1.01, 500)
    costs = np.array([handover_cost(confidence, right, t, mistake=5, handover=1) for t in grid])
    assert cost <= costs.min() + 1e-12
    assert (confidence < best).sum() <= min((confidence < t).sum() for t in grid[costs <= cost + 1e-12])


def test_nobody_or_everybody_goes_to_a_human_where_that_is_cheapest():
    confidence = np.array([0.5, 0.9])
    assert best_threshold(confidence, np.array([True, True]), mistake=5, handover=1) == 0
    assert best_threshold(confidence, np.array([False, False]), mistake=5, handover=1) == np.inf


def test_honest_probabilities_need_no_search():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0, 1, 200_000)
    right = rng.random(200_000) < confidence
    assert best_threshold(confidence[:4000], right[:4000], mistake=8, handover=1) == pytest.approx(1 - 1 / 8, abs=0.08)
    chow = handover_cost(confidence, right, 1 - 1 / 8, mistake=8, handover=1)
    assert all(handover_cost(confidence, right, t, mistake=8, handover=1) > chow for t in (0.8, 0.95))


@pytest.mark.parametrize(
    ("confidence", "right", "error", "message"),
    [
        ([], [], CourseError, "no examples"),
        ([0.5, 0.6], [True], ValueError, r"confidence \(2,\) and right \(1,\)"),
        ([[0.5]], [[True]], ValueError, "two vectors"),
        ([2.3], [True], ValueError, "is it a logit"),
        ([np.nan], [True], ValueError, "or NaN"),
    ],
)
def test_bad_input_is_refused_by_name(confidence, right, error, message):
    confidence, right = np.array(confidence), np.array(right, bool)
    with pytest.raises(error, match=message):
        expected_calibration_error(confidence, right)
    with pytest.raises(error, match=message):
        handover_cost(confidence, right, 0.5, mistake=1, handover=1)


def test_a_temperature_needs_examples_that_pair_up():
    with pytest.raises(CourseError, match="no examples to fit"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(ValueError, match="2 examples and labels has 1"):
        fit_temperature(np.zeros((2, 3)), np.zeros(1, int))
