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


def visible_count(patches: int, share: float) -> int:
    """How many of an image's patches a share of them is: one at least."""
    return min(patches, max(1, round(patches * share)))


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
    keep = visible_count(n, 1 - mask_ratio)
    # Ascending order changes nothing for the encoder, and makes the gather walk memory forwards.
    visible = noise.topk(keep, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
    mask = torch.ones(b, n, dtype=torch.bool, device=noise.device)
    return visible, mask.scatter_(1, visible, False)


def sample_hidden(noise: Tensor, visible: Tensor, share: float) -> Tensor:
    """Choose some of the hidden patches, exactly the same number in every image.

    Noise that is independent and alike in all patches orders the hidden ones in every way equally often, whichever they
    are: those with the largest values are a uniform sample, and nothing more needs to be drawn.

    Args:
        noise: (B, N) float that decided the mask.
        visible: (B, K) int64, what `random_mask` made of it.
        share: share of the N - K hidden patches to choose, above 0 and at most 1.

    Returns:
        (B, M) int64, ascending, M = max(1, round((N - K) * share)); 0 where nothing is hidden.
    """
    hidden = noise.shape[1] - visible.shape[1]
    chosen = min(hidden, max(1, round(hidden * share)))
    # Taken out by their index rather than their value: noise may be the same in a visible and a hidden patch.
    ranked = noise.scatter(1, visible, float("-inf"))
    return ranked.topk(chosen, dim=1, sorted=False).indices.sort(dim=1).values


def select(x: Tensor, patches: Tensor) -> Tensor:
    """Of each image's patches (B, N, D) those with the indices (B, K): (B, K, D)."""
    return x.gather(1, patches[..., None].expand(-1, -1, x.shape[-1]))


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
