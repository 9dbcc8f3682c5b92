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
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.model.weights import load_encoder
from pocketvit.training.objectives.supervised import Classification
from pocketvit.training.step import GradientStep


def make_classifier(dataset: Dataset, settings: Settings, seed: int, init: Path | None) -> ViT:
    """A classifier with the head (and, without `init`, the encoder) drawn from `seed`."""
    torch.manual_seed(seed)
    shape = ViTShape.of(settings.model, dataset.shape)
    vit = ViT(shape, len(dataset.classes), settings.finetune.drop_path, settings.model.pool)
    if init is not None:
        load_encoder(vit, init)
    # A head of zeros starts from equal odds, instead of a random opinion that the encoder must first undo.
    nn.init.zeros_(vit.head.weight)  # type: ignore[arg-type]
    return vit


def from_scratch(config: FinetuneConfig) -> FinetuneConfig:
    """The form of fine-tuning that random init has: a rate of its own, the same in all layers.

    Lower rates for the first layers are for weights that know something; random ones would hardly learn.
    """
    rate = config.scratch_rate
    return replace(config, layer_decay=1.0, lr=rate * config.lr, min_lr=rate * config.min_lr, scratch_rate=1.0)


def finetuning(
    dataset: Dataset,
    labelled: np.ndarray,
    settings: Settings,
    accelerator: Accelerator,
    *,
    seed: int,
    init: Path | None,
) -> GradientStep:
    """The step of training a classifier on the train images at the indices `labelled`; readings hold `val_accuracy`.

    Args:
        init: weights or run directory whose encoder to start from; None starts from random.
    """
    config = settings.finetune if init is not None else from_scratch(settings.finetune)
    classifier = make_classifier(dataset, settings, seed, init)
    if config.freeze_encoder:
        classifier.requires_grad_(False)
        classifier.head.requires_grad_(True)
    objective = Classification(classifier, dataset, labelled, settings, accelerator, seed)
    return GradientStep(objective, config, accelerator, seed=seed, sharded=settings.shard)
