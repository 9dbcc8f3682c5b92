"""PocketViT's speed and memory beside other libraries' networks of the same sizes: same batch, same images on disk.

Contestants take turns, so that what the machine does meanwhile falls on all alike; the evidence is a JSON file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from common import (
    CLASSES,
    STAGES,
    WARM_UP,
    at_least_1,
    interleaved,
    make_parser,
    ratios,
    say,
    settings_of,
    spread,
    write_evidence,
    write_images,
)
from contestants import BASELINE, Contestant, make, names
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pocketvit.config import Settings
from pocketvit.data import Dataset, load
from pocketvit.data.batches import Batches
from pocketvit.training.device import make_accelerator

PARTS = ("step",)


def parser() -> argparse.ArgumentParser:
    """The flags; their defaults measure what docs/benchmarks.md publishes."""
    made = make_parser(__doc__.split("\n")[0], "throughput")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    made.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="one or both")
    made.add_argument("--images", type=at_least_1, default=2048, help="train images on disk")
    made.add_argument("--compile", action="store_true", help="also time steps compiled by torch.compile")
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure, and write the evidence; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    given, began = parser().parse_args(argv), time.perf_counter()
    if given.images < max(given.batch_size, CLASSES):
        parser().error(f"--images {given.images} is less than a batch ({given.batch_size}) or than {CLASSES} classes")
    settings = settings_of(given.sizes, given.batch_size)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["POCKETVIT_CACHE"] = str(folder / "cache")
        write_images(folder / "images", given.images)
        dataset = load(str(folder / "images"), settings.data, need_labels=True)
        # One precision after the other: a process has one accelerator at a time.
        for precision in given.precision:
            accelerator = make_accelerator(given.device, precision)
            for stage in given.stages:
                if "step" in given.parts:
                    say(f"steps: {stage}, {precision}")
                    measured = time_steps(stage, dataset, settings, accelerator, given)
                    found.setdefault("step", []).append({"stage": stage, "precision": precision, **measured})
    write_evidence("throughput", given, argv, accelerator, began, found)
    return 0


def ready_batches(dataset: Dataset, settings: Settings, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Batches that every contestant gets alike: normalised images and labels, on the device."""
    images, labels = dataset.labelled("train")
    size = settings.pretrain.batch_size
    batches = Batches(images, labels, dataset.mean, dataset.std, batch_size=size, seed=0, device=device)
    ready = []
    for number in range(min(8, batches.steps_per_epoch)):
        drawn, targets, _ = batches.at(number)
        assert targets is not None
        ready.append((batches.normalise(drawn), targets))
    return ready


def take_steps(contestant: Contestant, ready: list[tuple[Tensor, Tensor]], steps: int) -> Tensor:
    """Some steps, without input; returns the last loss."""
    for number in range(steps):
        loss = contestant.step(*ready[number % len(ready)])
    return loss


def time_steps(
    stage: str, dataset: Dataset, settings: Settings, accelerator: Accelerator, given: argparse.Namespace
) -> dict[str, Any]:
    """Images per second of each contestant's step: forward, backward and optimiser on images that are ready."""
    ready = ready_batches(dataset, settings, accelerator.device)
    rivals = {name: make(name, stage, dataset, settings, accelerator) for name in names(given.compile)}
    found: dict[str, Any] = {name: size_of(rival, ready) for name, rival in rivals.items()}
    for name, rival in rivals.items():
        found[name]["first_loss"] = take_steps(rival, ready, 1).item()
        take_steps(rival, ready, WARM_UP - 1)
    turns = {name: partial(take_steps, rival, ready, given.steps) for name, rival in rivals.items()}
    seconds = interleaved(turns, given.repeats, accelerator.device)
    for name in rivals:
        found[name]["last_loss"] = take_steps(rivals[name], ready, 1).item()
    return {"contestants": rated(found, seconds, given.steps * given.batch_size)}


def size_of(contestant: Contestant, ready: list[tuple[Tensor, Tensor]]) -> dict[str, int]:
    """Parameters, and the MACs of one image's forward pass as torch counts them, every matrix product included."""
    images, labels = (part[:1] for part in ready[0])
    model = contestant.model
    # The counter knows the products of attention, but not every fused kernel of it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        if hasattr(contestant, "loss"):
            contestant.loss(model, images, labels)
        else:
            model(images)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"params": parameters, "macs": counter.get_total_flops() // 2}


def rated(found: dict[str, Any], seconds: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Each contestant's findings with its images per second, and those over the baseline's in the same repeat."""
    speeds = {name: [images / value for value in values] for name, values in seconds.items()}
    return {
        name: {
            **found.get(name, {}),
            "images_per_second": spread(values),
            "over_baseline": ratios(values, speeds[BASELINE]),
        }
        for name, values in speeds.items()
    }


if __name__ == "__main__":
    sys.exit(main())
