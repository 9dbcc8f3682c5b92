"""Sizes of the network: those that are asked for, and, with those of a preset, all of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pocketvit.config.fields import ABOVE_0, AT_LEAST_0, AT_LEAST_1, Checked, Limit, setting
from pocketvit.errors import UserError

DEPTH = Limit(lambda value: value >= 8 and value % 6 == 2, "6 n + 2 with n of at least 1, as 20")


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
    patch: int | None = setting(None, "side of a patch in pixels", AT_LEAST_1)
    width: int | None = setting(None, "width of the encoder", AT_LEAST_1)
    depth: int | None = setting(None, "layers of the encoder", AT_LEAST_1)
    heads: int | None = setting(None, "attention heads of the encoder", AT_LEAST_1)
    mlp_ratio: float | None = setting(
        None, "width of the feed-forward layers over that of the encoder or decoder", ABOVE_0
    )
    decoder_width: int | None = setting(None, "width of the decoder", AT_LEAST_1)
    decoder_depth: int | None = setting(None, "layers of the decoder", AT_LEAST_0)
    decoder_heads: int | None = setting(None, "attention heads of the decoder", AT_LEAST_1)
    decoder_attention: Literal["self", "cross"] = setting(
        "self", "what the decoder's tokens attend to: each other, or (cross) the encoder's output alone"
    )
    pool: Literal["token", "mean"] = setting(
        "token", "what the head reads: the class token's output, or the mean over patches"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.sizes()
        # Without a layer, the queries of a cross-attention decoder would see nothing of the image.
        if sizes.decoder_attention == "cross" and not sizes.decoder_depth:
            raise UserError("--model.decoder_depth: 0 is out of range: expected at least 1 with cross-attention")
        if int(min(sizes.width, sizes.decoder_width) * sizes.mlp_ratio) < 1:
            raise UserError(f"--model.mlp_ratio: {sizes.mlp_ratio} leaves the feed-forward layers no width")
        for part in ("", "decoder_"):
            width, heads = getattr(sizes, f"{part}width"), getattr(sizes, f"{part}heads")
            if width % heads:
                raise UserError(f"--model.{part}heads {heads} does not divide --model.{part}width {width}")

    def sizes(self) -> NetworkSizes:
        """Every size, from the preset where it is not named here."""
        named = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        del named["preset"]
        return NetworkSizes(**PRESETS[self.preset] | named)

    def resolved(self) -> ModelConfig:
        """The same network with every size named, as files keep it."""
        return dataclasses.replace(self, **dataclasses.asdict(self.sizes()))


@dataclass(frozen=True)
class ResNetConfig(Checked):
    """Size of the CNN that is trained beside the network (see `pocketvit.model.resnet`)."""

    prefix = "resnet."
    depth: int = setting(20, "layers of the ResNet: 6 n + 2, as 20, 32, 56 or 110", DEPTH)

    @property
    def preset(self) -> str:
        """What it is called."""
        return f"resnet-{self.depth}"

    def resolved(self) -> ResNetConfig:
        """Itself: every size is named."""
        return self


NetworkConfig = ModelConfig | ResNetConfig
"""Sizes of a classifier, of any kind."""

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
