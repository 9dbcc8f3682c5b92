"""What a network costs before anything is trained: parameters, multiply-accumulates (MACs) and size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pocketvit.config import ModelConfig
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.patches import random_mask
from pocketvit.model.vit import ViT, ViTShape


@dataclass(frozen=True)
class Budget:
    """Costs of a network; MACs are those of one forward pass of one image.

    Args:
        params: parameters of the classifier, encoder and head.
        macs: every matrix product of the classifier, attention's included.
        macs_without_attention: the same without attention modules (qkv, both products and the projection): the
            convention that reproduces the figure of arXiv 2402.03752.
        pretrain_macs: every matrix product of the masked autoencoder.
        pretrain_params: parameters of the masked autoencoder, encoder and decoder.
        weights_mb: the classifier's float32 weights, in megabytes of 10^6 bytes.
    """

    params: int
    macs: int
    macs_without_attention: int
    pretrain_macs: int
    pretrain_params: int
    weights_mb: float


def budget(config: ModelConfig, shape: tuple[int, int, int], classes: int, mask_ratio: float = 0.75) -> Budget:
    """Count what a network costs, without allocating it.

    Args:
        config: network sizes, with or without its preset resolved.
        shape: image (height, width, channels).
        classes: outputs of the head; 0 counts the encoder alone.
        mask_ratio: share of the patches that pre-training hides.

    Raises:
        UserError: sizes that cannot be, or a patch that does not divide the image.
    """
    c = config.resolved()
    with torch.device("meta"):
        classifier, autoencoder = ViT(ViTShape.of(c, shape), classes), MaskedAutoencoder(c, shape)
        visible, _ = random_mask(torch.empty(1, classifier.shape.patches), mask_ratio)
    vit, seen = classifier.shape, visible.shape[1]
    all_tokens, decoder = 1 + vit.patches, autoencoder.decoder_embed.out_features
    attention, mlp = _layers(all_tokens, vit.dim, vit.depth, vit.mlp_ratio)
    # The class token's embedding is a bias, and costs nothing.
    linear = vit.patches * vit.patch_dim * vit.dim + mlp + vit.dim * classes
    encoding = seen * vit.patch_dim * vit.dim + sum(_layers(1 + seen, vit.dim, vit.depth, vit.mlp_ratio))
    # The decoder carries the class token too, and drops it after the last product.
    decoding = (1 + seen) * vit.dim * decoder + all_tokens * decoder * vit.patch_dim
    decoding += sum(_layers(all_tokens, decoder, len(autoencoder.decoder_blocks), vit.mlp_ratio))
    params = _parameters(classifier)
    return Budget(
        params=params,
        macs=linear + attention,
        macs_without_attention=linear,
        pretrain_macs=encoding + decoding,
        pretrain_params=_parameters(autoencoder),
        weights_mb=params * 4 / 1e6,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _layers(tokens: int, dim: int, depth: int, mlp_ratio: float) -> tuple[int, int]:
    """MACs of the attention modules and of the feed-forward modules of `depth` layers."""
    attention = 4 * tokens * dim**2 + 2 * tokens**2 * dim  # qkv and projection; q by k and weights by v
    return depth * attention, depth * 2 * tokens * dim * int(dim * mlp_ratio)
