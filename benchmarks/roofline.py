"""How fast a run's stages were, and how near a step comes to what the device does, measured in the same process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from planner import Json, first, labels_of, train_briefly
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pocketvit.config import Settings
from pocketvit.data import Dataset
from pocketvit.model.costs import costs
from pocketvit.training.ceilings import fastest, matmul_flops
from pocketvit.training.device import describe


@dataclass(frozen=True)
class Ceilings:
    """FLOP/s of a matrix product, bytes/s (read and written) of a copy."""

    flops: float
    bytes: float

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype) -> Ceilings:
        """The best of REPEATS products, and of copies that no cache holds."""
        source, target = (torch.randn(2**28 if device.type == "cuda" else 2**25, device=device) for _ in range(2))
        copy = fastest(lambda: target.copy_(source), device)
        return cls(matmul_flops(device, dtype), 2 * source.nbytes / copy)

    def roofline(self, flops: float, bytes: float, seconds: float) -> dict[str, float]:
        """A step's work and time beside the least time that the ceilings allow it; see docs/reproduce.md."""
        least = {"matmul_seconds": flops / self.flops, "copy_seconds": bytes / self.bytes}
        return {
            "flops": flops, "bytes": bytes, "seconds": seconds, **least,
            "utilisation": least["matmul_seconds"] / seconds,
            "roofline": max(least.values()) / seconds,
        }  # fmt: skip


def speed(
    dataset: Dataset, settings: Settings, summary: Json, accelerator: Accelerator, device: Json | None = None
) -> Json:
    """The trained stages' pace, and how near it comes to what the device does at best.

    Args:
        dataset: of the run.
        settings: of the run.
        summary: of the run; says which device trained.
        accelerator: of this process, which counts the bytes of a step; they are the same on every device.
        device: what pace.py found of the device that trained; None measures this one, where it is that one.
    """
    ceilings = None
    if device is not None:
        ceilings = Ceilings(device["ceilings"]["matmul_flops"], device["ceilings"]["copy_bytes"])
    elif describe(accelerator)["device"] == summary["details"]["device"]:
        bf16 = accelerator.mixed_precision == "bf16"
        ceilings = Ceilings.measure(accelerator.device, torch.bfloat16 if bf16 else torch.float32)
    cost = costs(settings.model, dataset.shape, len(dataset.classes), settings.mae.mask_ratio)
    labels, pretrained = len(labels_of(dataset, settings)), summary["pretrain"].get("mae")
    runs = [run for run in summary["details"]["runs"] if run["labels"] == labels]
    batch = min(settings.finetune.batch_size, labels)
    seconds = max(0.05, sum(run["seconds"] for run in runs))  # of each run they are rounded to tenths
    finetuned = {
        "epochs": runs[0]["steps"] // (labels // batch),
        "images_per_second": sum(run["steps"] for run in runs) * batch / seconds,
    }
    # What is reconstructed beside is as many images.
    finetune_macs = cost.macs_computed + bool(settings.finetune.reconstruction) * cost.pretrain_macs
    best = {"matmul_flops": ceilings.flops, "copy_bytes": ceilings.bytes} if ceilings else None
    found: Json = {"ceilings": best}
    for stage, images, done, macs in (
        ("pretrain", len(dataset.train), pretrained, cost.pretrain_macs),
        ("finetune", labels, finetuned, finetune_macs),
    ):
        if done is None:
            continue
        batch, rate = min(getattr(settings, stage).batch_size, images), done["images_per_second"]
        # Backward takes twice the products of forward; a MAC is two FLOPs.
        flops, moved = 6 * macs * batch, bytes_of_a_step(stage, dataset, settings, accelerator)
        step = {"flops": flops, "bytes": moved, "seconds": batch / rate}
        if ceilings and step["seconds"] < flops / ceilings.flops:
            # No step is quicker than its products: more processes trained, or other work ran beside the measurement.
            ceilings = found["ceilings"] = None
        found[stage] = {
            "epochs": done["epochs"], "batch_size": batch, "images_per_second": rate,
            "seconds_per_epoch": images // batch * batch / rate,
        }  # fmt: skip
        if stage == "pretrain" or settings.finetune.patch_phases == ((1.0, 1.0),):  # else steps are of several kinds
            found[stage]["step"] = ceilings.roofline(**step) if ceilings else step
    return found


def bytes_of_a_step(stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator) -> int:
    """Bytes that the operators of one training step move: those of two steps without those of one."""
    config, totals = getattr(settings, stage), []
    one_batch = first(dataset, config.batch_size)
    for steps in (1, 2):
        brief = replace(settings, compile="never", **{stage: replace(config, epochs=steps, min_steps=0)})
        with BytesMoved() as moved:
            train_briefly(stage, one_batch, brief, accelerator)
        totals.append(moved.total)
    return totals[1] - totals[0]


class BytesMoved(TorchDispatchMode):
    """Counts, within it, the bytes that eager operators read and write; neither a view nor an allocation moves any.

    What a kernel keeps in registers or in a cache is not seen, and fused kernels move less.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__:
            given = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **(kwargs or {})}
            changed = [given[a.name] for a in func._schema.arguments if a.name in given and _is_written(a)]
            # An operator returns what it has made; what it changes in place it may return, or not.
            self.total += _nbytes(given) + (_nbytes(changed) if changed else _nbytes(result))
        return result


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
