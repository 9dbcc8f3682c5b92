"""What classifiers reach on raw pixels: the bar that a network has to clear."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.training.device import free_bytes
from pocketvit.training.spreading import pixels

SVM_MOST_IMAGES = 5000  # fitting takes time with the square of their number
LOGISTIC_MOST_IMAGES = 20_000  # it goes over all their pixels up to 1,000 times
SPREAD_MOST_IMAGES = 5000  # without labels
KNN_NEIGHBOURS = 5
RIDGE_PENALTY = 1e-3
FOLDS = 5
LOGISTIC_STEPS = 1000
TRIED_STEPS, TRIED_IMAGES = 10, 500  # on which the time that a classifier takes is measured
TRIED_VALUES = 3072  # of an image; larger ones are so many fewer that all their pairs are no more work
AGAIN = 1.0  # seconds of a trial, after which it is not repeated
KNN_SECONDS = 5e-11  # for a pixel of a pair of images
CHUNK = 4096  # images that are tested at a time
COPIES = 4  # of the train pixels as float32: they, and what a classifier makes of them, in float64 mostly
MEMORY_SHARE = 0.5  # of the free memory that these may take


def pixel_baselines(
    train_images: NDArray[np.uint8],
    train_y: NDArray[np.integer],
    val_images: NDArray[np.uint8],
    val_y: NDArray[np.integer],
    test_images: NDArray[np.uint8],
    test_y: NDArray[np.integer],
    most_seconds: float = math.inf,
    unlabelled: NDArray[np.uint8] | None = None,
) -> dict[str, dict[str, float]]:
    """Accuracies on validation and test of classifiers fitted to the train images' pixels in [0, 1].

    "svm" has a radial kernel. With more than 5,000 train images it would take too long, and is left out; with more than
    20,000 so is "logistic regression". In place of either "ridge", least squares with a penalty, joins. Where more
    images without a label are given than with one, there is "label spreading". Where the train images' pixels would
    not fit into memory, there is none at all.

    Args:
        train_images: (N, H, W, C)
        train_y: (N,), two classes or more
        val_images: (V, H, W, C), at least one
        val_y: (V,)
        test_images: (M, H, W, C), at least one
        test_y: (M,)
        most_seconds: that fitting and testing a classifier may take; any but "ridge" is left out that is expected to
            take more
        unlabelled: (U, H, W, C), of the same set, as `without_labels` draws them

    Returns:
        "svm", "logistic regression", "knn", "label spreading" and "ridge", as said above, each with "test" and
        "validation". The latter is what a choice among them may go by: accuracy on the validation images or, where
        these have more labels than the train images, so that the choice would see more than the budget, by
        cross-validation within the train images.

    Raises:
        ValueError: `train_y` has a single class, or no images.
    """
    if not _fit_into_memory(train_images, unlabelled):
        return {}
    train_x = pixels(train_images)
    models = _affordable(train_x, train_y, len(val_y), len(test_y), most_seconds, unlabelled)
    results = {}
    for name, (model, _) in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a fit that has not converged: it is read as it is
            model.fit(train_x, train_y)
        results[name] = {
            "validation": _within(model, train_x, train_y)
            if len(val_y) > len(train_y)
            else _accuracy(model, val_images, val_y),
            "test": _accuracy(model, test_images, test_y),
        }
    return results


def without_labels(images: NDArray[np.uint8], labelled: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Images (N, H, W, C) but for those at the indices `labelled`: up to 5,000 of them, drawn by chance."""
    rest = np.setdiff1d(np.arange(len(images)), labelled)
    return images[rest[np.random.default_rng(0).permutation(len(rest))[:SPREAD_MOST_IMAGES]]]


def expected_seconds(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    val: int,
    test: int,
    most_seconds: float = math.inf,
    unlabelled: NDArray[np.uint8] | None = None,
) -> float:
    """That `pixel_baselines` will take with these train images, and `val` and `test` others, by brief trials."""
    if not _fit_into_memory(images, unlabelled):
        return 0.0
    models = _affordable(pixels(images), labels, val, test, most_seconds, unlabelled)
    return sum(seconds for _, seconds in models.values())


def _fit_into_memory(images: NDArray[np.uint8], unlabelled: NDArray[np.uint8] | None) -> bool:
    """Whether classifiers can be fitted to the pixels of both."""
    values = images.size + (0 if unlabelled is None else unlabelled.size)
    return COPIES * 4 * values <= MEMORY_SHARE * free_bytes(torch.device("cpu"))


