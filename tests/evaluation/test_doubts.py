"""Labels that were made wrong are found, and right ones are mostly left alone."""

from __future__ import annotations

import numpy as np

from pocketvit.evaluation.doubts import doubtful


def blobs(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Points around three centres, some of which overlap a little."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return (4 * np.eye(3)[labels] + random.normal(0, 1, (n, 3))).astype(np.float32), labels


def test_planted_labels_come_first() -> None:
    x, truth = blobs()
    planted = np.random.default_rng(1).permutation(len(truth))[:9]  # 3 %
    labels = truth.copy()
    labels[planted] = (labels[planted] + 1) % 3
    found = doubtful(x, labels)
    assert len(set(found.images[:9]) & set(planted)) >= 8
    suggested = dict(zip(found.images.tolist(), found.suggested.tolist(), strict=True))
    assert all(suggested[one] == truth[one] for one in set(planted.tolist()) & set(suggested))
    assert (found.own < found.other).all()
    assert (np.diff(found.other - found.own) <= 0).all()


def test_the_neighbours_are_of_the_class_that_is_suggested() -> None:
    x, labels = blobs()
    labels = labels.copy()
    labels[0] = 1
    found = doubtful(x, labels)
    assert found.images[0] == 0
    assert (labels[found.neighbours] == found.suggested[:, None]).all()
    likeness = [x[0] @ x[other] / np.linalg.norm(x[other]) for other in found.neighbours[0]]
    assert likeness == sorted(likeness, reverse=True)


def test_where_all_is_clear_nothing_is_doubted() -> None:
    x, labels = blobs()
    assert len(doubtful(x + 20 * np.eye(3)[labels].astype(np.float32), labels).images) == 0


def test_a_class_of_one_image_is_not_judged() -> None:
    x, labels = blobs(30)
    assert len(doubtful(x[:2], labels[:2]).images) == 0
    labels = labels.copy()
    labels[0] = 7
    assert 0 not in doubtful(x, labels).images
