"""summary.json, a run's results; what earlier versions wrote is brought up to date as it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketvit.errors import UserError
from pocketvit.run.folder import SUMMARY

FORMAT = 2
PRINTED = ("format", "dataset", "model", "arms", "pretrain", "probe", "finetune", "files")
# What the two arms that there were before version 2 are called since.
FIRST_ARMS = (
    {"name": "mae", "title": "MAE", "colour": "#2b7bba", "pretrained": True},
    {"name": "random", "title": "random init", "colour": "#d5651a", "pretrained": False},
)

Json = dict[str, Any]


def read_summary(folder: Path) -> Json:
    """Results of a run directory, in today's format; UserError where there are none, damaged or newer ones."""
    file = folder / SUMMARY
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found: give the directory of a finished run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}): run again to write it anew") from None
    if not _are_results(summary):
        raise UserError(f"{file}: not what a run writes: run again to write it anew")
    return updated(summary, str(file))


def _are_results(summary: Any) -> bool:
    """Whether JSON has the form of results, of whatever format; parts of it may be null."""
    if not isinstance(summary, dict):
        return False
    tables = summary.get("finetune") or []
    parts = [summary.get(name) or {} for name in ("dataset", "model", "pretrain", "probe", "details")]
    return all(isinstance(part, dict) for part in [*parts, *(tables if isinstance(tables, list) else [tables])])


def printable(summary: Mapping[str, Any]) -> Json:
    """The part of a summary that `--json` prints."""
    return {key: summary[key] for key in PRINTED if key in summary}


def updated(summary: Json, name: str = SUMMARY) -> Json:
    """A summary in today's format; raises UserError, with its `name`, where it has a format that is not known."""
    version = summary.get("format", 1)
    if version == FORMAT:
        return summary
    if version != 1:
        raise UserError(f"{name}: results in format {version}, and this PocketViT reads up to format {FORMAT}")
    tables = summary.get("finetune") or []
    tables = [_updated_table(table) for table in (tables if isinstance(tables, list) else [tables])]
    present = {arm for table in tables for arm in table["arms"]} | set(summary.get("probe") or {})
    if summary.get("pretrain"):
        present.add("mae")
    return {
        **summary,
        "format": FORMAT,
        "arms": [dict(arm) for arm in FIRST_ARMS if arm["name"] in present],
        "pretrain": {"mae": summary["pretrain"]} if summary.get("pretrain") else {},
        "probe": summary.get("probe") or {},
        "finetune": tables,
    }


def _updated_table(table: Mapping[str, Any]) -> Json:
    arms = {name: table[name] for name in ("mae", "random") if table.get(name)}
    mean = arms["mae"]["accuracy"] - arms["random"]["accuracy"] if len(arms) == 2 else None
    gain = {"arm": "mae", "over": "random", "mean": mean, "interval": table.get("gain_interval")}
    return {
        "labels_per_class": table.get("labels_per_class"),
        "arms": arms,
        "pixels": table.get("pixels"),
        "gains": [] if mean is None else [gain],
    }
