"""THE loop: every stage trains here. It knows nothing of masks or labels; its client gives it a loss.

All randomness of a step comes from (seed, step): a resumed run draws what the uninterrupted one would have drawn.
Nothing here waits for the device within a step: losses stay there, and are read every SETTLE_SECONDS or so.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pocketvit.config import OptimConfig
from pocketvit.data.batches import Batches
from pocketvit.data.draws import sharing
from pocketvit.training.checkpoint import REPLAY, Snapshot, capture, gathered, load_state, restore, save_state, write
from pocketvit.training.compilation import WORTH_SECONDS, Programs, faster, working
from pocketvit.training.device import from_main
from pocketvit.training.log import RunLog, StageProgress
from pocketvit.training.optimizer import Average, learning_rate, make_optimizer, scaled, set_mode
from pocketvit.training.schedule import Deadlines, Pace, Schedule
from pocketvit.training.sharding import gather, shard

CHECKPOINT_SECONDS = 60.0
CHECKPOINT_COST = 0.1  # seconds that writing one may take; where it takes longer, they come less often in proportion
SETTLE_SECONDS = 2.0
READINGS = 20  # how often a stage is evaluated, at the most

LossFunction = Callable[[nn.Module, Tensor, "Tensor | None"], Tensor]
Evaluate = Callable[[nn.Module, int, bool], dict[str, float]]


class NonFiniteLoss(Exception):
    """The loss stopped being a number; the message names the step and the file to replay it from."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came, and the state is saved; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; continue with --resume")
        self.signum = signum


class Paused(Exception):
    """The time after which to pause is over, and the state is saved."""

    def __init__(self) -> None:
        super().__init__("paused; continue with --resume")


