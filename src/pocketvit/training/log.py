"""What a run says while it works: metrics.jsonl, one progress line on stderr, TensorBoard where it is asked for."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class RunLog:
    """Writes to `folder`/metrics.jsonl (nothing where it is None) and to stderr.

    Args:
        folder: the run directory.
        tensorboard: also write TensorBoard events there; needs the extra `track`.
    """

    def __init__(self, folder: Path | None = None, tensorboard: bool = False) -> None:
        self.folder = folder
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._writer: Any = None
        if tensorboard and folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def say(self, text: str) -> None:
        """One line for the person who waits."""
        self.console.print(text, markup=False)

    def metrics(self, record: dict[str, Any]) -> None:
        """Append one record; numbers also go to TensorBoard, under the record's stage."""
        if self.folder is not None:
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")
        if self._writer is not None:
            stage = "/".join(str(record[k]) for k in ("stage", "init", "labels_per_class", "seed") if k in record)
            for name, value in record.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{stage}/{name}", value, record["step"])
            self._writer.flush()


class StageProgress:
    """Progress of one stage: a bar on a terminal, elsewhere a plain line every ten seconds."""

    def __init__(self, log: RunLog, title: str, steps: int, done: int) -> None:
        self._log, self._title, self._steps, self._first = log, title, steps, done
        self._started = self._said = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=log.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(title, total=steps, completed=done, note="")

    def update(self, step: int, note: str) -> None:
        """Show that `step` steps are done; `note` holds the loss and the rate."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
        elif now - self._said >= 10:
            self._said = now
            left = (now - self._started) / max(1, step - self._first) * (self._steps - step)
            self._log.say(f"{self._title}  step {step}/{self._steps}  {note}  {left:.0f} s left")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
