"""How well frozen features separate the classes: nearest neighbours and a linear classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketvit.evaluation.pixels import seconds_of_fit

NEVER = -1e4  # of a class that was not seen
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
    return float(knn_right(train_x, train_y, test_x, test_y, k).mean())


def knn_right(train_x: Features, train_y: Labels, test_x: Features, test_y: Labels, k: int = 20) -> NDArray[np.bool_]:
    """(M,): which test images `knn_accuracy` counts as right; arguments as there."""
    from sklearn.neighbors import KNeighborsClassifier

    knn = KNeighborsClassifier(min(k, len(train_x)), metric="cosine", weights="distance")
    right: NDArray[np.bool_] = knn.fit(train_x, train_y).predict(test_x) == test_y
    return right


def linear_classifier(train_x: Features, train_y: Labels) -> Any:
    """Logistic regression on standardised features (N, D) with labels (N,): scikit-learn's pipeline, fitted.

    Raises:
        ValueError: `train_y` has a single class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=LINEAR_STEPS)).fit(train_x, train_y)


def linear_accuracy(train_x: Features, train_y: Labels, test_x: Features, test_y: Labels) -> float:
    """Accuracy of `linear_classifier`; shapes as in `knn_accuracy`. Raises as it."""
    return float(linear_classifier(train_x, train_y).score(test_x, test_y))


def as_head(linear: Any, classes: int) -> tuple[Features, Features]:
    """A `linear_classifier` as weight (K, D) and bias (K,) of a head that reads plain features.

    Where it has not seen a class, that gets a bias that no image can outweigh.
    """
    scaler, regression = (step for _, step in linear.steps)
    coefficients, bias = regression.coef_, regression.intercept_
    if len(coefficients) == 1:  # of two classes, the second one's odds
        coefficients, bias = np.concatenate([0 * coefficients, coefficients]), np.concatenate([0 * bias, bias])
    scaled = coefficients / scaler.scale_
    weight, offset = np.zeros((classes, scaled.shape[1]), np.float32), np.full(classes, NEVER, np.float32)
    weight[regression.classes_], offset[regression.classes_] = scaled, bias - scaled @ scaler.mean_
    return weight, offset


def expected_fit(labels: Labels, width: int) -> float:
    """Seconds that `linear_accuracy` usually takes on features (N, width) with labels (N,), by a brief trial."""
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).standard_normal((len(labels), width), dtype=np.float32)
    brief = LogisticRegression(max_iter=TRIED_STEPS)
    return seconds_of_fit(lambda: brief.fit(x, labels)) * USUAL_STEPS / TRIED_STEPS


class Probed(NamedTuple):
    """What frozen features gave.

    Args:
        knn: test accuracy of the nearest neighbours
        linear: test accuracy of `linear_classifier`
        classifier: that one
    """

    knn: float
    linear: float
    classifier: Any

    def to_json(self) -> dict[str, float]:
        """The accuracies."""
        return {"knn": self.knn, "linear": self.linear}


def probe(train_x: Features, train_y: Labels, test_x: Features, test_y: Labels) -> Probed:
    """What features are worth, fitted on train (N, D), (N,) of two classes or more, and read on test (M, D), (M,)."""
    return _probed(knn_right(train_x, train_y, test_x, test_y), train_x, train_y, test_x, test_y)


def _probed(right: NDArray[np.bool_], train_x: Features, train_y: Labels, test_x: Features, test_y: Labels) -> Probed:
    linear = linear_classifier(train_x, train_y)
    return Probed(float(right.mean()), float(linear.score(test_x, test_y)), linear)


class Metric(NamedTuple):
    """What frozen features know of the classes, by few labels or many: by their distances, and by directions.

    Args:
        probed: features as they are
        knn_whitened: test accuracy of the nearest neighbours where no direction outweighs the others
        linear_whitened: of `linear_classifier` on the same
        right: (M,) which test images the nearest neighbours name rightly, as they are
    """

    probed: Probed
    knn_whitened: float
    linear_whitened: float
    right: NDArray[np.bool_]

    def to_json(self) -> dict[str, float]:
        """The accuracies."""
        whitened = {"knn_whitened": self.knn_whitened, "linear_whitened": self.linear_whitened}
        return self.probed.to_json() | whitened


def metric(train_x: Features, train_y: Labels, test_x: Features, test_y: Labels, unlabelled: Features) -> Metric:
    """Readings of features (N, D) with labels (N,), of two classes or more, on test (M, D), (M,).

    `unlabelled` features, (U, D), are what whitening is fitted to.
    """
    right = knn_right(train_x, train_y, test_x, test_y)
    probed = _probed(right, train_x, train_y, test_x, test_y)
    whiten = whitening(unlabelled)
    whitened = (whiten(train_x), train_y, whiten(test_x), test_y)
    return Metric(probed, knn_accuracy(*whitened), linear_accuracy(*whitened), right)


def whitening(features: Features) -> Callable[[Features], Features]:
    """A map to the principal components of (N, D) features that hold 99 % of their variance, each of variance 1."""
    from sklearn.decomposition import PCA

    fitted = PCA(n_components=0.99, whiten=True, svd_solver="full").fit(features)
    return lambda some: np.asarray(fitted.transform(some), np.float32)


def effective_rank(features: Features) -> float:
    """Dimensions that (N, D) features fill: the exponential of the entropy of their singular values, centred.

    Roy and Vetterli 2007 (EUSIPCO), definition 1: D for features alike in all directions, 1 for those on a line.
    """
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False).astype(np.float64)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
