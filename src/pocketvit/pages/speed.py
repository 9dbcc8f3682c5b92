"""What is read of how fast and how large networks are: as `bench` measured, and on small devices, on paper."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pocketvit.pages.figures import Timed, accuracy_by_latency

Json = Mapping[str, Any]

WIDTH = 100


def budget_text(result: Json) -> str:
    """What `budget` counted, a line each, and what small devices would take."""
    lines = []
    for name, value in result.items():
        if name != "devices":
            lines.append(f"{name}: {value:,}" if isinstance(value, (int, float)) else f"{name}: {value}")
    return "\n".join([*lines, "", *_devices(result["devices"])])


def _devices(found: Sequence[Json]) -> list[str]:
    precisions = list(dict.fromkeys(one["precision"] for one in found))
    places = list(dict.fromkeys((one["core"], one["part"]) for one in found))
    lines = [f"{'on paper, one core, ms an image at least':<42}" + "".join(f"{name:>15}" for name in precisions)]
    for core, part in places:
        cells = [fitting_ms(one) for one in found if one["part"] == part]
        lines.append(f"{f'  {core} ({part})':<42}" + "".join(f"{cell:>15}" for cell in cells))
    return lines


def fitting_ms(one: Json) -> str:
    """Milliseconds that an image takes at least, where the network fits."""
    return f"{1000 * one['least_seconds']:.3g}" if one["fits"] else "does not fit"


HEADS = (
    "median ms", "p99 ms", "images /s", "× eager", "× its float32", "of peak %", "load ms", "memory MB", "file MB",
    "test %",
)  # fmt: skip


def bench_text(found: Json) -> str:
    """What `bench` measured: a table for each number of images and threads, the fastest first."""
    rows: Sequence[Json] = found["rows"]
    lines = []
    for (batch, threads), some in by_case(rows).items():
        table = [[case_title(batch, threads), *HEADS], *([row_title(row, rows), *cells(row)] for row in some)]
        lines += [*_aligned(table), ""]
    return "\n".join([*lines, *textwrap.wrap(conditions(found), WIDTH), *found["notes"]])


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns to the right but for the first; a head of two words takes two lines."""
    first, *heads = table[0]
    parts = [head.rsplit(" ", 1) if " " in head else ["", head] for head in heads]
    lines = [["", *(part[0] for part in parts)], [first, *(part[1] for part in parts)], *table[1:]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(f"{cell:{'<' if not column else '>'}{widths[column]}}" for column, cell in enumerate(line)).rstrip()
        for line in lines
    ]


def by_case(rows: Sequence[Json]) -> dict[tuple[int, int], list[Json]]:
    """Rows by their numbers of images and threads, in order."""
    found: dict[tuple[int, int], list[Json]] = {}
    for row in rows:
        found.setdefault((row["batch"], row["threads"]), []).append(row)
    return dict(sorted(found.items()))


def cells(row: Json) -> list[str]:
    """Under HEADS."""
    return [
        _digits(1000 * row["seconds"]["median"]), _digits(1000 * row["seconds"]["p99"]),
        f"{row['images_per_second']:.0f}", _ratio(row["over_eager"]), _ratio(row["over_float32"]),
        f"{100 * row['share_of_peak']:.0f}", f"{1000 * row['load_seconds']:.0f}",
        "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}", f"{row['file_bytes'] / 1e6:.2f}",
        f"{100 * row['accuracy']:.2f}",
    ]  # fmt: skip


def conditions(found: Json) -> str:
    """What the figures hold for."""
    peaks = ", ".join(
        f"{peak['flops'] / 1e9:.0f} in {peak['precision']} on {_counted(peak['threads'], 'thread')}"
        for peak in found["peaks"]
    )
    cpu = found["details"]["environment"]["cpu"]
    return (
        f"{cpu} with {', '.join(found['instructions']) or 'instructions that are not known'}: figures in int8 hold for "
        f"these alone. Matmul peak, GFLOP/s: {peaks}. Memory is the process's most, with its runtime's library."
    )


def latency_figure(found: Json) -> str:
    """A file of SVG: accuracy against the latency of one image on one thread."""
    return accuracy_by_latency(
        [
            Timed(row["network"], row["runtime"], row["precision"], 1000 * row["seconds"]["median"], row["accuracy"])
            for row in found["rows"]
            if (row["batch"], row["threads"]) == (1, 1)
        ]
    )


def case_title(batch: int, threads: int) -> str:
    """The head of a table."""
    return f"{_counted(batch, 'image')}, {_counted(threads, 'thread')}"


def row_title(row: Json, rows: Sequence[Json]) -> str:
    """The runtime; and the network, where there are several."""
    name = f"{row['runtime']} {row['precision']}"
    return f"{row['network']}: {name}" if len({one["network"] for one in rows}) > 1 else name


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def _digits(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
