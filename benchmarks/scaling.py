"""Whether a training step of PocketViT costs what its arithmetic does, however many images and tokens there are.

Images per second times the MACs of an image is constant where it does. Images are random uint8 in a file that is mapped
into memory, as the cache of decoded images is; steps are whole ones, with input, as in training.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from common import (
    CLASSES,
    STAGES,
    WARM_UP,
    at_least_1,
    interleaved,
    make_parser,
    say,
    settings_of,
    spread,
    write_evidence,
)
from contestants import Ours, alike

from pocketvit.config import Settings
from pocketvit.data import Dataset, Split
from pocketvit.model.costs import costs
from pocketvit.training.device import make_accelerator

CHUNK = 4096  # images written at a time


class Case(NamedTuple):
    """What is varied: train images, patches of one, and whether images stay in their file; one stage each."""

    stage: str
    images: int
    patches: int
    streamed: bool


def parser() -> argparse.ArgumentParser:
    """The flags; their defaults measure what docs/benchmarks.md publishes."""
    made = make_parser(__doc__.split("\n")[0], "scaling")
    made.add_argument(
        "--images", nargs="+", type=at_least_1, default=[1_000, 10_000, 50_000, 200_000], help="numbers of train images"
    )
    made.add_argument(
        "--tokens", nargs="+", type=_square, default=[36, 64, 144, 256], help="numbers of patches, each a square"
    )
    return made


def _square(text: str) -> int:
    """For argparse: a square number."""
    if math.isqrt(int(text)) ** 2 != at_least_1(text):
        raise argparse.ArgumentTypeError(f"{text} is not a square number")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Measure, and write the evidence; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    given, began = parser().parse_args(argv), time.perf_counter()
    if min(given.images) < given.batch_size:
        parser().error(f"--images {min(given.images)} is less than a batch ({given.batch_size})")
    settings = alike(settings_of(given.sizes, given.batch_size))
    model = settings.model.sizes()
    assert settings.data.shape is not None
    usual = (settings.data.shape[0] // model.patch) ** 2
    groups = {
        # The number of images touches the input alone, which fine-tuning has in common.
        "images": [Case("pretrain", n, usual, streamed) for streamed in (False, True) for n in given.images],
        "tokens": [Case(stage, min(given.images), n, False) for stage in STAGES for n in given.tokens],
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        sides = {case.patches: model.patch * math.isqrt(case.patches) for cases in groups.values() for case in cases}
        most = {side: max(given.images) if n == usual else min(given.images) for n, side in sides.items()}
        files = {side: write_pixels(Path(place) / f"{side}.npy", count, side) for side, count in most.items()}
        for precision in given.precision:
            accelerator = make_accelerator(given.device, precision)
            for name, cases in groups.items():
                say(f"{name}: {precision}")
                sets = {case: dataset_of(files[sides[case.patches]], case.images) for case in cases}
                rows = time_cases(sets, settings, accelerator, given)
                found.setdefault(name, []).append({"precision": precision, **rows})
    write_evidence("scaling", given, argv, accelerator, began, found)
    return 0


def write_pixels(file: Path, images: int, side: int) -> Path:
    """A .npy file of uint8 (images, side, side, 3), as the cache writes it."""
    rng = np.random.default_rng(0)
    pixels = np.lib.format.open_memmap(file, "w+", np.uint8, (images, side, side, 3))
    for start in range(0, images, CHUNK):
        pixels[start : start + CHUNK] = rng.integers(0, 256, pixels[start : start + CHUNK].shape, np.uint8)
    pixels.flush()
    return file


def dataset_of(file: Path, images: int) -> Dataset:
    """The first images of a file, mapped into memory; labels go round the classes."""
    pixels = np.load(file, mmap_mode="r")[:images]
    train = Split(pixels, np.arange(images) % CLASSES)
    classes = tuple(f"class{number}" for number in range(CLASSES))
    return Dataset(file.stem, classes, train, train, None, (0.5,) * 3, (0.25,) * 3, ())


def time_cases(
    sets: dict[Case, Dataset], settings: Settings, accelerator: Accelerator, given: argparse.Namespace
) -> dict[str, Any]:
    """A row for each case, with its images times MACs per second over the median of those of its kind."""

    def take(ours: Ours, steps: int) -> None:
        for _ in range(steps):
            ours.full_step()

    running = {
        case: Ours(case.stage, dataset, settings, accelerator, resident=not case.streamed)
        for case, dataset in sets.items()
    }
    for ours in running.values():
        take(ours, WARM_UP)
    turns = {str(case): partial(take, ours, given.steps) for case, ours in running.items()}
    seconds = interleaved(turns, given.repeats, accelerator.device)
    rows = []
    for case, dataset in sets.items():
        cost = costs(settings.model, dataset.shape, CLASSES, settings.mae.mask_ratio)
        macs = cost.pretrain_macs if case.stage == "pretrain" else cost.macs_computed
        speeds = [given.steps * given.batch_size / value for value in seconds[str(case)]]
        rows.append(
            {
                **case._asdict(), "shape": dataset.shape, "macs": macs, "images_per_second": spread(speeds),
                "macs_per_second": spread([macs * speed for speed in speeds]),
            }
        )  # fmt: skip
    for row in rows:
        alike_rows = [other for other in rows if other["stage"] == row["stage"]]
        middle = statistics.median(other["macs_per_second"]["median"] for other in alike_rows)
        row["over_median"] = round(row["macs_per_second"]["median"] / middle, 3)
    return {"rows": rows, "furthest_from_median": round(max(abs(row["over_median"] - 1) for row in rows), 3)}


if __name__ == "__main__":
    sys.exit(main())
