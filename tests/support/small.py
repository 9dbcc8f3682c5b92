"""A small objective for tests of training itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from pocketvit.training.batches import Batches

Loss = Callable[[nn.Module, Tensor, "Tensor | None"], Tensor]


@dataclass
class Small:
    """A network, its batches and a loss; readings are those of a function, and nothing changes the images."""

    network: nn.Module
    batches: Batches
    loss: Loss
    reading: Callable[[nn.Module], dict[str, float]] = lambda network: {}
    augment: nn.Module = field(default_factory=nn.Identity)
    reading_images: int = 0

    def prepare(self, course: float, average: nn.Module) -> None:
        pass

    def read(self, network: nn.Module, epoch: int, last: bool) -> dict[str, float]:
        return self.reading(network)