def _accuracy(model: Any, images: NDArray[np.uint8], labels: NDArray[np.integer]) -> float:
    """Of a fitted model on (N, H, W, C), some at a time."""
    parts = (slice(start, start + CHUNK) for start in range(0, len(images), CHUNK))
    return float(np.concatenate([model.predict(pixels(images[part])) == labels[part] for part in parts]).mean())


def _affordable(
    x: NDArray[np.float32],
    y: NDArray[np.integer],
    val: int,
    test: int,
    most_seconds: float,
    unlabelled: NDArray[np.uint8] | None,
) -> dict[str, tuple[Any, float]]:
    """The classifiers to fit to pixels (N, D), each with the seconds that it is expected to take."""
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    from pocketvit.evaluation.spreading import Spreading

    # Cross-validation fits nearly as many images as often as there are folds.
    times, heldout = (FOLDS if val > len(y) else 1), (test if val > len(y) else val + test)
    found: dict[str, tuple[Any, float]] = {}
    if len(y) <= SVM_MOST_IMAGES:
        svm, part = SVC(C=10, gamma="scale"), _part(x, y)
        seconds = seconds_of_fit(lambda: svm.fit(x[part], y[part]).predict(x[part]))
        # Fitting and predicting take time with the square of the images, here in about equal parts.
        found["svm"] = svm, seconds / len(part) ** 2 * len(y) * (times * len(y) + heldout) / 2
    if len(y) <= LOGISTIC_MOST_IMAGES:
        logistic = LogisticRegression(max_iter=LOGISTIC_STEPS)
        found["logistic regression"] = logistic, times * _seconds_of_steps(x, y)
    if unlabelled is not None and len(unlabelled) > len(y):
        others, part = pixels(unlabelled), _part(x, y)
        brief = Spreading(others[:TRIED_IMAGES])
        seconds = seconds_of_fit(lambda: brief.fit(x[part], y[part]))
        # Between their number, by which pixels are gone through, and its square, by which neighbours are looked for.
        times_as_many = ((len(y) + len(others)) / (len(part) + len(others[:TRIED_IMAGES]))) ** 1.5
        fits = times + heldout / (len(y) + len(others))
        found["label spreading"] = Spreading(others), seconds * times_as_many * fits
    knn = KNeighborsClassifier(min(KNN_NEIGHBOURS, len(y)))
    found["knn"] = knn, KNN_SECONDS * x.shape[1] * len(y) * ((times > 1) * len(y) + heldout)
    kept = {name: fitted for name, fitted in found.items() if fitted[1] <= most_seconds}
    if not {"svm", "logistic regression"} <= kept.keys():
        # The penalty is in units of its inputs' squares, summed over images.
        ridge = RidgeClassifier(RIDGE_PENALTY * len(y))
        part = _part(x, y)
        kept["ridge"] = ridge, times * seconds_of_fit(lambda: ridge.fit(x[part], y[part])) * len(y) / len(part)
    return kept


def _seconds_of_steps(x: NDArray[np.float32], y: NDArray[np.integer]) -> float:
    """That a logistic regression takes for pixels (N, D), at the most."""
    from sklearn.linear_model import LogisticRegression

    steps = TRIED_STEPS
    while True:
        brief = LogisticRegression(max_iter=steps)
        seconds = seconds_of_fit(partial(brief.fit, x, y))
        # Of few images most of a brief fit is what surrounds its steps, and they are at their end long before the last.
        if brief.n_iter_.max() < steps or steps == LOGISTIC_STEPS:
            return seconds
        if seconds * TRIED_STEPS > AGAIN:
            return seconds * LOGISTIC_STEPS / steps
        steps *= TRIED_STEPS


def _part(x: NDArray[np.float32], y: NDArray[np.integer]) -> NDArray[np.intp]:
    """Indices of some images (N, D), drawn by chance, of two classes or more."""
    count = round(TRIED_IMAGES * min(1.0, TRIED_VALUES / x.shape[1]) ** 0.5)
    drawn = np.random.default_rng(0).permutation(len(y))[:count]
    others = np.flatnonzero(y != y[drawn[0]])[:1]
    return np.unique(np.concatenate([drawn, others]))


def seconds_of_fit(work: Callable[[], object]) -> float:
    """Seconds that fitting a classifier takes, what the first time loads left out; warnings of it are not shown."""
    took: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that has not converged
        while len(took) < 2 and sum(took) < AGAIN:
            began = time.perf_counter()
            work()
            took.append(time.perf_counter() - began)
    return min(took)


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
