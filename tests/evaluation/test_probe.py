"""Probes of features that can be separated by direction."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.evaluation.probe import as_head, knn_accuracy, linear_accuracy, linear_classifier, probe


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
