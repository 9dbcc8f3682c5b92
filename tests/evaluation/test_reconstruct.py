"""Reconstructions that a person can judge: nothing of what is hidden shows through."""

from __future__ import annotations

import numpy as np
import torch

from pocketvit.config import ModelConfig
from pocketvit.evaluation.reconstruct import reconstruct_images
from pocketvit.model.mae import MaskedAutoencoder

MODEL = ModelConfig("digits", patch=4, width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
HALF = ((0.5,), (0.5,), 0.5)  # mean, deviation, and the share that is hidden


def autoencoder() -> MaskedAutoencoder:
    """Says nothing of any patch but its mean."""
    torch.manual_seed(0)
    mae = MaskedAutoencoder(MODEL, (32, 32, 1), visible_discount=0.0, normalise_targets=True)
    for parameter in mae.decoder_pred.parameters():
        torch.nn.init.zeros_(parameter)
    return mae


def test_hidden_patches_are_as_bright_as_what_is_seen_around_them() -> None:
    images = np.full((20, 32, 32, 1), 30, np.uint8)
    images[:, :, 16:] = 220
    made = reconstruct_images(autoencoder(), images, *HALF)
    hidden = made.visible != made.input
    left, right = (made.reconstruction[:, :, side][hidden[:, :, side]] for side in (slice(0, 16), slice(16, 32)))
    assert left.mean() < 90 < 160 < right.mean()
    assert (made.reconstruction[~hidden] == made.input[~hidden]).all()


def test_what_is_hidden_does_not_show_through() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    made = reconstruct_images(autoencoder(), images, *HALF)
    hidden = made.visible != made.input
    changed = np.where(hidden, 255 - images, images).astype(np.uint8)
    again = reconstruct_images(autoencoder(), changed, *HALF)
    np.testing.assert_array_equal(again.reconstruction[hidden], made.reconstruction[hidden])
