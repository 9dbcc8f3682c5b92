"""Masked autoencoding (He et al. 2022, arXiv 2111.06377): reconstruct the patches that are hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.config import Settings
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.vit import ViT
from pocketvit.training.objectives.pretraining import Pretraining


class MaskedAutoencoding(Pretraining):
    """The loss is that of `pocketvit.model.mae.MaskedAutoencoder`; held-out images have fixed masks."""

    title, colour, weights_kind = "MAE", "#2b7bba", "mae"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        shape = self.views, len(self.heldout), self.encoder(self.network).shape.patches
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        self._noise = noise.to(self.heldout.device)

    @staticmethod
    def build(settings: Settings, shape: tuple[int, int, int]) -> MaskedAutoencoder:
        config = settings.mae
        return MaskedAutoencoder(settings.model, shape, config.visible_discount, config.normalise_targets)

    @staticmethod
    def views_loss(settings: Settings, network: Callable[..., Any], images: Tensor) -> Tensor:
        loss: Tensor = network(images, settings.mae.mask_ratio, decode_share=settings.mae.decode_share).loss
        return loss

    def heldout_loss(self, network: nn.Module) -> float:
        """Every patch is decoded, whatever share training decodes."""
        total, start, ratio = 0.0, 0, self.settings.mae.mask_ratio
        for images in self.heldout.chunks():
            noise = self._noise[:, start : start + len(images)].flatten(0, 1)
            total += network(images.repeat(self.views, 1, 1, 1), ratio, noise).loss.item() * len(images)
            start += len(images)
        return total / start

    def encoder(self, network: nn.Module) -> ViT:
        autoencoder = self.kept(network)
        assert isinstance(autoencoder, MaskedAutoencoder)
        return autoencoder.encoder
