"""How many epochs fit into a given time, from a moment of both stages on the device that will train them."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from pocketvit.config import Settings
from pocketvit.data import Dataset, Split
from pocketvit.errors import UserError
from pocketvit.evaluation.features import features
from pocketvit.evaluation.probe import knn_accuracy, linear_accuracy
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.training.checkpoint import NEWEST, read
from pocketvit.training.finetune import finetune_classifier
from pocketvit.training.log import RunLog
from pocketvit.training.loop import TimeIsUp, TrainResult
from pocketvit.training.pretrain import pretrain_mae
from pocketvit.verbs.fit import INITS
from pocketvit.verbs.stages import labelled_indices

STAGES = ("pretrain", "finetune")

PRETRAIN_SHARE = 0.6  # of the time for training; the fine-tunings have equal shares of the rest
MARGIN = 0.1  # of the total that nothing is planned for
AROUND = 20.0  # seconds for loading again, report and evidence
MEASURE_SECONDS = 8.0  # at most, for each stage, after its first step
MEASURE_STEPS = 4  # between two readings of the clock

Json = dict[str, Any]


def make_plan(total: float, dataset: Dataset, settings: Settings, accelerator: Accelerator, started: float) -> Json:
    """Measure both stages and a probe for a moment, and choose the epochs of both for `total` seconds.

    Args:
        total: seconds, from `started` on.
        started: on time.perf_counter's clock.

    Raises:
        UserError: not even one epoch of each fits.
    """
    found = {
        "seconds_per_epoch": {stage: seconds_per_epoch(stage, dataset, settings, accelerator) for stage in STAGES},
        "probe_seconds": probe_seconds(dataset, settings, accelerator.device),
    }
    fine_tunings = len(INITS) * settings.seeds * len(settings.data.label_budgets)
    spent = time.perf_counter() - started
    epochs = choose_epochs(total, spent, found, fine_tunings)
    return {"epochs": epochs, "measured": found, "planning_seconds": round(spent, 1)}


def choose_epochs(total: float, spent: float, found: Json, fine_tunings: int) -> dict[str, int]:
    """Epochs of both stages, for everything to take under `total` seconds; raises UserError where not even one fits.

    Args:
        total: seconds.
        spent: seconds of them that are over.
        found: "seconds_per_epoch" of both stages, and "probe_seconds" of one encoder; two are probed.
        fine_tunings: how many there will be.
    """
    left = total * (1 - MARGIN) - spent - AROUND - len(INITS) * found["probe_seconds"]
    shares = {"pretrain": PRETRAIN_SHARE, "finetune": (1 - PRETRAIN_SHARE) / fine_tunings}
    paces = found["seconds_per_epoch"]
    epochs = {stage: int(left * shares[stage] / paces[stage]) for stage in STAGES}
    if min(epochs.values()) < 1:
        least = (max(paces[s] / shares[s] for s in STAGES) + total * (1 - MARGIN) - left) / (1 - MARGIN)
        raise UserError(f"--total-time: {total:.0f} s are too short for one epoch of each stage: give {least:.0f}s")
    return epochs


def seconds_per_epoch(stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator) -> float:
    """Seconds of an epoch of `stage`, from some warm steps of it; readings are not counted."""
    config = getattr(settings, stage)
    images = len(dataset.train) if stage == "pretrain" else len(labels_of(dataset, settings))
    batch = min(config.batch_size, images)
    some = first(dataset, MEASURE_STEPS * batch)
    brief = dataclasses.replace(settings, **{stage: dataclasses.replace(config, epochs=50, min_steps=0)})
    with tempfile.TemporaryDirectory() as folder:
        try:
            deadline = time.monotonic() + MEASURE_SECONDS
            done = train(stage, some, brief, accelerator, folder=Path(folder), deadline=deadline)
            steps, seconds, history = done.steps, done.seconds, done.history
        except TimeIsUp:
            kept = read(Path(folder) / NEWEST)
            steps, seconds, history = kept.step, kept.notes["seconds"], kept.notes["history"]
    # From the first reading on, which comes when all is warm; from the start where there is no time for two.
    marks = [(r["step"], r["step"] * batch / r["images_per_second"]) for r in history if r["step"] < steps][:1]
    warm, began = marks[0] if marks else (0, 0.0)
    return (seconds - began) / (steps - warm) * (images // batch)


def probe_seconds(dataset: Dataset, settings: Settings, device: torch.device) -> float:
    """Seconds that kNN and linear probe of one encoder will take, from a tenth of the images of a large set."""
    thin = 10 if len(dataset.train) > 10_000 else 1
    vit = ViT(ViTShape.of(settings.model, dataset.shape), pool=settings.model.pool).to(device)
    splits = [tuple(array[::thin] for array in dataset.labelled(split)) for split in ("train", "test")]
    began = time.perf_counter()
    parts = [array for x, y in splits for array in (features(vit, x, dataset.mean, dataset.std, device), y)]
    linear_accuracy(*parts)
    linear = time.perf_counter()
    knn_accuracy(*parts)  # takes time with the product of both counts
    return (linear - began) * thin + (time.perf_counter() - linear) * thin**2


def labels_of(dataset: Dataset, settings: Settings) -> np.ndarray:
    """Indices of the train images that the largest fine-tuning reads."""
    return labelled_indices(dataset, settings, settings.data.largest_budget, settings.seed)


def first(dataset: Dataset, images: int) -> Dataset:
    """The data set with its first train images only, and hardly any to validate."""
    (x, y), (val_x, val_y) = dataset.labelled("train"), dataset.labelled("val")
    return dataclasses.replace(dataset, train=Split(x[:images], y[:images]), val=Split(val_x[:2], val_y[:2]))


def train(stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator, **where: Any) -> TrainResult:
    """One stage on all of `dataset`, in silence, from random init."""
    log = RunLog(quiet=True)
    if stage == "pretrain":
        return pretrain_mae(dataset, settings, accelerator, log=log, **where)
    everything = np.arange(len(dataset.train))
    tags = {"stage": stage}
    return finetune_classifier(
        dataset, everything, settings, accelerator, seed=settings.seed, init=None, log=log, tags=tags, **where
    )
