"""What a masked autoencoder sees and what it makes of it, as images that a person can judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketvit.evaluation.predictor import evaluating
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.patches import patchify, unpatchify

HIDDEN_GREY = 128


class Gallery(NamedTuple):
    """Three uint8 arrays (N, H, W, C); in `reconstruction` visible patches are the input's own pixels."""

    input: NDArray[np.uint8]
    visible: NDArray[np.uint8]
    reconstruction: NDArray[np.uint8]


def reconstruct_images(
    mae: MaskedAutoencoder,
    images: NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    mask_ratio: float,
    seed: int = 0,
) -> Gallery:
    """Mask uint8 images (N, H, W, C) with a seeded mask and reconstruct them.

    Where targets were normalised per patch, hidden patches are scaled with what the statistics of the visible ones
    around them let expect: a hidden patch's own statistics would leak what it hides.
    """
    device = mae.mask_token.device
    scale = torch.tensor(std, device=device).view(1, -1, 1, 1)
    shift = torch.tensor(mean, device=device).view(1, -1, 1, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
    x, patch = (pixels - shift) / scale, mae.encoder.shape.patch
    noise = torch.rand(len(x), mae.encoder.shape.patches, generator=torch.Generator().manual_seed(seed))
    with evaluating(mae):
        out = mae(x, mask_ratio, noise.to(device))
    patches, hidden, (h, w) = patchify(x, patch), out.mask[..., None], images.shape[1:3]
    prediction = out.prediction.float()
    if mae.normalise_targets:
        near = _nearness(~out.mask, h // patch, w // patch)
        spread = near @ (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        prediction = prediction * spread + near @ patches.mean(-1, keepdim=True)

    def to_uint8(p: Tensor) -> NDArray[np.uint8]:
        values = (unpatchify(p, patch, h, w) * scale + shift).clamp(0, 1) * 255
        return values.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    grey = patchify(((HIDDEN_GREY / 255 - shift) / scale).expand_as(x), patch)
    return Gallery(
        np.asarray(images),
        to_uint8(torch.where(hidden, grey, patches)),
        to_uint8(torch.where(hidden, prediction, patches)),
    )


def _nearness(seen: Tensor, rows: int, columns: int) -> Tensor:
    """(B, N, N): weights of the patches `seen`, (B, N), for each patch of a grid; by distance, to the power of -2."""
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(seen.device, torch.float32)
    weights = torch.cdist(place, place).clamp(min=0.5).pow(-2) * seen[:, None]
    return weights / weights.sum(dim=-1, keepdim=True)
