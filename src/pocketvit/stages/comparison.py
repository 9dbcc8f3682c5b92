"""Arms side by side: each pre-trained and fine-tuned at each label budget and seed, tested, and one of them chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pocketvit.evaluation.statistics import deviation, difference
from pocketvit.stages.arms import Arm, known_arms
from pocketvit.stages.context import Context
from pocketvit.stages.finetuning import correct, finetune_key, finetune_stage
from pocketvit.stages.pretraining import pretrain_stage

Runs = dict[str, list[dict[str, Any]]]


def pretrain_arms(context: Context, arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Pre-train where an arm needs it; results by objective. What is done is only read.

    A run that starts from weights pre-trains nothing.
    """
    objectives = [arm.objective for arm in arms if arm.objective and context.init is None]
    return {name: pretrain_stage(context, name, context.folder.pretrained(name)) for name in objectives}


def finetune_arms(context: Context, arms: Sequence[Arm]) -> dict[int | None, Runs]:
    """Fine-tune each arm at each label budget and seed; results by budget and arm. What is done is only read.

    Arms without an objective take as many steps as one with an objective has taken, where there is one.
    """
    finetune = {}
    for per_class in context.settings.data.label_budgets:
        runs: Runs = {arm.name: [] for arm in arms}
        for seed in context.seeds():
            for arm in arms:
                steps = None if arm.objective else _steps_of_pretrained(context, per_class, seed)
                run = finetune_stage(context, arm, initial(context, arm), per_class, seed, steps)
                runs[arm.name].append(run)
        finetune[per_class] = runs
    return finetune


def _steps_of_pretrained(context: Context, per_class: int | None, seed: int) -> int | None:
    """Steps of the fine-tuning of a pre-trained arm that is done, in this call or in one before."""
    keys = (finetune_key(arm.name, per_class, seed) for arm in known_arms() if arm.objective)
    return next((done["steps"] for key in keys if (done := context.kept(key))), None)


def initial(context: Context, arm: Arm) -> Path | None:
    """The weights that an arm starts from; None for random ones."""
    return (context.init or context.folder.pretrained(arm.objective)) if arm.objective else None


def over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of the test accuracy over seeds, 0 where there is one.

    "over_views" has those of predictions averaged over the symmetries that training draws from, where it does.
    """
    over = [run["accuracy_over_views"] for run in runs if run.get("accuracy_over_views") is not None]
    told = {**_spread([run["accuracy"] for run in runs]), "seeds": [run["seed"] for run in runs]}
    return told | ({"over_views": _spread(over)} if over else {})


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"accuracy": float(np.mean(values)), "std": deviation(values)}


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


class Choice(NamedTuple):
    """The network that is saved: an arm's, fine-tuned or frozen with a linear head; and what chose it, in words."""

    arm: Arm
    frozen: bool
    why: str


def choice(context: Context, arms: Sequence[Arm], runs: Runs, probed: Mapping[str, Mapping[str, float]]) -> Choice:
    """Which network is saved, chosen on no more labels than its training had.

    Args:
        context: of the run.
        arms: of the comparison.
        runs: fine-tunings at the largest label budget.
        probed: what `probe_stage` found.
    """
    labels, validated = runs[arms[0].name][0]["labels"], len(context.dataset.labelled("val")[1])
    if validated > labels:
        why = f"by default, for {validated} validation labels are more than the {labels} of the training"
        return Choice(arms[0], False, why)
    tuned = {arm: float(np.mean([run["val_accuracy"] for run in runs[arm.name]])) for arm in arms}
    frozen = {arm: probed[arm.name]["validation"] for arm in arms if "validation" in probed.get(arm.name, {})}
    best = max(arms, key=lambda arm: max(tuned[arm], frozen.get(arm, 0.0)))
    return Choice(best, frozen.get(best, 0.0) > tuned[best], f"by accuracy on {validated} validation labels")


def _gain(
    context: Context, first: Arm, second: Arm, per_class: int | None, accuracy: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Of one arm over another, with its interval by the test images and seeds of both; None where not known.

    Where both are "alike", of one kind of network, it is what pre-training gains.
    """
    right, wrong = (correct(context, arm.name, per_class) for arm in (first, second))
    known = right is not None and wrong is not None and right.shape[1] > 1
    return {
        "arm": first.name,
        "over": second.name,
        "alike": first.network == second.network,
        "mean": accuracy[first.name]["accuracy"] - accuracy[second.name]["accuracy"],
        "interval": difference(right, wrong).to_json() if known else None,  # type: ignore[arg-type]
    }
