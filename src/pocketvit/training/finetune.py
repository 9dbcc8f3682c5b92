"""Fine-tuning: the encoder and a linear head on the labels there are, from MAE weights or from random init."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from pocketvit.config import FinetuneConfig, Settings
from pocketvit.data import Dataset
from pocketvit.model.mimetic import start_mimetic
from pocketvit.model.network import Network
from pocketvit.model.networks import NETWORKS
from pocketvit.model.vit import ViT
from pocketvit.model.weights import load_encoder
from pocketvit.training.device import from_main
from pocketvit.training.objectives.supervised import Classification
from pocketvit.training.objectives.teaching import AVERAGE, Teaching
from pocketvit.training.spreading import MOST_IMAGES, Neighbours
from pocketvit.training.step import GradientStep


def make_classifier(
    dataset: Dataset, settings: Settings, seed: int, init: Path | None, network: str = "vit"
) -> Network:
    """A classifier with the head (and, without `init`, all else) drawn from `seed`; only a ViT can have an `init`."""
    torch.manual_seed(seed)
    kind, drop_path = NETWORKS[network], settings.finetune.drop_path
    made = kind.build(settings.network(network), dataset.shape, len(dataset.classes), drop_path)
    if init is not None:
        assert isinstance(made, ViT)
        load_encoder(made, init)
    elif settings.finetune.mimetic and isinstance(made, ViT):
        start_mimetic(made)
    # A head of zeros starts from equal odds, instead of a random opinion that the encoder must first undo.
    nn.init.zeros_(made.head.weight)  # type: ignore[arg-type]
    return made


def form_of(config: FinetuneConfig, network: str = "vit", *, pretrained: bool) -> FinetuneConfig:
    """The form of fine-tuning that suits a network and what it starts from.

    Random init has a rate of its own, the same in all layers: lower rates for the first ones are for weights that know
    something; random ones would hardly learn. What only a ViT can do, other networks do without: they see whole
    images, reconstruct nothing, and have nothing to freeze.
    """
    if pretrained:
        return config
    rate = config.scratch_rate if network == "vit" else config.resnet_rate
    scratch = replace(config, layer_decay=1.0, lr=rate * config.lr, min_lr=rate * config.min_lr)
    if network == "vit":
        return scratch
    return replace(scratch, patch_share=1.0, reconstruction=0.0, freeze_encoder=False)


def unlabelled_images(dataset: Dataset, labels: int, config: FinetuneConfig) -> int:
    """Train images that a fine-tuning with so many labels learns from without having theirs."""
    if config.unlabelled == "none":
        return 0
    most = MOST_IMAGES if config.unlabelled == "graph" else len(dataset.train)
    return max(0, min(len(dataset.train), most) - labels)


def epoch_images(dataset: Dataset, labels: int, config: FinetuneConfig) -> int:
    """Images of an epoch of a fine-tuning with so many labels: all that it has one of, be it a soft one.

    What a teacher names is beside them: steps are as many as without, and each takes longer.
    """
    return labels + (unlabelled_images(dataset, labels, config) if config.unlabelled == "graph" else 0)


def finetuning(
    dataset: Dataset,
    labelled: np.ndarray,
    settings: Settings,
    accelerator: Accelerator,
    *,
    seed: int,
    init: Path | None,
    network: str = "vit",
    neighbours: Neighbours | None = None,
) -> GradientStep:
    """The step of training a classifier on the train images at the indices `labelled`; readings hold `val_accuracy`.

    Args:
        init: weights or run directory whose encoder to start from; None starts from random.
        network: kind of classifier, one of NETWORKS.
        neighbours: of the set, to be used again; None looks for them where they are asked for.
    """
    config = form_of(settings.finetune, network, pretrained=init is not None)
    settings = replace(settings, finetune=config)
    classifier = make_classifier(dataset, settings, seed, init, network)
    if config.freeze_encoder:
        classifier.requires_grad_(False)
        classifier.head.requires_grad_(True)
    kind, soft = Classification, None
    if config.unlabelled == "graph" and unlabelled_images(dataset, len(labelled), config):
        found = neighbours or Neighbours(dataset)
        main = accelerator.is_main_process
        soft = from_main(accelerator, found.soft_labels(labelled) if main else None)
    if config.unlabelled == "teacher" and unlabelled_images(dataset, len(labelled), config):
        kind, config = Teaching, replace(config, ema=config.ema or AVERAGE)
    objective = kind(classifier, dataset, labelled, settings, accelerator, seed, soft)
    return GradientStep(objective, config, accelerator, seed=seed, sharded=settings.shard)
