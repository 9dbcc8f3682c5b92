"""Random numbers for the images of a batch: the same for each image, however many processes share the batch.

Each process draws for the whole batch and keeps the rows of its own images, so that the generators of all of them
stay in step, and nothing needs to be sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which part of every batch this process has: number `rank` of `world` parts."""

    rank: int = 0
    world: int = 1


_share = Share()


@contextmanager
def sharing(rank: int, world: int) -> Iterator[None]:
    """Within it, this process has part `rank` of `world` of every batch."""
    global _share
    before, _share = _share, Share(rank, world)
    try:
        yield
    finally:
        _share = before


def share() -> Share:
    """The share in force; outside `sharing` it is everything."""
    return _share


def uniform(shape: Sequence[int], device: torch.device, images: int = 0) -> Tensor:
    """Float32 numbers in [0, 1) of `shape` from torch's global generator; dimension `images` is this share's images."""
    if _share.world == 1:
        return torch.rand(*shape, device=device)
    own = shape[images]
    whole = [size * _share.world if dim == images else size for dim, size in enumerate(shape)]
    return torch.rand(*whole, device=device).narrow(images, _share.rank * own, own)


def draw() -> float:
    """One uniform number in [0, 1), drawn on the host; every process draws the same."""
    return float(torch.rand(()))
