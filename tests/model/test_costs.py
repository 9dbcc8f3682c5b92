"""Costs: the figures that the method claims, and counts against those by hand."""

import dataclasses

import pytest

from pocketvit.config import PRESETS, ModelConfig
from pocketvit.errors import UserError
from pocketvit.model.costs import costs

SHAPES = {"paper": (36, 36, 3), "lite": (32, 32, 3), "tiny": (20, 32, 5), "digits": (8, 8, 1)}
WIDER = ModelConfig("tiny", patch=2, depth=3, mlp_ratio=3.3, decoder_depth=0, decoder_width=20, decoder_heads=2)


def by_hand(config: ModelConfig, shape: tuple[int, int, int], classes: int) -> tuple[int, int]:
    """MACs of a classifier, and of its attention modules: four projections and two products of all tokens a layer."""
    c, (height, width, channels) = config.sizes(), shape
    patches = (height // c.patch) * (width // c.patch)
    tokens, hidden = 1 + patches, int(c.width * c.mlp_ratio)
    attention = c.depth * (4 * tokens * c.width**2 + 2 * tokens**2 * c.width)
    rest = patches * c.patch**2 * channels * c.width + c.depth * 2 * tokens * c.width * hidden + c.width * classes
    return attention + rest, attention


def test_the_paper_preset_has_the_papers_budget() -> None:
    b = costs(ModelConfig("paper"), (36, 36, 3), classes=10)
    assert 3.59e6 < b.params < 3.65e6
    assert 0.60e9 < b.macs < 0.62e9
    assert 0.255e9 < b.macs_without_attention < 0.262e9
    assert b.weights_mb == pytest.approx(4 * b.params / 1e6)


def test_the_lite_preset_holds_the_budget_by_the_full_count() -> None:
    b = costs(ModelConfig("lite"), (32, 32, 3), classes=10)
    assert b.macs < 0.27e9
    assert b.params < 3.65e6


@pytest.mark.parametrize("config", [*map(ModelConfig, PRESETS), WIDER], ids=[*PRESETS, "wider"])
def test_counts_are_those_by_hand(config: ModelConfig) -> None:
    shape, classes = SHAPES[config.preset], 7
    whole, attention = by_hand(config, shape, classes)
    c = costs(config, shape, classes)
    assert (c.macs, c.macs_without_attention) == (whole, whole - attention)


def test_only_a_pooled_class_token_spares_the_last_layer() -> None:
    token, mean = (costs(ModelConfig("lite", pool=pool), (32, 32, 3), classes=10) for pool in ("token", "mean"))
    assert mean.macs_computed == mean.macs == token.macs
    # All but keys and values, of one layer in twelve.
    assert 0.92 < token.macs_computed / token.macs < 0.96


def test_an_encoder_alone_has_no_head() -> None:
    with_head, without = (costs(ModelConfig("lite"), (32, 32, 3), classes) for classes in (10, 0))
    assert with_head.params - without.params == 10 * 192 + 10
    assert with_head.macs - without.macs == 10 * 192


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="--patch 3 does not divide the image size 32x32"):
        costs(ModelConfig("paper"), (32, 32, 3), 10)
    with pytest.raises(UserError, match=r"--model\.heads 5 does not divide"):
        costs(dataclasses.replace(ModelConfig("paper"), heads=5), (36, 36, 3), 10)
