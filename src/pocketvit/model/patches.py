"""Images to patches and back, and random masks over patches. Plain reshapes: no convolution anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketvit.errors import UserError


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images into non-overlapping patches, row by row.

    Args:
        images: (B, C, H, W), any dtype; `patch` divides H and W.
        patch: side of a patch in pixels.

    Returns:
        (B, H/patch * W/patch, patch * patch * C): each patch flattened as (row, column, channel), as in
        He et al. 2022 (arXiv 2111.06377).
    """
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def unpatchify(patches: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Inverse of `patchify`: (B, N, patch * patch * C) to (B, C, height, width)."""
    b, _, d = patches.shape
    c = d // patch**2
    grid = patches.reshape(b, height // patch, width // patch, patch, patch, c)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)


def random_mask(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Choose the patches to hide, exactly the same number in every image.

    Args:
        noise: (B, N) float; in each row the patches with the smallest values stay visible.
        mask_ratio: share of the N patches to hide.

    Returns:
        visible: (B, K) int64, ascending indices of the visible patches, K = max(1, round(N * (1 - mask_ratio))).
        mask: (B, N) bool, True where a patch is hidden.
    """
    b, n = noise.shape
    keep = min(n, max(1, round(n * (1 - mask_ratio))))
    # Ascending order changes nothing for the encoder, and makes the gather walk memory forwards.
    visible = noise.topk(keep, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
    mask = torch.ones(b, n, dtype=torch.bool, device=noise.device)
    return visible, mask.scatter_(1, visible, False)


def check_patch(height: int, width: int, patch: int) -> None:
    """Raise UserError, with the nearest sizes and patches that fit, unless `patch` divides both sides."""
    if height % patch == 0 and width % patch == 0:
        return
    sizes = sorted({f"{max(patch, h)}x{max(patch, w)}" for h, w in _nearest(height, width, patch)})
    patches = [p for p in range(2, min(height, width) // 2 + 1) if height % p == 0 and width % p == 0]
    fits = " or --patch " + ", ".join(map(str, patches[:6])) if patches else ""
    raise UserError(
        f"--patch {patch} does not divide the image size {height}x{width}: use --size {' or '.join(sizes)}{fits}"
    )


def _nearest(height: int, width: int, patch: int) -> list[tuple[int, int]]:
    down = (height // patch * patch, width // patch * patch)
    up = (-(-height // patch) * patch, -(-width // patch) * patch)
    return [down, up]
