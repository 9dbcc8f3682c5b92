"""Masked autoencoding (He et al. 2022, arXiv 2111.06377): reconstruct the patches that are hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.config import Settings
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.vit import ViT
from pocketvit.training.objectives.pretraining import HELDOUT_BATCH, Pretraining


class MaskedAutoencoding(Pretraining):
    """The loss is that of `pocketvit.model.mae.MaskedAutoencoder`; held-out images have fixed masks."""

    title, colour, weights_kind = "MAE", "#2b7bba", "mae"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        patches = self.encoder(self.network).shape.patches
        noise = torch.rand(len(self.heldout), patches, generator=torch.Generator().manual_seed(0))
        self._noise = noise.to(self.heldout.device)

    @staticmethod
    def build(settings: Settings, shape: tuple[int, int, int]) -> MaskedAutoencoder:
        config = settings.mae
        return MaskedAutoencoder(settings.model, shape, config.visible_discount, config.normalise_targets)

    def loss(self, network: Callable[..., Any], images: Tensor, labels: Tensor | None) -> Tensor:
        config = self.settings.mae
        return network(self.batches.normalise(images), config.mask_ratio, decode_share=config.decode_share).loss

    def heldout_loss(self, network: nn.Module) -> float:
        """Every patch is decoded, whatever share training decodes."""
        total, start, ratio = 0.0, 0, self.settings.mae.mask_ratio
        for images in self.heldout.chunks(HELDOUT_BATCH):
            total += network(images, ratio, self._noise[start : start + len(images)]).loss.item() * len(images)
            start += len(images)
        return total / start

    def encoder(self, network: nn.Module) -> ViT:
        assert isinstance(network, MaskedAutoencoder)
        return network.encoder
