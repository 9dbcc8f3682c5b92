"""The stage that fine-tunes a classifier and tests it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.symmetry import views
from pocketvit.errors import Diverged
from pocketvit.evaluation.calibration import calibration_error, fitted_temperature
from pocketvit.evaluation.metrics import Metrics
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.stages.arms import Arm
from pocketvit.stages.context import Context
from pocketvit.training.finetune import epoch_images, finetuning, unlabelled_images
from pocketvit.training.loop import train
from pocketvit.training.objectives.supervised import Classification
from pocketvit.training.schedule import Schedule
from pocketvit.training.stage import TrainResult
from pocketvit.training.step import epoch_steps
from pocketvit.training.stops import NonFiniteLoss

# An arm that is to have as many steps as another has had lands only where it takes so many times its share of the time.
PATIENCE = 1.3


def finetune_stage(
    context: Context,
    arm: Arm,
    init: Path | None,
    per_class: int | None,
    seed: int,
    steps: int | None = None,
) -> dict[str, Any]:
    """Fine-tune once and test; which labels are read depends on the seed.

    The first seed's weights at the largest label budget are kept, since they may be shipped, and so are their
    predictions of the test images.

    Args:
        context: of the run.
        arm: what it is called.
        init: weights or run directory whose encoder to start from; None starts from random.
        per_class: labels of each class; None reads all, or the settings' share.
        seed: of everything random.
        steps: how many there are to be, in place of the plan's or the settings'.
    """
    key = finetune_key(arm.name, per_class, seed)
    settings, own = context.settings, steps is None
    steps = steps or context.plan.steps(key)
    tags = {"stage": "finetune", "init": arm.name, "labels_per_class": per_class, "seed": seed}
    found: dict[str, Any] | None = context.begin(key)
    if found is None:
        labelled = context.labelled(per_class, seed)
        step = finetuning(
            context.dataset, labelled, settings, context.accelerator, seed=seed, init=init, network=arm.network,
            neighbours=context.neighbours,
        )  # fmt: skip
        if steps is not None:
            step.schedule = Schedule(steps, steps)
        if own and seed == settings.seed:
            _say_overruled(context, step.schedule.planned, len(labelled))
        budgets, seeds = len(settings.data.label_budgets), len(context.seeds())
        result = train(
            step, context.log, tags, title=arm.training(per_class, seed, budgets=budgets, seeds=seeds),
            folder=context.folder.checkpoints(key),
            deadlines=context.deadlines(key, 1.0 if own else PATIENCE), compilation=settings.compile,
        )  # fmt: skip
        try:
            tested = _tested(context, result, key, len(labelled), arm, keep_it=_is_kept(context, per_class, seed))
        except Diverged:
            raise NonFiniteLoss(
                f"{arm.doing}, seed {seed}: the last steps left a network whose outputs are not finite: lower --lr "
                "(in fit, --finetune.lr), or clip the gradient"
            ) from None
        others = unlabelled_images(context.dataset, len(labelled), settings.finetune)
        by = settings.finetune.unlabelled if others else "none"
        told = {"labels": len(labelled), "unlabelled": others, "unlabelled_by": by, **result.to_json()}
        found = context.keep(key, {**tags, **told, **tested})
    context.forget(key)
    beside = f", {found['unlabelled']:,} images without" if found.get("unlabelled") else ""
    seconds = f"{found['labels']} labels{beside}, {found['steps']} steps in {found['seconds']} s"
    context.log.say(f"{arm.doing}, seed {seed}: test {100 * found['accuracy']:.2f} %  ({seconds})")
    return found


def finetune_key(arm: str, per_class: int | None, seed: int) -> str:
    """The stage of one fine-tuning."""
    return f"finetune-{arm}-{per_class or 'all'}-{seed}"


def correct(context: Context, arm: str, per_class: int | None) -> NDArray[np.bool_] | None:
    """(S, N): which test images an arm got right, for each seed; None where they are not all kept."""
    _, labels = context.dataset.labelled("test")
    files = [context.folder.predicted(finetune_key(arm, per_class, seed)) for seed in context.seeds()]
    if not all(file.exists() for file in files):
        return None
    return np.stack([np.load(file) == labels for file in files])


def _is_kept(context: Context, per_class: int | None, seed: int) -> bool:
    return per_class == context.settings.data.largest_budget and seed == context.settings.seed


def _tested(context: Context, result: TrainResult, key: str, budget: int, arm: Arm, *, keep_it: bool) -> dict[str, Any]:
    """The classifier of an arm, calibrated, on the test images, its predictions kept; and, where asked for, itself.

    `budget` labels are what it was trained with.
    """
    network = Classification.classifier(result.model)
    images, labels = context.dataset.labelled("test")
    temperature = temperature_of(context, network, budget)
    predictor = context.predictor(network, temperature)
    logits = predictor.logits(images)
    probabilities, plain = predictor.calibrated(logits), context.predictor(network).calibrated(logits)
    metrics = Metrics.of(probabilities, labels, context.dataset.classes)
    _, *others = views(images, context.settings.data.symmetry)
    averaged = sum((predictor.logits(np.ascontiguousarray(one)) for one in others), logits)
    predicted, folder = probabilities.argmax(axis=1).astype(np.int32), context.folder

    def keep() -> None:
        np.save(folder.predicted(key), predicted)
        if keep_it:
            np.save(folder.probabilities(arm.name), probabilities)
            meta = replace(context.meta("classifier", arm.network), temperature=temperature)
            weights.save(folder.classifier(arm.name), network.cpu(), meta)

    context.on_main(keep)
    return {
        "accuracy": metrics.accuracy,
        "accuracy_over_views": float((averaged.argmax(axis=1) == labels).mean()) if others else None,
        "ece": metrics.ece,
        "ece_uncalibrated": calibration_error(plain, labels),
        "temperature": temperature,
        "val_accuracy": result.history[-1]["val_accuracy"],
    }


def _say_overruled(context: Context, planned: int, labels: int) -> None:
    """Where min_steps is more than the epochs that were asked for, before these steps are waited for."""
    config = context.settings.finetune
    asked = config.epochs * epoch_steps(config, epoch_images(context.dataset, labels, config))
    if planned == config.min_steps > asked:
        least = f"--finetune.min_steps asks for {config.min_steps} steps"
        context.log.say(f"  {least}, where {config.epochs} epochs would be {asked}")


def temperature_of(context: Context, network: Network, budget: int) -> float:
    """Fitted to validation images, and to no more of them than the `budget` labels that the classifier learnt from."""
    images, labels = context.dataset.labelled("val")
    chosen = np.sort(np.random.default_rng(context.settings.seed).permutation(len(labels))[:budget])
    return fitted_temperature(context.predictor(network).logits(images[chosen]), labels[chosen])
