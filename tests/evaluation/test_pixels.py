"""Raw-pixel baselines: strong on digits, left out where they would take too long."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from pocketvit.evaluation.pixels import expected_seconds, pixel_baselines
from pocketvit.evaluation.spreading import Spreading


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
    images = np.random.default_rng(6).integers(0, 256, (6, 8, 4, 2), dtype=np.uint8)
    part = images, np.arange(6) % 2
    assert set(pixel_baselines(*part, *part, *part)) == {"logistic regression", "knn", "ridge"}
    monkeypatch.setattr("pocketvit.evaluation.pixels.LOGISTIC_MOST_IMAGES", 5)
    found = pixel_baselines(*part, *part, *part)
    assert set(found) == {"knn", "ridge"}
    assert found["ridge"]["test"] == 1
    assert set(pixel_baselines(*part, *part, *part, most_seconds=0.0)) == {"ridge"}


def test_pixels_that_memory_would_not_hold_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(6).integers(0, 256, (6, 8, 4, 2), dtype=np.uint8)
    part = images, np.arange(6) % 2
    for free, fits in ((31 * images.size, False), (33 * images.size, True)):
        monkeypatch.setattr("pocketvit.evaluation.pixels.free_bytes", lambda device, free=free: free)
        assert bool(pixel_baselines(*part, *part, *part)) == bool(expected_seconds(*part, 6, 6)) == fits


def test_images_are_tested_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(6).integers(0, 256, (60, 8, 4, 2), dtype=np.uint8)
    part = images, np.arange(60) % 2
    at_once = pixel_baselines(*part, *part, *part)
    monkeypatch.setattr("pocketvit.evaluation.pixels.CHUNK", 7)
    assert pixel_baselines(*part, *part, *part) == at_once


@pytest.mark.parametrize(("side", "tried"), [(8, 500), (32, 500), (64, 250)])
def test_large_images_are_tried_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch, side: int, tried: int) -> None:
    """Pairs of images times their values are what a trial of the SVM takes time with."""
    fitted: list[int] = []

    def fit(self: SVC, x: np.ndarray, y: np.ndarray) -> SVC:
        fitted.append(len(x))
        return self

    monkeypatch.setattr(SVC, "fit", fit)
    monkeypatch.setattr(SVC, "predict", lambda self, x: None)
    images = np.zeros((600, side, side, 3), np.uint8)
    labels = np.random.default_rng(0).integers(0, 2, 600)
    assert expected_seconds(images, labels, 10, 10) > 0
    assert max(fitted) in (tried, tried + 1)  # one more, where all were of one class


@pytest.mark.parametrize(("a_fit", "in_all"), [(0.01, 0.05), (0.2, 100.0)])
def test_a_regression_that_converges_at_once_is_not_expected_to_take_all_its_steps(
    monkeypatch: pytest.MonkeyPatch, a_fit: float, in_all: float
) -> None:
    """Of a long fit only the steps are known: no trial goes on to its end."""

    def seconds(work: Callable[[], object]) -> float:
        work()
        return a_fit

    monkeypatch.setattr("pocketvit.evaluation.pixels.seconds_of_fit", seconds)
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    svm = a_fit / 30**2 * 30 * (5 * 30 + 10) / 2
    assert expected_seconds(images, np.arange(30) % 3, 40, 10) == pytest.approx(svm + in_all, rel=1e-3)


def test_a_fit_that_has_not_converged_says_nothing_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvit.evaluation.pixels.LOGISTIC_STEPS", 1)
    images = np.random.default_rng(6).integers(0, 256, (20, 8, 4, 2), dtype=np.uint8)
    part = images, np.arange(20) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "logistic regression" in pixel_baselines(*part, *part, *part)


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


def test_images_without_labels_help_where_labels_are_few() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[..., None]
    few, rest, test = slice(0, 50), slice(50, 1300), slice(1300, None)
    parts = [(images[part], digits.target[part]) for part in (few, few, test)]
    found = pixel_baselines(*parts[0], *parts[1], *parts[2], unlabelled=images[rest])
    assert found["label spreading"]["test"] > max(found[name]["test"] for name in ("svm", "knn")) + 0.03
    # With no more of them than labels they are not worth a graph.
    assert "label spreading" not in pixel_baselines(*parts[0], *parts[1], *parts[2], unlabelled=images[few])


def test_spread_labels_reach_along_a_moon() -> None:
    """Two half circles, one label at the end of each: distance alone would cut them across."""
    angles = np.linspace(0, np.pi, 60)
    first = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    second = np.stack([1 - np.cos(angles), 0.3 - np.sin(angles)], axis=1)
    points = np.concatenate([first, second]).astype(np.float32)
    truth = np.repeat([0, 1], 60)
    ends = np.array([0, 60])
    spread = Spreading(np.delete(points, ends, axis=0)).fit(points[ends], truth[ends])
    assert (spread.predict(points) == truth).mean() > 0.95
    assert (KNeighborsClassifier(1).fit(points[ends], truth[ends]).predict(points) == truth).mean() < 0.9
