"""What fine-tuning is read beside: probes of frozen encoders, and classifiers on raw pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.evaluation.pixels import pixel_baselines, without_labels
from pocketvit.evaluation.probe import Metric, Probed, as_head, effective_rank, metric
from pocketvit.evaluation.statistics import deviation, difference
from pocketvit.model import weights
from pocketvit.model.vit import ViT
from pocketvit.stages.arms import RANDOM
from pocketvit.stages.context import Context
from pocketvit.stages.finetuning import temperature_of

SPREAD = 5000  # train images, with labels or not, that show how an encoder's features lie
PIXELS_SHARE = 0.1  # of a time limit that a classifier on raw pixels may take, over all its seeds and label budgets


def probe_stage(context: Context, pretrained: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """kNN and linear probe of frozen encoders by arm, pre-trained and random, with the labels of the largest budget.

    "metric" has the readings of each budget (see `pocketvit.evaluation.probe.Metric`), by the first seed's labels, and
    the effective rank; and for pre-trained ones "over_random", the gain of their neighbours over the untrained one's.
    Those of pre-trained ones also have "validation", the accuracy of the linear classifier on the validation images,
    and are kept as networks: the frozen encoder with that classifier for its head.
    """
    dataset, settings = context.dataset, context.settings

    def compute() -> dict[str, dict[str, Any]]:
        (images, labels), (test_images, test_y) = dataset.labelled("train"), dataset.labelled("test")
        test_y, every, largest = test_y[context.probed("test")], context.probed("train"), _largest(context)
        torch.manual_seed(settings.seed)
        fresh = context.predictor(ViT.build(settings.model, dataset.shape)).features
        # The untrained encoder reads no more than is asked of it: what has labels, and what shows how its features lie.
        some = np.union1d(readable(context, settings.data.largest_budget), every[:SPREAD])
        random = Features(some, fresh(images[some]), fresh(test_images[context.probed("test")]))
        untrained, found = _metrics(context, random, labels, test_y), {}
        for name, file in pretrained.items():
            # Of all the train images, since the search for wrong labels reads them too.
            features = Features(every, context.features(file, "train"), context.features(file, "test"))
            read = _metrics(context, features, labels, test_y)
            told = _told(context, features, read)
            if len(test_y) > 1:
                for entry, first, second in zip(told["budgets"], read, untrained, strict=True):
                    entry["over_random"] = difference(first.right[None], second.right[None]).to_json()
            probed, budget = read[largest].probed, told["budgets"][largest]["labels"]
            validation = _keep_frozen(context, name, file, probed, budget)
            found[name] = {**probed.to_json(), "validation": validation, "metric": told}
        alone = {**untrained[largest].probed.to_json(), "metric": _told(context, random, untrained)}
        return {**found, RANDOM.name: alone}

    found: dict[str, dict[str, Any]] = context.once("probe", compute)
    for name, values in found.items():
        context.log.say(f"probe of {name}: kNN {100 * values['knn']:.2f} %, linear {100 * values['linear']:.2f} %")
    return found


class Features(NamedTuple):
    """What an encoder makes of the train images `indices`, ascending, (N, D), and of the test images, (M, D)."""

    indices: NDArray[np.intp]
    train: NDArray[np.float32]
    test: NDArray[np.float32]

    def of(self, chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        """Of some of the train images."""
        return self.train[np.searchsorted(self.indices, chosen)]


def readable(context: Context, per_class: int | None) -> NDArray[np.intp]:
    """Train images whose labels a budget has, as far as frozen encoders read them."""
    labelled = context.labelled(per_class, context.settings.seed)
    return labelled[np.isin(labelled, context.probed("train"))] if context.plan.probed else labelled


def _largest(context: Context) -> int:
    """Place of the largest label budget among all."""
    return context.settings.data.label_budgets.index(context.settings.data.largest_budget)


def _metrics(
    context: Context, features: Features, labels: NDArray[np.int64], test_y: NDArray[np.int64]
) -> list[Metric]:
    """Readings of an encoder at each budget."""
    chosen = (readable(context, per_class) for per_class in context.settings.data.label_budgets)
    spread = features.train[:SPREAD]
    return [metric(features.of(some), labels[some], features.test, test_y, spread) for some in chosen]


def _told(context: Context, features: Features, read: Sequence[Metric]) -> dict[str, Any]:
    """The same as JSON, with how many dimensions the features fill."""
    budgets = [
        {"labels_per_class": per_class, "labels": len(readable(context, per_class)), **one.to_json()}
        for per_class, one in zip(context.settings.data.label_budgets, read, strict=True)
    ]
    spread = features.train[:SPREAD]
    return {"rank": effective_rank(spread), "dimensions": spread.shape[1], "budgets": budgets}


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
    told = told or "left out, for want of memory or of time"
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
        others = without_labels(images, labelled)
        runs.append(pixel_baselines(images[labelled], labels[labelled], *heldout, most, others))
    return {
        name: {
            "accuracy": float(np.mean([run[name]["test"] for run in runs])),
            "std": deviation([run[name]["test"] for run in runs]),
            "validation": float(np.mean([run[name]["validation"] for run in runs])),
        }
        for name in runs[0]
        if all(name in run for run in runs)
    }
