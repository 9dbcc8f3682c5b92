"""Images that live on the device, and a sampler whose state is the step and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Batches:
    """A set of images, moved to the device once, as uint8.

    Args:
        images: (N, H, W, C)
        labels: (N,) class numbers, or None
        mean: of each channel, in units of [0, 1]
        std: as mean
        batch_size: images a batch; a smaller set is one batch
        seed: of the order
        device: where images and labels are kept

    Raises:
        ValueError: no images.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.integer] | None,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
    ) -> None:
        if not len(images):
            raise ValueError("no images to take batches from")
        # Channels first, so that an image is one contiguous run; a copy, because the cache's arrays are read-only.
        self.images = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C")).to(device)
        self.labels = None if labels is None else torch.tensor(labels, dtype=torch.int64, device=device)
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std))
        self.batch_size, self.seed = min(batch_size, len(images)), seed
        self._order: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one is dropped where it would be smaller than the others."""
        return len(self) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """(N,) int64: the permutation of an epoch, a function of (seed, epoch) alone."""
        if self._order is None or self._order[0] != epoch:
            # Hashed, for neighbouring seeds not to share the orders of neighbouring epochs.
            seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
            self._order = epoch, order.to(self.images.device)
        return self._order[1]

    def at(self, step: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """The batch of a step, counted from 0 over all epochs.

        Returns:
            (B, C, H, W) float32 in [0, 1]; (B,) int64 labels or None; (B,) int64 positions in the set.
        """
        epoch, batch = divmod(step, self.steps_per_epoch)
        indices = self.order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]
        return self.images[indices] / 255, None if self.labels is None else self.labels[indices], indices

    def normalise(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to mean 0 and deviation 1 of every channel of the train images."""
        return (images - self.mean) / self.std

    def chunks(self, batch_size: int) -> Iterator[Tensor]:
        """All images in their own order, as normalised (B, C, H, W) of at most `batch_size`."""
        for images in self.images.split(batch_size):
            yield self.normalise(images / 255)
