"""What an exported file computes: pixels in, logits and calibrated probabilities out, nothing of training left.

A network of any kind is normalised pixels and the network itself; a ViT's layers are written out anew, in the form
that runtimes fuse: the only part here that knows what a ViT is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.model.network import Network
from pocketvit.model.patches import patchify
from pocketvit.model.vit import Block, ViT
from pocketvit.model.weights import WeightsMeta

FLOORED_STD = 2e-3  # a deviation below this is that of a constant channel, floored


class Deployed(nn.Module):
    """A classifier for export.

    Args:
        network: a classifier.
        meta: that describes it.
        for_onnx: write attention as ONNX's operator of that name, on the tokens of all images one below another, whose
            products then have their bias inside.
    """

    outputs: tuple[str, ...] = ("logits", "probabilities")

    def __init__(self, network: Network, meta: WeightsMeta, for_onnx: bool = False) -> None:
        super().__init__()
        self.temperature = meta.temperature
        self.network = Encoder(network, meta, for_onnx) if isinstance(network, ViT) else Normalised(network, meta)
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (N, C, H, W) to logits and probabilities, both (N, K)."""
        return self.answers(self.network(pixels))

    def answers(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K) logits, and with them probabilities."""
        return logits, F.softmax(logits / self.temperature, dim=-1)


class Normalised(nn.Module):
    """A network of any kind, uint8 (N, C, H, W) to logits (N, K)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, meta: WeightsMeta) -> None:
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (meta.mean, meta.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.to(torch.float32) * self.scale + self.shift)


class Encoder(nn.Module):
    """A ViT with its head, uint8 (N, C, H, W) to logits (N, K).

    Normalisation is folded into the embedding of patches, but for a set with a constant channel: its deviation is
    floored, and its weights, folded, would be hundreds of times larger than the others' and take all of int8's range.
    The class token is the embedding of a patch of zeros after normalisation: it keeps the bias as it was.
    """

    scale: Tensor
    shift: Tensor
    class_token: Tensor
    positions: Tensor

    def __init__(self, vit: ViT, meta: WeightsMeta, for_onnx: bool) -> None:
        super().__init__()
        self.patch, self.pool, self.rows, self.tokens = vit.shape.patch, vit.pool, for_onnx, 1 + vit.shape.patches
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (meta.mean, meta.std))
        # A patch's values run channel by channel within a pixel (see patchify).
        mean, std = (values.repeat(self.patch**2) for values in (mean, std))
        weight, bias = vit.patch_embed.weight.detach(), vit.patch_embed.bias.detach()
        self.folded = bool((std > FLOORED_STD).all())
        scaled = weight / (255 * std)
        self.embed = _linear(scaled, bias - scaled @ (255 * mean)) if self.folded else _linear(weight, bias)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.register_buffer("class_token", bias + vit.pos_embed.detach()[:, :1])
        self.register_buffer("positions", vit.pos_embed.detach()[:, 1:])
        last = len(vit.blocks) - 1 if self.pool == "token" else None
        self.blocks = nn.ModuleList(
            Layer(block, self.tokens, for_onnx, first_only=number == last)
            for number, block in enumerate(vit.blocks)
            if isinstance(block, Block)
        )
        self.norm, self.head = vit.norm, vit.head

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embedded(pixels)
        for block in self.blocks:
            x = block(x)
        return self.read(self.norm(x))

    def embedded(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the tokens of the first layer."""
        patches = patchify(pixels, self.patch).to(torch.float32)
        if not self.folded:
            patches = patches * self.scale + self.shift
        tokens = self.embed(patches) + self.positions
        x = torch.cat([self.class_token.expand(pixels.shape[0], -1, -1), tokens], dim=1)
        return x.reshape(-1, x.shape[-1]) if self.rows else x

    def read(self, x: Tensor) -> Tensor:
        """What the last layer gives, normalised, to logits (N, K)."""
        if self.pool == "mean":
            x = x.reshape(-1, self.tokens, x.shape[-1])[:, 1:].mean(dim=1)
        return self.head(x)


class Layer(nn.Module):
    """A layer of the encoder, on tokens (N, T, D), or those of all images one below another, (N * T, D).

    With `first_only`, it gives (N, D), the first token's: the others are attended to, and no more.
    """

    def __init__(self, block: Block, tokens: int, for_onnx: bool, first_only: bool) -> None:
        super().__init__()
        self.tokens, self.heads, self.for_onnx, self.first_only = tokens, block.attn.heads, for_onnx, first_only
        self.norm1, self.norm2, self.mlp, self.proj = block.norm1, block.norm2, block.mlp, block.attn.proj
        weight, bias = block.attn.qkv.weight.detach(), block.attn.qkv.bias.detach()
        queries = weight.shape[1] if first_only else 0
        if first_only:
            self.query = _linear(weight[:queries], bias[:queries])
        self.qkv = _linear(weight[queries:], bias[queries:])

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        normed = self.norm1(x)
        # -1 for the number of images: an exporter takes a number that it is told for a constant.
        parts = self.qkv(normed).reshape(-1, self.tokens, self.qkv.out_features).split(width, dim=-1)
        if self.first_only:
            x, first = (some.reshape(-1, self.tokens, width)[:, 0] for some in (x, normed))
            parts = (self.query(first).reshape(-1, 1, width), *parts)
        attended = self._attend(*parts).reshape(-1, *x.shape[1:])
        x = x + self.proj(attended)
        return x + self.mlp(self.norm2(x))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (N, M, D), keys and values (N, T, D) to (N, M, D)."""
        if self.for_onnx:
            result: Tensor = torch.onnx.ops.attention(q, k, v, q_num_heads=self.heads, kv_num_heads=self.heads)[0]
            return result
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer: nn.Linear = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return layer
