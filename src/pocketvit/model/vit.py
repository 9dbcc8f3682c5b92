"""The encoder: a pre-norm Vision Transformer whose class token is a patch of zeros (arXiv 2402.03752, section 3).

Parameter names follow timm's ViT, except that patches are embedded by one linear layer, `patch_embed`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit import draws
from pocketvit.config import ModelConfig
from pocketvit.model.network import Network
from pocketvit.model.patches import check_patch, patchify, select

# ViTMAE's value, and timm's; torch's default of 1e-5 would break parity with both.
NORM_EPS = 1e-6
LONGEST_UNFUSED = 320  # tokens


@dataclass(frozen=True)
class ViTShape:
    """What an encoder is built from: the shape (height, width, channels) of an image, and the sizes of the network."""

    image: tuple[int, int, int]
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float

    @classmethod
    def of(cls, config: ModelConfig, shape: tuple[int, int, int]) -> ViTShape:
        """The encoder that `config` describes for images of `shape` (H, W, C)."""
        c = config.sizes()
        return cls(shape, patch=c.patch, width=c.width, depth=c.depth, heads=c.heads, mlp_ratio=c.mlp_ratio)

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        height, width, _ = self.image
        return (height // self.patch) * (width // self.patch)

    @property
    def patch_dim(self) -> int:
        """Values in a patch."""
        return self.patch**2 * self.image[2]


class Attention(nn.Module):
    """Multi-head attention of (B, N, D) to itself or, where it is given, to a context (B, M, D); gives (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        if context is None:
            # Taken apart in the order in which they lie: the gradients are put together in one pass.
            q, k, v = (part.transpose(1, 2) for part in self.qkv(x).view(b, n, 3, self.heads, -1).unbind(2))
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x, weight[:d], bias[:d]).view(b, n, self.heads, d // self.heads).transpose(1, 2)
            both = F.linear(context, weight[d:], bias[d:])
            k, v = both.view(b, -1, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if x.device.type == "cpu" and q.dtype != torch.float32 and k.shape[-2] <= LONGEST_UNFUSED:
            # There the backward pass of the fused kernel is slower than two products and a softmax at these lengths. At
            # greater ones the (N, M) weights of a batch would fill the memory.
            weights = (q * (d // self.heads) ** -0.5) @ k.transpose(-2, -1)
            out = weights.softmax(dim=-1).to(v.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two linear layers with GELU between them, (B, N, D) to (B, N, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer layer, (B, N, D) to (B, N, D).

    A second argument, (B, M, D), is what the attention reads in place of the layer's own input, as it stands. With
    `first_only`, the result is (B, 1, D), of the first token alone: the others are attended to, and no more.
    `paths`, (2, B, 1, 1), are factors of its two branches, attention and feed-forward; None leaves both as they are.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, *context: Tensor, first_only: bool = False, paths: Tensor | None = None) -> Tensor:
        normed = self.norm1(x)
        if first_only:
            x, normed, context = x[:, :1], normed[:, :1], (*context, normed)[:1]
        attended = self.attn(normed, *context)
        x = x + (attended if paths is None else attended * paths[0])
        changed = self.mlp(self.norm2(x))
        return x + (changed if paths is None else changed * paths[1])


class ViT(Network):
    """Encoder, with a linear head when `classes` is above 0.

    Args:
        shape: image and network sizes; raises UserError where the patch does not divide the image.
        classes: outputs of the head; 0 builds the encoder alone.
        drop_path: stochastic depth (Huang et al. 2016) of the last layer, rising linearly from 0 in the first.
        pool: "token" reads the class token's output (the paper's choice), "mean" the mean over patches.
    """

    title, colour = "random init", "#d5651a"

    def __init__(self, shape: ViTShape, classes: int = 0, drop_path: float = 0.0, pool: str = "token") -> None:
        super().__init__()
        check_patch(*shape.image[:2], shape.patch)
        self.shape, self.classes, self.pool, self.drop_path = shape, classes, pool, drop_path
        self.width = shape.width
        self.patch_embed = nn.Linear(shape.patch_dim, shape.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.patches, shape.width))
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, shape.mlp_ratio) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.head = nn.Linear(shape.width, classes) if classes else nn.Identity()
        self.apply(init_weights)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    @classmethod
    def build(cls, config: ModelConfig, shape: tuple[int, int, int], classes: int = 0, drop_path: float = 0.0) -> ViT:
        """With the sizes and the pooling of `config`."""
        return cls(ViTShape.of(config, shape), classes, drop_path, config.pool)

    def encode(self, images: Tensor, visible: Tensor | None = None, class_only: bool = False) -> Tensor:
        """Tokens of the last layer, normalised.

        Args:
            images: (B, C, H, W) float, normalised with the training set's mean and standard deviation.
            visible: (B, K) int64, the patches that the encoder may see; None shows all N of them.
            class_only: compute the last layer for the class token alone, where nobody reads the others.

        Returns:
            (B, 1 + K, D): the class token's output first; (B, 1, D) with `class_only`.
        """
        # shape[0], not len: an exporter would take that for a constant.
        patches = patchify(images, self.shape.patch)
        pos = self.pos_embed[:, 1:]
        if visible is not None:
            # Gathered before the embedding: hidden patches then cost nothing.
            patches, pos = select(patches, visible), select(pos.expand(images.shape[0], -1, -1), visible)
        tokens = self.patch_embed(patches)
        # The linear layer maps a patch of zeros to its bias: the class token needs no product.
        class_token = (self.patch_embed.bias + self.pos_embed[:, :1]).expand(images.shape[0], -1, -1)
        # Under autocast tokens stay in its type from here on: float32 positions would widen them, and each layer would
        # go over them again to narrow them.
        x = torch.cat([class_token.to(tokens.dtype), tokens + pos.to(tokens.dtype)], dim=1)
        paths = self._paths(x) if self.training and self.drop_path else [None] * len(self.blocks)
        for number, (block, path) in enumerate(zip(self.blocks, paths, strict=True), start=1):
            x = block(x, first_only=class_only and number == len(self.blocks), paths=path)
        return self.norm(x)

    def _paths(self, x: Tensor) -> Tensor:
        """(depth, 2, B, 1, 1) in the type of `x`: 0 where a branch is dropped, drawn once for all layers."""
        rates = torch.linspace(0, self.drop_path, len(self.blocks), device=x.device).view(-1, 1, 1, 1, 1)
        kept = draws.uniform((len(self.blocks), 2, len(x), 1, 1), x.device, images=2) >= rates
        return (kept / (1 - rates)).to(x.dtype)

    def features(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, D): what the head reads, of all patches or of those `visible`, (B, K) int64."""
        return self.pooled(self.encode(images, visible, class_only=self.pool == "token"))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, D): what the head reads of the tokens (B, 1 + K, D) that `encode` gave."""
        return tokens[:, 0] if self.pool == "token" else tokens[:, 1:].mean(dim=1)

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, C, H, W) normalised images, of all patches or of those `visible`, to (B, classes) logits."""
        return self.head(self.features(images, visible))

    def no_weight_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay spares the parameter: biases, norms and positional embeddings."""
        return parameter.ndim <= 1 or name.endswith("pos_embed")

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise lr decay: 0 the embeddings, 1 to depth the blocks, depth + 1 the rest."""
        if name.startswith(("patch_embed", "pos_embed")):
            return 0
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.shape.depth + 1

    def matrices(self) -> list[nn.Parameter]:
        """Those inside the layers."""
        return matrices_of(self.blocks)


def matrices_of(layers: nn.Module) -> list[nn.Parameter]:
    """The matrices among a module's parameters."""
    return [parameter for parameter in layers.parameters() if parameter.ndim == 2]


def init_weights(module: nn.Module) -> None:
    """Initialise as MAE does: Xavier-uniform weights, zero biases (arXiv 2111.06377, appendix A)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
