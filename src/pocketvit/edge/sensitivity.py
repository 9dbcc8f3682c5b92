"""Which layers int8 harms most: each is quantised alone, in simulation, and held against the network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketvit.edge.deployed import Deployed
from pocketvit.edge.format import planar
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta


@torch.no_grad()
def sensitivities(network: Network, meta: WeightsMeta, images: NDArray[np.uint8]) -> dict[str, float]:
    """Root mean square of the change of the logits, relative to theirs, by layer, the largest first.

    Weights are quantised by channel, symmetrically, and a layer's inputs by their smallest and largest value, as in a
    file; every layer but the one in question stays in float.

    Args:
        network: a classifier.
        meta: that describes it.
        images: (N, H, W, C), train images.
    """
    deployed, pixels = Deployed(network, meta), torch.from_numpy(planar(images))
    exact = deployed(pixels)[0]
    found: dict[str, float] = {}
    for name, layer in deployed.network.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            weight, hook = layer.weight.data, layer.register_forward_pre_hook(_quantised_input)
            layer.weight.data = _by_channel(weight)
            found[name] = float((deployed(pixels)[0] - exact).square().mean().sqrt() / exact.square().mean().sqrt())
            layer.weight.data = weight
            hook.remove()
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _quantised_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    x = inputs[0]
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = max((high - low) / 255, 1e-12)
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)


def _by_channel(weight: Tensor) -> Tensor:
    scale = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros(len(scale), dtype=torch.int32), 0, -127, 127
    )
