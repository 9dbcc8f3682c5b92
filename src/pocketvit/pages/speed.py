"""What is read in a terminal of how fast and how large networks are: what small devices would take, on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


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
