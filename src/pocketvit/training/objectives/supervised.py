"""Classification by the labels there are; beside it, where asked for, a masked autoencoder on all train images."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pocketvit import draws
from pocketvit.config import Settings
from pocketvit.data import Dataset
from pocketvit.model.mae import SupervisedMAE
from pocketvit.model.network import Network, Trainable
from pocketvit.model.patches import patchify, random_mask
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.training.augment import Augment, mix
from pocketvit.training.batches import Batches
from pocketvit.training.objectives.mae import MaskedAutoencoding
from pocketvit.training.phases import Phases

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
        classifier: Network,
        dataset: Dataset,
        labelled: np.ndarray,
        settings: Settings,
        accelerator: Accelerator,
        seed: int,
    ) -> None:
        self.config, self._masking = settings.finetune, settings.mae
        self._phases, self._share = Phases(self.config.patch_phases, classifier), 1.0
        self._shape = ViTShape.of(settings.model, dataset.shape)
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
        self.augment = Augment(self.config.augment, dataset.shape[2], dataset.mean, device, settings.data.symmetry)
        self.reading_images = len(self._heldout)
        if self.config.reconstruction:
            assert isinstance(classifier, ViT)
            self.network = SupervisedMAE(MaskedAutoencoding.build(settings, dataset.shape), classifier).to(device)
            self._everything = Batches(dataset.train.images, None, batch_size=self.config.batch_size, **norm)
            self._augment_masked = Augment(
                settings.pretrain.augment, dataset.shape[2], dataset.mean, device, settings.data.symmetry
            )

    def prepare(self, course: float) -> None:
        """Choose the share of the patches that a step sees."""
        self._share = self._phases.share_at(course)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        config, visible = self.config, self._visible(images)
        seen = None if visible is None else partial(self._seen, visible)
        images, targets = mix(
            images, labels, self._classes, config.mixup, config.cutmix, config.mix_share, config.label_smoothing, seen
        )
        images = self.batches.normalise(images)
        if not config.reconstruction:
            logits = network(images) if visible is None else network(images, visible)
            return nn.functional.cross_entropy(logits.float(), targets)
        others = self._everything.normalise(self._augment_masked(self._everything.sample(len(images))))
        logits, reconstruction = network(images, others, self._masking.mask_ratio, self._masking.decode_share, visible)
        return nn.functional.cross_entropy(logits.float(), targets) + config.reconstruction * reconstruction

    def _visible(self, images: Tensor) -> Tensor | None:
        """(B, K) int64: the patches that this step sees of each image; None, and nothing drawn, where it sees all."""
        if self._share == 1:
            return None
        noise = draws.uniform((len(images), self._shape.patches), images.device)
        return random_mask(noise, 1 - self._share)[0]

    def _seen(self, visible: Tensor, mask: Tensor) -> Tensor:
        """(B, 1): how much of a mask (1, 1, H, W) lies in the visible patches, as a share of them."""
        shares = patchify(mask, self._shape.patch).mean(dim=-1)  # (1, N)
        return shares[0][visible].mean(dim=1, keepdim=True)

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
