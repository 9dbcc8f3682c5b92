"""Pre-training: an objective on every train image, and what its held-out loss tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from pocketvit.config import Settings
from pocketvit.data import Dataset
from pocketvit.model.costs import TOTAL, macs_by_module, parameters
from pocketvit.model.vit import ViT
from pocketvit.training.objectives import PRETRAINING
from pocketvit.training.step import GradientStep

FEWEST_READINGS = 5  # that say whether a loss falls


def pretraining(
    dataset: Dataset,
    settings: Settings,
    accelerator: Accelerator,
    objective: str = "mae",
    knn: Callable[[ViT], float] | None = None,
) -> GradientStep:
    """The step of pre-training by one of PRETRAINING; its readings hold `heldout_loss`, and `knn` where given."""
    trained = PRETRAINING[objective](dataset, settings, accelerator, knn)
    return GradientStep(trained, settings.pretrain, accelerator, seed=settings.seed, sharded=settings.shard)


def step_costs(settings: Settings, shape: tuple[int, int, int], objective: str) -> tuple[int, int]:
    """What a step by one of PRETRAINING takes, of one image (H, W, C): MACs of the forward pass, and parameters."""
    kind, (height, width, channels) = PRETRAINING[objective], shape
    with torch.device("meta"):
        network, views = kind.build(settings, shape), torch.empty(kind.views, channels, height, width)
    macs = macs_by_module(network, lambda: kind.views_loss(settings, network, views))
    return macs[TOTAL], parameters(network)


def verdict(heldout: Sequence[float]) -> str:
    """Held-out loss over time, in words: still falling, flat, overfitting, diverged or too few readings to tell.

    Overfitting is a rise of over 2 % above the best reading; still falling, a fall of over 1 % in the last quarter.
    Fewer than five readings tell divergence alone.
    """
    first, last, best = heldout[0], heldout[-1], min(heldout)
    if not last < float("inf") or (len(heldout) > 1 and last > first):
        return "diverged"
    if len(heldout) < FEWEST_READINGS:
        return "too few readings to tell"
    if last > 1.02 * best:
        return "overfitting"
    return "still falling" if last < 0.99 * heldout[-1 - len(heldout) // 4] else "flat"
