"""Words and tables in Markdown, as README and docs show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pocketvit.pages import words

Json = Mapping[str, Any]


class BadEvidence(Exception):
    """A results file that no table can be made of, or a table without an end; the message names it."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without a last newline; nothing where there are no rows."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) if rows else ""


def between(summary: Json | None, shown: Callable[[float], str]) -> str:
    """Median, and in brackets the smallest and the largest; a dash for what was not measured."""
    if summary is None:
        return "–"
    return f"{shown(summary['median'])} ({shown(summary['min'])}–{shown(summary['max'])})"


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def device(details: Json) -> str:
    return f"cpu ({details['environment']['cpu']})" if details["device"] == "cpu" else str(details["device"])


def when(details: Json) -> str:
    commit, _, changes = (details["commit"] or "unknown").partition("+")
    return f"commit {commit[:7]}{' with ' + changes if changes else ''}; {details['date'][:10]}"


def plain(text: str) -> str:
    return text.replace(words.NBSP, " ")
