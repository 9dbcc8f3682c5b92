"""Attention that begins as in trained networks: what the products of its matrices are."""

from __future__ import annotations

import torch

from pocketvit.config import ModelConfig
from pocketvit.model.mimetic import start_mimetic, waves
from pocketvit.model.vit import Block, ViT, ViTShape


def test_products_are_noise_and_a_part_of_the_identity() -> None:
    torch.manual_seed(0)
    vit = ViT(ViTShape.of(ModelConfig("tiny", depth=2), (32, 32, 3)), classes=10)
    start_mimetic(vit)
    for block in vit.blocks:
        assert isinstance(block, Block)
        attention, width = block.attn, vit.width
        query, key, value = attention.qkv.weight.view(3, width, width)
        noise = attention.proj.weight @ value + 0.4 * torch.eye(width)
        assert abs(noise.std() * width**0.5 / 0.4 - 1) < 0.05
        assert abs(noise.diagonal().mean()) < 0.02
        for one, other in zip(query.chunk(attention.heads), key.chunk(attention.heads), strict=True):
            product = one.T @ other
            assert product.diagonal().mean() > 0.15  # of the 0.7, what a quarter of the ranks can hold
            assert torch.linalg.matrix_rank(product) == width // attention.heads


def test_positions_are_nearer_to_neighbours_than_to_others() -> None:
    made = waves(4, 6, 18)
    assert made.shape == (24, 18)
    assert not made[:, 16:].any()
    apart = torch.cdist(made, made)
    assert apart[0, 1] < apart[0, 2] < apart[0, 3]  # along a row
    assert apart[0, 6] < apart[0, 12] < apart[0, 18]  # down a column
    assert torch.allclose(apart[0, 1], apart[7, 8])
