"""Labels spread over a graph of neighbours, as a classifier: the bar where labels are few and pixels tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from pocketvit.training.spreading import neighbour_graph, read_off, spread


class Spreading(ClassifierMixin, BaseEstimator):
    """A classifier that learns from images without labels too (see `pocketvit.training.spreading`).

    Args:
        unlabelled: (U, D), at least one
    """

    def __init__(self, unlabelled: NDArray[np.float32]) -> None:
        self.unlabelled = unlabelled

    def fit(self, x: NDArray[np.float32], y: NDArray[np.integer]) -> Spreading:
        """Spread the labels (N,) of (N, D)."""
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.graph_ = neighbour_graph(np.concatenate([x, self.unlabelled]))
        self.soft_ = spread(self.graph_, np.arange(len(x)), labels, len(self.classes_))
        return self

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.integer]:
        """(M,): labels of (M, D), each by its neighbours."""
        found: NDArray[np.integer] = self.classes_[read_off(self.graph_, self.soft_, x).argmax(axis=1)]
        return found
