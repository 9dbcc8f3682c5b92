"""How long a run takes, over all its calls: in all, and stage by stage."""

from __future__ import annotations

import json
import time
from pathlib import Path

from pocketvit.files import read_json, write_whole

OPENING = "opening"  # until the first stage begins: the images are decoded, and speeds are measured


class Clock:
    """Seconds of a run by what it did in them, kept in a file: a call that goes on counts from there.

    Args:
        file: where they are kept; None keeps them nowhere.
        began: when this call did, on time.monotonic's clock; None for now.
    """

    def __init__(self, file: Path | None = None, began: float | None = None) -> None:
        self._file, self._stage = file, OPENING
        self._since = time.monotonic() if began is None else began
        self.stages: dict[str, float] = read_json(file) if file is not None and file.exists() else {}

    @property
    def seconds(self) -> float:
        """Since the run began, the time between its calls left out."""
        return sum(self.stages.values()) + time.monotonic() - self._since

    def enter(self, stage: str) -> None:
        """From now on the time is that of `stage`."""
        self.tick()
        self._stage = stage

    def tick(self) -> None:
        """Keep what has passed: a call that is killed has spent what it had kept."""
        now = time.monotonic()
        self.stages[self._stage] = self.stages.get(self._stage, 0.0) + now - self._since
        self._since = now
        if self._file is not None:
            write_whole(self._file, json.dumps({name: round(value, 3) for name, value in self.stages.items()}) + "\n")
