"""How much memory a gradient step will take, known before the first one: a machine out of memory takes others down."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pocketvit.config import OptimConfig, Settings
from pocketvit.data import Dataset
from pocketvit.errors import UserError
from pocketvit.model.networks import NETWORKS
from pocketvit.model.vit import LONGEST_UNFUSED, ViT
from pocketvit.training.device import free_bytes
from pocketvit.training.finetune import finetuning
from pocketvit.training.objectives import PRETRAINING
from pocketvit.training.objectives.teaching import images_beside
from pocketvit.training.pretrain import pretraining

USUAL = {"pretrain": "mae", "finetune": "vit"}  # what a stage trains by or trains
COPIES = 9  # of the weights: they, gradients, two moments and an average, and all but gradients in the last good state
WORKSPACE = 200 * 10**6  # bytes that kernels take for themselves
HALVED = 0.7  # of what float32 keeps is kept with bf16, which leaves norms and residuals as they are
SHARE = 0.9  # of the free memory that a step may take
TRIED = 0.25  # of it, beyond which the estimate is checked against a short trial
RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # of Linux
TRIAL = 0.05  # of the free memory that such a trial is to take


def saved_bytes(network: nn.Module, images: Tensor, loss: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights and images apart; on the meta device it is free.

    Args:
        network: whose parameters are not counted.
        images: that are not counted.
        loss: runs the forward pass.
    """
    known = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), images)}
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            # Held on to, so that no other storage comes to the same place.
            kept[storage._cdata] = (tensor, storage.nbytes())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(size for _, size in kept.values())


@cache  # a run asks several times before its first step
def step_bytes(
    stage: str,
    shape: tuple[int, int, int],
    classes: int,
    settings: Settings,
    device: torch.device,
    bf16: bool,
    kind: str | None = None,
) -> tuple[int, int]:
    """Bytes that a step of "pretrain" or "finetune" takes: in any case, and for the images of a part of a batch.

    Counted from the tensors that a forward pass keeps; at the sizes tried more than training took.

    Args:
        stage: "pretrain" or "finetune".
        shape: image (height, width, channels).
        classes: of the set; 0 where it has no labels.
        settings: of the run.
        device: that trains.
        bf16: whether it does so in bf16.
        kind: the objective of pre-training, or the kind of network that is fine-tuned; None takes the one in USUAL.

    Raises:
        UserError: sizes that cannot be, or a patch that does not divide the image.
    """
    height, width, channels = shape
    attention, few, kind = 0, 2, kind or USUAL[stage]
    with torch.device("meta"):
        if stage == "pretrain":
            objective = PRETRAINING[kind]
            images = torch.zeros(few * objective.views, channels, height, width)
            trained: nn.Module = objective.build(settings, shape)
            kept = saved_bytes(trained, images, lambda: objective.views_loss(settings, trained, images))
        else:
            images = torch.zeros(few, channels, height, width)
            trained = classifier = NETWORKS[kind].build(settings.network(kind), shape, classes or 1)
            kept = saved_bytes(classifier, images, lambda: classifier(images).sum())
            if settings.finetune.unlabelled == "teacher":
                kept = round(kept * (1 + images_beside(classifier)))
            vit = classifier.shape if isinstance(classifier, ViT) else None
            if vit and device.type == "cpu" and bf16 and vit.patches < LONGEST_UNFUSED:
                # What the fused kernel, which is what runs on the meta device, does not keep: the weights, twice.
                attention = 2 * few * vit.depth * vit.heads * (vit.patches + 1) ** 2 * 2
    if bf16:
        kept = round(HALVED * kept)
    kept += attention
    weights = WORKSPACE + COPIES * 4 * sum(parameter.numel() for parameter in trained.parameters())
    return weights, _part(getattr(settings, stage)) * (kept // few)


def _part(config: OptimConfig) -> int:
    """Images that go through the device at once; those that stand in a batch several times are counted as often."""
    return math.ceil(config.batch_size / config.accumulate)


def check_memory(
    stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator, kind: str | None = None
) -> None:
    """`check_estimate`, and where a step takes much of the memory, the same by a short trial. Raises as it."""
    about = (stage, dataset.shape, len(dataset.classes), settings, accelerator, kind)
    if check_estimate(*about) > TRIED:
        check_estimate(*about, times=_underestimate(stage, dataset, settings, accelerator, kind))


def check_estimate(
    stage: str,
    shape: tuple[int, int, int],
    classes: int,
    settings: Settings,
    accelerator: Accelerator,
    kind: str | None = None,
    times: float = 1.0,
) -> float:
    """The share of the free memory that a step of a stage will take; UserError, with what would fit, for too much.

    Its images are taken to need `times` what is estimated; all else is as in `step_bytes`, which raises too.
    """
    device = accelerator.device
    free = free_bytes(device)
    always, images = step_bytes(stage, shape, classes, settings, device, accelerator.mixed_precision != "no", kind)
    if device.type == "cuda":
        images //= accelerator.num_processes  # each on a device of its own; on a CPU they share its memory
    images = round(times * images)
    if always + images <= SHARE * free:
        return (always + images) / free
    config: OptimConfig = getattr(settings, stage)
    parts = math.ceil(images / max(1.0, SHARE * free - always)) * config.accumulate
    cut = f"--{stage}.accumulate {parts}" if parts <= config.batch_size else f"--{stage}.batch_size 16"
    height, width, _ = shape
    of = "" if kind in (None, USUAL[stage]) else f" of the {(NETWORKS | PRETRAINING)[kind].title}"
    raise UserError(
        f"a step of {stage}{of} on {config.batch_size} images of {height}x{width} takes about "
        f"{(always + images) / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: give {cut}, a larger --patch, "
        f"or a smaller image as --size {max(1, height // 2)}x{max(1, width // 2)}"
    )


def _underestimate(
    stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator, kind: str | None
) -> float:
    """How many times what was estimated for its images a step on a few takes; 1 for less, or where it is not known."""
    config = getattr(settings, stage)
    device, bf16, about = accelerator.device, accelerator.mixed_precision != "no", (dataset.shape, len(dataset.classes))
    _, images = step_bytes(stage, *about, settings, device, bf16, kind)
    part = _part(config)
    few = max(2, min(part, int(TRIAL * free_bytes(device) / images * part)))
    shorter: dict[str, Any] = {"batch_size": few, "accumulate": 1, "repeats": 1, "min_steps": 0}
    if stage == "finetune":
        shorter["unlabelled"] = "none"  # soft labels take no more than others
    brief = replace(settings, **{stage: replace(config, **shorter)})
    everything = np.arange(min(len(dataset.train), few))
    kind = kind or USUAL[stage]
    if stage == "pretrain":
        step = pretraining(dataset, brief, accelerator, kind)
    else:
        step = finetuning(dataset, everything, brief, accelerator, seed=settings.seed, init=None, network=kind)
    taken = peak_bytes(lambda: (step.capture(0), step.run(0)), device)  # training holds the last good state beside
    if taken is None:
        return 1.0
    always, images = step_bytes(stage, *about, brief, device, bf16, kind)
    return max(1.0, (taken - always) / images)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that `work` takes beside what was taken before; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    try:
        RESET.write_text("5")  # the peak begins again (proc_pid_clear_refs(5))
        before = _peak_resident()
        work()
        return _peak_resident() - before
    except OSError:
        return None


def _peak_resident() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
