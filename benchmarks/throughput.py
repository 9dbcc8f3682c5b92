"""PocketViT's speed and memory beside other libraries' networks of the same sizes: same batch, same images on disk.

Contestants take turns, so that what the machine does meanwhile falls on all alike; the evidence is a JSON file.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import against
import torch
from accelerate import Accelerator
from common import (
    CLASSES,
    REPO,
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
from contestants import BASELINE, OTHER, OURS, Contestant, Files, Ours, Theirs, make, names, ready_batches, take_steps
from costs import memory, profile
from planner import train_briefly
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pocketvit.config import Settings
from pocketvit.data import Dataset, load
from pocketvit.stages.images import patching_of
from pocketvit.training.device import keep_freed_memory, make_accelerator

PARTS = ("step", "epoch", "profile", "memory")
COLD, WARM = f"{OURS} cold", f"{OURS} warm"  # the epoch with and without decoding the images


def parser() -> argparse.ArgumentParser:
    """The flags; their defaults measure what docs/benchmarks.md publishes."""
    made = make_parser(__doc__.split("\n")[0], "throughput")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    made.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="one or both")
    made.add_argument("--images", type=at_least_1, default=2048, help="train images on disk")
    made.add_argument(
        "--against",
        metavar="COMMIT",
        default=argparse.SUPPRESS,
        help="measure nothing but this tree's training beside another commit's, in pairs of turns "
        f"(--sizes {against.DEFAULTS['sizes']} and --repeats {against.DEFAULTS['repeats']} unless they are given)",
    )
    made.add_argument("--compile", action="store_true", help="also time steps compiled by torch.compile")
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure, and write the evidence; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    made, began = parser(), time.perf_counter()
    given = made.parse_args(argv)
    if hasattr(given, "against"):
        made.set_defaults(**against.DEFAULTS)
        return measure_against(made, made.parse_args(argv), argv, began)
    if given.images < max(given.batch_size, CLASSES):
        made.error(f"--images {given.images} is less than a batch ({given.batch_size}) or than {CLASSES} classes")
    settings = settings_of(given.sizes, given.batch_size)
    absent = [OTHER] if OTHER not in names() else []
    found: dict[str, Any] = {"absent": absent}
    for name in absent:
        say(f"{name} is not installed: pip install -c constraints.txt --no-deps {name}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        os.environ["POCKETVIT_CACHE"] = str(Path(place) / "cache")
        write_images(folder, given.images)
        dataset = load(str(folder), settings.data, need_labels=True)
        # One precision after the other: a process has one accelerator at a time.
        for precision in given.precision:
            accelerator = make_accelerator(given.device, precision)
            for stage in given.stages:
                measured: dict[str, Callable[[], dict[str, Any]]] = {
                    "step": lambda: time_steps(stage, dataset, settings, accelerator, given),  # noqa: B023
                    "profile": lambda: profile(stage, dataset, settings, accelerator, given),  # noqa: B023
                    "memory": lambda: memory(stage, precision, folder, given),  # noqa: B023
                }
                if stage == "pretrain":
                    measured["epoch"] = lambda: time_epochs(folder, settings, accelerator, given)  # noqa: B023
                for part in given.parts:
                    if part in measured:
                        say(f"{part}: {stage}, {precision}")
                        row = {"stage": stage, "precision": precision, **measured[part]()}
                        found.setdefault(part, []).append(row)
    write_evidence("throughput", given, argv, accelerator, began, found)
    return 0


def measure_against(made: argparse.ArgumentParser, given: argparse.Namespace, argv: list[str], began: float) -> int:
    """--against: compare, and write the evidence; returns the exit status."""
    commit = against.full_name(given.against)
    if commit is None:
        made.error(f"--against {given.against}: git knows no such commit here")
    if given.steps * given.batch_size < CLASSES:
        made.error(f"--steps {given.steps} times --batch-size {given.batch_size} is less than {CLASSES} classes")
    given.against = commit
    accelerator = make_accelerator(given.device)
    given.out = getattr(given, "out", REPO / "results" / f"against-{accelerator.device.type}.json")
    write_evidence("throughput", given, argv, accelerator, began, against.compare(given))
    return 0


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
    turns = {name: as_it_comes(name, partial(take_steps, rival, ready, given.steps)) for name, rival in rivals.items()}
    seconds = interleaved(turns, given.repeats, accelerator.device)
    for name in rivals:
        found[name]["last_loss"] = take_steps(rivals[name], ready, 1).item()
    return {"contestants": rated(found, seconds, given.steps * given.batch_size)}


def time_epochs(
    folder: Path, settings: Settings, accelerator: Accelerator, given: argparse.Namespace
) -> dict[str, Any]:
    """Images per second of a whole epoch of pre-training from the files, loading and augmentation included.

    PocketViT's is `load` and pre-training, a fresh network and a reading on held-out images included; cold, its cache
    is empty, so that each image is decoded, and warm it is not. The others read the files through a DataLoader; their
    networks are made before. All files have been read before, so none waits for the disk.
    """
    once = dataclasses.replace(settings.pretrain, epochs=1, min_steps=0)
    own = dataclasses.replace(settings, pretrain=once)
    cache, loading = Path(os.environ["POCKETVIT_CACHE"]), dict[str, list[float]]({COLD: [], WARM: []})

    def ours(name: str) -> None:
        began = time.perf_counter()
        if name == COLD:
            shutil.rmtree(cache)
        dataset = load(str(folder), own.data, patching=patching_of(own))
        loading[name].append(time.perf_counter() - began)
        train_briefly("pretrain", dataset, own, accelerator)

    dataset = load(str(folder), own.data)
    augment = settings.pretrain.augment
    files = Files(folder / "train", dataset, augment.crop_scale, settings.data.symmetry == "mirror")
    rivals = {name: make(name, "pretrain", dataset, settings, accelerator) for name in names() if name != OURS}
    cores = os.cpu_count() or 1
    tried = {
        count: interleaved(
            {"epoch": partial(_their_epoch, rivals[BASELINE], files, count, given.batch_size)}, 1, accelerator.device
        )["epoch"][0]
        for count in ((cores,) if accelerator.device.type == "cuda" else (0, 2))
    }
    workers = min(tried, key=lambda count: tried[count])
    turns: dict[str, Callable[[], object]] = {name: partial(ours, name) for name in (COLD, WARM)}
    for name, rival in rivals.items():
        turns[name] = partial(_their_epoch, rival, files, workers, given.batch_size)
    turns = {name: as_it_comes(name, turn) for name, turn in turns.items()}
    seconds = interleaved(turns, given.repeats, accelerator.device)
    used = len(files) // given.batch_size * given.batch_size
    found = {name: {"loading_seconds": spread(values)} for name, values in loading.items()}
    return {
        "images": used,
        "workers": workers,
        "workers_tried_seconds": tried,
        "contestants": rated(found, seconds, used),
    }


def as_it_comes(name: str, turn: Callable[[], object]) -> Callable[[], object]:
    """The turn of a contestant, with freed memory kept for PocketViT, as its training does, and not for the others."""

    def taken() -> None:
        keep_freed_memory(name.startswith(OURS))
        turn()

    return taken


def _their_epoch(rival: Contestant, files: Files, workers: int, batch_size: int) -> None:
    assert isinstance(rival, Theirs)
    for images, labels in files.loader(batch_size, workers, rival.device):
        rival.step(images.to(rival.device, non_blocking=True), labels.to(rival.device, non_blocking=True))


def size_of(contestant: Contestant, ready: list[tuple[Tensor, Tensor]]) -> dict[str, int]:
    """Parameters, and the MACs of one image's forward pass as torch counts them, every matrix product included."""
    images, labels = (part[:1] for part in ready[0])
    model = contestant.model
    # The counter knows the products of attention, but not every fused kernel of it.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        if isinstance(contestant, Ours):
            model(images)
        else:
            contestant.loss(model, images, labels)
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
