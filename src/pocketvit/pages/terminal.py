"""What a person reads in the terminal: what a run has before it, its plan, and its end."""

from __future__ import annotations

import os
import shutil
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pocketvit.config import ModelConfig
from pocketvit.data import mirrored_classes
from pocketvit.model.costs import classifier_costs
from pocketvit.pages import caveats, words
from pocketvit.pages.sections import arranged, leaderboard
from pocketvit.stages.context import Context
from pocketvit.stages.plan import Part, Plan, plan_arms
from pocketvit.training.device import describe
from pocketvit.training.memory import step_bytes

INDENT = 8  # of what follows a line's first word
WIDTH = 100
MEASURING = f"{'':<{INDENT}}measuring how long each stage takes here"

Json = dict[str, Any]


def introduce(context: Context, doubts: bool) -> None:
    """Say what is trained on, with what, and what a person should know of it; with `doubts`, also of the labels."""
    dataset, settings, say = context.dataset, context.settings, context.log.say
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    counts = " · ".join(f"{name} {len(split):,}" for name, split in splits.items() if split is not None)
    height, width, channels = dataset.shape
    native = dataset.native and tuple(dataset.native)
    size = f"{native[1]:g}x{native[0]:g} -> " if native and native != (height, width) else ""
    kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    classes = f"{len(dataset.classes)} classes   " if dataset.classes else ""
    say(_line("Data", f"{dataset.name}   {size}{width}x{height} {kind}   {classes}{counts}"))
    symmetry, lines = settings.data.symmetry, []
    if symmetry != "none":
        lines.append(
            f"training {'mirrors' if symmetry == 'mirror' else 'mirrors and turns'} images (--symmetry {symmetry})"
        )
        found = mirrored_classes(*dataset.labelled("train"), dataset.classes, symmetry) if doubts else []
        lines += [finding.text for finding in found]
    for line in (*dataset.notes, *lines):
        say(_line("", line))
    networks = ("vit", *context.networks) if "pretrain" in context.stages else context.networks
    for place, name in enumerate(dict.fromkeys(networks)):
        say(_line("" if place else "Model", " · ".join(_sizes(context, name))))
    on = describe(context.accelerator)
    cores = f", {os.cpu_count()} cores" if on["device"] == "cpu" else ""
    say(_line("Device", f"{on['device']}{cores}, {on['precision']}"))


def _sizes(context: Context, network: str) -> Iterator[str]:
    """What a kind of network is called, and its sizes."""
    config, (height, width, _) = context.settings.network(network), context.dataset.shape
    yield config.preset
    if isinstance(config, ModelConfig):
        patch = config.sizes().patch
        yield from (f"patch {patch}", f"{height // patch * (width // patch)} patches")
    cost = classifier_costs(network, config, context.dataset.shape, len(context.dataset.classes))
    yield from (f"{words.amount(cost.params)} parameters", f"{words.amount(cost.macs)} MACs")


def plan_lines(context: Context, plan: Plan) -> list[str]:
    """A plan as the person who waits reads it."""
    lines = _line("Plan", " · ".join(_in_short(plan))).splitlines()
    ends = time.strftime("%H:%M", time.localtime(time.time() + plan.seconds - context.clock.seconds))
    total = [f"about {words.duration(plan.seconds)}, ends near {ends}", f"{_memory(context, plan) / 1e9:.1f} GB"]
    lines.append(_line("", ", ".join(total)))
    return [*lines, *(_line("", note) for note in plan.notes)]


def place_line(context: Context) -> str:
    """Where a run is written."""
    return _line("Run", str(context.folder.root))


def _in_short(plan: Plan) -> Iterator[str]:
    """Its stages, the fine-tunings together."""
    groups: dict[str, list[Part]] = {}
    for part in plan.parts:
        groups.setdefault(part.key.split("-")[0], []).append(part)
    for name, parts in groups.items():
        seconds = words.duration(sum(part.seconds for part in parts))
        if name == "finetune":
            seeds = f" x {plan.seeds} seeds" if plan.seeds > 1 else ""
            budgets = len(parts) // (plan.seeds * len(plan.arms))
            sizes = f" x {budgets} label counts" if budgets > 1 else ""
            yield f"training {len(plan.arms)} arm{'s' if len(plan.arms) > 1 else ''}{seeds}{sizes} {seconds}"
        elif name == "pixels":
            yield f"raw pixels {seconds}"
        else:
            yield from (f"{part.title} {words.duration(part.seconds)}" for part in parts)


