"""Fine-tuning: the encoder and a linear head on the labels there are, from MAE weights or from random init."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pocketvit.config import FinetuneConfig, Settings
from pocketvit.data import Dataset
from pocketvit.data.augment import Augment, mix
from pocketvit.data.batches import Batches
from pocketvit.model.mae import SupervisedMAE
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.model.weights import load_encoder
from pocketvit.training.log import RunLog
from pocketvit.training.loop import TrainResult, train
from pocketvit.training.pretrain import make_mae
from pocketvit.training.schedule import Deadlines


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


def finetune_classifier(
    dataset: Dataset,
    labelled: np.ndarray,
    settings: Settings,
    accelerator: Accelerator,
    *,
    seed: int,
    init: Path | None,
    log: RunLog,
    tags: dict[str, Any],
    folder: Path | None = None,
    deadlines: Deadlines = Deadlines(),  # noqa: B008  # frozen
) -> TrainResult:
    """Train a classifier on the train images at the indices `labelled`; its readings hold `val_accuracy`.

    With `finetune.reconstruction`, each step also reconstructs as many of all train images; the decoder for it starts
    from random init.

    Args:
        init: weights or run directory whose encoder to start from; None starts from random.
    """
    config, device = settings.finetune, accelerator.device
    if init is None:
        config = from_scratch(config)
    vit = make_classifier(dataset, settings, seed, init).to(device)
    if config.freeze_encoder:
        vit.requires_grad_(False)
        vit.head.requires_grad_(True)
    norm = {"mean": dataset.mean, "std": dataset.std, "device": device, "seed": seed}
    images, labels = dataset.labelled("train")
    val_images, val_labels = dataset.labelled("val")
    batches = Batches(images[labelled], labels[labelled], batch_size=config.batch_size, repeats=config.repeats, **norm)
    heldout = Batches(val_images, None, batch_size=512, **norm)
    truth = torch.from_numpy(val_labels).to(device)
    augment = Augment(config.augment, dataset.shape[2], dataset.mean, device)
    classes, masking = len(dataset.classes), settings.pretrain
    model: nn.Module = vit
    if config.reconstruction:
        model = SupervisedMAE(make_mae(dataset, settings), vit).to(device)
        everything = Batches(dataset.train.images, None, batch_size=config.batch_size, **norm)
        augment_masked = Augment(masking.augment, dataset.shape[2], dataset.mean, device)

    def loss_function(model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        images, targets = mix(
            images, labels, classes, config.mixup, config.cutmix, config.mix_share, config.label_smoothing
        )
        images = batches.normalise(images)
        if not config.reconstruction:
            return nn.functional.cross_entropy(model(images).float(), targets)
        others = everything.normalise(augment_masked(everything.sample(len(images))))
        logits, reconstruction = model(images, others, masking.mask_ratio, masking.decode_share)
        return nn.functional.cross_entropy(logits.float(), targets) + config.reconstruction * reconstruction

    @torch.no_grad()
    def evaluate(model: nn.Module, epoch: int, last: bool) -> dict[str, float]:
        vit = _classifier(model).eval()
        with accelerator.autocast():
            predicted = torch.cat([vit(chunk).argmax(dim=1) for chunk in heldout.chunks(512)])
        return {"val_accuracy": (predicted == truth).float().mean().item()}

    result = train(
        model, loss_function, batches, config, accelerator,
        seed=seed, log=log, tags=tags, evaluate=evaluate, reading_images=len(heldout),
        augment=augment, folder=folder, deadlines=deadlines, compilation=settings.compile, sharded=settings.shard,
    )  # fmt: skip
    return replace(result, model=_classifier(result.model))


def _classifier(model: nn.Module) -> nn.Module:
    return model.classifier if isinstance(model, SupervisedMAE) else model
