"""What objectives of pre-training have to choose, a group each."""

from __future__ import annotations

from dataclasses import dataclass

from pocketvit.config.fields import ABOVE_0, AT_LEAST_0, SHARE, SOME, Checked, setting


@dataclass(frozen=True)
class MAEConfig(Checked):
    """Masked autoencoding, an objective of pre-training; also what `finetune.reconstruction` trains beside."""

    prefix = "mae."
    mask_ratio: float = setting(0.75, "share of the patches to hide", SHARE)
    decode_share: float = setting(
        1.0, "share of the hidden patches that a training step reconstructs, at least one, drawn anew each time", SOME
    )
    visible_discount: float = setting(0.1, "weight of the visible patches' loss beside the masked patches'", AT_LEAST_0)
    normalise_targets: bool = setting(False, "reconstruct patches normalised by their own mean and deviation")


@dataclass(frozen=True)
class ContrastConfig(Checked):
    """Contrast of two views of an image beside masked autoencoding, an objective of pre-training."""

    prefix = "contrast."
    temperature: float = setting(0.2, "that similarities of views are divided by", ABOVE_0)
    weight: float = setting(0.3, "of the contrast's loss beside that of reconstruction", AT_LEAST_0)
