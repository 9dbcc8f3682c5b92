"""`fit`, the main job: pre-train, probe, fine-tune from MAE and from random init, test, report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketvit.config import Settings, default_recipe, resolve
from pocketvit.evaluation.pixels import pixel_baselines
from pocketvit.evaluation.probe import probe
from pocketvit.evaluation.statistics import deviation, difference
from pocketvit.model import weights
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.verbs.run import MAE_WEIGHTS, Run
from pocketvit.verbs.stages import (
    Context,
    correct,
    finetune_key,
    finetune_stage,
    finish,
    labelled_indices,
    pretrain_stage,
    seeds,
    spread,
)

INITS = ("mae", "random")


def fit(
    data: str = "digits",
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    pause_after: str | float | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Run:
    """Images in; a tested classifier and a report out.

    Pre-trains on every train image, then fine-tunes from those weights and from random init, equally many steps, at
    each label budget and seed, beside baselines on raw pixels. What is saved as the classifier is the init that did
    better on the validation images at the largest budget; or, where these have more labels than that, the one from
    MAE. Arguments and errors as for `pretrain`; `epochs`, `batch_size` and `lr` mean pre-training here.
    """
    settings = settings or resolve(recipe or default_recipe(data), config, **overrides)
    context = Context.open(
        "fit", data, settings, out=out, overwrite=overwrite, resume=resume, pause_after=pause_after, need_labels=True
    )
    train_arms(context, INITS)
    return complete(context, INITS)


def train_arms(
    context: Context,
    arms: Sequence[str],
    lands: Iterator[float] = repeat(math.inf),  # noqa: B008  # has no state
) -> tuple[dict[str, Any] | None, dict[int | None, dict[str, list[dict[str, Any]]]]]:
    """Pre-train where an arm needs it, and fine-tune each arm at each label budget and seed; what is done is only read.

    Args:
        context: of the run.
        arms: some of INITS; random init takes as many steps as the arm from MAE has taken, where it has.
        lands: when each fine-tuning, in order, has to be over, on time.monotonic's clock; those after the last, never.

    Returns:
        What the summary says of pre-training; the fine-tunings by label budget and arm.
    """
    pretrained = pretrain_stage(context) if "mae" in arms else None
    mae, found = context.folder / MAE_WEIGHTS, {}
    for per_class in context.settings.data.label_budgets:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
        for seed in seeds(context):
            for name in arms:
                init, other = (
                    (mae, None) if name == "mae" else (None, context.kept(finetune_key("mae", per_class, seed)))
                )
                steps, land = other["steps"] if other else None, next(lands, math.inf)
                runs[name].append(finetune_stage(context, name, init, per_class, seed, steps, land))
        found[per_class] = runs
    return pretrained, found


def complete(context: Context, arms: Sequence[str]) -> Run:
    """Probes, baselines on raw pixels, summary and report of a run whose `arms` are trained; here or elsewhere."""
    pretrained, found = train_arms(context, arms)
    mae, largest = context.folder / MAE_WEIGHTS if pretrained else None, context.settings.data.largest_budget
    probed = context.once("probe", lambda: _probe(context, mae, largest))
    for name, values in probed.items():
        context.log.say(f"probe of {name}: kNN {100 * values['knn']:.2f} %, linear {100 * values['linear']:.2f} %")
    tables, pixels = [], []
    for per_class, runs in found.items():
        baselines = context.once(f"pixels-{per_class or 'all'}", partial(_pixels, context, per_class))
        tables.append(_table(per_class, runs, baselines) | _sureness(context, arms, per_class))
        test = {name: {"accuracy": v["accuracy"], "std": v["std"]} for name, v in baselines.items()}
        pixels.append({"labels_per_class": per_class, **test})
    best, chosen_by = _choice(context, arms, found[largest])
    context.log.say(f"saved: the classifier from {best}, chosen by {chosen_by}")
    context.ship(best)
    results = {"pretrain": pretrained, "probe": probed, "finetune": tables if len(tables) > 1 else tables[0]}
    every = [run for runs in found.values() for name in arms for run in runs[name]]
    return finish(context, results, {"shipped": best, "chosen_by": chosen_by, "runs": every, "pixels": pixels}, mae)


def _choice(context: Context, arms: Sequence[str], runs: dict[str, list[dict[str, Any]]]) -> tuple[str, str]:
    """The arm whose classifier is saved, and what chose it, on no more labels than its training had."""
    labels, validated = runs[arms[0]][0]["labels"], len(context.dataset.labelled("val")[1])
    if len(arms) == 1:
        return arms[0], "there being no other"
    if validated > labels:
        return arms[0], f"default: {validated} validation labels are more than the {labels} that it was trained with"
    best = max(arms, key=lambda name: float(np.mean([run["val_accuracy"] for run in runs[name]])))
    return best, f"accuracy on {validated} validation labels"


def _table(
    per_class: int | None, found: dict[str, list[dict[str, Any]]], baselines: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """One label budget's results. The raw-pixel baseline is the best by what `pixel_baselines` lets choose."""
    accuracy = {name: spread(found[name]) if name in found else None for name in INITS}
    mae, random = accuracy.values()
    best = max(baselines, key=lambda name: baselines[name]["validation"])
    return {
        "labels_per_class": per_class,
        **accuracy,
        "pixels": {"name": best, "accuracy": baselines[best]["accuracy"]},
        "gain": mae["accuracy"] - random["accuracy"] if mae and random else None,
    }


