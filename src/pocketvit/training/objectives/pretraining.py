"""What all objectives of pre-training share: every train image, without its label, and readings on held-out ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pocketvit.config import Settings
from pocketvit.data import Dataset
from pocketvit.model.network import Trainable
from pocketvit.model.vit import ViT
from pocketvit.training.augment import Augment
from pocketvit.training.batches import Batches

HELDOUT_BATCH = 512


class Pretraining(ABC):
    """An objective (see `pocketvit.training.step.Objective`) that labels have no part in.

    Args:
        dataset: whose train images are learnt from, and whose validation images are held out.
        settings: of network and pre-training.
        accelerator: device and precision.
        knn: accuracy of an encoder as a reading; None takes none.
    """

    title: ClassVar[str]
    """As tables and figures name what starts from its encoder."""
    colour: ClassVar[str]
    """Of that in figures, as #rrggbb."""
    weights_kind: ClassVar[str]
    """Of what is kept of the trained network, as `pocketvit.model.weights` names kinds."""
    usual: ClassVar[bool] = True
    """Whether `--arms all` takes it; what is not usual is trained where it is asked for by name."""
    views: ClassVar[int] = 1
    """Random changes of each image that a step is shown."""

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        accelerator: Accelerator,
        knn: Callable[[ViT], float] | None = None,
    ) -> None:
        self.settings, self._accelerator, self._knn = settings, accelerator, knn
        device, config = accelerator.device, settings.pretrain
        torch.manual_seed(settings.seed)
        self.network = self.build(settings, dataset.shape).to(device)
        self._view = Augment(config.augment, dataset.shape[2], dataset.mean, device, settings.data.symmetry)
        norm = {"mean": dataset.mean, "std": dataset.std, "device": device}
        self.batches = Batches(
            dataset.train.images, None, batch_size=config.batch_size, repeats=config.repeats, seed=settings.seed, **norm
        )
        self.heldout = Batches(dataset.val.images, None, batch_size=HELDOUT_BATCH, seed=0, **norm)
        self.reading_images = len(self.heldout)

    @staticmethod
    @abstractmethod
    def build(settings: Settings, shape: tuple[int, int, int]) -> Trainable:
        """The network to train on images (H, W, C), drawn from torch's global generator."""

    @staticmethod
    @abstractmethod
    def views_loss(settings: Settings, network: Callable[..., Any], images: Tensor) -> Tensor:
        """The loss of a training step on normalised images (views * B, C, H, W), a view of each after another."""

    @staticmethod
    def kept(network: nn.Module) -> nn.Module:
        """What is saved of a trained network."""
        return network

    def augment(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images in [0, 1] to as many views of each, (views * B, C, H, W)."""
        views = [self._view(images) for _ in range(self.views)]
        return views[0] if self.views == 1 else torch.cat(views)

    def prepare(self, course: float, average: nn.Module) -> None:  # noqa: B027  # most are the same all along
        """Get ready for a step at a share of the course."""

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        """A mean over views (views * B, C, H, W) in [0, 1]."""
        return self.views_loss(self.settings, network, self.batches.normalise(images))

    @abstractmethod
    def heldout_loss(self, network: nn.Module) -> float:
        """Mean loss on the held-out images, in evaluation mode: no augmentation, no chance."""

    @abstractmethod
    def encoder(self, network: nn.Module) -> ViT:
        """The part of a trained network that fine-tuning starts from."""

    def read(self, network: nn.Module, epoch: int, last: bool) -> dict[str, float]:
        """`heldout_loss`, and `knn` where so many epochs are over and at the end."""
        network.eval()
        with torch.no_grad(), self._accelerator.autocast():
            reading = {"heldout_loss": self.heldout_loss(network)}
        every = self.settings.pretrain.knn_every
        if self._knn and (last or (every and epoch % every == 0)):
            reading["knn"] = self._knn(self.encoder(network))
        return reading
