"""Metrics against a case worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pocketvit.evaluation.metrics import Metrics, kept_accuracy, most_confident_mistakes


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


def test_mistakes_come_most_confident_first() -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.9, 0.1]])
    labels = np.array([1, 1, 1, 0, 1])
    assert most_confident_mistakes(probabilities, labels, 3).tolist() == [1, 4, 3]
    assert most_confident_mistakes(probabilities, labels, 99).tolist() == [1, 4, 3, 0]
    assert most_confident_mistakes(probabilities, probabilities.argmax(1), 3).tolist() == []


def test_the_surest_are_kept_first() -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    kept = kept_accuracy(probabilities, np.array([1, 0, 1, 0]), shares=4)
    assert [entry["share"] for entry in kept] == [0.25, 0.5, 0.75, 1.0]
    # The two surest are right, the other two wrong.
    assert [entry["accuracy"] for entry in kept] == pytest.approx([1, 1, 2 / 3, 0.5])
    assert kept_accuracy(probabilities[:1], np.array([0]))[-1] == {"share": 1.0, "accuracy": 1.0}
