"""What is known of a stage that trains, and what is kept of it on the disk."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pocketvit.training.checkpoint import REPLAY, Snapshot
from pocketvit.training.log import RunLog, StageProgress
from pocketvit.training.schedule import Schedule
from pocketvit.training.step import GradientStep
from pocketvit.training.stops import NonFiniteLoss

WORTH_SAYING = 0.25  # of the planned steps, by which a landing differs from what was said of it before
CHECKPOINT_SECONDS = 60.0
CHECKPOINT_COST = 0.1  # seconds that writing one may take; where it takes longer, they come less often in proportion
# Readings that are shown while a stage trains, the most telling first.
SAID = {"val_accuracy": "validation {:.1%}", "heldout_loss": "held out {:.4f}"}
READINGS = 20  # how often a stage is evaluated, at the most

Tags = dict[str, Any]


@dataclass
class TrainResult:
    """What a stage did: the model to use (with averaged weights where there are some) and its readings.

    `steps` are fewer than those `planned` where it had to land early; `compiled` says whether torch.compile's were.
    `seconds` leave readings out, `cpu_seconds`, of all cores and processes, do not; both go on over resumes.
    """

    model: nn.Module
    steps: int
    planned: int
    compiled: bool
    epochs: int
    seconds: float
    cpu_seconds: float
    images_per_second: float
    train_loss: float
    history: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """How long it was."""
        return {
            "epochs": self.epochs,
            "steps": self.steps,
            "planned_steps": self.planned,
            "compiled": self.compiled,
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
        }


class Stage:
    """A stage under way: its readings, the losses since the last one, and the seconds it has trained."""

    def __init__(self, step: GradientStep, log: RunLog, tags: Tags, title: str, folder: Path | None) -> None:
        self.step, self.title = step, title
        self.losses: list[float] = []  # since the last reading
        self.compiled: bool | None = None  # None until it is known whether that pays
        self._log, self._tags, self._folder = log, tags, folder
        self._history: list[dict[str, Any]] = []
        self._seconds, self._began, self._said = 0.0, time.perf_counter(), step.schedule.steps
        self._cpu_seconds, self._cpu_began = 0.0, time.process_time()

    def resume(self, compilation: str) -> int:
        """Take up what is in the folder, or begin; returns the steps that are done."""
        step = self.step
        if step.rescaled:
            size = step.batches.batch_size
            self._log.say(f"{self.title}: peak learning rate {step.config.lr:g}, for batches of {size} images")
        snapshot = step.load(self._folder, self._log.say) if self._folder else None
        done, notes = (snapshot.step, snapshot.notes) if snapshot else (0, {})
        if "schedule" in notes:
            step.schedule = Schedule(**notes["schedule"])
        # Gradients that add up over several replays would be those of the last one (pytorch issue 96693).
        on_cuda = step.accelerator.device.type == "cuda"
        step.graphs = compilation == "graphs" and step.config.accumulate == 1 and on_cuda
        # A trial that failed in one process would leave the others waiting for its weights.
        choice = {"always": True, "graphs": True, "never": False, "auto": False if step.sharded else None}
        # A resumed run computes with what it began with.
        self.compiled = notes.get("compiled", choice[compilation])
        self._history, self.losses = notes.get("history", []), notes.get("losses", [])
        self._seconds, self._began = notes.get("seconds", 0.0), time.perf_counter()
        self._cpu_seconds = notes.get("cpu_seconds", 0.0)
        self._log.rewind(self._tags, done)
        self._said = step.schedule.steps
        return done

    def reading_steps(self) -> int:
        """Steps between two readings, whole epochs: training sees twice as many images as a reading, at least."""
        objective, batches = self.step.objective, self.step.batches
        between = max(self.step.schedule.planned / READINGS, 2 * objective.reading_images / batches.batch_size)
        return max(1, round(between / batches.steps_per_epoch)) * batches.steps_per_epoch

    def elapsed(self) -> float:
        """Seconds of training, readings left out."""
        return self._seconds + time.perf_counter() - self._began

    def cpu_seconds(self) -> float:
        """Of all processes, which work in step, so that each has taken as many as this one."""
        return self._cpu_seconds + (time.process_time() - self._cpu_began) * self.step.accelerator.num_processes

    def read(self, done: int) -> None:
        """Evaluate after `done` steps, and note it."""
        step = self.step
        self._seconds = self.elapsed()
        epoch, last = -(-done // step.batches.steps_per_epoch), done == step.schedule.steps
        reading: dict[str, Any] = {
            **self._tags,
            "epoch": epoch,
            "step": done,
            "train_loss": sum(self.losses) / len(self.losses),
            "lr": step.rate(done - 1),
            "images_per_second": round(done * step.batches.batch_size / self._seconds, 1),
        }
        with step.evaluating() as network:
            reading |= step.objective.read(network, epoch, last)
        self._log.metrics(reading)
        self._history.append(reading)
        self.losses.clear()
        self._began = time.perf_counter()

    def reading(self) -> str:
        """The last reading on held-out images, and the way it went, in words; empty before the first."""
        for name, words in SAID.items():
            values = [reading[name] for reading in self._history if name in reading]
            if values:
                change = values[-1] - values[-2] if len(values) > 1 else 0.0
                return f"{words.format(values[-1])}{' up' if change > 0 else ' down' if change < 0 else ''}  "
        return ""

    def land(self, schedule: Schedule, progress: StageProgress) -> None:
        """Go on with another number of steps."""
        before = self.step.schedule
        if abs(schedule.steps - self._said) > WORTH_SAYING * before.planned:
            why = "short of time" if schedule.steps < self._said else "time for more"
            self._log.say(f"{self.title}: {why}: {schedule.steps} steps in place of {self._said}")
            self._said = schedule.steps
        self.step.schedule = schedule
        progress.shorten(schedule.steps)

    def snapshot(self, done: int) -> Snapshot:
        """The state after `done` steps, with all that resuming needs."""
        notes = {
            "seconds": self.elapsed(),
            "cpu_seconds": self.cpu_seconds(),
            "history": self._history.copy(),
            "losses": self.losses.copy(),
            "compiled": self.compiled,
            "schedule": asdict(self.step.schedule),
        }
        return replace(self.step.capture(done), notes=notes)

    def result(self, done: int) -> TrainResult:
        """What became of the stage; raises NonFiniteLoss for weights that are not finite."""
        step, model = self.step, self.step.finished()
        if not torch.stack([tensor.isfinite().all() for tensor in model.parameters()]).all():
            raise NonFiniteLoss(
                f"{self.title}: the last steps left weights that are not finite: lower --lr, or clip the gradient"
            )
        speed = done * step.batches.batch_size / self._seconds if self._seconds else 0.0
        loss = self._history[-1]["train_loss"] if self._history else float("nan")
        epochs = -(-done // step.batches.steps_per_epoch)
        planned = step.schedule.planned
        return TrainResult(
            model, done, planned, bool(self.compiled), epochs, self._seconds, self.cpu_seconds(), speed, loss,
            self._history,
        )  # fmt: skip


class Checkpoints:
    """When a stage's state is written, and the last state that is known to be good."""

    def __init__(self, stage: Stage, folder: Path | None, done: int) -> None:
        self.good = stage.snapshot(done)
        self._stage, self._folder = stage, folder
        self._written, self._cost = time.monotonic(), 0.0

    def are_due(self, now: float) -> bool:
        """Whether it is time for one; at a moment of time.monotonic's clock."""
        return now - self._written > CHECKPOINT_SECONDS * max(1.0, self._cost / CHECKPOINT_COST)

    def keep(self, done: int, now: float, *, write: bool) -> None:
        """Take the state after `done` steps for a good one, and write it; nothing where there is no folder.

        All processes have to call this.
        """
        if self._folder is None:
            return
        del self.good  # before the next, for a device to hold one at a time
        self.good = self._stage.snapshot(done)
        if write:
            self._stage.step.save(self._folder, self.good)
            self._written, self._cost = now, time.monotonic() - now

    def checked(self, first: int, losses: list[float]) -> list[float]:
        """The losses of steps from `first` on; raises NonFiniteLoss, the state before that step kept, for a bad one."""
        bad = next((step for step, loss in enumerate(losses, first) if not math.isfinite(loss)), None)
        if bad is None:
            return losses
        message = f"{self._stage.title}: the loss is not finite at step {bad}: lower --lr, or clip the gradient"
        if self._folder is None:
            raise NonFiniteLoss(message)
        # Named like a checkpoint of its own: copied to checkpoint.safetensors, --resume repeats the failing step.
        self._stage.step.save_before(bad, self.good, self._folder / REPLAY)
        raise NonFiniteLoss(f"{message}; the state before that step is in {self._folder / REPLAY}")
