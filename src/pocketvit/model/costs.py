"""What a network costs before anything is trained: parameters, multiply-accumulates (MACs) and size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pocketvit.config import ModelConfig, NetworkConfig
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.networks import NETWORKS
from pocketvit.model.vit import ViT

TOTAL = ""  # among modules' names


@dataclass(frozen=True)
class ClassifierCosts:
    """Costs of a classifier; MACs are those of one forward pass of one image.

    Args:
        params: parameters of the classifier, encoder and head.
        macs: every matrix product of the classifier, attention's included, all tokens in all layers, as others count.
        macs_computed: those that are computed: where the class token alone is read, the last layer is for it alone.
        macs_without_attention: the same without attention modules (qkv, both products and the projection): the
            convention that reproduces the figure of arXiv 2402.03752.
        weights_mb: the classifier's float32 weights, in megabytes of 10^6 bytes.
        weights_int8_mb: the same with a byte for each value of a matrix, and four for those of biases and norms.
        peak_activations: most values that are in use at once between the classifier's layers, for one image.
    """

    params: int
    macs: int
    macs_computed: int
    macs_without_attention: int
    weights_mb: float
    weights_int8_mb: float
    peak_activations: int


@dataclass(frozen=True)
class Costs(ClassifierCosts):
    """Costs of a ViT, and of the masked autoencoder that it is pre-trained in.

    Args:
        pretrain_macs: every matrix product of the masked autoencoder, with the patches that training decodes.
        pretrain_params: parameters of the masked autoencoder, encoder and decoder.
    """

    pretrain_macs: int
    pretrain_params: int


@cache
def classifier_costs(network: str, config: NetworkConfig, shape: tuple[int, int, int], classes: int) -> ClassifierCosts:
    """Count what a classifier costs, without allocating it; once in a process, for the count takes tenths of a second.

    Args:
        network: one of NETWORKS.
        config: its sizes.
        shape: image (height, width, channels).
        classes: outputs of the head; 0 counts the encoder alone.

    Raises:
        UserError: sizes that cannot be, or a patch that does not divide the image.
    """
    height, width, channels = shape
    with torch.device("meta"):
        classifier = NETWORKS[network].build(config, shape, classes).eval()
        image = torch.empty(1, channels, height, width)
    computed = macs_by_module(classifier, lambda: classifier(image))
    products = computed
    if isinstance(classifier, ViT):
        # All tokens in all layers, where the class token alone is read.
        products = macs_by_module(classifier, lambda: classifier.head(classifier.encode(image)[:, 0]))
    attention = sum(count for name, count in products.items() if name.endswith(".attn"))
    params = parameters(classifier)
    return ClassifierCosts(
        params=params,
        macs=products[TOTAL],
        macs_computed=computed[TOTAL],
        macs_without_attention=products[TOTAL] - attention,
        weights_mb=params * 4 / 1e6,
        weights_int8_mb=sum(p.numel() * (1 if p.ndim > 1 else 4) for p in classifier.parameters()) / 1e6,
        peak_activations=peak_activations(classifier, lambda: classifier(image)),
    )


def costs(
    config: ModelConfig,
    shape: tuple[int, int, int],
    classes: int,
    mask_ratio: float = 0.75,
    decode_share: float = 1.0,
    visible_discount: float = 0.1,
) -> Costs:
    """Count what a ViT and its pre-training cost, without allocating them.

    Args and Raises: as `classifier_costs`.
        mask_ratio: share of the patches that pre-training hides.
        decode_share: share of the hidden patches that it decodes.
        visible_discount: weight of the visible patches' loss; at 0, cross-attention does not decode them.
    """
    height, width, channels = shape
    classifier = classifier_costs("vit", config, shape, classes)
    with torch.device("meta"):
        autoencoder = MaskedAutoencoder(config, shape, visible_discount).eval()
        image = torch.empty(1, channels, height, width)
    masked = macs_by_module(autoencoder, lambda: autoencoder(image, mask_ratio, decode_share=decode_share))
    return Costs(**asdict(classifier), pretrain_macs=masked[TOTAL], pretrain_params=parameters(autoencoder))


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


def peak_activations(network: nn.Module, forward: Callable[[], object]) -> int:
    """Most values that are in use at once in a forward pass, beside the parameters.

    Operators run one after another, each into memory of its own, and a tensor is in use from the operator that makes it
    to the last that reads it or a view of it. What a runtime computes in place or fuses takes less.

    Args:
        network: on the meta device, where nothing is computed.
        forward: calls it.
    """
    with _Lifetimes(network.parameters()) as seen, torch.no_grad():
        forward()
    spans = seen.spans.values()
    return max(sum(size for size, first, last in spans if first <= now <= last) for now in range(seen.operators))


class _Lifetimes(TorchDispatchMode):
    """Notes of each storage its values, and the numbers of the first and the last operator that has it."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.operators, self.spans = 0, dict[int, tuple[int, int, int]]()
        self._kept: list[Any] = [parameter.untyped_storage() for parameter in parameters]
        self._weights = {storage._cdata for storage in self._kept}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._weights:
                size, first, _ = self.spans.get(
                    storage._cdata, (storage.nbytes() // tensor.itemsize, self.operators, self.operators)
                )
                self.spans[storage._cdata] = size, first, self.operators
                self._kept.append(storage)  # or another would come to the same place
        self.operators += 1
        return result


def parameters(module: nn.Module) -> int:
    """How many there are."""
    return sum(parameter.numel() for parameter in module.parameters())
