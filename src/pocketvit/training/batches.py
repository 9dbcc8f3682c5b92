"""Images that live on the device, and a sampler whose state is the step and nothing else.

A set that is too large for the device stays where it is, a memory map mostly, and the next batch is fetched from there
while the device works on this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocketvit import draws
from pocketvit.errors import UserError
from pocketvit.training.device import free_bytes

RESIDENT_SHARE = 0.5  # of the device's free memory that the images may take


class Batches:
    """A set of images as uint8, moved to the device once where they fit.

    Args:
        images: (N, H, W, C)
        labels: (N,) class numbers, or None
        mean: of each channel, in units of [0, 1]
        std: as mean
        batch_size: images a batch, over all processes; a smaller set is one batch
        repeats: times that an image stands in a batch, for each to be changed in another way (repeated augmentation,
            Hoffer et al. 2019, arXiv 1901.09335); what is left over by batch_size stands there once less
        seed: of the order
        device: where images and labels are kept
        resident: whether the images are moved to the device; None moves them where they take at most RESIDENT_SHARE of
            its free memory

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
        repeats: int = 1,
        seed: int,
        device: torch.device | str,
        resident: bool | None = None,
    ) -> None:
        if not len(images):
            raise ValueError("no images to take batches from")
        self.device = torch.device(device)
        self.resident = images.nbytes <= RESIDENT_SHARE * free_bytes(self.device) if resident is None else resident
        self._images: _Resident | _Streamed = (_Resident if self.resident else _Streamed)(images, self.device)
        self.labels = None if labels is None else torch.tensor(labels, dtype=torch.int64, device=device)
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std))
        self.batch_size, self.repeats, self.seed = min(batch_size, len(images)), repeats, seed
        self._order: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._images)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one is dropped where it would be smaller than the others."""
        return len(self) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """(N,) int64 on the host: the permutation of an epoch, a function of (seed, epoch) alone."""
        if self._order is None or self._order[0] != epoch:
            # Hashed, for neighbouring seeds not to share the orders of neighbouring epochs.
            seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
            self._order = epoch, torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self._order[1]

    def indices(self, step: int, part: int = 0, parts: int = 1) -> Tensor:
        """(B,) int64 on the host: which images this process has in a part of the batch of a step.

        Raises:
            UserError: processes and parts that do not divide the batch.
        """
        own = draws.share()
        size, rest = divmod(self.batch_size, parts * own.world)
        if rest:
            raise UserError(
                f"--batch-size: {self.batch_size} images cannot be shared evenly by {own.world} processes in {parts} "
                "parts (--accumulate): choose a multiple of both"
            )
        # All images are gone through before any comes again, in an epoch or, with repeats, in several.
        different = -(-self.batch_size // self.repeats)
        epoch, batch = divmod(step, len(self) // different)
        whole = self.order(epoch)[batch * different : (batch + 1) * different].repeat(self.repeats)
        start = (part * own.world + own.rank) * size
        return whole[start : start + size]

    def at(self, step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor | None, Tensor]:
        """What this process has of the batch of a step, counted from 0 over all epochs; Raises as `indices`.

        Args:
            step: number of the batch
            part: which of `parts` equal parts of it
            parts: how many parts a batch is gone through in

        Returns:
            (B, C, H, W) float32 in [0, 1]; (B,) int64 labels or None; (B,) int64 positions in the set.
        """
        indices = self.indices(step, part, parts).to(self.device, non_blocking=True)
        if isinstance(self._images, _Streamed):
            following = (step, part + 1) if part + 1 < parts else (step + 1, 0)
            images = self._images.take(self.indices(step, part, parts), self.indices(*following, parts))
        else:
            images = self._images.take(indices)
        return images / 255, None if self.labels is None else self.labels[indices], indices

    def sample(self, count: int) -> Tensor:
        """(count, C, H, W) float32 in [0, 1]: images drawn with replacement, by torch's global generator."""
        return self._images.take((draws.uniform((count,), self.device) * len(self)).long()) / 255

    def normalise(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to mean 0 and deviation 1 of every channel of the train images."""
        return (images - self.mean) / self.std

    def chunks(self) -> Iterator[Tensor]:
        """All images in their own order, as normalised (B, C, H, W): batches, and what is left over."""
        for start in range(0, len(self), self.batch_size):
            yield self.normalise(self._images.between(start, start + self.batch_size) / 255)


class _Resident:
    """Images on the device, channels first, so that an image is one contiguous run."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        # A copy, because the cache's arrays are read-only.
        self.images = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C")).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> Tensor:
        return self.images[indices]

    def between(self, start: int, end: int) -> Tensor:
        return self.images[start:end]


class _Streamed:
    """Images left where they are; a thread fetches those of the next batch ahead of time, into pinned memory."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self.images, self.device = images, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[Tensor, Future[Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor, following: Tensor | None = None) -> Tensor:
        """The images at `indices`; those at `following` are fetched meanwhile."""
        if following is None:
            return self._to_device(self._fetch(indices.cpu()))
        ahead, self._ahead = self._ahead, None
        fetched = ahead[1].result() if ahead and torch.equal(ahead[0], indices) else self._fetch(indices)
        self._ahead = following, self._thread.submit(self._fetch, following)
        return self._to_device(fetched)

    def between(self, start: int, end: int) -> Tensor:
        return self._to_device(torch.from_numpy(np.array(self.images[start:end])))

    def _fetch(self, indices: Tensor) -> Tensor:
        # In the order on the disk, for neighbours to be read together.
        ordered, places = indices.sort()
        rows = torch.empty((len(indices), *self.images.shape[1:]), dtype=torch.uint8)
        rows[places] = torch.from_numpy(self.images[ordered.numpy()])
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def _to_device(self, rows: Tensor) -> Tensor:
        return rows.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
