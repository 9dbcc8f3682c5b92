"""What a trained network says about images: uint8 pixels in; logits, probabilities and features out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketvit.errors import Diverged
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta
from pocketvit.training.batches import Batches

BATCH_SIZE = 512


class Runtime(Protocol):
    """What computes a network's outputs from (N, H, W, C) uint8 images; normalisation is its own."""

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, K)."""

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, D): what the head reads. UserError where the runtime has none."""


@dataclass(frozen=True)
class Predictor:
    """A network that is ready for images.

    Args:
        runtime: computes it
        shape: (height, width, channels) of the images that it takes
        classes: K names; empty for an encoder alone
        temperature: that logits are divided by (Guo et al. 2017, arXiv 1706.04599)
    """

    runtime: Runtime
    shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    temperature: float = 1.0

    @classmethod
    def of(cls, network: Network, meta: WeightsMeta, device: torch.device | str) -> Predictor:
        """An eager one for a network that `meta` describes; its weights go to `device`."""
        return cls(Eager(network, meta.mean, meta.std, device), meta.shape, meta.classes, meta.temperature)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) uint8 images, at least one, to (N, K). Raises Diverged, as all that follow, for no numbers."""
        return numbers(self.runtime.logits(images))

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) uint8 images, at least one, to (N, K)."""
        return self.calibrated(self.logits(images))

    def calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (N, K) of logits (N, K)."""
        return (torch.from_numpy(logits) / self.temperature).softmax(dim=-1).numpy()

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) uint8 images, at least one, to (N, D), what the head reads."""
        return numbers(self.runtime.features(images))


def numbers(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same; raises Diverged where one is none."""
    if not np.isfinite(outputs).all():
        raise Diverged
    return outputs


class Eager:
    """The network itself, in PyTorch; it is left in the mode, training or not, that it was in.

    Args:
        network: moved to `device`
        mean: of each channel, in units of [0, 1]
        std: as mean
        device: where to compute
    """

    def __init__(
        self, network: Network, mean: Sequence[float], std: Sequence[float], device: torch.device | str
    ) -> None:
        self._network, self._norm = network.to(device), {"mean": mean, "std": std, "device": device}

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._outputs(self._network, images)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._outputs(self._network.features, images)

    def _outputs(self, function: Callable[[Tensor], Tensor], images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches = Batches(images, None, batch_size=BATCH_SIZE, seed=0, **self._norm)  # type: ignore[arg-type]
        with evaluating(self._network):
            return torch.cat([function(x).float() for x in batches.chunks()]).cpu().numpy()


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
