"""`fit`, the main job: pre-train, probe, fine-tune from MAE and from random init, test, report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketvit.config import Settings, default_recipe, resolve
from pocketvit.evaluation.pixels import pixel_baselines
from pocketvit.evaluation.probe import probe
from pocketvit.model import weights
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.verbs.run import MAE_WEIGHTS, Run
from pocketvit.verbs.stages import (
    Context,
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
    time_limit: str | float | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Run:
    """Images in; a tested classifier and a report out.

    Pre-trains on every train image, then fine-tunes from those weights and from random init with the same recipe, at
    each label budget and seed, beside baselines on raw pixels. What is saved as the classifier is the init that did
    better on the validation images at the largest budget. Arguments and errors as for `pretrain`; `epochs`,
    `batch_size` and `lr` mean pre-training here.
    """
    settings = settings or resolve(recipe or default_recipe(data), config, **overrides)
    context = Context.open(
        "fit", data, settings, out=out, overwrite=overwrite, resume=resume, time_limit=time_limit, need_labels=True
    )
    pretrained = pretrain_stage(context)
    mae = context.folder / MAE_WEIGHTS
    budgets, largest = settings.data.label_budgets, settings.data.largest_budget
    probed = context.once("probe", lambda: _probe(context, mae, largest))
    for name, values in probed.items():
        context.log.say(f"probe of {name}: kNN {100 * values['knn']:.2f} %, linear {100 * values['linear']:.2f} %")
    tables, runs, pixels = [], [], []
    for per_class in budgets:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in INITS}
        for seed in seeds(context):
            for name in INITS:
                init = mae if name == "mae" else None
                found[name].append(finetune_stage(context, name, init, per_class, seed))
        baselines = context.once(f"pixels-{per_class or 'all'}", partial(_pixels, context, per_class))
        tables.append(_table(per_class, found, baselines))
        runs += [run for name in INITS for run in found[name]]
        test = {name: {"accuracy": v["accuracy"], "std": v["std"]} for name, v in baselines.items()}
        pixels.append({"labels_per_class": per_class, **test})
        if per_class == largest:
            shipped = max(INITS, key=lambda name: float(np.mean([run["val_accuracy"] for run in found[name]])))
            context.ship(shipped)
    results = {"pretrain": pretrained, "probe": probed, "finetune": tables if len(tables) > 1 else tables[0]}
    return finish(context, results, {"shipped": shipped, "runs": runs, "pixels": pixels}, mae)


def _table(
    per_class: int | None, found: dict[str, list[dict[str, Any]]], baselines: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """One label budget's results. The raw-pixel baseline is the best on validation images, as a user would pick it."""
    accuracy = {name: spread(runs) for name, runs in found.items()}
    best = max(baselines, key=lambda name: baselines[name]["validation"])
    return {
        "labels_per_class": per_class,
        **accuracy,
        "pixels": {"name": best, "accuracy": baselines[best]["accuracy"]},
        "gain": accuracy["mae"]["accuracy"] - accuracy["random"]["accuracy"],
    }


def _probe(context: Context, mae_file: Path, per_class: int | None) -> dict[str, dict[str, float]]:
    """kNN and linear probe of frozen encoders, pre-trained and random, on the largest budget's labels."""
    dataset, settings = context.dataset, context.settings
    labelled = labelled_indices(dataset, settings, per_class, settings.seed)
    mae, _ = weights.load(mae_file)
    assert isinstance(mae, MaskedAutoencoder)
    torch.manual_seed(settings.seed)
    encoders = {"mae": mae.encoder, "random": ViT(ViTShape.of(settings.model, dataset.shape), pool=settings.model.pool)}
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
            "std": float(np.std([f[name]["test"] for f in found])),
            "validation": float(np.mean([f[name]["validation"] for f in found])),
        }
        for name in found[0]
    }
