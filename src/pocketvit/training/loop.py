"""THE loop: every stage trains here. It knows nothing of masks or labels; its client gives it a loss.

All randomness of a step comes from (seed, step): a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pocketvit.config import OptimConfig
from pocketvit.data.batches import Batches
from pocketvit.training.checkpoint import load_state, save_state
from pocketvit.training.log import RunLog, StageProgress
from pocketvit.training.optimizer import learning_rate, make_average, make_optimizer

CHECKPOINT_SECONDS = 60.0
READINGS = 50  # how often a stage is evaluated, at the most

LossFunction = Callable[[nn.Module, Tensor, "Tensor | None"], Tensor]
Evaluate = Callable[[nn.Module, int, bool], dict[str, float]]


class NonFiniteLoss(Exception):
    """The loss stopped being a number; the message names the step and the file to replay it from."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came, and the state is saved; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; continue with --resume")
        self.signum = signum


@dataclass
class TrainResult:
    """What a stage did: the model to use (the moving average where there is one) and its readings."""

    model: nn.Module
    steps: int
    epochs: int
    seconds: float
    images_per_second: float
    train_loss: float
    history: list[dict[str, Any]] = field(default_factory=list)


def total_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Steps of a stage: its epochs, or `min_steps` where that is more."""
    return max(1, config.epochs * steps_per_epoch, config.min_steps)


def train(
    model: nn.Module,
    loss_function: LossFunction,
    batches: Batches,
    config: OptimConfig,
    accelerator: Accelerator,
    *,
    seed: int,
    log: RunLog,
    tags: dict[str, Any],
    evaluate: Evaluate | None = None,
    reading_images: int = 0,
    folder: Path | None = None,
) -> TrainResult:
    """Train `model` in place.

    Args:
        model: on the accelerator's device; declares `no_weight_decay` and `layer_of`.
        loss_function: (model, images (B, C, H, W) in [0, 1], labels (B,) or None) to a scalar loss.
        batches: source of the batches.
        config: length and optimiser.
        seed: with the step, decides every random draw of the training.
        tags: what identifies the stage in metrics.jsonl, such as {"stage": "pretrain"}.
        evaluate: (model, epoch, whether it is the last) to readings, called at most READINGS times.
        reading_images: images that one such call goes through; training goes through twice as many between two.
        folder: where checkpoints go; one that is there is resumed from.

    Raises:
        NonFiniteLoss: after saving the state before that step to `folder`/replay.safetensors.
        Interrupted: on SIGINT or SIGTERM, after saving a checkpoint.
    """
    optimizer = make_optimizer(model, config)
    average = make_average(model, config.ema) if config.ema else None
    modules = {"model": model} | ({"average": average} if average else {})
    per_epoch = batches.steps_per_epoch
    steps = total_steps(config, per_epoch)
    between = max(steps / READINGS, 2 * reading_images / batches.batch_size)
    every = max(1, round(between / per_epoch)) * per_epoch
    checkpoint = folder / "checkpoint.safetensors" if folder else None
    start, notes = load_state(checkpoint, optimizer, modules) if checkpoint and checkpoint.exists() else (0, {})
    progress = StageProgress(log, " ".join(str(v) for v in tags.values()), steps, start)
    history: list[dict[str, Any]] = notes.get("history", [])
    losses: list[float] = []
    seconds, began, saved = notes.get("seconds", 0.0), time.perf_counter(), time.monotonic()

    def progress_so_far() -> dict[str, Any]:
        return {"seconds": seconds + time.perf_counter() - began, "history": history}

    model.train()
    with _signals() as stop:
        try:
            for step in range(start, steps):
                torch.manual_seed(seed * 1_000_003 + step)
                images, labels, _ = batches.at(step)
                with accelerator.autocast():
                    loss = loss_function(model, images, labels)
                value = loss.item()
                if value != value or abs(value) == float("inf"):
                    raise NonFiniteLoss(_keep_for_replay(folder, step, tags, optimizer, modules, progress_so_far()))
                rate = learning_rate(step, steps, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["lr_scale"]
                accelerator.backward(loss)
                if config.clip:
                    accelerator.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if average:
                    average.update_parameters(model)
                losses.append(value)
                done, last = step + 1, step + 1 == steps
                if done % every == 0 or last:
                    seconds += time.perf_counter() - began
                    speed = done * batches.batch_size / seconds
                    reading: dict[str, Any] = {
                        **tags,
                        "epoch": -(-done // per_epoch),
                        "step": done,
                        "train_loss": sum(losses) / len(losses),
                        "lr": rate,
                        "images_per_second": round(speed, 1),
                    }
                    if evaluate:
                        reading |= evaluate(average.module if average else model, reading["epoch"], last)
                        model.train()
                    log.metrics(reading)
                    history.append(reading)
                    losses.clear()
                    began = time.perf_counter()
                    progress.update(done, f"loss {reading['train_loss']:.4f}  {speed:,.0f} img/s")
                if checkpoint and (stop or time.monotonic() - saved > CHECKPOINT_SECONDS):
                    save_state(checkpoint, done, optimizer, modules, progress_so_far())
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(stop[0])
        finally:
            progress.close()
    if checkpoint:
        save_state(checkpoint, steps, optimizer, modules, {"seconds": seconds, "history": history})
    trained = average.module if average else model
    speed = steps * batches.batch_size / seconds if seconds else 0.0
    loss_at_end = history[-1]["train_loss"] if history else float("nan")
    return TrainResult(trained.eval(), steps, -(-steps // per_epoch), seconds, speed, loss_at_end, history)


def _keep_for_replay(
    folder: Path | None,
    step: int,
    tags: dict[str, Any],
    optimizer: Any,
    modules: dict[str, nn.Module],
    notes: dict[str, Any],
) -> str:
    where = " ".join(str(v) for v in tags.values())
    message = f"{where}: the loss is not finite at step {step}: lower --lr, or clip the gradient"
    if folder is None:
        return message
    # Named like a checkpoint of its own: copied to checkpoint.safetensors, --resume repeats the failing step.
    save_state(folder / "replay.safetensors", step, optimizer, modules, notes)
    return f"{message}; the state before that step is in {folder / 'replay.safetensors'}"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying from them, where this thread may set handlers."""
    stop: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, lambda n, _: stop.append(n)) for number in numbers}
    except ValueError:  # Not the main thread: whoever runs it decides.
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
