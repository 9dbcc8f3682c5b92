"""How well frozen features separate the classes: nearest neighbours and a linear classifier."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketvit.evaluation.pixels import seconds_of_fit
from pocketvit.evaluation.predictor import Predictor

LINEAR_STEPS = 2000  # at the most
USUAL_STEPS, TRIED_STEPS = 200, 10  # that it takes on standardised features, and on which its time is measured

Features = NDArray[np.float32]
Labels = NDArray[np.integer]


def knn_accuracy(train_x: Features, train_y: Labels, test_x: Features, test_y: Labels, k: int = 20) -> float:
    """Accuracy of the `k` nearest train images (all of them, where there are fewer) by cosine, weighted by distance.

    Args:
        train_x: (N, D)
        train_y: (N,)
        test_x: (M, D)
        test_y: (M,)
        k: neighbours
    """
    from sklearn.neighbors import KNeighborsClassifier

    knn = KNeighborsClassifier(min(k, len(train_x)), metric="cosine", weights="distance")
    return float(knn.fit(train_x, train_y).score(test_x, test_y))


def linear_accuracy(train_x: Features, train_y: Labels, test_x: Features, test_y: Labels) -> float:
    """Accuracy of logistic regression on standardised features; shapes as in `knn_accuracy`.

    Raises:
        ValueError: `train_y` has a single class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=LINEAR_STEPS))
    return float(linear.fit(train_x, train_y).score(test_x, test_y))


def expected_fit(labels: Labels, width: int) -> float:
    """Seconds that `linear_accuracy` usually takes on features (N, width) with labels (N,), by a brief trial."""
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).standard_normal((len(labels), width), dtype=np.float32)
    brief = LogisticRegression(max_iter=TRIED_STEPS)
    return seconds_of_fit(lambda: brief.fit(x, labels)) * USUAL_STEPS / TRIED_STEPS


def probe(
    predictor: Predictor,
    train_images: NDArray[np.uint8],
    train_y: Labels,
    test_images: NDArray[np.uint8],
    test_y: Labels,
) -> dict[str, float]:
    """Accuracies "knn" and "linear" of an encoder's features, fitted on train and read on test.

    Args:
        predictor: gives the features
        train_images: (N, H, W, C)
        train_y: (N,), two classes or more
        test_images: (M, H, W, C)
        test_y: (M,)
    """
    train_x, test_x = (predictor.features(images) for images in (train_images, test_images))
    return {
        "knn": knn_accuracy(train_x, train_y, test_x, test_y),
        "linear": linear_accuracy(train_x, train_y, test_x, test_y),
    }
