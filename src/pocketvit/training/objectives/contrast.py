"""Masked autoencoding with contrast: two views of an image are also to be more alike than any view of another.

Each view is augmented and masked on its own, the first one is reconstructed, and what the head would read of both is
pulled together through a projector: SimCLR (Chen et al. 2020, arXiv 2002.05709) beside MAE, as in CAN (Mishra et al.
2022, arXiv 2210.16870), whose prediction of noise is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit import draws
from pocketvit.config import Settings
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.network import Wrapper
from pocketvit.model.patches import random_mask
from pocketvit.training.objectives.mae import MaskedAutoencoding

HIDDEN, PROJECTED = 256, 64  # widths of the projector's layers


class ContrastOutput(NamedTuple):
    """Scalar losses: the sum, weighed, and its parts."""

    loss: Tensor
    reconstruction: Tensor
    contrast: Tensor


class ContrastiveMAE(Wrapper):
    """A masked autoencoder with a projector beside it, which training alone has a use for.

    Args:
        mae: whose encoder is shaped.
        temperature: of `nt_xent`.
        weight: of `nt_xent` beside the autoencoder's loss.
    """

    wrapped = "mae"

    def __init__(self, mae: MaskedAutoencoder, temperature: float, weight: float) -> None:
        super().__init__()
        self.mae, self.temperature, self.weight = mae, temperature, weight
        self.projector = nn.Sequential(
            nn.Linear(mae.encoder.width, HIDDEN, bias=False),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, PROJECTED),
        )

    def forward(
        self, images: Tensor, mask_ratio: float, noise: Tensor | None = None, decode_share: float | None = None
    ) -> ContrastOutput:
        """Losses of two views of each of B images.

        Args:
            images: (2 B, C, H, W) normalised, a view of each, then another of each.
            mask_ratio: share of the patches to hide of either.
            noise: (2 B, N) float that decides the masks (see `random_mask`); None draws it.
            decode_share: of the first views (see `MaskedAutoencoder.forward`).
        """
        encoder = self.mae.encoder
        if noise is None:
            # As views by images, for processes that share the batch to draw what one would.
            shape = 2, len(images) // 2, encoder.shape.patches
            noise = draws.uniform(shape, images.device, images=1).flatten(0, 1)
        (first, second), (noise, other) = images.chunk(2), noise.chunk(2)
        reconstructed = self.mae(first, mask_ratio, noise, decode_share)
        read = encoder.pooled(reconstructed.tokens), encoder.features(second, random_mask(other, mask_ratio)[0])
        contrast = nt_xent(self.projector(torch.cat(read)), self.temperature)
        loss = reconstructed.loss + self.weight * contrast
        return ContrastOutput(loss, reconstructed.loss, contrast)


class Contrast(MaskedAutoencoding):
    """The loss of `ContrastiveMAE`; what is kept of it is the masked autoencoder.

    The held-out loss has the same two parts, of images without augmentation that have two fixed masks each: views of a
    chunk of images are compared, with the running statistics of the projector's batch norm. A training step compares,
    and the batch norm sees, what goes through a device at once: of several processes, and of the parts that
    `pretrain.accumulate` makes of a batch, each its own images.
    """

    title, colour, usual, views = "MAE + contrast", "#7b52a1", False, 2

    @staticmethod
    def build(settings: Settings, shape: tuple[int, int, int]) -> ContrastiveMAE:  # type: ignore[override]
        mae, config = MaskedAutoencoding.build(settings, shape), settings.contrast
        return ContrastiveMAE(mae, config.temperature, config.weight)

    @staticmethod
    def kept(network: nn.Module) -> nn.Module:
        assert isinstance(network, ContrastiveMAE)
        return network.mae


def nt_xent(views: Tensor, temperature: float) -> Tensor:
    """NT-Xent, also InfoNCE (SimCLR, equation 1): mean cross-entropy of picking the other view of its image for each.

    It is picked among all views but itself, by cosine similarity.

    Args:
        views: (2 B, D), a view of each image, then another of each.
        temperature: that similarities are divided by.
    """
    views = F.normalize(views.float(), dim=1)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    logits = (views @ views.T / temperature).masked_fill(itself, float("-inf"))
    other = torch.arange(len(views), device=views.device).roll(len(views) // 2)
    return F.cross_entropy(logits.float(), other)
