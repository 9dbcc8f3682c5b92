"""The stage that pre-trains an encoder, without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.evaluation.probe import knn_accuracy
from pocketvit.model import weights
from pocketvit.model.vit import ViT
from pocketvit.stages.arms import arms_named
from pocketvit.stages.context import Context
from pocketvit.training.loop import train
from pocketvit.training.objectives import PRETRAINING
from pocketvit.training.pretrain import pretraining, verdict
from pocketvit.training.schedule import Schedule

# The kNN reading during pre-training is a sign of progress: this many neighbours' candidates are enough for it.
KNN_IMAGES = 5000


def pretrain_stage(context: Context, objective: str, file: Path) -> dict[str, Any]:
    """Pre-train by an objective, save what it keeps, and return what the summary says of it.

    Args:
        context: of the run.
        objective: one of PRETRAINING.
        file: where the network is saved.
    """
    key = f"pretrain-{objective}"
    found: dict[str, Any] | None = context.begin(key)
    if found is None:
        settings, steps = context.settings, context.plan.steps(key)
        step = pretraining(context.dataset, settings, context.accelerator, objective, _knn_reading(context))
        if steps is not None:
            step.schedule = Schedule(steps, steps)
        tags = {"stage": "pretrain", "objective": objective}
        result = train(
            step, context.log, tags, title=arms_named([objective])[0].preparing,
            folder=context.folder.checkpoints(key), deadlines=context.deadlines(key), compilation=settings.compile,
        )  # fmt: skip
        kind = PRETRAINING[objective]
        kept, meta = kind.kept(result.model.cpu()), context.meta(kind.weights_kind)
        context.on_main(lambda: weights.save(file, kept, meta))  # type: ignore[arg-type]
        heldout = [reading["heldout_loss"] for reading in result.history]
        found = context.keep(
            key,
            {
                **result.to_json(),
                "images_per_second": round(result.images_per_second, 1),
                "train_loss": result.train_loss,
                "heldout_loss": heldout[-1],
                "verdict": verdict(heldout),
            },
        )
    context.forget(key)
    epochs = f"{found['epochs']} epoch{'' if found['epochs'] == 1 else 's'}"
    loss = f"train loss {found['train_loss']:.4f}, held out {found['heldout_loss']:.4f}"
    context.log.say(f"pretrain: {epochs} in {found['seconds']} s; {loss}; {found['verdict']}")
    return found


def _knn_reading(context: Context) -> Callable[[ViT], float] | None:
    """Accuracy of an encoder by its neighbours, where there are labels to read it by."""
    dataset = context.dataset
    if dataset.train.labels is None or dataset.val.labels is None or len(dataset.classes) < 2:
        return None
    images, labels = dataset.labelled("train")
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:KNN_IMAGES])
    train_images, train_y, (val_images, val_y) = images[chosen], labels[chosen], dataset.labelled("val")

    def knn(encoder: ViT) -> float:
        predictor = context.predictor(encoder)
        return knn_accuracy(predictor.features(train_images), train_y, predictor.features(val_images), val_y)

    return knn
