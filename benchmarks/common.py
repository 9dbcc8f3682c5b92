"""What the benchmarks share: flags, images on disk, interleaved timing and the evidence file."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from scipy.stats import t

from pocketvit.config import Settings, resolve
from pocketvit.data import Dataset, load, scaled_size
from pocketvit.errors import UserError
from pocketvit.evaluation.statistics import LEVEL
from pocketvit.files import write_whole
from pocketvit.run.evidence import evidence
from pocketvit.stages.images import patching_of
from pocketvit.training.device import describe

REPO = Path(__file__).resolve().parents[1]
STAGES = ("pretrain", "finetune")
NATIVE, CLASSES = 32, 10  # side of the images on disk, in pixels; class folders
WARM_UP = 3  # steps that each contestant takes before any is timed
PACKAGES = ("accelerate", "transformers", "vit-pytorch", "einops")  # beside those that every run's evidence names


def make_parser(description: str, script: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, prog=f"benchmarks/{script}.py"
    )
    parser.add_argument(
        "--sizes",
        choices=("paper", "lite", "lite-cifar10", "tiny"),
        default="paper",
        help="recipe whose network and settings are used",
    )
    parser.add_argument("--batch-size", type=at_least_1, default=64, help="images a step")
    parser.add_argument("--repeats", type=at_least_1, default=7, help="rounds in which every contestant has its turn")
    parser.add_argument("--steps", type=at_least_1, default=5, help="steps of a turn")
    parser.add_argument(
        "--precision", nargs="+", choices=("float32", "bf16"), default=["float32", "bf16"], help="one or both"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument(
        "--out", type=Path, default=argparse.SUPPRESS, help=f"evidence file (default: results/{script}-DEVICE.json)"
    )
    return parser


def at_least_1(text: str) -> int:
    """For argparse: an int above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def settings_of(sizes: str, batch_size: int) -> Settings:
    """The recipe `sizes` with another batch size, at the size that it has for images of NATIVE pixels a side."""
    own = resolve(sizes)
    side = own.data.shape[0] if own.data.shape else scaled_size(NATIVE, NATIVE, patching_of(own), own.data.scale)[0]
    changes: dict[str, Any] = {"finetune.batch_size": batch_size, "data.size": side}
    return resolve(sizes, batch_size=batch_size, **changes)


def default_source(stem: str) -> str:
    """The set that a recipe X-cifar10 is for: the folder data/cifar10 where it is there, or else cifar10 by name."""
    name = stem.split("-")[-1]
    return f"data/{name}" if Path("data", name).is_dir() else name


def settings_in(words: list[str]) -> dict[str, str]:
    """`--name value` and `--name=value` as a dictionary; raises UserError."""
    found, rest = {}, iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        value = value if equals else next(rest, "")
        if not word.startswith("--") or not value:
            raise UserError(f"'{word}': expected --NAME VALUE; --help lists the flags")
        found[name.replace("-", "_")] = value
    return found


def flags_of(settings: Mapping[str, str]) -> list[str]:
    """The words that `settings_in` makes them of."""
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def labelled_set(recipe: str, data: str, changes: Mapping[str, Any]) -> tuple[Settings, Dataset]:
    """A recipe with changes, and the images with labels that it would be run on; raises UserError."""
    settings = resolve(recipe, **changes)
    return settings, load(data, settings.data, patching=patching_of(settings), need_labels=True)


def write_images(folder: Path, images: int) -> None:
    """PNG files NATIVE pixels a side in class folders: `images` under train/, one of each class under val/ and test/.

    Smooth colours and a little noise, so that the files compress about as photographs do.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", CLASSES), ("test", CLASSES)):
        for number in range(count):
            file = folder / split / f"class{number % CLASSES}" / f"{number:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
            smooth = np.asarray(coarse.resize((NATIVE, NATIVE), Image.Resampling.BICUBIC), np.int16)
            pixels = smooth + rng.integers(-6, 7, smooth.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    turns: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every turn: in each repeat all take one, and the next repeat starts with another of them.

    What else the machine does, and how warm it is, thus falls on all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            synchronise(device)
            began = time.perf_counter()
            turns[name]()
            synchronise(device)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and the values themselves, in the order of the repeats; four digits are kept."""
    short = [float(f"{value:.4g}") for value in values]
    middle = float(f"{statistics.median(values):.4g}")
    return {"median": middle, "min": min(short), "max": max(short), "all": short}


def ratios(values: Sequence[float], over: Sequence[float]) -> dict[str, Any]:
    """`spread` of the quotients, repeat by repeat."""
    return spread([value / other for value, other in zip(values, over, strict=True)])


def paired(values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Mean difference of at least two pairs, and the ends of its interval of 95 %, by Student's t over the pairs."""
    gains = [value - other for value, other in zip(values, others, strict=True)]
    mean = statistics.fmean(gains)
    reach = float(t.ppf((1 + LEVEL) / 2, len(gains) - 1)) * statistics.stdev(gains) / len(gains) ** 0.5
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def say(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def write_evidence(
    script: str,
    given: argparse.Namespace,
    argv: Sequence[str],
    accelerator: Accelerator,
    began: float,
    found: Any,
    seeds: Sequence[int] = (0,),
) -> Path:
    """Write what was found with where, when and how, as the verbs' summaries state it; returns the file."""
    details = evidence(script)
    details.pop("resumed")
    # The verbs look for uncommitted changes in src/ alone.
    changed = subprocess.run(["git", "-C", str(REPO), "diff", "--quiet", "HEAD", "--", "benchmarks"], check=False)
    if details["commit"] and changed.returncode and not details["commit"].endswith("+changes"):
        details["commit"] += "+changes"
    for name in PACKAGES:
        try:
            details["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    details["command"] = shlex.join(["python", f"benchmarks/{script}.py", *argv])
    details["environment"]["threads"] = torch.get_num_threads()
    details |= {
        "seconds": round(time.perf_counter() - began, 1),
        "device": describe(accelerator)["device"],
        "settings": {k: v for k, v in vars(given).items() if k != "out"},
        "seeds": list(seeds),
    }
    file = getattr(given, "out", REPO / "results" / f"{script}-{accelerator.device.type}.json")
    write_whole(file, json.dumps({**found, "details": details}, indent=1) + "\n")
    say(f"written to {file}")
    return file
