"""Mimetic initialisation: attention that begins as it is found in trained networks (arXiv 2305.09828)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pocketvit.model.vit import Attention, Block, ViT

# Section 4 of the paper: weights of noise and of the identity in the two products, as it chose them for small images.
QUERY_KEY = 0.7, 0.7
VALUE_PROJECTION = 0.4, -0.4


@torch.no_grad()
def start_mimetic(vit: ViT) -> None:
    """Draw the attention of all layers, and positions on a wave, anew from torch's generator.

    Where two tokens are alike, queries and keys then agree; and a layer takes away a part of what it reads.
    """
    for block in vit.blocks:
        assert isinstance(block, Block)
        _start(block.attn)
    height, width, _ = vit.shape.image
    rows, columns = height // vit.shape.patch, width // vit.shape.patch
    vit.pos_embed.zero_()
    vit.pos_embed[0, 1:] = waves(rows, columns, vit.width)


def waves(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width): sines and cosines of each patch's row and column, a quarter of `width` of each.

    As in arXiv 2111.06377; what is left of a width that 4 does not divide is 0.
    """
    quarter = width // 4
    frequencies = 10_000 ** -(torch.arange(quarter) / quarter)
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in grid]
    made = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.nn.functional.pad(made, (0, width - made.shape[1]))


def _start(attention: Attention) -> None:
    width, heads = attention.proj.weight.shape[0], attention.heads
    query, key, value = attention.qkv.weight.view(3, width, width)
    for head_query, head_key in zip(query.chunk(heads), key.chunk(heads), strict=True):
        left, right = _factors(_product(width, *QUERY_KEY), width // heads)
        head_query.copy_(left.T)
        head_key.copy_(right)
    left, right = _factors(_product(width, *VALUE_PROJECTION), width)
    attention.proj.weight.copy_(left)
    value.copy_(right)


def _product(width: int, noise: float, identity: float) -> Tensor:
    return noise * torch.randn(width, width) / math.sqrt(width) + identity * torch.eye(width)


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(D, rank) and (rank, D) whose product is nearest to it, of equal size."""
    left, values, right = torch.linalg.svd(product)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
