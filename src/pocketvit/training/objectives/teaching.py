"""Classification beside a teacher: the average of the network so far names what has no label, for the network to learn.

Mean teacher (Tarvainen and Valpola 2017, arXiv 1703.01780) with the weak and strong views of FixMatch (Sohn et al.
2020, arXiv 2001.07685), as Semi-ViT has them for transformers (Cai et al. 2022, arXiv 2208.05688), and the alignment
and sharpening of ReMixMatch (Berthelot et al. 2020, arXiv 1911.09785).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.config import AugmentConfig
from pocketvit.model.network import Network, Wrapper
from pocketvit.model.vit import ViT
from pocketvit.training.augment import Augment
from pocketvit.training.batches import Batches
from pocketvit.training.objectives.supervised import Classification

AVERAGE = 0.99  # decay of the teacher's weights, where the settings average none
RATIO = 2  # images without a label for each with one
SHARE = 0.5  # of the patches that the student sees of them, where it can do with a part
WEAK = AugmentConfig(crop_scale=0.9)  # what the teacher sees, symmetry apart
ERASED = 0.5  # share of what the student sees with a rectangle erased, where it cannot
SHARPENED = 0.5  # temperature of the teacher's answers
SHOWN = 0.99  # decay of the running mean of its answers
WEIGHT = 1.0  # of what it teaches beside the labels


class Student(Wrapper):
    """A classifier, and what its teacher has answered on average: (classes,), held in its state.

    Args:
        classifier: of images.
        prior: (classes,) shares of the classes; the mean begins there.
    """

    wrapped = "classifier"

    answers: Tensor

    def __init__(self, classifier: Network, prior: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("answers", prior.clone())

    def forward(
        self, images: Tensor, visible: Tensor | None = None, others: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Logits (B + U, classes) of images (B, C, H, W), and of others (U, C, H, W) after them.

        `visible` (B, K) and `seen` (U, K'), int64, are the patches that are seen of either; None shows all of them.
        """
        if others is None:
            return self._logits(images, visible)
        if visible is None and seen is None:
            # At once, for a batch norm to see both as one batch.
            return self._logits(torch.cat([images, others]), None)
        return torch.cat([self._logits(images, visible), self._logits(others, seen)])

    def _logits(self, images: Tensor, visible: Tensor | None) -> Tensor:
        logits: Tensor = self.classifier(images) if visible is None else self.classifier(images, visible)
        return logits


class Teaching(Classification):
    """The loss of `Classification`, and beside it cross-entropy with a teacher's answers for images without a label.

    The teacher, the running average of the student, sees a weak view of each, and the student a strong one of it: on
    part of the patches where it is a ViT. The answers are scaled so that they keep to the shares of the classes among
    the labels, sharpened, and count by how sure they are. Arguments are those of `Classification`.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        classifier, dataset, labelled, settings, accelerator, seed = args[:6]
        device = accelerator.device
        _, labels = dataset.labelled("train")
        counts = torch.bincount(torch.from_numpy(labels[labelled]), minlength=self._classes)
        self._prior = (counts / counts.sum()).to(device)
        self._student = Student(classifier, self._prior).to(device)
        self._teacher: nn.Module = self._student
        self.network = self._student
        self._others = Batches(
            dataset.train.images, None, batch_size=1, seed=seed, mean=dataset.mean, std=dataset.std, device=device
        )
        self._partly = isinstance(classifier, ViT)
        strong = self.config.augment if self._partly else replace(self.config.augment, erase=ERASED)
        views = (dataset.shape[2], dataset.mean, device, settings.data.symmetry)
        self._weakly, self._strongly = Augment(WEAK, *views), Augment(strong, *views)

    def prepare(self, course: float, average: nn.Module) -> None:
        """Choose the share of the patches that a step sees, and take the average for a teacher."""
        super().prepare(course, average)
        self._teacher = average

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        images, targets, visible = self.labelled_view(images, labels)
        others = self._others.sample(RATIO * len(images))
        answers, sure = self._taught(self.batches.normalise(self._weakly(others)))
        strong = self.batches.normalise(self._strongly(others))
        logits = network(images, visible, strong, self.visible(strong, SHARE) if self._partly else None).float()
        taught = nn.functional.cross_entropy(logits[len(images) :], answers, reduction="none")
        return nn.functional.cross_entropy(logits[: len(images)], targets) + WEIGHT * (sure * taught).mean()

    @torch.no_grad()
    def _taught(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's answers to (U, C, H, W) images, (U, classes), and how much each counts, (U,)."""
        found = self._teacher.eval()(images).float().softmax(dim=1)
        mean = self._accelerator.reduce(found.mean(dim=0), "mean")
        self._student.answers.lerp_(mean, 1 - SHOWN)
        return held(found, self._student.answers, self._prior)


def held(answers: Tensor, mean: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Answers (U, classes) held to a prior (classes,), where their running mean is another, and how much each counts.

    Returns:
        (U, classes), sharpened, and (U,), the largest of each before that.
    """
    aligned = answers * prior / mean
    aligned = aligned / aligned.sum(dim=1, keepdim=True)
    sharp = aligned ** (1 / SHARPENED)
    return sharp / sharp.sum(dim=1, keepdim=True), aligned.max(dim=1).values


def images_beside(classifier: Network) -> float:
    """Whole images that a step keeps for its backward pass, beside each that has a label."""
    return RATIO * (SHARE if isinstance(classifier, ViT) else 1.0)
