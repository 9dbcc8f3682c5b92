"""What an exported file computes: pixels in, logits and calibrated probabilities out, nothing of training left."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.model.patches import patchify
from pocketvit.model.vit import ViT
from pocketvit.model.weights import WeightsMeta

FLOORED_STD = 2e-3  # a deviation below this is that of a constant channel, floored


class Deployed(nn.Module):
    """A classifier for export.

    Normalisation is folded into the embedding of patches, but for a set with a constant channel: its deviation is
    floored, and its weights, folded, would be hundreds of times larger than the others' and take all of int8's range.
    The class token is the embedding of a patch of zeros after normalisation: it keeps the bias as it was.

    Args:
        vit: a classifier
        meta: that describes it
    """

    outputs: tuple[str, ...] = ("logits", "probabilities")
    scale: Tensor
    shift: Tensor
    class_token: Tensor
    positions: Tensor

    def __init__(self, vit: ViT, meta: WeightsMeta) -> None:
        super().__init__()
        self.patch, self.pool, self.temperature = vit.shape.patch, vit.pool, meta.temperature
        self.blocks, self.norm, self.head = vit.blocks, vit.norm, vit.head
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (meta.mean, meta.std))
        # A patch's values run channel by channel within a pixel (see patchify).
        mean, std = (values.repeat(self.patch**2) for values in (mean, std))
        weight, bias = vit.patch_embed.weight.detach(), vit.patch_embed.bias.detach()
        self.folded = bool((std > FLOORED_STD).all())
        self.embed: nn.Linear = nn.Linear(weight.shape[1], weight.shape[0])
        if self.folded:
            scaled = weight / (255 * std)
            self.embed.weight.data, self.embed.bias.data = scaled, bias - scaled @ (255 * mean)
        else:
            self.embed.weight.data, self.embed.bias.data = weight.clone(), bias.clone()
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.register_buffer("class_token", bias + vit.pos_embed.detach()[:, :1])
        self.register_buffer("positions", vit.pos_embed.detach()[:, 1:])

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (N, C, H, W) to logits and probabilities, both (N, K)."""
        x = self.embedded(pixels)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, first_only=self.pool == "token" and number == len(self.blocks))
        return self.read(self.norm(x))

    def embedded(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the tokens of the first layer, (N, 1 + P, D)."""
        patches = patchify(pixels, self.patch).to(torch.float32)
        if not self.folded:
            patches = patches * self.scale + self.shift
        tokens = self.embed(patches) + self.positions
        return torch.cat([self.class_token.expand(pixels.shape[0], -1, -1), tokens], dim=1)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the last layer, normalised, to logits and probabilities, both (N, K)."""
        logits = self.head(x[:, 0] if self.pool == "token" else x[:, 1:].mean(dim=1))
        return logits, F.softmax(logits / self.temperature, dim=-1)
