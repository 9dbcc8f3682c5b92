"""What a network costs before anything is trained: parameters, multiply-accumulates (MACs) and size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pocketvit.config import ModelConfig
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.vit import ViT, ViTShape

TOTAL = ""  # among modules' names


@dataclass(frozen=True)
class Costs:
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


def costs(
    config: ModelConfig,
    shape: tuple[int, int, int],
    classes: int,
    mask_ratio: float = 0.75,
    decode_share: float = 1.0,
    visible_discount: float = 0.1,
) -> Costs:
    """Count what a network costs, without allocating it.

    Args:
        config: network sizes.
        shape: image (height, width, channels).
        classes: outputs of the head; 0 counts the encoder alone.
        mask_ratio: share of the patches that pre-training hides.
        decode_share: share of the hidden patches that it decodes.
        visible_discount: weight of the visible patches' loss; at 0, cross-attention does not decode them.

    Raises:
        UserError: sizes that cannot be, or a patch that does not divide the image.
    """
    height, width, channels = shape
    with torch.device("meta"):
        classifier = ViT(ViTShape.of(config, shape), classes, pool=config.pool).eval()
        autoencoder = MaskedAutoencoder(config, shape, visible_discount).eval()
        image = torch.empty(1, channels, height, width)
    # All tokens in all layers, where the class token alone is read.
    products = macs_by_module(classifier, lambda: classifier.head(classifier.encode(image)[:, 0]))
    attention = sum(count for name, count in products.items() if name.endswith(".attn"))
    masked = macs_by_module(autoencoder, lambda: autoencoder(image, mask_ratio, decode_share=decode_share))
    params = parameters(classifier)
    return Costs(
        params=params,
        macs=products[TOTAL],
        macs_computed=macs_by_module(classifier, lambda: classifier(image))[TOTAL],
        macs_without_attention=products[TOTAL] - attention,
        pretrain_macs=masked[TOTAL],
        pretrain_params=parameters(autoencoder),
        weights_mb=params * 4 / 1e6,
    )


def macs_by_module(network: nn.Module, forward: Callable[[], object]) -> dict[str, int]:
    """Multiply-accumulates of every matrix product and convolution, by the name of the module, and in TOTAL.

    Args:
        network: on the meta device, where nothing is computed.
        forward: calls it.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    by_name = {name: sum(flops.values()) // 2 for name, flops in counter.flop_counts.items()}
    return by_name | {TOTAL: counter.get_total_flops() // 2}


def parameters(module: nn.Module) -> int:
    """How many there are."""
    return sum(parameter.numel() for parameter in module.parameters())
