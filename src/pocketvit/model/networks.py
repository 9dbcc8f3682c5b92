"""The kinds of classifier that there are, one file each, by the names that settings and weights files have for them."""

from __future__ import annotations

from pocketvit.model.network import Network
from pocketvit.model.resnet import ResNet
from pocketvit.model.vit import ViT

NETWORKS: dict[str, type[Network]] = {"vit": ViT, "resnet": ResNet}
