"""What networks say of themselves: to whoever trains them, and to whoever classifies with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn


class Trainable(nn.Module, ABC):
    """A module that says how its parameters want to be trained."""

    @abstractmethod
    def no_weight_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay spares a parameter, by its name."""

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Depth of a parameter, by its name, for layer-wise decay of the rate: 0 is nearest to the pixels."""

    @abstractmethod
    def matrices(self) -> list[nn.Parameter]:
        """Hidden matrices, those that Muon is for; the first and last layers' are not among them."""


class Wrapper(Trainable):
    """A module around a trainable one, which has the say; what stands beside that is to it a part of unknown name."""

    wrapped: ClassVar[str]
    """Name of the module inside."""

    @property
    def _inside(self) -> Trainable:
        inside: Trainable = getattr(self, self.wrapped)
        return inside

    def no_weight_decay(self, name: str, parameter: Tensor) -> bool:
        return self._inside.no_weight_decay(name.removeprefix(f"{self.wrapped}."), parameter)

    def layer_of(self, name: str) -> int:
        return self._inside.layer_of(name.removeprefix(f"{self.wrapped}."))

    def matrices(self) -> list[nn.Parameter]:
        return self._inside.matrices()


class Network(Trainable):
    """A classifier of images; or, without classes, an encoder. What kinds there are is in `networks`."""

    title: ClassVar[str]
    """As tables and figures name what is trained from its random weights."""
    colour: ClassVar[str]
    """Of that in figures, as #rrggbb."""
    classes: int
    """Outputs of the head; 0 where there is none."""
    head: nn.Module
    width: int
    """Of what the head reads."""

    @classmethod
    @abstractmethod
    def build(cls, config: Any, shape: tuple[int, int, int], classes: int = 0, drop_path: float = 0.0) -> Network:
        """One for images (H, W, C), drawn from torch's global generator.

        Args:
            config: its sizes, as `Settings.network` has them.
            shape: of the images.
            classes: outputs of the head; 0 builds an encoder alone.
            drop_path: stochastic depth, for those that have it.
        """

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """What the head reads, (B, D), of normalised (B, C, H, W) images."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images to (B, classes) logits."""
        logits: Tensor = self.head(self.features(images))
        return logits
