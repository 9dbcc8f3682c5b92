"""The table of CIFAR-10 and CIFAR-100: what benchmarks/reproduce.py wrote for our recipes, and what others publish."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench_tables import STAGES
from cost_tables import cost_of
from writing import BadEvidence, Json, minutes, plain

from pocketvit.pages import words
from pocketvit.run.summary import updated

PUBLISHED = Path(__file__).with_name("published.json")
NOT_MEASURED = "not measured"
# Our recipes, by what their rows are called: preset, and what their names end in after that of the data.
OURS = {"`paper`": ("paper", ""), "`lite`": ("lite", ""), "`lite` on two CPU cores": ("lite", "-cpu")}
CIFAR = ("cifar10", "cifar100")
Z95 = 1.959964  # of a normal distribution, two-sided
UNTRAINED = "random init, equal steps"


class Row(NamedTuple):
    """What a row says of a recipe's runs.

    Args:
        readings: of a run, side by side; None for what it has not read.
        stages: that they rest on: an objective's name, or "finetune-" and an arm's.
    """

    readings: tuple[Callable[[Json], float | None], ...]
    stages: tuple[str, ...]


ROWS = {
    "MAE, then fine-tuned": Row(
        (lambda run: _last(run)["arms"].get("mae", {}).get("accuracy"),), ("mae", "finetune-mae")
    ),
    UNTRAINED: Row((lambda run: _last(run)["arms"].get("random", {}).get("accuracy"),), ("finetune-random",)),
    "frozen after pre-training: kNN; linear probe": Row(
        (lambda run: run["probe"].get("mae", {}).get("knn"), lambda run: run["probe"].get("mae", {}).get("linear")),
        ("mae",),
    ),
}
FIRST = next(iter(ROWS))  # has what is true of all of them


def cifar_table(results: Path) -> str:
    """The recipes `paper` and `lite` on CIFAR-10 and CIFAR-100 over their seeds, then what others publish."""
    lines = [
        "| model | parameters | MACs | epochs | CIFAR-10, % | CIFAR-100, % | time | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    origins = []
    for title, (preset, ending) in OURS.items():
        cost = cost_of(preset)
        macs = f"{words.amount(cost['macs'])}; {words.amount(cost['macs_without_attention'])} without attention"
        found = {data: _runs(results, f"{preset}-{data}{ending}") for data in CIFAR}
        for name, row in ROWS.items():
            cells = [
                f"**{title}**, {name}",
                *((words.amount(cost["params"]), macs, _both(found, _epochs)) if name == FIRST else ("", "", "")),
                *(_over_seeds(found[data], row.readings) + _shortfall(found[data], name) for data in CIFAR),
                _both(found, partial(_time, name=name)),
                "ours" if name == FIRST else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        origins += [_origin_of_seeds(runs) for runs in found.values() if runs]
    for peer in json.loads(PUBLISHED.read_text(encoding="utf-8")):
        macs = f"{peer['macs']} as published" if "macs" in peer else ""
        cells = [peer["model"], peer.get("params", ""), macs, *(peer.get(k, "") for k in ("epochs", *CIFAR, "time"))]
        lines.append(f"| {' | '.join(cells)} | [{peer['source']}]({peer['url']}) |")
    return plain("\n".join([*lines, "", *(f"<sub>{origin}</sub>\n" for origin in origins)]).rstrip("\n") + "\n")


def _runs(results: Path, recipe: str) -> list[Json]:
    """The evidence for a recipe as it stands, by seed, from the device that has most of them; raises BadEvidence."""
    by_device: dict[str, list[Json]] = {}
    for file in sorted(results.glob(f"{recipe}-*.json")):
        try:
            run = updated(json.loads(file.read_text(encoding="utf-8")), file.name)
            about = run["reproduction"]
            if about["recipe"] == recipe and not about["changes"]:
                by_device.setdefault(run["details"]["device"], []).append(run)
        except (ValueError, KeyError, TypeError) as error:
            raise BadEvidence(f"results/{file.name} is not what benchmarks/reproduce.py writes ({error!r})") from error
    runs = max(by_device.values(), key=len, default=[])
    return sorted(runs, key=lambda run: int(run["reproduction"]["seed"]))


def _last(run: Json) -> Json:
    entry: Json = run["finetune"][-1]
    return entry


def _over_seeds(runs: list[Json], readings: tuple[Callable[[Json], float | None], ...]) -> str:
    """Mean and standard deviation of each reading in percent, or one run's with the test images' interval."""
    cells = []
    for reading in readings:
        found = [(value, run["dataset"]["test"]) for run in runs if (value := reading(run)) is not None]
        if not found:
            continue
        values = [100 * value for value, _ in found]
        if len(found) > 1:
            cells.append(f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}")
        else:
            low, high = interval(*found[0])
            cells.append(f"{values[0]:.2f} (one run; {100 * low:.1f}–{100 * high:.1f})")
    return "; ".join(cells) or NOT_MEASURED


def _shortfall(runs: list[Json], row: str) -> str:
    """Said of random init where it had fewer steps than the arm from MAE, as a quarter of an hour may leave it."""
    steps = [{run["init"]: run["steps"] for run in one["details"]["runs"]} for one in runs]
    shares = [of["random"] / of["mae"] for of in steps if {"random", "mae"} <= of.keys()]
    if row != UNTRAINED or not shares or min(shares) >= 1:
        return ""
    return f"; after {100 * min(shares):.0f} % of the steps"


def interval(share: float, images: int) -> tuple[float, float]:
    """95 % interval of a share of `images` that were drawn at random (Wilson 1927)."""
    middle = (share + Z95**2 / (2 * images)) / (1 + Z95**2 / images)
    half = Z95 / (1 + Z95**2 / images) * (share * (1 - share) / images + Z95**2 / (4 * images**2)) ** 0.5
    return middle - half, middle + half


def _both(found: Mapping[str, list[Json]], say: Callable[[list[Json]], str]) -> str:
    """What is to be said of CIFAR-10 and of CIFAR-100, once where it is the same."""
    return "; ".join(dict.fromkeys(said for data in CIFAR if (said := say(found[data]))))


def _epochs(runs: list[Json]) -> str:
    counts = dict.fromkeys(
        " + ".join(str(run["reproduction"][s]["epochs"]) for s in STAGES if s in run["reproduction"]) for run in runs
    )
    return ", ".join(counts) or NOT_MEASURED


def _time(runs: list[Json], name: str) -> str:
    """Of a row: minutes in the first for all of them; or, on a CPU, core-hours of each, one stage after the other."""
    if not runs or runs[0]["details"]["device"] != "cpu":
        every = minutes(statistics.fmean(run["details"]["seconds"] for run in runs)) if runs else NOT_MEASURED
        return every if name == FIRST else ""
    spent = [run["pretrain"] | {f"finetune-{one['init']}": one for one in run["details"]["runs"]} for run in runs]
    stages = ROWS[name].stages
    if not all(stage in one for one in spent for stage in stages):
        return ""
    hours = (statistics.fmean(one[stage]["cpu_seconds"] for one in spent) / 3600 for stage in stages)
    return " + ".join(f"{value:.1f}" for value in hours) + " core-hours"


def _origin_of_seeds(runs: list[Json]) -> str:
    """What produced a recipe's figures."""
    first, calls = runs[0]["details"], [call for run in runs for call in run["reproduction"]["calls"]]
    commits = ", ".join(dict.fromkeys((call["commit"] or "unknown")[:7] for call in calls))
    commands = ", ".join(dict.fromkeys(f"`{call['command']}`" for call in runs[0]["reproduction"]["calls"]))
    seeds = ", ".join(str(run["reproduction"]["seed"]) for run in runs)
    data = runs[0]["dataset"]
    mirrored = statistics.fmean(100 * run["reproduction"]["mirrored_accuracy"] for run in runs)
    return (
        f"{commands}: {data['train']:,} train and {data['test']:,} test images; {first['device']}, "
        f"{first['precision']}; {'seeds' if len(runs) > 1 else 'seed'} {seeds}; commit {commits}; "
        f"{first['date'][:10]}. Images averaged with their mirror images at test: {mirrored:.2f} %."
    )
