"""What fine-tuning is read beside: probes of frozen encoders, and classifiers on raw pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketvit.evaluation.pixels import pixel_baselines
from pocketvit.evaluation.probe import Probed, as_head, probe
from pocketvit.evaluation.statistics import deviation
from pocketvit.model import weights
from pocketvit.model.vit import ViT
from pocketvit.stages.arms import RANDOM
from pocketvit.stages.context import Context, temperature_of

PIXELS_SHARE = 0.1  # of a time limit that a classifier on raw pixels may take, over all its seeds and label budgets


def probe_stage(context: Context, pretrained: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """kNN and linear probe of frozen encoders by arm, pre-trained and random, with the labels of the largest budget.

    Those of pre-trained ones also have "validation", the accuracy of the linear classifier on the validation images,
    and are kept as networks: the frozen encoder with that classifier for its head.
    """
    dataset, settings = context.dataset, context.settings

    def compute() -> dict[str, dict[str, float]]:
        labelled = context.labelled(settings.data.largest_budget, settings.seed)
        labelled = labelled[np.isin(labelled, context.probed("train"))] if context.plan.probed else labelled
        (images, labels), (test_images, test_y) = dataset.labelled("train"), dataset.labelled("test")
        train_y, test_y, found = labels[labelled], test_y[context.probed("test")], {}
        for name, file in pretrained.items():
            # Of all the train images, since the search for wrong labels reads them too.
            place = np.searchsorted(context.probed("train"), labelled)
            probed = probe(context.features(file, "train")[place], train_y, context.features(file, "test"), test_y)
            validation = _keep_frozen(context, name, file, probed, len(labelled))
            found[name] = {**probed.to_json(), "validation": validation}
        torch.manual_seed(settings.seed)
        fresh = ViT.build(settings.model, dataset.shape)
        read = context.predictor(fresh).features
        random = probe(read(images[labelled]), train_y, read(test_images[context.probed("test")]), test_y)
        return {**found, RANDOM.name: random.to_json()}

    found: dict[str, dict[str, float]] = context.once("probe", compute)
    for name, values in found.items():
        context.log.say(f"probe of {name}: kNN {100 * values['knn']:.2f} %, linear {100 * values['linear']:.2f} %")
    return found


def _keep_frozen(context: Context, arm: str, file: Path, probed: Probed, budget: int) -> float:
    """Write the encoder with the linear classifier for its head, calibrated; returns its validation accuracy."""
    vit, classes = weights.frozen_encoder(file), len(context.dataset.classes)
    weight, bias = (torch.from_numpy(array) for array in as_head(probed.classifier, classes))
    vit.head, vit.classes = torch.nn.Linear(weight.shape[1], classes), classes
    vit.head.weight.data, vit.head.bias.data = weight, bias
    temperature = temperature_of(context, vit, budget)
    meta = replace(context.meta("classifier"), temperature=temperature)
    weights.save(context.folder.frozen(arm), vit.cpu(), meta)
    labels = context.dataset.labelled("val")[1][context.probed("val")]
    logits = context.features(file, "val") @ weight.numpy().T + bias.numpy()
    return float((logits.argmax(axis=1) == labels).mean())


def pixels_stage(context: Context, per_class: int | None) -> dict[str, dict[str, float]]:
    """Baselines on raw pixels with the same labels as the fine-tunings, over the same seeds."""
    found: dict[str, dict[str, float]] = context.once(
        f"pixels-{per_class or 'all'}", lambda: _pixels(context, per_class)
    )
    told = ", ".join(f"{name} {100 * value['accuracy']:.2f} %" for name, value in found.items())
    context.log.say(f"raw pixels with {per_class or 'all the'} labels{' per class' if per_class else ''}: {told}")
    return found


def pixels_time(context: Context, limit: float | None) -> float:
    """Seconds that a classifier on raw pixels may take in a run of `limit` seconds."""
    settings = context.settings
    return math.inf if limit is None else PIXELS_SHARE * limit / len(settings.data.label_budgets) / settings.seeds


def _pixels(context: Context, per_class: int | None) -> dict[str, Any]:
    dataset = context.dataset
    images, labels = dataset.labelled("train")
    heldout = (*dataset.labelled("val"), *dataset.labelled("test"))
    everything = per_class is None and context.settings.data.label_fraction is None
    runs = []
    # With all the labels every seed would fit the same model.
    for seed in [context.settings.seed] if everything else context.seeds():
        labelled = context.labelled(per_class, seed)
        most = pixels_time(context, context.plan.limit)
        runs.append(pixel_baselines(images[labelled], labels[labelled], *heldout, most))
    return {
        name: {
            "accuracy": float(np.mean([run[name]["test"] for run in runs])),
            "std": deviation([run[name]["test"] for run in runs]),
            "validation": float(np.mean([run[name]["validation"] for run in runs])),
        }
        for name in runs[0]
        if all(name in run for run in runs)
    }
