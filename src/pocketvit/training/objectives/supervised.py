"""Classification by the labels there are; beside it, where asked for, a masked autoencoder on all train images."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pocketvit.config import Settings
from pocketvit.data import Dataset
from pocketvit.model.mae import SupervisedMAE
from pocketvit.model.network import Trainable
from pocketvit.model.vit import ViT
from pocketvit.training.augment import Augment, mix
from pocketvit.training.batches import Batches
from pocketvit.training.objectives.mae import MaskedAutoencoding

HELDOUT_BATCH = 512


class Classification:
    """Cross-entropy with mixed images and smoothed labels.

    With `finetune.reconstruction`, each step also reconstructs as many of all train images; the decoder for it starts
    from random init.

    Args:
        classifier: to be trained.
        dataset: its train images at the indices `labelled` are learnt from, and its validation images are read.
        labelled: (n,) indices.
        settings: of fine-tuning.
        accelerator: device and precision.
        seed: of the order of images.
    """

    def __init__(
        self,
        classifier: ViT,
        dataset: Dataset,
        labelled: np.ndarray,
        settings: Settings,
        accelerator: Accelerator,
        seed: int,
    ) -> None:
        self.config, self._masking = settings.finetune, settings.mae
        self._accelerator, self._classes = accelerator, len(dataset.classes)
        device = accelerator.device
        norm = {"mean": dataset.mean, "std": dataset.std, "device": device, "seed": seed}
        self.network: Trainable = classifier.to(device)
        images, labels = dataset.labelled("train")
        val_images, val_labels = dataset.labelled("val")
        self.batches = Batches(
            images[labelled], labels[labelled], batch_size=self.config.batch_size, repeats=self.config.repeats, **norm
        )
        self._heldout = Batches(val_images, None, batch_size=HELDOUT_BATCH, **norm)
        self._truth = torch.from_numpy(val_labels).to(device)
        self.augment = Augment(self.config.augment, dataset.shape[2], dataset.mean, device)
        self.reading_images = len(self._heldout)
        if self.config.reconstruction:
            self.network = SupervisedMAE(MaskedAutoencoding.build(settings, dataset.shape), classifier).to(device)
            self._everything = Batches(dataset.train.images, None, batch_size=self.config.batch_size, **norm)
            self._augment_masked = Augment(settings.pretrain.augment, dataset.shape[2], dataset.mean, device)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        config = self.config
        images, targets = mix(
            images, labels, self._classes, config.mixup, config.cutmix, config.mix_share, config.label_smoothing
        )
        images = self.batches.normalise(images)
        if not config.reconstruction:
            return nn.functional.cross_entropy(network(images).float(), targets)
        others = self._everything.normalise(self._augment_masked(self._everything.sample(len(images))))
        logits, reconstruction = network(images, others, self._masking.mask_ratio, self._masking.decode_share)
        return nn.functional.cross_entropy(logits.float(), targets) + config.reconstruction * reconstruction

    @torch.no_grad()
    def read(self, network: nn.Module, epoch: int, last: bool) -> dict[str, float]:
        """`val_accuracy`."""
        classifier = self.classifier(network).eval()
        with self._accelerator.autocast():
            predicted = torch.cat([classifier(chunk).argmax(dim=1) for chunk in self._heldout.chunks(HELDOUT_BATCH)])
        return {"val_accuracy": (predicted == self._truth).float().mean().item()}

    @staticmethod
    def classifier(network: nn.Module) -> nn.Module:
        """The part of a trained network that classifies."""
        return network.classifier if isinstance(network, SupervisedMAE) else network
