"""A temperature makes probabilities mean what they say, and changes no prediction."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.evaluation.calibration import FEWEST, calibration_error, fitted_temperature, reliability
from pocketvit.evaluation.predictor import Predictor


def drawn(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth: labels are drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (images, 5)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=row / row.sum()) for row in probabilities.astype(np.float64)])
    return logits, labels


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_a_factor_on_logits(factor: float) -> None:
    logits, labels = drawn(4000)
    assert fitted_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.08)


def test_it_lowers_the_calibration_error_and_changes_no_prediction() -> None:
    (logits, labels), (new, truth) = drawn(2000), drawn(2000, seed=1)
    timid = Predictor(None, (8, 8, 1))
    bold = Predictor(None, (8, 8, 1), temperature=fitted_temperature(0.3 * logits, labels))
    before, after = timid.calibrated(0.3 * new), bold.calibrated(0.3 * new)
    assert calibration_error(before, truth) > 0.1
    assert calibration_error(after, truth) < 0.04
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
    np.testing.assert_allclose(after.sum(1), 1, rtol=1e-5)


def test_too_few_labels_tell_nothing() -> None:
    logits, labels = drawn(FEWEST - 1)
    assert fitted_temperature(5 * logits, labels) == 1.0


def test_a_few_images_that_are_all_right_do_not_make_it_sure_of_everything() -> None:
    labels = np.arange(50) % 5
    logits = 10 * np.eye(5, dtype=np.float32)[labels]
    confidence = 1 / (1 + 4 * np.exp(-10 / fitted_temperature(logits, labels)))
    # One chance in 52, of which a fifth falls on the right class.
    assert confidence == pytest.approx(1 - 0.8 / 52, abs=1e-3)


def test_bins_hold_every_image_once() -> None:
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.6, 0.4], [0.3, 0.7]])
    bins = reliability(probabilities, np.array([0, 1, 0, 1]))
    assert sum(found["images"] for found in bins) == 4
    assert bins[-1] == {"confidence": pytest.approx(0.95), "accuracy": 0.0, "images": 1}


def test_calibration_error_averages_within_a_bin_before_taking_the_gap() -> None:
    # 0.62 and 0.66 share the bin from 0.6 to 0.667: mean confidence 0.64, accuracy 0.5. 0.95 is alone, and right.
    probabilities = np.array([[0.62, 0.38], [0.34, 0.66], [0.95, 0.05]])
    labels = np.array([0, 0, 0])
    assert calibration_error(probabilities, labels) == pytest.approx((2 * 0.14 + 0.05) / 3)


@pytest.mark.parametrize(("label", "error"), [(0, 0.0), (1, 1.0)])
def test_certainty_is_calibrated_only_where_it_is_right(label: int, error: float) -> None:
    assert calibration_error(np.array([[1.0, 0.0]] * 3), np.full(3, label)) == error