def _memory(context: Context, plan: Plan) -> float:
    """Bytes that the process will take at its peak, about."""
    dataset, accelerator = context.dataset, context.accelerator
    about = (dataset.shape, len(dataset.classes), context.settings, accelerator.device)
    of_steps = (
        sum(step_bytes(stage, *about, accelerator.mixed_precision != "no", kind))
        for arm in plan_arms(plan)
        for stage, kind in (("pretrain", arm.objective), ("finetune", arm.network))
        if kind and stage in context.stages
    )
    return float(psutil.Process().memory_info().rss + max(of_steps))


def ending(summary: Json, run: str) -> RenderableType:
    """The end of a run: what was found, what was saved, and what people want next; to be printed without wrapping."""
    details, entries = summary.get("details") or {}, arranged(summary.get("finetune"))
    fraction = details.get("label_fraction")
    said = [caveats.outdone(summary, entries, fraction), words.headline(summary, entries, fraction)]
    first, *rest = [line if line.endswith(".") else f"{line}." for line in said if line]
    rest += caveats.standfirst(summary, entries)
    parts: list[RenderableType] = ["", Text(_filled(first), style="bold"), Text(_filled(" ".join(rest)))]
    rows = leaderboard(summary, entries)
    if rows:
        parts += ["", _board(rows, [words.budget(entry, fraction) for entry in entries])]
    parts.append("")
    parts += [Text(plain(line)) for line in _facts(summary)]
    follow = [f"pocketvit predict IMAGES --model {run}", f"pocketvit evaluate OTHER_DATA --model {run}"]
    follow = follow if entries else [f"pocketvit finetune DATA --init {run}", f"pocketvit probe DATA --model {run}"]
    follow.append(f"open {summary['files']['report']}")
    parts += ["", *(Text(f"{'' if number else 'Next':<{INDENT}}{line}") for number, line in enumerate(follow))]
    return Group(*parts)


def _board(rows: Sequence[Json], budgets: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("test accuracy", overflow="fold")
    for budget in budgets:
        table.add_column(plain(budget), justify="right")
    table.add_column("")
    # Of what follows the per cents, for these to stand below each other.
    widest = [
        max(len(_spread(value)) for value in column) for column in zip(*(row["spreads"] for row in rows), strict=True)
    ]
    for row in rows:
        cells = ["" if value is None else f"{100 * value:.1f} %" for value in row["accuracies"]]
        spreads = [_spread(value).ljust(size) for value, size in zip(row["spreads"], widest, strict=True)]
        style = "bold" if row["saved"] else "dim" if row["kind"] == "chance" else ""
        both = (cell + spread for cell, spread in zip(cells, spreads, strict=True))
        table.add_row(row["name"], *both, "saved" if row["saved"] else "", style=style)
    return table


def _spread(value: float | None) -> str:
    return "" if value is None else f" ± {100 * value:.1f}"


def _facts(summary: Json) -> Iterator[str]:
    """What was saved and why, the weakest class, and the time."""
    details = summary.get("details") or {}
    shipped = words.arms(summary).get(details.get("shipped", ""))
    weights = summary["files"]["weights"]
    if shipped:
        what = words.network(shipped, bool(details.get("frozen")))
        yield _line("Saved", f"{what}, {details['chosen_by']}")
    yield f"{'' if shipped else 'Saved':<{INDENT}}{weights}"
    if (weakest := words.weakest(details.get("evaluation") or {})) is not None:
        yield _line("Weakest", weakest)
    if (doubts := details.get("doubtful_labels")) is not None:
        some = f"{doubts} may be wrong: doubtful-labels.csv, the most doubtful first"
        yield _line("Labels", some if doubts else "none in doubt")
    if (others := words.unlabelled(details)) is not None:
        yield _line("Beside", f"images without a label: {others}")
    plan = details.get("plan") or {}
    planned = f", planned {words.duration(plan['seconds'])}" if plan.get("seconds") else ""
    yield _line("Time", f"{words.duration(details.get('seconds'))}{planned}")
    yield from (_line("", note) for note in (caveats.unused(summary), *(plan.get("notes") or [])) if note)


def _line(head: str, text: str) -> str:
    """A line with its first word in a column of its own, wrapped beside it."""
    return textwrap.fill(
        text, _width(), initial_indent=f"{head:<{INDENT}}", subsequent_indent=" " * INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _filled(text: str) -> str:
    return textwrap.fill(plain(text), _width(), break_long_words=False, break_on_hyphens=False)


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size().columns)


def plain(text: str) -> str:
    """With spaces that a terminal may break at."""
    return text.replace(words.NBSP, " ")
