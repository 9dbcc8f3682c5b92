"""Tables of networks on small devices, on paper, and of what `pocketvit bench` measured."""

from __future__ import annotations

from collections.abc import Mapping

from writing import markdown, plain

from pocketvit.model.devices import DEVICES, VALUE_BYTES
from pocketvit.pages.speed import fitting_ms


def devices_table(presets: Mapping[str, tuple[int, int]]) -> str:
    """What each preset takes at its (size, channels), in int8 and float32; counted, not measured."""
    import pocketvit as pv

    head = ["preset", "weights, MB", "peak activations, kB", *(f"{device.core}, ms" for device in DEVICES)]
    rows = []
    for preset, (size, channels) in presets.items():
        found = pv.budget(preset=preset, size=size, channels=channels)["devices"]
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
