"""Sizes of the network: those that are asked for, and, with those of a preset, all of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pocketvit.config.fields import Checked, setting
from pocketvit.errors import UserError


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of a network, all of them: of its encoder, and of the decoder that pre-training has beside it.

    Args:
        patch: side of a patch in pixels
        width: of the encoder's tokens
        depth: layers of the encoder
        heads: of its attention
        mlp_ratio: width of feed-forward layers over that of their tokens
        decoder_width: of the decoder's tokens
        decoder_depth: layers of the decoder
        decoder_heads: of its attention
        decoder_attention: "self" or "cross"
        pool: what the head reads, "token" or "mean"
    """

    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    decoder_attention: str
    pool: str


@dataclass(frozen=True)
class ModelConfig(Checked):
    """Sizes of the network. A preset names them all; any of them can be set beside it."""

    prefix = "model."
    preset: Literal["paper", "lite", "tiny", "digits"] = setting("lite", "paper, lite, tiny or digits")
    patch: int | None = setting(None, "side of a patch in pixels")
    width: int | None = setting(None, "width of the encoder")
    depth: int | None = setting(None, "layers of the encoder")
    heads: int | None = setting(None, "attention heads of the encoder")
    mlp_ratio: float | None = setting(None, "width of the feed-forward layers over that of the encoder or decoder")
    decoder_width: int | None = setting(None, "width of the decoder")
    decoder_depth: int | None = setting(None, "layers of the decoder")
    decoder_heads: int | None = setting(None, "attention heads of the decoder")
    decoder_attention: Literal["self", "cross"] = setting(
        "self", "what the decoder's tokens attend to: each other, or (cross) the encoder's output alone"
    )
    pool: Literal["token", "mean"] = setting(
        "token", "what the head reads: the class token's output, or the mean over patches"
    )

    def sizes(self) -> NetworkSizes:
        """Every size, those that are not given from the preset; raises UserError for sizes that cannot be."""
        values = dataclasses.asdict(self.resolved())
        del values["preset"]
        return NetworkSizes(**values)

    def resolved(self) -> ModelConfig:
        """The same network with every size filled in from the preset; raises UserError for sizes that cannot be."""
        given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        model = dataclasses.replace(self, **{**PRESETS[self.preset], **given})
        least = dict.fromkeys(("patch", "width", "depth", "heads", "decoder_width", "decoder_heads"), 1)
        # Without a layer, the queries of a cross-attention decoder would see nothing of the image.
        for name, value in (least | {"decoder_depth": int(model.decoder_attention == "cross")}).items():
            if getattr(model, name) < value:
                raise UserError(f"--model.{name}: {getattr(model, name)} is out of range: expected at least {value}")
        if any(int(getattr(model, name) * (model.mlp_ratio or 0)) < 1 for name in ("width", "decoder_width")):
            raise UserError(f"--model.mlp_ratio: {model.mlp_ratio} leaves the feed-forward layers no width")
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if getattr(model, width) % getattr(model, heads):
                raise UserError(
                    f"--model.{heads} {getattr(model, heads)} does not divide --model.{width} {getattr(model, width)}"
                )
        return model


_VIT = {"width": 192, "depth": 12, "heads": 3, "mlp_ratio": 2.0}
_DECODER = {"decoder_width": 96, "decoder_depth": 2, "decoder_heads": 3}
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's encoder; heads and decoder are not stated there.
    "paper": {"patch": 3, **_VIT, **_DECODER},
    "lite": {"patch": 4, **_VIT, **_DECODER},
    "tiny": {"patch": 4, "width": 128, "depth": 8, "heads": 4, "mlp_ratio": 2.0} | _DECODER,
    "digits": {
        **{"patch": 2, "width": 96, "depth": 4, "heads": 4, "mlp_ratio": 2.0},
        **{"decoder_width": 64, "decoder_depth": 1, "decoder_heads": 4},
    },
}
