"""Probabilities that mean what they say: a temperature for logits, and how far confidence is from accuracy.

Guo et al. 2017 (arXiv 1706.04599), section 4.2: one number, which changes no prediction.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FEWEST = 20  # labels that a temperature is fitted to
COLDEST, HOTTEST = 0.05, 20.0
BINS = 15


def fitted_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The temperature that makes labels likeliest; 1 where there are too few of them to tell.

    A label counts as right but for one chance in N + 2 (Platt 1999), so that a few images, all of them right, do not
    make the network sure of everything.

    Args:
        logits: (N, K), of images that were not learnt from
        labels: (N,)
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if len(labels) < FEWEST:
        return 1.0
    wide = logits.astype(np.float64)
    doubt = 1 / (len(labels) + 2)
    target = (1 - doubt) * wide[np.arange(len(labels)), labels] + doubt * wide.mean(axis=1)

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float((logsumexp(scale * wide, axis=1) - scale * target).mean())

    found = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return math.exp(float(found.x))


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Expected calibration error with 15 bins of equal width (Guo et al. 2017, section 2).

    The gap between confidence and accuracy in each bin, averaged with the bins' numbers of images as weights;
    takes (N, K) probabilities and (N,) labels.
    """
    confidence, correct, bins = _binned(probabilities, labels)
    return float(np.abs(np.bincount(bins, weights=confidence - correct)).sum() / len(labels))


def reliability(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> list[dict[str, float]]:
    """What a reliability diagram shows: confidence, accuracy and images of each bin that has any; shapes as above."""
    confidence, correct, bins = _binned(probabilities, labels)
    return [
        {
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(correct[bins == number].mean()),
            "images": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]


def _binned(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """(N,) confidences, whether each prediction is right, and the number of its bin."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    return confidence, correct, bins
