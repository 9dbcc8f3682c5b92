"""What class probabilities are worth: accuracy, overall and by class, confusion and calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.evaluation.calibration import calibration_error


@dataclass(frozen=True)
class Metrics:
    """Measured on one set of labelled images.

    Args:
        accuracy: share of the images whose likeliest class is the true one
        per_class: this share among the images of each class; None for a class without images
        confusion: images by true class (rows) and predicted class (columns)
        ece: expected calibration error
    """

    accuracy: float
    per_class: dict[str, float | None]
    confusion: list[list[int]]
    ece: float

    @classmethod
    def of(cls, probabilities: NDArray[np.floating], labels: NDArray[np.integer], classes: Sequence[str]) -> Metrics:
        """Metrics of (N, K) probabilities against (N,) labels, N above 0, with the names of the K classes.

        Raises:
            ValueError: a probability that is no number.
        """
        from sklearn.metrics import accuracy_score, confusion_matrix

        if not np.isfinite(probabilities).all():
            raise ValueError("probabilities that are no numbers: the network has diverged")
        predicted = probabilities.argmax(axis=1)
        confusion = confusion_matrix(labels, predicted, labels=range(len(classes)))
        return cls(
            accuracy=float(accuracy_score(labels, predicted)),
            per_class={
                name: row[i] / sum(row) if sum(row) else None
                for i, (name, row) in enumerate(zip(classes, confusion.tolist(), strict=True))
            },
            confusion=confusion.tolist(),
            ece=calibration_error(probabilities, labels),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields, as what JSON can hold."""
        return dataclasses.asdict(self)


def most_confident_mistakes(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], n: int
) -> NDArray[np.int64]:
    """Positions of up to `n` wrongly classified images, the most confident first.

    Takes (N, K) probabilities and (N,) labels; where confidence is equal, the order is that of the set.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:n]


def kept_accuracy(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], shares: int = 20
) -> list[dict[str, float]]:
    """Accuracy on the surest images, by the share of them that is kept, from 1 / `shares` to 1.

    Takes (N, K) probabilities and (N,) labels; each entry has "share" and "accuracy".
    """
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    counts = sorted({max(1, round(len(labels) * part / shares)) for part in range(1, shares + 1)})
    return [{"share": count / len(labels), "accuracy": float(right[:count].mean())} for count in counts]
