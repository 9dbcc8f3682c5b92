"""Whether an exported file says what the network says, on real images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.evaluation.predictor import Predictor


@dataclass(frozen=True)
class Verification:
    """A file beside the network that it came from.

    Args:
        images: of the test
        agreement: share of them that both take for the same class
        difference: largest between two probabilities
        accuracy: of the network
        exported_accuracy: of the file
    """

    images: int
    agreement: float
    difference: float
    accuracy: float
    exported_accuracy: float

    @property
    def drop(self) -> float:
        """Accuracy that is lost, as a fraction; below 0 for a gain."""
        return self.accuracy - self.exported_accuracy

    def holds(self, most: float) -> bool:
        """Whether the accuracy drops by no more than `most`, a fraction, or by one image where that is more."""
        return self.drop <= max(most, 1 / self.images) + 1e-9

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return asdict(self)


def verified(
    exported: Predictor, network: Predictor, images: NDArray[np.uint8], labels: NDArray[np.integer]
) -> Verification:
    """Both on (N, H, W, C) test images with their labels (N,)."""
    first, second = (predictor.probabilities(images) for predictor in (network, exported))
    classes = [found.argmax(axis=1) for found in (first, second)]
    return Verification(
        len(labels),
        float((classes[0] == classes[1]).mean()),
        float(np.abs(first - second).max()),
        *(float((found == labels).mean()) for found in classes),
    )
