"""How much memory a gradient step will take, known before the first one: a machine out of memory takes others down."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pocketvit.config import OptimConfig, Settings
from pocketvit.data import Dataset
from pocketvit.errors import UserError
from pocketvit.model.networks import NETWORKS
from pocketvit.model.vit import LONGEST_UNFUSED, ViT
from pocketvit.training.finetune import finetuning
from pocketvit.training.objectives import PRETRAINING
from pocketvit.training.objectives.teaching import images_beside
from pocketvit.training.pretrain import pretraining

USUAL = {"pretrain": "mae", "finetune": "vit"}  # what a stage trains by or trains
COPIES = 5  # of the weights: gradients, two moments and an average beside them
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


def step_bytes(
    stage: str, dataset: Dataset, settings: Settings, device: torch.device, bf16: bool, kind: str | None = None
) -> tuple[int, int]:
    """Bytes that a step of "pretrain" or "finetune" takes: in any case, and for the images of a part of a batch.

    `kind` is the objective of pre-training, or the kind of network that is fine-tuned; None takes the one in USUAL.

    Counted from the tensors that a forward pass keeps; at the sizes tried 1.1 to 1.8 times what training took.
    """
    always, kept = _counted(
        stage, kind or USUAL[stage], settings, dataset.shape, len(dataset.classes) or 1, device.type, bf16
    )
    return always, _part(getattr(settings, stage)) * kept


@cache
def _counted(
    stage: str, kind: str, settings: Settings, size: tuple[int, int, int], classes: int, device: str, bf16: bool
) -> tuple[int, int]:
    """Bytes in any case, and for an image; cached, for a run asks several times before its first step."""
    height, width, channels = size
    attention, few = 0, 2
    with torch.device("meta"):
        if stage == "pretrain":
            objective = PRETRAINING[kind]
            images = torch.zeros(few * objective.views, channels, height, width)
            trained: nn.Module = objective.build(settings, size)
            kept = saved_bytes(trained, images, lambda: objective.views_loss(settings, trained, images))
        else:
            images = torch.zeros(few, channels, height, width)
            trained = classifier = NETWORKS[kind].build(settings.network(kind), size, classes)
            kept = saved_bytes(classifier, images, lambda: classifier(images).sum())
            if settings.finetune.unlabelled == "teacher":
                kept = round(kept * (1 + images_beside(classifier)))
            shape = classifier.shape if isinstance(classifier, ViT) else None
            if shape and device == "cpu" and bf16 and shape.patches < LONGEST_UNFUSED:
                # What the fused kernel, which is what runs on the meta device, does not keep: the weights, twice.
                attention = 2 * few * shape.depth * shape.heads * (shape.patches + 1) ** 2 * 2
    if bf16:
        kept = round(HALVED * kept)
    kept += attention
    weights = WORKSPACE + COPIES * 4 * sum(parameter.numel() for parameter in trained.parameters())
    return weights, kept // few


def _part(config: OptimConfig) -> int:
    """Images that go through the device at once; those that stand in a batch several times are counted as often."""
    return math.ceil(config.batch_size / config.accumulate)


def check_memory(
    stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator, kind: str | None = None
) -> None:
    """Raise UserError, with what would fit, where a step of a stage would not fit into the memory that is free.

    `kind` is as in `step_bytes`.
    """
    device = accelerator.device
    free = free_bytes(device)
    always, images = step_bytes(stage, dataset, settings, device, accelerator.mixed_precision != "no", kind)
    if device.type == "cuda":
        images //= accelerator.num_processes  # each on a device of its own; on a CPU they share its memory
    if (always + images) / free > TRIED and always < SHARE * free:
        images = round(images * _underestimate(stage, dataset, settings, accelerator, kind))
    if always + images <= SHARE * free:
        return
    config: OptimConfig = getattr(settings, stage)
    parts = math.ceil(images / max(1.0, SHARE * free - always)) * config.accumulate
    cut = f"--{stage}.accumulate {parts}" if parts <= config.batch_size else f"--{stage}.batch_size 16"
    height, width, _ = dataset.shape
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
    bf16 = accelerator.mixed_precision != "no"
    _, images = step_bytes(stage, dataset, settings, accelerator.device, bf16, kind)
    part = _part(config)
    few = max(2, min(part, int(TRIAL * free_bytes(accelerator.device) / images * part)))
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
    taken = peak_bytes(lambda: step.run(0), accelerator.device)
    if taken is None:
        return 1.0
    always, images = step_bytes(stage, dataset, brief, accelerator.device, bf16, kind)
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


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take on a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except ImportError:  # not Unix
        return free
    if limit == resource.RLIM_INFINITY:
        return free
    return min(free, limit - int(psutil.Process().memory_info().vms))
