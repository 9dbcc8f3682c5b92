"""A finished run in a notebook: the verdict, the leaderboard and where the page is."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from pocketvit.pages import caveats, words
from pocketvit.pages.sections import arranged, leaderboard
from pocketvit.run.folder import RunFolder


def notebook(summary: Mapping[str, Any], run: Path) -> str:
    """HTML of a run."""
    details = summary.get("details") or {}
    entries, fraction = arranged(summary.get("finetune")), details.get("label_fraction")
    said = caveats.first(summary, entries, fraction)
    heads = "".join(f"<th>{escape(words.budget(entry, fraction))}</th>" for entry in entries)
    rows = "".join(
        f"<tr{' style=font-weight:bold' if row['saved'] else ''}><td style=text-align:left>{escape(row['name'])}</td>"
        + "".join(f"<td>{'' if value is None else words.percent(value)}</td>" for value in row["accuracies"])
        + f"<td style=text-align:left>{'saved' if row['saved'] else ''}</td></tr>"
        for row in leaderboard(dict(summary), entries)
    )
    table = (
        f"<table><tr><th style=text-align:left>test accuracy</th>{heads}<th></th></tr>{rows}</table>" if rows else ""
    )
    text = " ".join(escape(line) for line in said)
    link = escape(str(RunFolder(run).report))
    return (
        f"<div><b>{escape(words.headline(summary, entries, fraction))}</b><p>{text}</p>{table}"
        f'<p><a href="{link}">{link}</a></p></div>'
    )
