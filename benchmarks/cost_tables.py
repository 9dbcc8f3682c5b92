"""Tables of what networks cost: counted, on small devices on paper, and measured by `pocketvit bench`."""

from __future__ import annotations

from functools import cache

from writing import Json, markdown, plain, when

from pocketvit.config import PRESETS
from pocketvit.model.devices import DEVICES, VALUE_BYTES
from pocketvit.pages import words
from pocketvit.pages.speed import HEADS, by_case, case_title, cells, conditions, fitting_ms, row_title

# Preset, and the images that it is meant for: (size, channels).
BUDGETS = {"paper": (36, 3), "lite": (32, 3), "tiny": (32, 3), "digits": (8, 1)}


@cache
def cost_of(preset: str) -> Json:
    """What a preset costs at its size and channels; counted once, for several tables."""
    import pocketvit as pv

    size, channels = BUDGETS[preset]
    found: Json = pv.budget(preset=preset, size=size, channels=channels)
    return found


def budget_table() -> str:
    """What each preset costs at its size and channels; counted, not measured."""
    head = [
        "preset", "image", "tokens", "parameters", "MACs", "MACs without attention", "MACs of pre-training, forward",
    ]  # fmt: skip
    rows = []
    for preset, (size, channels) in BUDGETS.items():
        cost = cost_of(preset)
        tokens = 1 + (size // int(PRESETS[preset]["patch"])) ** 2
        counts = (cost["params"], cost["macs"], cost["macs_without_attention"], cost["pretrain_macs"])
        amounts = (words.amount(count) for count in counts)
        rows.append([f"`{preset}`", f"{size}×{size}×{channels}", str(tokens), *amounts])
    return plain(markdown(head, rows) + "\n")


def devices_table() -> str:
    """What each preset takes at its size and channels, in int8 and float32; counted, not measured."""
    head = ["preset", "weights, MB", "peak activations, kB", *(f"{device.core}, ms" for device in DEVICES)]
    rows = []
    for preset in BUDGETS:
        found = cost_of(preset)["devices"]
        first = [one for one in found if one["part"] == DEVICES[0].part]
        cells = [
            " / ".join(f"{one['weights_bytes'] / 1e6:.2f}" for one in first),
            " / ".join(f"{one['activations_bytes'] / 1e3:.0f}" for one in first),
        ]
        for device in DEVICES:
            times = [fitting_ms(one) for one in found if one["part"] == device.part]
            cells.append(" / ".join(dict.fromkeys(times)))
        rows.append([f"`{preset}`", *cells])
    notes = [f"- {device.core}: {device.part}, {device.clock / 1e6:,.0f} MHz; {device.grounds}." for device in DEVICES]
    return plain("\n".join([markdown(head, rows), "", f"Each is {' / '.join(VALUE_BYTES)}.", "", *notes]) + "\n")


def operators_table(found: Json) -> str:
    """Shares of an exported network's time by operator, those of a hundredth or more."""
    spent, details = found["microseconds"], found["details"]
    total = sum(spent.values())
    rows = [[f"`{name}`", f"{100 * one / total:.0f} %"] for name, one in spent.items() if one >= total / 100]
    origin = f"`{details['command']}`. {total / 1000:.1f} ms a call over {found['calls']} calls; {when(details)}."
    return plain(f"{markdown(['operator', 'share of the time'], rows)}\n\n<sub>{origin}</sub>\n")


def exports_table(found: Json) -> str:
    """A row for each kind of file: its size, and how it answers beside the network that it was made of."""
    rows, details = [], found["details"]
    written = [row for row in found["rows"] if "refused" not in row]
    for row in written:
        cells = [f"{row['bytes'] / 1e6:.2f}", words.percent(row["agreement"]), f"{row['difference']:.1g}"]
        accuracies = (words.percent(row[key]) for key in ("exported_accuracy", "accuracy"))
        verified = [*cells, *accuracies] if row["verified"] else [cells[0], *["not verified"] * 4]
        rows.append([f"`{row['to']}`{', int8' if row['int8'] else ''}", *verified])
    head = ["`--to`", "file, MB", "same class", "largest difference of a probability", "test accuracy", "in PyTorch"]
    refused = [f"{row['refused'][0].upper()}{row['refused'][1:]}." for row in found["rows"] if "refused" in row]
    origin = f"`{details['command']}`: {written[0]['images']:,} test images; {when(details)}."
    return plain("\n\n".join([markdown(head, rows), *refused, f"<sub>{origin}</sub>"]) + "\n")


def bench_table(found: Json) -> str:
    """A table for each number of images and threads, the fastest first, and what they hold for."""
    rows, details = found["rows"], found["details"]
    tables = [
        markdown([case_title(*case), *HEADS], [[row_title(row, rows), *cells(row)] for row in some])
        for case, some in by_case(rows).items()
    ]
    calls = rows[0]["seconds"]["calls"]
    versions = ", ".join(f"{name} {version}" for name, version in details["runtimes"].items())
    origin = f"`{details['command']}`. {conditions(found)} {calls} calls each; {versions}; {when(details)}."
    return plain("\n\n".join([*tables, *found["notes"], f"<sub>{origin}</sub>"]) + "\n")
