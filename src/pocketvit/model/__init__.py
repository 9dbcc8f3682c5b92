"""Patches, encoder and masked autoencoder, what they cost, and their weights on disk.

`pocketvit.model.weights` saves and loads; importing this room imports torch.
"""

from pocketvit.model.costs import Costs, costs
from pocketvit.model.mae import MAEOutput, MaskedAutoencoder
from pocketvit.model.patches import check_patch, patchify, random_mask, unpatchify
from pocketvit.model.timm import from_timm, to_timm
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.model.weights import WeightsMeta, encoder_state, load_encoder

__all__ = [
    "Costs",
    "MAEOutput",
    "MaskedAutoencoder",
    "ViT",
    "ViTShape",
    "WeightsMeta",
    "check_patch",
    "costs",
    "encoder_state",
    "from_timm",
    "load_encoder",
    "patchify",
    "random_mask",
    "to_timm",
    "unpatchify",
]
