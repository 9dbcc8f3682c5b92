"""Arms side by side: each pre-trained and fine-tuned at each label budget and seed, tested, and one of them chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pocketvit.evaluation.statistics import deviation, difference
from pocketvit.stages.arms import Arm, known_arms
from pocketvit.stages.context import Context
from pocketvit.stages.finetuning import correct, finetune_key, finetune_stage
from pocketvit.stages.pretraining import pretrain_stage

Runs = dict[str, list[dict[str, Any]]]


class Trained(NamedTuple):
    """What became of the arms: pre-training by objective, and the fine-tunings by label budget and arm."""

    pretrain: dict[str, dict[str, Any]]
    finetune: dict[int | None, Runs]


def train_arms(
    context: Context,
    arms: Sequence[Arm],
    lands: Iterator[float] = repeat(math.inf),  # noqa: B008  # has no state
) -> Trained:
    """Pre-train where an arm needs it, and fine-tune each arm at each label budget and seed; what is done is only read.

    Args:
        context: of the run.
        arms: those without an objective take as many steps as one with an objective has taken, where there is one.
        lands: when each pre-training, and then each fine-tuning, has to be over, in order, on time.monotonic's clock;
            those after the last, never.
    """
    pretrain = {
        name: pretrain_stage(context, name, context.folder.pretrained(name), next(lands, math.inf))
        for name in (arm.objective for arm in arms)
        if name
    }
    finetune = {}
    for per_class in context.settings.data.label_budgets:
        runs: Runs = {arm.name: [] for arm in arms}
        for seed in context.seeds():
            for arm in arms:
                steps = None if arm.objective else _steps_of_pretrained(context, per_class, seed)
                run = finetune_stage(context, arm, initial(context, arm), per_class, seed, steps, next(lands, math.inf))
                runs[arm.name].append(run)
        finetune[per_class] = runs
    return Trained(pretrain, finetune)


def _steps_of_pretrained(context: Context, per_class: int | None, seed: int) -> int | None:
    """Steps of the fine-tuning of a pre-trained arm that is done, in this call or in one before."""
    keys = (finetune_key(arm.name, per_class, seed) for arm in known_arms() if arm.objective)
    return next((done["steps"] for key in keys if (done := context.kept(key))), None)


def initial(context: Context, arm: Arm) -> Path | None:
    """The weights that an arm starts from; None for random ones."""
    return context.folder.pretrained(arm.objective) if arm.objective else None


def over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of the test accuracy over seeds, 0 where there is one."""
    values = [run["accuracy"] for run in runs]
    return {
        "accuracy": float(np.mean(values)),
        "std": deviation(values),
        "seeds": [run["seed"] for run in runs],
    }


def table(
    context: Context,
    arms: Sequence[Arm],
    per_class: int | None,
    runs: Runs,
    baselines: dict[str, dict[str, float]] | None = None,
) -> dict[str, Any]:
    """One label budget's results. The raw-pixel baseline is the best by what `pixel_baselines` lets choose."""
    accuracy = {arm.name: over_seeds(runs[arm.name]) for arm in arms}
    best = max(baselines, key=lambda name: baselines[name]["validation"]) if baselines else None
    return {
        "labels_per_class": per_class,
        "arms": accuracy,
        "pixels": {"name": best, "accuracy": baselines[best]["accuracy"]} if baselines and best else None,
        "gains": [
            _gain(context, first, second, per_class, accuracy)
            for first in arms
            for second in arms
            if first.objective and not second.objective
        ],
    }


def choice(context: Context, arms: Sequence[Arm], runs: Runs) -> tuple[Arm, str]:
    """The arm whose classifier is saved, and what chose it, on no more labels than its training had."""
    labels, validated = runs[arms[0].name][0]["labels"], len(context.dataset.labelled("val")[1])
    if len(arms) == 1:
        return arms[0], "there being no other"
    if validated > labels:
        return arms[0], f"default: {validated} validation labels are more than the {labels} that it was trained with"
    best = max(arms, key=lambda arm: float(np.mean([run["val_accuracy"] for run in runs[arm.name]])))
    return best, f"accuracy on {validated} validation labels"


def _gain(
    context: Context, first: Arm, second: Arm, per_class: int | None, accuracy: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Of one arm over another, with its interval by the test images and seeds of both; None where not known."""
    right, wrong = (correct(context, arm.name, per_class) for arm in (first, second))
    known = right is not None and wrong is not None and right.shape[1] > 1
    return {
        "arm": first.name,
        "over": second.name,
        "mean": accuracy[first.name]["accuracy"] - accuracy[second.name]["accuracy"],
        "interval": difference(right, wrong).to_json() if known else None,  # type: ignore[arg-type]
    }
