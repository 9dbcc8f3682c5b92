"""What a trained encoder says about images: features and class probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketvit.data.batches import Batches
from pocketvit.model.vit import ViT


def features(
    vit: ViT,
    images: NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    batch_size: int = 512,
) -> NDArray[np.float32]:
    """What the head reads: (N, H, W, C) uint8 images to (N, D) float32.

    Args:
        vit: on `device`; left in the mode, training or not, that it was in
        images: (N, H, W, C), at least one
        mean: of each channel, in units of [0, 1]
        std: as mean
        device: where to compute
        batch_size: images at a time
    """
    return _outputs(vit, vit.features, images, mean, std, device, batch_size)


def predict_probabilities(
    vit: ViT,
    images: NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    batch_size: int = 512,
) -> NDArray[np.float32]:
    """Softmax of the head: (N, H, W, C) uint8 images to (N, classes) float32. Arguments as in `features`."""
    return _outputs(vit, lambda x: vit(x).float().softmax(dim=-1), images, mean, std, device, batch_size)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; on leaving, what was training trains again, and nothing else."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def _outputs(
    vit: ViT,
    function: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    batch_size: int,
) -> NDArray[np.float32]:
    batches = Batches(images, None, mean, std, batch_size=batch_size, seed=0, device=device)
    with evaluating(vit):
        return torch.cat([function(x).float() for x in batches.chunks(batch_size)]).cpu().numpy()
