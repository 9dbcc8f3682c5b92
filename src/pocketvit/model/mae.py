"""The masked autoencoder: hide most patches, encode the rest, decode all of them or some, compare pixels.

He et al. 2022 (arXiv 2111.06377) with the loss of arXiv 2402.03752: masked patches plus discounted visible ones.
The decoder by cross-attention, and decoding some of the hidden patches, are those of CrossMAE (arXiv 2401.14391).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pocketvit import draws
from pocketvit.config import ModelConfig
from pocketvit.errors import UserError
from pocketvit.model.network import Trainable, Wrapper
from pocketvit.model.patches import patchify, random_mask, sample_hidden, select
from pocketvit.model.vit import NORM_EPS, Block, ViT, ViTShape, init_weights, matrices_of


class MAEOutput(NamedTuple):
    """Losses are scalars, over the patches that were decoded.

    prediction is (B, M, patch * patch * C), of the patches `decoded`, (B, M) int64 and ascending; None means all N in
    order. mask is (B, N) bool, True where hidden. tokens is the encoder's output, (B, 1 + K, D).
    """

    loss: Tensor
    masked_loss: Tensor
    visible_loss: Tensor
    prediction: Tensor
    mask: Tensor
    decoded: Tensor | None
    tokens: Tensor


class MaskedAutoencoder(Trainable):
    """An encoder and a light decoder that reconstructs the hidden patches.

    With `config.decoder_attention` "self" the decoder's tokens, visible patches and mask tokens, attend to each other.
    With "cross" every patch to decode, visible or not, is a mask token that attends to the encoder's output alone: what
    is predicted for a patch does not depend on which others are decoded.

    Args:
        config: network sizes.
        shape: image (height, width, channels).
        visible_discount: weight of the visible patches' loss beside the masked patches'.
        normalise_targets: compare with each patch's pixels normalised by that patch's own mean and deviation.
    """

    def __init__(
        self,
        config: ModelConfig,
        shape: tuple[int, int, int],
        visible_discount: float = 0.0,
        normalise_targets: bool = False,
    ) -> None:
        super().__init__()
        c = config.sizes()
        self.visible_discount, self.normalise_targets = visible_discount, normalise_targets
        self.cross = c.decoder_attention == "cross"
        self.encoder = ViT(ViTShape.of(config, shape), pool=c.pool)
        vit, width = self.encoder.shape, c.decoder_width
        if normalise_targets and vit.patch_dim == 1:
            raise UserError("--mae.normalise_targets: a patch of one value has no deviation: use a larger --patch")
        self.decoder_embed = nn.Linear(vit.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        # The encoder's output needs no second positions: by cross-attention, only mask tokens have one.
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, vit.patches + (not self.cross), width))
        self.decoder_blocks = nn.ModuleList(Block(width, c.decoder_heads, c.mlp_ratio) for _ in range(c.decoder_depth))
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(width, vit.patch_dim)
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            module.apply(init_weights)
        for parameter in (self.mask_token, self.decoder_pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(
        self,
        images: Tensor,
        mask_ratio: float = 0.75,
        noise: Tensor | None = None,
        decode_share: float | None = None,
    ) -> MAEOutput:
        """Reconstruct (B, C, H, W) normalised images from a random share of their patches.

        Args:
            images: (B, C, H, W) float.
            mask_ratio: share of the patches to hide.
            noise: (B, N) float that decides the mask (see `random_mask`); None draws it.
            decode_share: share of the hidden patches to decode, as training does; None decodes every patch.
        """
        if noise is None:
            noise = draws.uniform((len(images), self.encoder.shape.patches), images.device)
        visible, mask = random_mask(noise, mask_ratio)
        decoded = None if decode_share is None else self.to_decode(noise, visible, decode_share)
        tokens = self.encoder.encode(images, visible)
        prediction = self.decode(tokens, visible, decoded)
        return MAEOutput(*self._losses(images, prediction, mask, decoded), prediction, mask, decoded, tokens)

    def to_decode(self, noise: Tensor, visible: Tensor, share: float) -> Tensor | None:
        """The patches that a training step decodes, (B, M) int64 and ascending, or None for all N.

        They are a share of the hidden ones (see `sample_hidden`), and the visible ones (B, K) where others attend to
        them or they carry a loss. How many there are depends on settings alone, so that a compiled step fits them all.
        """
        with_visible = not self.cross or self.visible_discount > 0
        if share == 1 and with_visible:
            return None
        hidden = sample_hidden(noise, visible, share)
        return torch.cat([visible, hidden], dim=1).sort(dim=1).values if with_visible else hidden

    def decode(self, tokens: Tensor, visible: Tensor, decoded: Tensor | None = None) -> Tensor:
        """Encoder output to the pixels of patches.

        Args:
            tokens: (B, 1 + K, D).
            visible: (B, K) int64, the patches that the tokens after the first stand for.
            decoded: (B, M) int64, what to decode, the visible patches included by self-attention; None decodes all N.

        Returns:
            (B, M, patch * patch * C), in the order of `decoded`.
        """
        x = self.decoder_embed(tokens)
        if self.cross:
            queries = (self.mask_token + self.decoder_pos_embed).to(x.dtype).expand(len(x), -1, -1)
            if decoded is not None:
                queries = select(queries, decoded)
            for block in self.decoder_blocks:
                queries = block(queries, x)
            return self.decoder_pred(self.decoder_norm(queries))
        patches = self.mask_token.to(x.dtype).expand(len(x), self.encoder.shape.patches, -1)
        patches = patches.scatter(1, visible[..., None].expand(-1, -1, x.shape[-1]), x[:, 1:])
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed.to(x.dtype)
        if decoded is not None:
            x = torch.cat([x[:, :1], select(x[:, 1:], decoded)], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def targets(self, images: Tensor) -> Tensor:
        """What the decoder is compared with: (B, N, patch * patch * C)."""
        patches = patchify(images, self.encoder.shape.patch)
        if self.normalise_targets:
            mean, var = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
            patches = (patches - mean) / (var + 1e-6).sqrt()
        return patches

    def _losses(
        self, images: Tensor, prediction: Tensor, mask: Tensor, decoded: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        targets = self.targets(images)
        if decoded is not None:
            targets, mask = select(targets, decoded), mask.gather(1, decoded)
        error = (prediction.float() - targets).square().mean(dim=-1)
        hidden = mask.sum()
        # The count is the same in every image, so the mean over the batch's patches is the mean over images.
        masked = (error * mask).sum() / hidden.clamp(min=1)
        visible = (error * ~mask).sum() / (mask.numel() - hidden).clamp(min=1)
        return masked + self.visible_discount * visible, masked, visible

    def no_weight_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay spares the parameter: biases, norms, positional embeddings and the mask token."""
        return parameter.ndim <= 1 or name.endswith(("pos_embed", "mask_token"))

    def layer_of(self, name: str) -> int:
        """Depth of a parameter, as the encoder counts it; the whole decoder counts as the last layer."""
        return self.encoder.layer_of(name.removeprefix("encoder."))

    def matrices(self) -> list[nn.Parameter]:
        """Those inside the layers of both halves."""
        return [*self.encoder.matrices(), *matrices_of(self.decoder_blocks)]


class SupervisedMAE(Wrapper):
    """A classifier and a masked autoencoder with one encoder, to be trained at once.

    Das et al. 2024 (arXiv 2310.20704), who report that with few images it beats training the one after the other.

    Args:
        mae: its encoder is replaced by `classifier`.
        classifier: with a head.
    """

    wrapped = "mae"

    def __init__(self, mae: MaskedAutoencoder, classifier: ViT) -> None:
        super().__init__()
        mae.encoder = classifier
        self.mae = mae

    @property
    def classifier(self) -> ViT:
        """The part that is used after training."""
        return self.mae.encoder

    def forward(
        self,
        images: Tensor,
        others: Tensor,
        mask_ratio: float,
        decode_share: float,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) of images (B, C, H, W), and the scalar loss of others (B', C, H, W) when masked.

        `visible`, (B, K) int64, are the images' patches that the classifier sees; None shows all of them.
        """
        return self.classifier(images, visible), self.mae(others, mask_ratio, decode_share=decode_share).loss
