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
from pocketvit.training.augment import Augment, mix, smoothed
from pocketvit.training.batches import Batches
from pocketvit.training.objectives.mae import MaskedAutoencoding
from pocketvit.training.objectives.pretraining import HELDOUT_BATCH
from pocketvit.training.phases import Phases
from pocketvit.training.spreading import SoftLabels


class Classification:
    """Cross-entropy with mixed images and smoothed labels, or soft ones.

    With `finetune.reconstruction`, each step also reconstructs as many of all train images; the decoder for it starts
    from random init.

    Args:
        classifier: to be trained.
        dataset: its train images at the indices `labelled` are learnt from, and its validation images are read.
        labelled: (n,) indices, ascending, each once.
        settings: of fine-tuning.
        accelerator: device and precision.
        seed: of the order of images.
        soft: of the images to learn from, in place of those labelled.
    """

    def __init__(
        self,
        classifier: Network,
        dataset: Dataset,
        labelled: np.ndarray,
        settings: Settings,
        accelerator: Accelerator,
        seed: int,
        soft: SoftLabels | None = None,
    ) -> None:
        self.config, self._masking = settings.finetune, settings.mae
        self._phases, self._share = Phases(self.config.patch_phases, classifier), 1.0
        self._shape = ViTShape.of(settings.model, dataset.shape)
        self._accelerator, self._classes = accelerator, len(dataset.classes)
        device = accelerator.device
        norm = {"mean": dataset.mean, "std": dataset.std, "device": device, "seed": seed}
        self.network: Trainable = classifier.to(device)
        images, labels = dataset.labelled("train")
        if len(labelled) < len(labels):  # or else a set that is mapped from its file stays there
            images, labels = images[labelled], labels[labelled]
        val_images, val_labels = dataset.labelled("val")
        self._soft: Tensor | None = None
        if soft is not None:
            # What a batch holds of each image is then its place among the soft labels.
            images, labels = dataset.train.images[soft.images], np.arange(len(soft.images))
            self._soft = torch.from_numpy(soft.smoothed(self.config.label_smoothing)).to(device)
        self.batches = Batches(images, labels, batch_size=self.config.batch_size, repeats=self.config.repeats, **norm)
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

    def prepare(self, course: float, average: nn.Module) -> None:
        """Choose the share of the patches that a step sees."""
        self._share = self._phases.share_at(course)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        config = self.config
        images, targets, visible = self.labelled_view(images, labels)
        if not config.reconstruction:
            logits = network(images) if visible is None else network(images, visible)
            return nn.functional.cross_entropy(logits.float(), targets)
        others = self._everything.normalise(self._augment_masked(self._everything.sample(len(images))))
        logits, reconstruction = network(images, others, self._masking.mask_ratio, self._masking.decode_share, visible)
        return nn.functional.cross_entropy(logits.float(), targets) + config.reconstruction * reconstruction

    def labelled_view(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images (B, C, H, W) mixed and normalised, their targets (B, classes), and the patches that a step sees."""
        config, visible, soft = self.config, self.visible(images, self._share), self._soft
        seen = None if visible is None else partial(self._seen, visible)
        targets = smoothed(labels, self._classes, config.label_smoothing) if soft is None else soft[labels]
        images, targets = mix(images, targets, config.mixup, config.cutmix, config.mix_share, seen)
        return self.batches.normalise(images), targets, visible

    def visible(self, images: Tensor, share: float) -> Tensor | None:
        """(B, K) int64: the patches that are seen of each image; None, and nothing drawn, where these are all."""
        if share == 1:
            return None
        noise = draws.uniform((len(images), self._shape.patches), images.device)
        return random_mask(noise, 1 - share)[0]

    def _seen(self, visible: Tensor, mask: Tensor) -> Tensor:
        """(B, 1): how much of a mask (1, 1, H, W) lies in the visible patches, as a share of them."""
        shares = patchify(mask, self._shape.patch).mean(dim=-1)  # (1, N)
        return shares[0][visible].mean(dim=1, keepdim=True)

    @torch.no_grad()
    def read(self, network: nn.Module, epoch: int, last: bool) -> dict[str, float]:
        """`val_accuracy`."""
        classifier = self.classifier(network).eval()
        with self._accelerator.autocast():
            predicted = torch.cat([classifier(chunk).argmax(dim=1) for chunk in self._heldout.chunks()])
        return {"val_accuracy": (predicted == self._truth).float().mean().item()}

    @staticmethod
    def classifier(network: nn.Module) -> Network:
        """The part of a trained network that classifies."""
        found = network if isinstance(network, Network) else network.classifier
        assert isinstance(found, Network)
        return found
