"""Training on part of the patches (PatchDropout, Liu et al. 2022, arXiv 2208.07220): how many are seen when."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pocketvit.model.costs import TOTAL, macs_by_module
from pocketvit.model.network import Network
from pocketvit.model.patches import visible_count
from pocketvit.model.vit import ViT


class Phases:
    """Shares of the patches over a course whose phases are shares of its time.

    A step on fewer patches is quicker, so that its phase has more of the steps: as many more as it has fewer
    multiply-accumulates.

    Args:
        phases: (share of the time, share of the patches), in order
        classifier: that is trained; where there are several phases, a ViT
    """

    def __init__(self, phases: Sequence[tuple[float, float]], classifier: Network) -> None:
        self._shares = [share for _, share in phases]
        if len(phases) == 1:
            self._ends = [1.0]
            return
        assert isinstance(classifier, ViT)
        steps = [time / forward_macs(classifier, share) for time, share in phases]
        self._ends = torch.tensor(steps).cumsum(0).div(sum(steps)).tolist()

    def share_at(self, course: float) -> float:
        """The share at a place of the course, from 0 to 1."""
        phase = next((number for number, end in enumerate(self._ends) if course < end), -1)
        return self._shares[phase]


def forward_macs(classifier: ViT, share: float) -> int:
    """Multiply-accumulates of a forward pass on a share of the patches of an image."""
    height, width, channels = classifier.shape.image
    with torch.device("meta"):
        counted = ViT(classifier.shape, classifier.classes, pool=classifier.pool).eval()
        image = torch.empty(1, channels, height, width)
        visible = torch.zeros(1, visible_count(counted.shape.patches, share), dtype=torch.int64)
    return macs_by_module(counted, lambda: counted(image, visible))[TOTAL]
