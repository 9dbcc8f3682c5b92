"""The budget: the figures that the method claims, and the analytic counts against torch's counter."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pocketvit.config import PRESETS, ModelConfig
from pocketvit.errors import UserError
from pocketvit.model import MaskedAutoencoder, ViT, ViTShape, budget
from pocketvit.model.vit import Attention

SHAPES = {"paper": (36, 36, 3), "lite": (32, 32, 3), "tiny": (20, 32, 5), "digits": (8, 8, 1)}
WIDER = ModelConfig("tiny", patch=2, depth=3, mlp_ratio=3.3, decoder_depth=0, decoder_width=20, decoder_heads=2)


def macs(module: nn.Module, shape: tuple[int, int, int], **kwargs: float) -> int:
    """What torch counts in one forward pass of one image; it does not count every fused kernel of attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, shape[2], *shape[:2]), **kwargs)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


class Whole(nn.Module):
    """A classifier that computes every token in every layer."""

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.vit.head(self.vit.encode(images)[:, 0])


def test_the_paper_preset_has_the_papers_budget() -> None:
    b = budget(ModelConfig("paper"), (36, 36, 3), classes=10)
    assert 3.59e6 < b.params < 3.65e6
    assert 0.60e9 < b.macs < 0.62e9
    assert 0.255e9 < b.macs_without_attention < 0.262e9
    assert b.weights_mb == pytest.approx(4 * b.params / 1e6)


def test_the_lite_preset_holds_the_budget_by_the_full_count() -> None:
    b = budget(ModelConfig("lite"), (32, 32, 3), classes=10)
    assert b.macs < 0.27e9
    assert b.params < 3.65e6


@pytest.mark.parametrize("config", [*map(ModelConfig, PRESETS), WIDER], ids=[*PRESETS, "wider"])
@pytest.mark.parametrize("mask_ratio", [0.0, 0.6, 0.75, 1.0])
def test_counts_agree_with_torch(config: ModelConfig, mask_ratio: float) -> None:
    shape, classes = SHAPES[config.preset], 7
    vit = ViT(ViTShape.of(config, shape), classes)
    autoencoder = MaskedAutoencoder(config, shape)
    b = budget(config, shape, classes, mask_ratio)
    assert b.params == sum(p.numel() for p in vit.parameters())
    assert b.pretrain_params == sum(p.numel() for p in autoencoder.parameters())
    assert b.macs_computed == macs(vit, shape)
    assert b.macs == macs(Whole(vit), shape)
    assert b.pretrain_macs == macs(autoencoder, shape, mask_ratio=mask_ratio)
    for block in vit.blocks:
        assert isinstance(block.attn, Attention)
        block.attn = nn.Identity()
    assert b.macs_without_attention == macs(Whole(vit), shape)


def test_only_a_pooled_class_token_spares_the_last_layer() -> None:
    token, mean = (budget(ModelConfig("lite", pool=pool), (32, 32, 3), classes=10) for pool in ("token", "mean"))
    assert mean.macs_computed == mean.macs == token.macs
    # All but keys and values, of one layer in twelve.
    assert 0.92 < token.macs_computed / token.macs < 0.96


def test_an_encoder_alone_has_no_head() -> None:
    with_head, without = (budget(ModelConfig("lite"), (32, 32, 3), classes) for classes in (10, 0))
    assert with_head.params - without.params == 10 * 192 + 10
    assert with_head.macs - without.macs == 10 * 192


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="--patch 3 does not divide the image size 32x32"):
        budget(ModelConfig("paper"), (32, 32, 3), 10)
    with pytest.raises(UserError, match=r"--model\.heads 5 does not divide"):
        budget(dataclasses.replace(ModelConfig("paper"), heads=5), (36, 36, 3), 10)
