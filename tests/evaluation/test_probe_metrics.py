"""Probes on separable data, raw-pixel baselines on digits, and metrics against cases worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pocketvit.evaluation import predictor
from pocketvit.evaluation.calibration import calibration_error
from pocketvit.evaluation.metrics import Metrics, most_confident_mistakes
from pocketvit.evaluation.pixels import pixel_baselines
from pocketvit.evaluation.predictor import Eager, Predictor
from pocketvit.evaluation.probe import knn_accuracy, linear_accuracy, probe
from pocketvit.model.vit import ViT, ViTShape

SHAPE = ViTShape((8, 4, 2), patch=2, width=16, depth=2, heads=2, mlp_ratio=2.0)
NORMALISATION = ((0.4, 0.5), (0.2, 0.3))


def encoder() -> ViT:
    torch.manual_seed(0)
    return ViT(SHAPE, classes=3, drop_path=0.5)


def uint8_images(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 4, 2), dtype=np.uint8)


def rays(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points along three directions, of any length: separable by cosine, though not by distance."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    points = np.eye(3)[labels] + random.normal(0, 0.05, (n, 3))
    return (points * random.uniform(0.1, 10, (n, 1))).astype(np.float32), labels


def ready(vit: ViT) -> Predictor:
    return Predictor(Eager(vit, *NORMALISATION, "cpu"), vit.shape.image)


def test_features_match_the_encoder_whatever_the_batch_and_leave_its_mode_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vit, images = encoder(), uint8_images(7)
    vit.train()
    vit.blocks[0].eval()
    monkeypatch.setattr(predictor, "BATCH_SIZE", 3)
    found = ready(vit).features(images)
    assert found.shape == (7, 16)
    assert found.dtype == np.float32
    assert vit.training
    assert not vit.blocks[0].training
    assert vit.blocks[1].training
    mean, std = (torch.tensor(v).view(2, 1, 1) for v in NORMALISATION)
    vit.eval()
    expected = vit.features((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    np.testing.assert_allclose(found, expected.detach(), atol=1e-5)


def test_probabilities_are_the_softmax_of_the_head() -> None:
    vit, images = encoder(), uint8_images(5)
    probabilities = ready(vit).probabilities(images)
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    logits = torch.from_numpy(ready(vit).features(images)) @ vit.head.weight.T + vit.head.bias
    np.testing.assert_allclose(probabilities, logits.softmax(1).detach(), atol=1e-5)


def test_probes_separate_what_is_separable() -> None:
    train, test = rays(90, 0), rays(30, 1)
    assert knn_accuracy(*train, *test) == 1
    assert linear_accuracy(*train, *test) > 0.9


def test_knn_takes_no_more_neighbours_than_there_are() -> None:
    assert knn_accuracy(*rays(6, 0), *rays(30, 1), k=20) == 1


def test_probe_reads_both_from_the_encoder() -> None:
    labels = np.arange(12) % 3
    images = np.where(labels == 0, 0, np.where(labels == 1, 128, 255)).astype(np.uint8)
    images = np.broadcast_to(images[:, None, None, None], (12, 8, 4, 2))
    assert probe(ready(encoder()), images, labels, images, labels) == {"knn": 1.0, "linear": 1.0}


def test_pixel_baselines_on_digits_are_strong() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[..., None]
    parts = [(images[i::3], digits.target[i::3]) for i in range(3)]
    found = pixel_baselines(*parts[0], *parts[1], *parts[2])
    assert set(found) == {"svm", "logistic regression", "knn"}
    assert all(0.9 < result[split] <= 1 for result in found.values() for split in ("validation", "test"))
    assert found["svm"]["test"] > 0.96


def test_what_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvit.evaluation.pixels.SVM_MOST_IMAGES", 5)
    part = uint8_images(6), np.arange(6) % 2
    assert set(pixel_baselines(*part, *part, *part)) == {"logistic regression", "knn", "ridge"}
    monkeypatch.setattr("pocketvit.evaluation.pixels.LOGISTIC_MOST_IMAGES", 5)
    found = pixel_baselines(*part, *part, *part)
    assert set(found) == {"knn", "ridge"}
    assert found["ridge"]["test"] == 1


def test_no_baseline_is_chosen_on_more_labels_than_it_has() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[..., None]
    few, many = (images[:60], digits.target[:60]), (images[60:], digits.target[60:])
    wrong = images[60:], (digits.target[60:] + 1) % 10
    # Labels beyond the budget, were they read, would leave nothing right.
    found = pixel_baselines(*few, *wrong, *many)
    assert all(result["validation"] > 0.5 for result in found.values())
    assert pixel_baselines(*many, *wrong, *few)["svm"]["validation"] < 0.1


def test_metrics_match_a_case_worked_out_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.7, 0.0], [0.4, 0.6, 0.0]])
    metrics = Metrics.of(probabilities, np.array([0, 1, 1, 0]), ["cat", "dog", "eel"])
    assert metrics.accuracy == 0.75
    assert metrics.per_class == {"cat": 0.5, "dog": 1.0, "eel": None}
    # Rows are the true class: one cat was taken for a dog.
    assert metrics.confusion == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    # Each image has a bin of its own: gaps of 0.1, 0.2, 0.3 and 0.6.
    assert metrics.ece == pytest.approx(0.3)
    assert json.loads(json.dumps(metrics.to_json(), allow_nan=False)) == metrics.to_json()


def test_calibration_error_averages_within_a_bin_before_taking_the_gap() -> None:
    # 0.62 and 0.66 share the bin from 0.6 to 0.667: mean confidence 0.64, accuracy 0.5. 0.95 is alone, and right.
    probabilities = np.array([[0.62, 0.38], [0.34, 0.66], [0.95, 0.05]])
    labels = np.array([0, 0, 0])
    assert calibration_error(probabilities, labels) == pytest.approx((2 * 0.14 + 0.05) / 3)


@pytest.mark.parametrize(("label", "error"), [(0, 0.0), (1, 1.0)])
def test_certainty_is_calibrated_only_where_it_is_right(label: int, error: float) -> None:
    assert calibration_error(np.array([[1.0, 0.0]] * 3), np.full(3, label)) == error


def test_mistakes_come_most_confident_first() -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.9, 0.1]])
    labels = np.array([1, 1, 1, 0, 1])
    assert most_confident_mistakes(probabilities, labels, 3).tolist() == [1, 4, 3]
    assert most_confident_mistakes(probabilities, labels, 99).tolist() == [1, 4, 3, 0]
    assert most_confident_mistakes(probabilities, probabilities.argmax(1), 3).tolist() == []
