"""What a fit reaches on several splits of a set, in one form and in others: evidence for published rows.

    python benchmarks/splits.py digits digits --labels-per-class 5 --splits 1 2 3 4 5 --seeds 5 \\
        --form finetune.unlabelled=none

On each split `fit` is run as the recipe is, then with the changes of each form, from the same pre-trained weights.
Every arm, and every baseline on raw pixels, is compared with the first arm of the recipe, paired by split; a split has
its own test images, of which others may have some as well. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import REPO, at_least_1, paired, say, settings_in, write_evidence

import pocketvit as pv
from pocketvit.config import recipe_path, resolve
from pocketvit.evaluation.statistics import deviation
from pocketvit.run.folder import CONFIG
from pocketvit.run.summary import read_summary
from pocketvit.training.device import make_accelerator

Json = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The flags; any other --NAME VALUE is a setting."""
    made = argparse.ArgumentParser(
        prog="benchmarks/splits.py", description=__doc__.split("\n")[0], allow_abbrev=False,
        epilog="Any other --NAME VALUE is a setting of all, as for `pocketvit fit`; one label budget.",
    )  # fmt: skip
    made.add_argument("recipe", help="name of a recipe, or a YAML file")
    made.add_argument("data", help="source of images with labels")
    made.add_argument("--splits", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="seeds of them (default: 1 to 5)")
    made.add_argument("--seeds", type=at_least_1, default=5, help="trainings of each arm on a split (default: 5)")
    made.add_argument(
        "--form", action="append", default=[], metavar="CHANGES", help='"NAME=VALUE ...", of fine-tuning; once a form'
    )
    made.add_argument("--name", help="of the evidence, results/splits-NAME.json (default: the recipe's)")
    made.add_argument("--out", type=Path, default=argparse.SUPPRESS, help="evidence file in its place")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run or go on; returns the exit status."""
    argv, began = sys.argv[1:] if argv is None else argv, time.perf_counter()
    given, rest = parser().parse_known_args(argv)
    name = given.name or recipe_path(given.recipe).stem
    given.out = getattr(given, "out", REPO / "results" / f"splits-{name}.json")
    try:
        settings = settings_in(rest)
        used = resolve(given.recipe, **settings)
        if len(given.splits) < 2 or len(used.data.label_budgets) > 1:
            raise pv.UserError("at least two --splits, and one label budget: --labels-per-class 5")
        forms = [{}, *(settings_in([f"--{word}" for word in form.split()]) for form in given.form)]
        rows: dict[tuple[int, str], Json] = {}
        for split in given.splits:
            folder = Path("runs") / f"splits-{name}" / str(split)
            for number, changes in enumerate(forms):
                start: Json = {"init": folder / "0"} if number else {}
                about = {**settings, **changes, "data.split_seed": split, "seeds": given.seeds}
                out = folder / str(number)
                pv.fit(given.data, recipe=given.recipe, out=out, resume=(out / CONFIG).exists(), **start, **about)
                for one in reached(read_summary(out), baselines=not number):
                    row = rows.setdefault(
                        (number, one["method"]), {"changes": changes, **one, "all": [], "seconds": []}
                    )
                    row["all"].append(one["accuracy"])
                    row["seconds"].append(one["seconds"])
        found = {"methods": compared(list(rows.values())), "labels": labels_of(folder)}
        seeds = range(used.seed, used.seed + given.seeds)
        write_evidence("splits", given, argv, make_accelerator(used.device), began, found, seeds)
        return 0
    except pv.UserError as error:
        say(f"splits: {error}")
        return 2


def reached(summary: Json, baselines: bool) -> list[Json]:
    """What each arm of a run has on the test images and how long a training took, and raw pixels where asked for."""
    (entry,), details = summary["finetune"], summary["details"]
    found = []
    for arm in summary["arms"]:
        name = arm["name"]
        took = statistics.fmean(run["seconds"] for run in details["runs"] if run["init"] == name)
        found.append(
            {"method": name, "title": arm["title"], "accuracy": entry["arms"][name]["accuracy"], "seconds": took}
        )
    pixels = {key: value["accuracy"] for key, value in details["pixels"][0].items() if key != "labels_per_class"}
    for name, accuracy in pixels.items() if baselines else ():
        found.append({"method": name, "title": name, "accuracy": accuracy, "seconds": 0.0})
    return found


def compared(rows: list[Json]) -> list[Json]:
    """With mean and deviation over splits, and what the first method has more than each."""
    first = rows[0]["all"]
    return [
        {
            **row, "accuracy": statistics.fmean(row["all"]), "std": deviation(row["all"]),
            "seconds": statistics.fmean(row["seconds"]),
            "gain": None if row is rows[0] else paired(first, row["all"]),
        }
        for row in rows
    ]  # fmt: skip


def labels_of(folder: Path) -> int:
    """How many labels a training had."""
    return int(read_summary(folder / "0")["details"]["runs"][0]["labels"])


if __name__ == "__main__":
    sys.exit(main())