@dataclass
class TrainResult:
    """What a stage did: the model to use (with averaged weights where there are some) and its readings.

    `steps` are fewer than those `planned` where it had to land early; `compiled` says whether torch.compile's were.
    """

    model: nn.Module
    steps: int
    planned: int
    compiled: bool
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
    augment: Callable[[Tensor], Tensor] | None = None,
    folder: Path | None = None,
    deadlines: Deadlines = Deadlines(),  # noqa: B008  # frozen
    compilation: str = "never",
    sharded: bool = False,
) -> TrainResult:
    """Train `model`, in place unless it is sharded.

    Args:
        model: on the accelerator's device; declares `no_weight_decay` and `layer_of`.
        loss_function: (model, images (B, C, H, W) in [0, 1], labels (B,) or None) to a scalar loss, a mean over images.
        batches: source of the batches.
        config: length and optimiser.
        seed: with the step, decides every random draw of the training.
        tags: what identifies the stage in metrics.jsonl, such as {"stage": "pretrain"}.
        evaluate: (model, epoch, whether it is the last) to readings, called at most READINGS times.
        reading_images: images that one such call goes through; training goes through twice as many between two.
        augment: changes the images before the loss sees them; compiled where the network is.
        folder: where checkpoints go; those that are there are resumed from.
        deadlines: when to land, and when to save and stop.
        compilation: "always" (but where the compiler fails), "graphs" (the same, replayed as CUDA graphs), "never", or
            "auto": where the stage is long and a measured trial says that it pays.
        sharded: keep a part of the weights in each process, rather than a copy of them all.

    Raises:
        NonFiniteLoss: after saving the state before that step to `folder`/replay.safetensors; or weights at the end
            that are not finite.
        Interrupted: on SIGINT or SIGTERM, after saving a checkpoint.
        Paused: at `deadlines.pause`, after saving a checkpoint.
        OSError: a checkpoint cannot be written; the last good one is left as it was.
    """
    title, given = " ".join(str(v) for v in tags.values()), config
    config = scaled(config, batches.batch_size)
    if config.lr != given.lr:
        log.say(f"{title}: peak learning rate {config.lr:g}, for batches of {batches.batch_size} images")
    average = Average(model, config.ema) if config.ema else None
    trained = average.model if average else model
    modules = {"model": model} | ({"average": average.model} if average else {})
    usable, sharded = trained, sharded and accelerator.num_processes > 1
    if sharded:
        usable = copy.deepcopy(trained)
        for module in modules.values():
            shard(module, accelerator)
    optimizer = make_optimizer(model, config)
    per_epoch = batches.steps_per_epoch
    steps = total_steps(config, per_epoch)
    schedule = Schedule(steps, steps)
    between = max(steps / READINGS, 2 * reading_images / batches.batch_size)
    every = max(1, round(between / per_epoch)) * per_epoch
    resumed = load_state(folder, optimizer, modules, log.say) if folder else None
    # Checkpoints are taken in this mode too, for a change of modes rounds the weights.
    set_mode(optimizer, training=True)
    start, notes = (resumed.step, resumed.notes) if resumed else (0, {})
    if "schedule" in notes:
        schedule = Schedule(**notes["schedule"])
    log.rewind(tags, start)
    progress = StageProgress(log, title, schedule.steps, start, per_epoch)
    history: list[dict[str, Any]] = notes.get("history", [])
    losses: list[float] = notes.get("losses", [])
    seconds, began, saved = notes.get("seconds", 0.0), time.perf_counter(), time.monotonic()
    eager = DistributedDataParallel(model) if accelerator.num_processes > 1 and not sharded else model
    # Whether to compile: None until it is known whether that pays. A resumed run computes with what it began with.
    # A trial that failed in one process would leave the others waiting for its weights.
    choice = {"always": True, "graphs": True, "never": False, "auto": False if sharded else None}[compilation]
    # Gradients that add up over several replays would be those of the last one (pytorch issue 96693).
    graphs = compilation == "graphs" and config.accumulate == 1 and accelerator.device.type == "cuda"
    compiling: bool | None = notes.get("compiled", choice)
    plain = programs = Programs(eager, augment or nn.Identity())
    weights = list(model.parameters())  # once, for walking the tree of modules takes the host longer than a kernel

    def run_step(step: int, programs: Programs) -> Tensor:
        """One step of training; returns the loss on this process's images, on the device."""
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        rate = learning_rate(schedule.at(step), schedule.planned, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        total = torch.zeros((), device=accelerator.device)
        for part in range(config.accumulate):
            torch.manual_seed((seed * 1_000_003 + step) * config.accumulate + part)
            images, labels, _ = batches.at(step, part, config.accumulate)
            # Outside of autocast, which would round the coordinates at which an image is read.
            images = programs.augment(images)
            last = part == config.accumulate - 1
            # Gradients are exchanged once a step, with the last part's.
            with nullcontext() if last else accelerator.no_sync(eager), accelerator.autocast():
                loss = loss_function(programs.network, images, labels) / config.accumulate
            accelerator.backward(loss)
            total += loss.detach()
        if config.clip:
            accelerator.clip_grad_norm_(weights, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average:
            average.update(weights, step)
        return total

    def snapshot(step: int) -> Snapshot:
        notes = {
            "seconds": seconds + time.perf_counter() - began,
            "history": history.copy(),
            "losses": losses.copy(),
            "compiled": compiling,
            "schedule": asdict(schedule),
        }
        return replace(capture(step, optimizer, modules), notes=notes)

    model.train()
    with _signals() as stop, sharing(accelerator.process_index, accelerator.num_processes):

        def say(line: str) -> None:
            # A compiler that the same Ctrl-C stopped has failed for no reason worth telling.
            if not stop:
                log.say(line)

        try:
            settled, unread, pace, good, watch, cost = start, [], 1, snapshot(start), Pace(), 0.0
            if compiling and start < steps:
                undo = partial(restore, good, optimizer, modules)
                programs = working(plain, run_step, start, undo, say, graphs)
                compiling = programs is not plain
            done = start
            while done < schedule.steps:
                unread.append(run_step(done, programs))
                done += 1
                read = done % every == 0 or done == schedule.steps
                if done - settled < pace and not read:
                    continue
                values = _read_losses(unread, accelerator)
                bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
                if bad is not None:
                    raise NonFiniteLoss(
                        _keep_for_replay(
                            folder, settled + bad, good, optimizer, modules, partial(run_step, programs=programs), tags
                        )
                    )
                losses += values
                if read:
                    seconds += time.perf_counter() - began
                    speed = done * batches.batch_size / seconds
                    reading: dict[str, Any] = {
                        **tags,
                        "epoch": -(-done // per_epoch),
                        "step": done,
                        "train_loss": sum(losses) / len(losses),
                        "lr": learning_rate(schedule.at(done - 1), schedule.planned, config),
                        "images_per_second": round(speed, 1),
                    }
                    if evaluate:
                        set_mode(optimizer, training=False)
                        if sharded:
                            gather(trained, into=usable)
                        reading |= evaluate(usable, reading["epoch"], done == schedule.steps)
                        set_mode(optimizer, training=True)
                        model.train()
                    log.metrics(reading)
                    history.append(reading)
                    losses.clear()
                    began = time.perf_counter()
                now = time.monotonic()
                elapsed = seconds + time.perf_counter() - began
                progress.update(done, f"loss {values[-1]:.4f}  {done * batches.batch_size / elapsed:,.0f} img/s")
                # The main process decides for all of them, or they would stop at different steps.
                pace, elapsed, rest, landed, due, late, signum = from_main(
                    accelerator,
                    (
                        max(1, min(4 * pace, int(SETTLE_SECONDS * done / elapsed))),
                        elapsed,
                        (schedule.steps - done) * elapsed / done,
                        watch.landed(schedule, done, deadlines.land),
                        now - saved > CHECKPOINT_SECONDS * max(1.0, cost / CHECKPOINT_COST),
                        now > deadlines.pause,
                        stop[0] if stop else 0,
                    ),
                )
                settled, unread = done, []
                if landed != schedule:
                    why = "short of time" if landed.steps < schedule.steps else "time for more"
                    log.say(f"{title}: {why}: {landed.steps} steps in place of {schedule.steps}")
                    # Kept at once: whoever goes on after a kill has to land there too.
                    schedule, due = landed, True
                    progress.shorten(schedule.steps)
                # Not at once: the first steps are slow, and would make a short stage look long.
                if compiling is None and rest > WORTH_SECONDS and elapsed > WORTH_SECONDS / 60:
                    undo = partial(restore, snapshot(done), optimizer, modules)
                    programs = faster(plain, run_step, done, undo, accelerator, say)
                    compiling = programs is not plain
                over = done == schedule.steps
                if folder:
                    good = snapshot(done)
                    if due or late or signum or over:
                        state, saved = gathered(good, keep=accelerator.is_main_process), now
                        if accelerator.is_main_process:
                            save_state(folder, state)
                        cost = time.monotonic() - now
                if late or signum:
                    # Nobody leaves before the state is on the disk: whoever ends first may have the others killed.
                    accelerator.wait_for_everyone()
                if signum:
                    raise Interrupted(signum)
                if late and not over:
                    raise Paused
        finally:
            progress.close()
    set_mode(optimizer, training=False)
    if sharded:
        gather(trained, into=usable)
    if not all(bool(tensor.isfinite().all()) for tensor in usable.parameters()):
        where = " ".join(str(value) for value in tags.values())
        raise NonFiniteLoss(
            f"{where}: the last steps left weights that are not finite: lower --lr, or clip the gradient"
        )
    steps = schedule.steps
    speed = steps * batches.batch_size / seconds if seconds else 0.0
    loss_at_end = history[-1]["train_loss"] if history else float("nan")
    return TrainResult(
        usable.eval(), steps, schedule.planned, bool(compiling), -(-steps // per_epoch), seconds, speed, loss_at_end,
        history,
    )  # fmt: skip


def _read_losses(losses: list[Tensor], accelerator: Accelerator) -> list[float]:
    """The steps' losses over all processes; the one place where the host waits for the device."""
    values = torch.stack(losses)
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(values)
        values /= accelerator.num_processes
    return values.tolist()


def _keep_for_replay(
    folder: Path | None,
    step: int,
    good: Snapshot,
    optimizer: torch.optim.Optimizer,
    modules: dict[str, nn.Module],
    run_step: Callable[[int], Tensor],
    tags: dict[str, Any],
) -> str:
    """Save the state before a failing step, by repeating the steps from the last good state to it."""
    where = " ".join(str(v) for v in tags.values())
    message = f"{where}: the loss is not finite at step {step}: lower --lr, or clip the gradient"
    if folder is None:
        return message
    restore(good, optimizer, modules)
    for before in range(good.step, step):
        run_step(before)
    # Named like a checkpoint of its own: copied to checkpoint.safetensors, --resume repeats the failing step.
    write(folder / REPLAY, replace(gathered(capture(step, optimizer, modules)), notes=good.notes))
    return f"{message}; the state before that step is in {folder / REPLAY}"


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
