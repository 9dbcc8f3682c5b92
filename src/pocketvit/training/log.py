"""What a run says while it works: metrics.jsonl, one progress line on stderr, TensorBoard where it is asked for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from pocketvit.errors import UserError
from pocketvit.files import write_whole

BETWEEN_LINES, BRIEF = 60.0, 10.0  # seconds
TITLE_WIDTH, LEFT_WIDTH = 34, 24  # columns that a bar keeps for them on a narrow terminal


def check_tensorboard() -> None:
    """Raise UserError where its events cannot be written."""
    if find_spec("tensorboard") is None:
        raise UserError('--tensorboard: not installed here: pip install "pocketvit[track]"')


class Place(NamedTuple):
    """Where a stage stands in a run: its number among so many, its title, and the seconds of what comes after it.

    `planned` are those that its own steps were to take, where what comes later takes as much longer or shorter as
    they do; None where there is a limit to keep to.
    """

    number: int
    of: int
    title: str
    later: float
    planned: float | None = None


class RunLog:
    """Writes to `folder`/metrics.jsonl (nothing where it is None) and to stderr.

    Args:
        folder: the run directory.
        tensorboard: also write TensorBoard events there; needs the extra `track`.
        quiet: say nothing on stderr.
        tick: called with every record.
    """

    def __init__(
        self,
        folder: Path | None = None,
        tensorboard: bool = False,
        quiet: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.quiet, self._tick = folder, quiet, tick
        self.stage: Place | None = None
        self.console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty(), quiet=quiet)
        self._writer: Any = None
        if tensorboard and folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def say(self, text: str) -> None:
        """One line for the person who waits."""
        self.console.print(text, markup=False)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Within it, a person sees that something is under way whose end is not known: a line, on a terminal for as
        long as it lasts."""
        if sys.stderr.isatty():
            return self.console.status(text)
        self.say(text)
        return nullcontext()

    def rewind(self, tags: dict[str, Any], step: int) -> None:
        """Take back the records of a stage after `step`: a resumed run writes them again."""
        file = self.folder / "metrics.jsonl" if self.folder else None
        if file is None or not file.exists():
            return
        lines = file.read_text().splitlines()
        kept = [line for line in lines if not _is_after(line, tags, step)]
        if kept != lines:
            write_whole(file, "".join(f"{line}\n" for line in kept))

    def metrics(self, record: dict[str, Any]) -> None:
        """Append one record; numbers also go to TensorBoard, under the record's stage."""
        if self.folder is not None:
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")
        self._tick()
        if self._writer is not None:
            stage = "/".join(str(record[k]) for k in ("stage", "init", "labels_per_class", "seed") if k in record)
            for name, value in record.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{stage}/{name}", value, record["step"])
            self._writer.flush()


def _is_after(line: str, tags: dict[str, Any], step: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:  # the half of a line that a killed run left
        return True
    return record["step"] > step and all(record.get(name) == value for name, value in tags.items())


def _in_notebook(console: Console) -> bool:
    """Whether rich can show a bar as a widget there."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


def seconds_left(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 12 min, 3.5 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


class StageProgress:
    """Progress of one stage: a bar on a terminal; elsewhere a plain line after two epochs, and then one a minute."""

    def __init__(self, log: RunLog, title: str, steps: int, done: int, per_epoch: int = 1) -> None:
        if log.stage is not None:
            title = f"{log.stage.number}/{log.stage.of}  {log.stage.title}"
        self._log, self._title, self._steps, self._first, self._per_epoch = log, title, steps, done, per_epoch
        self._silent = True
        self._started = self._said = time.monotonic()
        self._bar: Progress | None = None
        if (sys.stderr.isatty() or _in_notebook(log.console)) and not log.quiet:
            # Where it is narrow, the note gives way.
            note = TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2))
            left = TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True, min_width=LEFT_WIDTH))
            named = Column(no_wrap=True, overflow="ellipsis", min_width=min(len(title), TITLE_WIDTH))
            bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
            columns = (TextColumn("{task.description}", table_column=named), bar, left, note)
            self._bar = Progress(*columns, console=log.console, transient=True, expand=True)
            self._bar.start()
            self._task = self._bar.add_task(title, total=steps, completed=done, note="", left="")

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, note: str) -> None:
        """Show that `step` steps are done; `note` holds the loss and the rate."""
        now = time.monotonic()
        pace = (now - self._started) / max(1, step - self._first)
        left, note = pace * (self._steps - step), f"{note}  {pace * self._per_epoch:.3g} s/epoch"
        # The pace of two epochs is worth a line of its own, unless the stage is nearly over.
        known = self._silent and step - self._first >= 2 * self._per_epoch and left >= BRIEF
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note, left=self._words(left, pace))
        elif known or now - self._said >= BETWEEN_LINES:
            self._said, self._silent = now, False
            self._log.say(f"{self._title}  step {step}/{self._steps}  {note}  {self._words(left, pace)}")

    def _words(self, left: float, pace: float) -> str:
        """Time left, for the stage and for all, at `pace` seconds a step."""
        later = self._log.stage.later if self._log.stage else 0.0
        if self._log.stage and self._log.stage.planned:
            later *= pace * self._steps / self._log.stage.planned
        return f"{seconds_left(left)} left" + (f", {seconds_left(left + later)} for all" if later else "")

    def shorten(self, steps: int) -> None:
        """Take in that the stage has fewer steps than it had."""
        self._steps = steps
        if self._bar is not None:
            self._bar.update(self._task, total=steps)
