"""Probes of features that can be separated by direction."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.evaluation.probe import (
    as_head,
    effective_rank,
    knn_accuracy,
    linear_accuracy,
    linear_classifier,
    metric,
    probe,
    whitening,
)


def rays(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points along three directions, of any length: separable by cosine, though not by distance."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    points = np.eye(3)[labels] + random.normal(0, 0.05, (n, 3))
    return (points * random.uniform(0.1, 10, (n, 1))).astype(np.float32), labels


def test_probes_separate_what_is_separable() -> None:
    train, test = rays(90, 0), rays(30, 1)
    assert knn_accuracy(*train, *test) == 1
    assert linear_accuracy(*train, *test) > 0.9


def test_knn_takes_no_more_neighbours_than_there_are() -> None:
    assert knn_accuracy(*rays(6, 0), *rays(30, 1), k=20) == 1


def test_probe_gives_both_readings_and_the_classifier() -> None:
    train, test = rays(90, 0), rays(30, 1)
    found = probe(*train, *test)
    assert found.to_json() == {"knn": knn_accuracy(*train, *test), "linear": linear_accuracy(*train, *test)}
    assert found.classifier.score(*test) == found.linear


@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_classifier_is_a_head_of_the_network(classes: int) -> None:
    x, y = rays(90, 0)
    x, y = 100 + 7 * x[y < classes], y[y < classes]
    linear = linear_classifier(x, y)
    weight, bias = as_head(linear, classes)
    logits = x @ weight.T + bias
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(linear.predict_proba(x), expected, atol=2e-4)


def test_a_head_never_names_a_class_that_was_not_there() -> None:
    x, y = rays(90, 0)
    weight, bias = as_head(linear_classifier(x, np.where(y == 1, 4, y)), 5)
    assert (weight.shape, bias.shape) == ((5, 3), (5,))
    assert set((x @ weight.T + bias).argmax(1)) == {0, 2, 4}


def test_whitened_features_vary_alike_in_all_directions_that_matter() -> None:
    random = np.random.default_rng(0)
    features = (random.standard_normal((500, 4)) * [9, 3, 1, 1e-3]).astype(np.float32) + 5
    found = whitening(features)(features)
    np.testing.assert_allclose(np.cov(found.T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize(("scales", "expected"), [([1, 1, 1, 1], 4.0), ([1, 1, 0, 0], 2.0), ([1, 0, 0, 0], 1.0)])
def test_the_effective_rank_counts_the_dimensions_that_are_filled(scales: list[float], expected: float) -> None:
    features = np.random.default_rng(0).standard_normal((4000, 4)) * scales
    assert effective_rank((features + 3).astype(np.float32)) == pytest.approx(expected, abs=0.05)


def test_a_direction_that_drowns_the_others_is_no_matter_once_whitened() -> None:
    """Classes lie along three axes; a fourth, far longer, has nothing to do with them."""
    random = np.random.default_rng(0)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n) % 3
        loud = 50 * random.standard_normal((n, 1))
        points = 3 * np.eye(3)[labels] + random.normal(0, 0.2, (n, 3))
        return np.concatenate([points, loud], axis=1).astype(np.float32), labels

    train, test = drawn(90), drawn(300)
    found = metric(*train, *test, np.concatenate([train[0], drawn(500)[0]]))
    told = found.to_json()
    assert told["knn"] == found.right.mean() == knn_accuracy(*train, *test)
    assert told["linear"] == linear_accuracy(*train, *test) > 0.95
    assert found.probed.classifier.score(*test) == told["linear"]
