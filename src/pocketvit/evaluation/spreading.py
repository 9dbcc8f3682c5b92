"""Labels spread over a graph of neighbours, with and without labels: the bar where labels are few and pixels tell.

Zhou et al. 2004, "Learning with local and global consistency", as scikit-learn has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

NEIGHBOURS = 10
HELD = 0.8  # share of an image's label that comes from its neighbours
STEPS = 200


class Spreading(ClassifierMixin, BaseEstimator):
    """A classifier that learns from images without labels too.

    Args:
        unlabelled: (U, D), at least one
    """

    def __init__(self, unlabelled: NDArray[np.float32]) -> None:
        self.unlabelled = unlabelled

    def fit(self, x: NDArray[np.float32], y: NDArray[np.integer]) -> Spreading:
        """Spread the labels (N,) of (N, D)."""
        from sklearn.semi_supervised import LabelSpreading

        everything = np.concatenate([x, self.unlabelled])
        known = np.concatenate([y, np.full(len(self.unlabelled), -1)])
        neighbours = min(NEIGHBOURS, len(everything) - 1)
        self.graph_: Any = LabelSpreading(kernel="knn", n_neighbors=neighbours, alpha=HELD, max_iter=STEPS)
        self.graph_.fit(everything, known)
        self.classes_ = self.graph_.classes_
        return self

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.integer]:
        """(M,): labels of (M, D), each by its neighbours."""
        found: NDArray[np.integer] = self.graph_.predict(x)
        return found
