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
        macs: every matrix product of the classifier, attention's included, all tokens in all layers, as others count.
        macs_computed: those that are computed: where the class token alone is read, the last layer is for it alone.
        macs_without_attention: the same without attention modules (qkv, both products and the projection): the
            convention that reproduces the figure of arXiv 2402.03752.
        pretrain_macs: every matrix product of the masked autoencoder, with the patches that training decodes.
        pretrain_params: parameters of the masked autoencoder, encoder and decoder.
        weights_mb: the classifier's float32 weights, in megabytes of 10^6 bytes.
    """

    params: int
    macs: int
    macs_computed: int
    macs_without_attention: int
    pretrain_macs: int
    pretrain_params: int
    weights_mb: float


def budget(
    config: ModelConfig,
    shape: tuple[int, int, int],
    classes: int,
    mask_ratio: float = 0.75,
    decode_share: float = 1.0,
    visible_discount: float = 0.1,
) -> Budget:
    """Count what a network costs, without allocating it.

    Args:
        config: network sizes, with or without its preset resolved.
        shape: image (height, width, channels).
        classes: outputs of the head; 0 counts the encoder alone.
        mask_ratio: share of the patches that pre-training hides.
        decode_share: share of the hidden patches that it decodes.
        visible_discount: weight of the visible patches' loss; at 0, cross-attention does not decode them.

    Raises:
        UserError: sizes that cannot be, or a patch that does not divide the image.
    """
    c = config.resolved()
    with torch.device("meta"):
        classifier = ViT(ViTShape.of(c, shape), classes, pool=c.pool)
        autoencoder = MaskedAutoencoder(c, shape, visible_discount)
        noise = torch.empty(1, classifier.shape.patches)
        visible, _ = random_mask(noise, mask_ratio)
        some = autoencoder.to_decode(noise, visible, decode_share)
    vit, seen = classifier.shape, visible.shape[1]
    decoded = vit.patches if some is None else some.shape[1]
    attention, mlp = _layers(1 + vit.patches, vit.dim, vit.depth, vit.mlp_ratio)
    unread = 0
    if c.pool == "token":
        whole, first = (sum(_layers(n, vit.dim, 1, vit.mlp_ratio, 1 + vit.patches)) for n in (1 + vit.patches, 1))
        unread = whole - first
    # The class token's embedding is a bias, and costs nothing.
    linear = vit.patches * vit.patch_dim * vit.dim + mlp + vit.dim * classes
    encoding = seen * vit.patch_dim * vit.dim + sum(_layers(1 + seen, vit.dim, vit.depth, vit.mlp_ratio))
    # A decoder by self-attention carries the class token too, and drops it after the last product.
    tokens, context = (decoded, 1 + seen) if autoencoder.cross else (1 + decoded, 1 + decoded)
    decoder, layers = autoencoder.decoder_embed.out_features, len(autoencoder.decoder_blocks)
    decoding = (1 + seen) * vit.dim * decoder + tokens * decoder * vit.patch_dim
    decoding += sum(_layers(tokens, decoder, layers, vit.mlp_ratio, context))
    params = _parameters(classifier)
    return Budget(
        params=params,
        macs=linear + attention,
        macs_computed=linear + attention - unread,
        macs_without_attention=linear,
        pretrain_macs=encoding + decoding,
        pretrain_params=_parameters(autoencoder),
        weights_mb=params * 4 / 1e6,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _layers(tokens: int, dim: int, depth: int, mlp_ratio: float, context: int | None = None) -> tuple[int, int]:
    """MACs of the attention modules and of the feed-forward modules of `depth` layers; `context` is attended to."""
    context = tokens if context is None else context
    # q and projection, k and v; q by k and weights by v.
    attention = 2 * (tokens + context) * dim**2 + 2 * tokens * context * dim
    return depth * attention, depth * 2 * tokens * dim * int(dim * mlp_ratio)
