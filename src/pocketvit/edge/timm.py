"""timm: a ViT's weights under the names that timm's VisionTransformer has for them. timm is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pocketvit.config import ModelConfig
from pocketvit.edge.format import Format
from pocketvit.errors import UserError
from pocketvit.evaluation.predictor import Eager
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.model.weights import WeightsMeta


class TimmRoundTrip:
    """Reads timm's names back into the network (see `FileRuntime`), on as many threads as PyTorch has."""

    reads: ClassVar[tuple[str, ...]] = (".safetensors",)

    def __init__(self, file: Path, threads: int = 0) -> None:
        network, self.meta = weights.load(file)
        assert isinstance(network, ViT)
        self._eager = Eager(network, self.meta.mean, self.meta.std, "cpu")

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K)."""
        return self._eager.logits(images)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, D)."""
        return self._eager.features(images)


class Timm(Format):
    """See `Format`."""

    suffix = ".safetensors"
    runtime = TimmRoundTrip

    @classmethod
    def write(
        cls, file: Path, network: Network, meta: WeightsMeta, calibration: NDArray[np.uint8] | None = None
    ) -> None:
        """Weights alone: normalisation and temperature are in the card."""
        if not isinstance(network, ViT):
            raise UserError(
                f"--to timm: a {type(network).__name__} has no place in timm's VisionTransformer: --to onnx"
            )
        weights.save(file, network, meta, timm=True)

    @staticmethod
    def about(meta: WeightsMeta) -> str:
        """Normalised pixels in."""
        height, width, channels = meta.shape
        return f"""- Takes float32 (N, {channels}, {height}, {width}): other sizes are scaled to this
  one first, by Pillow's bicubic filter; then all are normalised, as below.
- Gives logits (N, {len(meta.classes)}), to be divided by the temperature below for probabilities."""

    @staticmethod
    def loading(name: str, meta: WeightsMeta) -> str:
        """By timm, with what normalises and calibrates."""
        assert isinstance(meta.model, ModelConfig)
        shape = ViTShape.of(meta.model, meta.shape)
        pool = "token" if meta.model.pool == "token" else "avg"
        return f"""import numpy as np, safetensors.torch, torch, timm.models
vit = timm.models.VisionTransformer(img_size={meta.shape[:2]}, patch_size={shape.patch}, in_chans={meta.shape[2]},
    num_classes={len(meta.classes)}, global_pool="{pool}", embed_dim={shape.width}, depth={shape.depth},
    num_heads={shape.heads}, mlp_ratio={shape.mlp_ratio}, fc_norm=False).eval()
vit.load_state_dict(safetensors.torch.load_file("{name}"))
normalised = (np.atleast_3d(image) / 255 - np.array({list(meta.mean)})) / np.array({list(meta.std)})
logits = vit(torch.tensor(normalised.transpose(2, 0, 1)[None], dtype=torch.float32))
probabilities = (logits / {meta.temperature}).softmax(dim=-1)"""
