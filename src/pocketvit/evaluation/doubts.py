"""Labels that may be wrong: where a linear classifier that has not seen an image is sure of another class.

After confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068): an image is doubtful where its label's
probability, by cross-validation, is below that of a class whose probability is as high as that class's own images have
it on average.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketvit.evaluation.probe import Features, Labels, linear_classifier

FOLDS = 5
NEIGHBOURS = 3
LEAST = 2  # images of a class, for it to be judged


class Doubts(NamedTuple):
    """D images whose label is doubtful, the most doubtful first.

    Args:
        images: (D,) positions
        suggested: (D,) classes
        own: (D,) probabilities of their labels
        other: (D,) probabilities of the suggested classes
        neighbours: (D, n) positions of the nearest images of the suggested class, n at most NEIGHBOURS
    """

    images: NDArray[np.int64]
    suggested: NDArray[np.int64]
    own: NDArray[np.float64]
    other: NDArray[np.float64]
    neighbours: NDArray[np.int64]


def doubtful(features: Features, labels: Labels, seed: int = 0) -> Doubts:
    """The images of doubtful labels.

    Args:
        features: (N, D), made without the labels
        labels: (N,) classes
        seed: of the folds
    """
    present, counts = np.unique(labels, return_counts=True)
    judged = np.flatnonzero(np.isin(labels, present[counts >= LEAST]))
    classes = np.unique(labels[judged])
    if len(classes) < 2:
        return _none()
    probabilities = _unseen(features[judged], labels[judged], classes, seed)
    own_column = np.searchsorted(classes, labels[judged])
    rows = np.arange(len(judged))
    own = probabilities[rows, own_column]
    # What a class's own images have for it, on average, is what makes one sure of it.
    sure = np.array([probabilities[own_column == column, column].mean() for column in range(len(classes))])
    others = np.where(probabilities >= sure, probabilities, 0.0)
    others[rows, own_column] = 0.0
    best = others.argmax(axis=1)
    margin = others[rows, best] - own
    found = np.flatnonzero(margin > 0)
    found = found[np.argsort(-margin[found], kind="stable")]
    suggested = classes[best[found]].astype(np.int64)
    near = _nearest(features, labels, judged[found], suggested)
    return Doubts(judged[found].astype(np.int64), suggested, own[found], others[found, best[found]], near)


def _unseen(features: Features, labels: Labels, classes: Labels, seed: int) -> NDArray[np.float64]:
    """(N, K): probabilities by classifiers that have not seen the image."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    found = np.zeros((len(labels), len(classes)))
    for fit, rest in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels):
        found[rest] = linear_classifier(features[fit], labels[fit]).predict_proba(features[rest])
    return found


def _nearest(
    features: Features, labels: Labels, images: NDArray[np.integer], suggested: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(D, n): the nearest images of the suggested class, by cosine; fewer where a class has fewer."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    least = min((int((labels == one).sum()) for one in np.unique(suggested)), default=NEIGHBOURS)
    near = np.zeros((len(images), min(NEIGHBOURS, least)), np.int64)
    for one in np.unique(suggested):
        members, asked = np.flatnonzero(labels == one), np.flatnonzero(suggested == one)
        likeness = unit[images[asked]] @ unit[members].T
        near[asked] = members[np.argsort(-likeness, axis=1, kind="stable")[:, : near.shape[1]]]
    return near


def _none() -> Doubts:
    empty, numbers = np.zeros(0, np.int64), np.zeros(0)
    return Doubts(empty, empty, numbers, numbers, np.zeros((0, 1), np.int64))
