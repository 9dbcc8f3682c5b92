"""How many epochs fit into a given time, from the paces of both stages on the device that will train them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator

from pocketvit.config import Settings
from pocketvit.data import Dataset, Split
from pocketvit.errors import UserError
from pocketvit.stages.arms import Arm
from pocketvit.stages.images import labelled_indices
from pocketvit.stages.plan import Part, Plan
from pocketvit.training.finetune import epoch_images, finetuning
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.pretrain import pretraining
from pocketvit.training.stage import TrainResult
from pocketvit.training.step import epoch_steps

STAGES = ("pretrain", "finetune")
PRETRAIN_SHARE = 0.38  # of the time for training; the fine-tunings have equal shares of the rest
MARGIN = 0.04  # of a stage's time that no step is planned for
AROUND = 12.0  # seconds kept for the test and for writing what it gave
STEPS = {"cuda": 20}  # of an epoch that a pace is measured on, by device
STEPS_ELSEWHERE = 2
EPOCHS = 3  # of these, the first of which warms up
AGREEMENT = 0.01  # of the eager loss, by which a compiled stage's may differ

Json = dict[str, Any]


def measure(
    stage: str,
    dataset: Dataset,
    settings: Settings,
    accelerator: Accelerator,
    compilation: Literal["always", "graphs", "never"],
) -> Json:
    """Seconds of a warm step of `stage`, and of what comes before it; the loss says whether it trains as it should.

    Args:
        stage: of STAGES.
        dataset: at least a batch of train images.
        settings: of the run.
        accelerator: on the device that will train.
        compilation: "always", "graphs" or "never".
    """
    config = getattr(settings, stage)
    batch = min(config.batch_size, images_of(stage, dataset, settings))
    some = first(dataset, STEPS.get(accelerator.device.type, STEPS_ELSEWHERE) * batch)
    brief = dataclasses.replace(
        settings, compile=compilation, **{stage: dataclasses.replace(config, epochs=EPOCHS, min_steps=0)}
    )
    done = train_briefly(stage, some, brief, accelerator)
    (warm, began), (steps, seconds) = ((r["step"], r["step"] * batch / r["images_per_second"]) for r in ends(done))
    return {
        "batch_size": batch,
        "seconds_per_step": (seconds - began) / (steps - warm),
        "first_seconds": began,
        "train_loss": done.history[0]["train_loss"],
        "compiled": done.compiled,
    }


def ends(done: TrainResult) -> tuple[Json, Json]:
    """The first reading and the last."""
    return done.history[0], done.history[-1]


def read_pace(folder: Path, stage: str) -> Json | None:
    """What pace.py wrote of a stage; None where it has not come to that."""
    try:
        found: Json = json.loads((folder / f"{stage}.json").read_text())
    except (OSError, ValueError):
        return None
    return found


def pays(pace: Json) -> bool:
    """Whether a stage's compiled steps have run, learn as eager ones do, and are faster."""
    found, eager = pace.get("compiled"), pace["eager"]
    return (
        found is not None
        and found["compiled"]
        and abs(found["train_loss"] / eager["train_loss"] - 1) <= AGREEMENT
        and found["seconds_per_step"] < eager["seconds_per_step"]
    )


def make_plan(total: float, spent: float, paces: Json, steps_per_epoch: Mapping[str, int], arms: Sequence[Arm]) -> Json:
    """The epochs of both stages for a run of `total` seconds.

    Args:
        total: seconds, from the run's begin on.
        spent: seconds of them that are over.
        paces: of both stages, as pace.py finds them.
        steps_per_epoch: of both stages.
        arms: what is fine-tuned, one after the other; some of them after a pre-training.

    Returns:
        "arms", "epochs", "compile" and "paces".

    Raises:
        UserError: not even one epoch of each fits.
    """
    compiled = all(pays(pace) for pace in paces.values())
    modes = {pace["compiled"].get("mode", "always") for pace in paces.values()} if compiled else {"never"}
    chosen = {stage: paces[stage]["compiled" if compiled else "eager"] for stage in STAGES}
    times, left = stage_times(total, spent, arms), total - spent - AROUND
    epoch = {stage: chosen[stage]["seconds_per_step"] * steps_per_epoch[stage] for stage in STAGES}
    fit = {
        stage: (times[stage] * (1 - MARGIN) - (chosen[stage]["first_seconds"] if compiled else 0.0)) / epoch[stage]
        for stage in STAGES
        if times[stage]
    }
    if min(fit.values()) < 1:
        least = total + max((1 - fit[stage]) * epoch[stage] * left / times[stage] for stage in fit) / (1 - MARGIN)
        raise UserError(f"--time-limit: {total:.0f} s are too short for one epoch of each stage: give {least + 1:.0f}s")
    return {
        "arms": [arm.name for arm in arms],
        "epochs": {stage: int(count) for stage, count in fit.items()},
        "compile": modes.pop() if len(modes) == 1 else "always",
        "paces": paces,
    }


def stage_times(total: float, spent: float, arms: Sequence[Arm]) -> dict[str, float]:
    """Seconds of pre-training, and of each arm's fine-tuning."""
    left, share = total - spent - AROUND, PRETRAIN_SHARE if _pretrained(arms) else 0.0
    return {"pretrain": share * left, "finetune": (1 - share) * left / len(arms)}


def timetable(arms: Sequence[Arm], keys: Sequence[str], limit: float) -> Plan:
    """When each stage has to be over for a run to be over `limit` seconds after its begin; `keys` are of its stages."""
    times = stage_times(1.0 + AROUND, 0.0, arms)
    parts = (Part(key, key, times[key.split("-")[0]], trains=True) for key in keys)
    return Plan(tuple(parts), limit=limit, reserve=AROUND)


def _pretrained(arms: Sequence[Arm]) -> bool:
    return any(arm.objective for arm in arms)


def images_of(stage: str, dataset: Dataset, settings: Settings) -> int:
    """Train images that a stage goes through in an epoch."""
    if stage == "pretrain":
        return len(dataset.train)
    return epoch_images(dataset, len(labels_of(dataset, settings)), settings.finetune)


def steps_per_epoch(dataset: Dataset, settings: Settings) -> dict[str, int]:
    """Of both stages."""
    images = {stage: images_of(stage, dataset, settings) for stage in STAGES}
    return {stage: epoch_steps(getattr(settings, stage), count) for stage, count in images.items()}


def labels_of(dataset: Dataset, settings: Settings) -> np.ndarray:
    """Indices of the train images that the largest fine-tuning reads."""
    return labelled_indices(dataset, settings, settings.data.largest_budget, settings.seed)


def first(dataset: Dataset, images: int) -> Dataset:
    """The data set with its first train images only, and hardly any to validate."""
    (x, y), (val_x, val_y) = dataset.labelled("train"), dataset.labelled("val")
    return dataclasses.replace(dataset, train=Split(x[:images], y[:images]), val=Split(val_x[:2], val_y[:2]))


def train_briefly(stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator) -> TrainResult:
    """One stage on all of `dataset`, in silence, from random init."""
    if stage == "pretrain":
        step = pretraining(dataset, settings, accelerator)
    else:
        everything = np.arange(len(dataset.train))
        step = finetuning(dataset, everything, settings, accelerator, seed=settings.seed, init=None)
    return train(step, RunLog(quiet=True), {"stage": stage}, compilation=settings.compile)