def _sureness(context: Context, arms: Sequence[str], per_class: int | None) -> dict[str, Any]:
    """The interval of the gain of MAE over random init, by the test images and seeds of both; None where not known."""
    right = [correct(context, name, per_class) for name in INITS if name in arms]
    first, second = right if len(right) == len(INITS) else (None, None)
    if first is None or second is None or first.shape[1] < 2:
        return {"gain_interval": None}
    return {"gain_interval": difference(first, second).to_json()}


def _probe(context: Context, mae_file: Path | None, per_class: int | None) -> dict[str, dict[str, float]]:
    """kNN and linear probe of frozen encoders, pre-trained (where there is one) and random, on the largest budget."""
    dataset, settings = context.dataset, context.settings
    labelled = labelled_indices(dataset, settings, per_class, settings.seed)
    encoders = {}
    if mae_file is not None:
        mae, _ = weights.load(mae_file)
        assert isinstance(mae, MaskedAutoencoder)
        encoders["mae"] = mae.encoder
    torch.manual_seed(settings.seed)
    encoders["random"] = ViT(ViTShape.of(settings.model, dataset.shape), pool=settings.model.pool)
    images, labels = dataset.labelled("train")
    test, device = dataset.labelled("test"), context.accelerator.device
    return {
        name: probe(vit.to(device), images[labelled], labels[labelled], *test, *context.images())
        for name, vit in encoders.items()
    }


def _pixels(context: Context, per_class: int | None) -> dict[str, dict[str, float]]:
    """Baselines on raw pixels with the same labels as the fine-tunings, over the same seeds."""
    dataset = context.dataset
    images, labels = dataset.labelled("train")
    heldout = (*dataset.labelled("val"), *dataset.labelled("test"))
    everything = per_class is None and context.settings.data.label_fraction is None
    found = []
    # With all the labels every seed would fit the same model.
    for seed in [context.settings.seed] if everything else seeds(context):
        labelled = labelled_indices(dataset, context.settings, per_class, seed)
        found.append(pixel_baselines(images[labelled], labels[labelled], *heldout))
    return {
        name: {
            "accuracy": float(np.mean([f[name]["test"] for f in found])),
            "std": deviation([f[name]["test"] for f in found]),
            "validation": float(np.mean([f[name]["validation"] for f in found])),
        }
        for name in found[0]
    }
