"""Small classifiers for tests of exported files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pocketvit.config import ModelConfig
from pocketvit.model.weights import WeightsMeta

SIZES = {"model.width": 32, "model.depth": 2, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2}


def meta(pool: Any = "token", std: tuple[float, ...] = (0.2, 0.25, 0.3)) -> WeightsMeta:
    return WeightsMeta(
        "classifier", ModelConfig("digits", patch=4, width=32, depth=2, heads=2, pool=pool), (8, 12, 3),
        (0.4, 0.5, 0.6), std, ("cat", "dog", "élan"), temperature=1.7, bits=12, background=0,
    )  # fmt: skip


def classifier(about: WeightsMeta) -> Any:
    """With weights of the size that training leaves, positions and head included."""
    torch.manual_seed(0)
    vit = about.build()
    for parameter in vit.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return vit.eval()


def images(count: int = 20) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 12, 3), dtype=np.uint8)
