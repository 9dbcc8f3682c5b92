"""What classifiers reach on raw pixels: the bar that a network has to clear."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

SVM_MOST_IMAGES = 5000  # fitting takes time with the square of their number
LOGISTIC_MOST_IMAGES = 20_000  # it goes over all their pixels up to 1,000 times
KNN_NEIGHBOURS = 5
RIDGE_PENALTY = 1e-3
FOLDS = 5


def pixel_baselines(
    train_images: NDArray[np.uint8],
    train_y: NDArray[np.integer],
    val_images: NDArray[np.uint8],
    val_y: NDArray[np.integer],
    test_images: NDArray[np.uint8],
    test_y: NDArray[np.integer],
) -> dict[str, dict[str, float]]:
    """Accuracies on validation and test of classifiers fitted to the train images' pixels in [0, 1].

    "svm" has a radial kernel. With more than 5,000 train images it would take too long, and is left out; with more than
    20,000 so is "logistic regression". With more than 5,000, "ridge", least squares with a penalty, joins.

    Args:
        train_images: (N, H, W, C)
        train_y: (N,), two classes or more
        val_images: (V, H, W, C), at least one
        val_y: (V,)
        test_images: (M, H, W, C), at least one
        test_y: (M,)

    Returns:
        "svm", "logistic regression", "knn" and "ridge", as said above, each with "test" and "validation". The latter is
        what a choice among them may go by: accuracy on the validation images or, where these have more labels than the
        train images, so that the choice would see more than the budget, by cross-validation within the train images.

    Raises:
        ValueError: `train_y` has a single class, or no images.
    """
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    models: dict[str, Any] = {
        "svm": SVC(C=10, gamma="scale"),
        "logistic regression": LogisticRegression(max_iter=1000),
        "knn": KNeighborsClassifier(min(KNN_NEIGHBOURS, len(train_images))),
    }
    if len(train_images) > SVM_MOST_IMAGES:
        del models["svm"]
        # The penalty is in units of its inputs' squares, summed over images.
        models["ridge"] = RidgeClassifier(RIDGE_PENALTY * len(train_images))
    if len(train_images) > LOGISTIC_MOST_IMAGES:
        del models["logistic regression"]
    train_x, val_x, test_x = (_pixels(images) for images in (train_images, val_images, test_images))
    results = {}
    for name, model in models.items():
        model.fit(train_x, train_y)
        results[name] = {
            "validation": _within(models[name], train_x, train_y)
            if len(val_y) > len(train_y)
            else float(model.score(val_x, val_y)),
            "test": float(model.score(test_x, test_y)),
        }
    return results


def _within(model: Any, x: NDArray[np.float32], y: NDArray[np.integer]) -> float:
    """Accuracy of a model by cross-validation."""
    from sklearn.base import clone
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score

    least = int(np.unique(y, return_counts=True)[1].min())
    kind, folds = (StratifiedKFold, min(FOLDS, least)) if least > 1 else (KFold, min(FOLDS, len(y)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of folds without a class, in which no image is right
        splits = kind(folds, shuffle=True, random_state=0)
        return float(cross_val_score(clone(model), x, y, cv=splits, error_score=0.0).mean())


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1) / np.float32(255)
