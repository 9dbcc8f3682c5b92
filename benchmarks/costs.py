"""Where a training step of PocketViT spends its time, against a matrix product; and the peak memory of anyone's."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from common import REPO, WARM_UP, interleaved, settings_of, spread, synchronise
from contestants import OURS, Ours, make, names, ready_batches, take_steps

from pocketvit.config import Settings
from pocketvit.data import Dataset, load
from pocketvit.model.costs import costs
from pocketvit.training.device import keep_freed_memory, make_accelerator

INPUT = ("draw", "augment")
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the yardstick
BACKWARD = 2  # forward passes that a backward pass costs: a product for the inputs, and one for the weights
MIB = 2**20


def profile(
    stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator, given: argparse.Namespace
) -> dict[str, Any]:
    """Time of each part of a step with the whole recipe, and what it achieves.

    Parts are timed by waiting for the device at the end of each. The values of each are means over the steps of a
    repeat: random augmentation makes steps differ.
    """
    ours, device = Ours(stage, dataset, settings, accelerator), accelerator.device
    for _ in range(WARM_UP):
        ours.full_step()
    parts: dict[str, list[float]] = defaultdict(list)
    products: list[float] = []
    last = 0.0

    def mark(part: str) -> None:
        nonlocal last
        synchronise(device)
        now = time.perf_counter()
        parts[part][-1] += (now - last) / given.steps
        last = now

    multiply = _product(device, accelerator.mixed_precision)
    for _ in range(given.repeats):
        for part in (*INPUT, "forward", "backward", "optimiser"):
            parts[part].append(0.0)
        products += interleaved({"product": multiply}, 1, device)["product"]
        for _ in range(given.steps):
            synchronise(device)
            last = time.perf_counter()
            ours.full_step(mark)
    cost = costs(settings.model, dataset.shape, len(dataset.classes), settings.mae.mask_ratio)
    macs = cost.pretrain_macs if stage == "pretrain" else cost.macs_computed
    flop = 2 * macs * (1 + BACKWARD) * ours.batches.batch_size
    steps = [sum(values) for values in zip(*parts.values(), strict=True)]
    inputs = [sum(values) for values in zip(*(parts[part] for part in INPUT), strict=True)]
    product_flop = 2 * PRODUCT_SIDE[device.type] ** 3
    moved = _bytes(ours, dataset)
    return {
        "macs": macs,
        "seconds": {part: spread(values) for part, values in parts.items()} | {"step": spread(steps)},
        "images_per_second": spread([ours.batches.batch_size / seconds for seconds in steps]),
        "input_share": spread([part / whole for part, whole in zip(inputs, steps, strict=True)]),
        "flop_per_second": spread([flop / seconds for seconds in steps]),
        "product": {
            "side": PRODUCT_SIDE[device.type], "flop_per_second": spread([product_flop / value for value in products]),
        },
        "share_of_product": spread(
            [flop / step / (product_flop / product) for step, product in zip(steps, products, strict=True)]
        ),
        "bytes": moved,
        "bytes_per_second": {
            part: spread([count / seconds for seconds in parts[part]]) for part, count in moved.items()
        },
    }  # fmt: skip


def _product(device: torch.device, precision: str) -> Any:
    """A function that multiplies two large matrices at that precision; it has been called already."""
    side = PRODUCT_SIDE[device.type]
    left, right = torch.rand(2, side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else None)
    for _ in range(2):
        left @ right
    return lambda: left @ right


def _bytes(ours: Ours, dataset: Dataset) -> dict[str, int]:
    """Bytes that a step's parts read and write, counted from what they must do; augmentation depends on chance.

    Drawing reads and writes uint8, reads it again and writes float32. AdamW reads weight, gradient and two moments, and
    writes all but the gradient; clipping reads the gradient twice and writes it; a moving average reads two values and
    writes one.
    """
    height, width, channels = dataset.shape
    values = ours.batches.batch_size * height * width * channels
    touched = 7 + (3 if ours.config.clip else 0) + (3 if ours.config.ema else 0)
    parameters = sum(parameter.numel() for parameter in ours.model.parameters())
    return {"draw": 7 * values, "optimiser": 4 * touched * parameters}


def memory(stage: str, precision: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Memory of each contestant's steps, in a process of its own; MiB of 2^20 bytes."""
    found = {}
    for name in names():
        asked = {"name": name, "stage": stage, "precision": precision, "folder": str(folder)}
        asked |= {"device": given.device, "sizes": given.sizes, "batch_size": given.batch_size}
        command = [sys.executable, __file__, json.dumps(asked)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=REPO)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return {"contestants": found}


def _memory_here(asked: dict[str, Any]) -> dict[str, float]:
    """Peak of this process: of what torch allocates on CUDA, of the resident set elsewhere; and how much steps add."""
    settings = settings_of(asked["sizes"], asked["batch_size"])
    accelerator = make_accelerator(asked["device"], asked["precision"])
    keep_freed_memory(asked["name"] == OURS)
    dataset = load(asked["folder"], settings.data, need_labels=True)
    contestant = make(asked["name"], asked["stage"], dataset, settings, accelerator)
    ready, device = ready_batches(dataset, settings, accelerator.device), accelerator.device
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    take_steps(contestant, ready, WARM_UP)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_resident()
    return {"peak_mib": round(peak / MIB, 1), "steps_mib": round((peak - before) / MIB, 1)}


def _peak_resident() -> int:
    """Bytes of this process's largest resident set."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its peak begins with that of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":  # the process that `memory` starts
    print(json.dumps(_memory_here(json.loads(sys.argv[1]))))
