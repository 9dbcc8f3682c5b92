"""THE loop: every stage trains here. It knows nothing of masks or labels, which are its objective's.

Nothing here waits for the device within a step: losses stay there, and are read every SETTLE_SECONDS or so.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from pocketvit.draws import sharing
from pocketvit.signals import collected_signals
from pocketvit.training.compilation import WORTH_SECONDS, compile_if_faster, compile_if_working
from pocketvit.training.device import from_main
from pocketvit.training.log import RunLog, StageProgress
from pocketvit.training.schedule import Deadlines, Pace, Schedule
from pocketvit.training.stage import Checkpoints, Stage, Tags, TrainResult
from pocketvit.training.step import GradientStep
from pocketvit.training.stops import Interrupted, Paused

SETTLE_SECONDS = 2.0


def train(
    step: GradientStep,
    log: RunLog,
    tags: Tags,
    *,
    title: str = "training",
    folder: Path | None = None,
    deadlines: Deadlines = Deadlines(),  # noqa: B008  # frozen
    compilation: str = "never",
) -> TrainResult:
    """Train for the length that `step` is made for.

    Args:
        step: what is trained, and how; in place, unless it is sharded.
        log: takes readings and progress.
        tags: what identifies the stage in metrics.jsonl, such as {"stage": "pretrain"}.
        title: of the stage, for people.
        folder: where checkpoints go; those that are there are resumed from.
        deadlines: when to land, and when to save and stop.
        compilation: "always" (but where the compiler fails), "graphs" (the same, replayed as CUDA graphs), "never", or
            "auto": where the stage is long and a measured trial says that it pays.

    Raises:
        NonFiniteLoss: after saving the state before that step to `folder`/replay.safetensors; or weights at the end
            that are not finite.
        Interrupted: on SIGINT or SIGTERM, after saving a checkpoint.
        Paused: at `deadlines.pause`, after saving a checkpoint.
        OSError: a checkpoint cannot be written; the last good one is left as it was.
    """
    stage = Stage(step, log, tags, title, folder)
    done = stage.resume(compilation)
    size, every, pace, watch = step.batches.batch_size, stage.reading_steps(), 1, Pace()
    checkpoints = Checkpoints(stage, folder, done)
    settled, unread = done, []
    with (
        collected_signals() as stop,
        sharing(step.accelerator.process_index, step.accelerator.num_processes),
        StageProgress(log, stage.title, step.schedule.steps, done, step.batches.steps_per_epoch) as progress,
    ):
        # A compiler that a Ctrl-C stopped has failed for no reason worth telling.
        say = lambda line: None if stop else log.say(line)  # noqa: E731
        if stage.compiled and done < step.schedule.steps:
            stage.compiled = compile_if_working(step, checkpoints.good, say)
        while done < step.schedule.steps:
            unread.append(step.run(done))
            done += 1
            reading = done % every == 0 or done == step.schedule.steps
            if done - settled < pace and not reading:
                continue
            stage.losses += checkpoints.checked(settled, step.read_losses(unread))
            loss = stage.losses[-1]
            if reading:
                stage.read(done)
            now, elapsed = time.monotonic(), stage.elapsed()
            progress.update(done, f"{stage.reading()}loss {loss:.4f}  {done * size / elapsed:,.0f} img/s")
            # The main process decides for all of them, or they would stop at different steps.
            turn = from_main(
                step.accelerator,
                Turn(
                    pace=max(1, min(4 * pace, int(SETTLE_SECONDS * done / elapsed))),
                    elapsed=elapsed,
                    schedule=watch.landed(step.schedule, done, deadlines.land),
                    due=checkpoints.are_due(now),
                    late=now > deadlines.pause,
                    left=deadlines.land - now,
                    signum=stop[0] if stop else 0,
                ),
            )
            pace, settled, unread = turn.pace, done, []
            landed = turn.schedule != step.schedule
            if landed:
                stage.land(turn.schedule, progress)
            # Not at once: the first steps are slow, and would make a short stage look long.
            rest = min(turn.left, (step.schedule.steps - done) * turn.elapsed / done)
            if stage.compiled is None and rest > WORTH_SECONDS and turn.elapsed > WORTH_SECONDS / 60:
                stage.compiled = compile_if_faster(step, stage.snapshot(done), say)
                watch = Pace()  # what the trial took says nothing of the rest
            over = done == step.schedule.steps
            # A landing is kept at once: whoever goes on after a kill has to land there too.
            checkpoints.keep(done, now, write=turn.due or landed or turn.late or bool(turn.signum) or over)
            if turn.signum or (turn.late and not over):
                # Nobody leaves before the state is on the disk: whoever ends first may have the others killed.
                step.accelerator.wait_for_everyone()
                raise Interrupted(turn.signum) if turn.signum else Paused
    return stage.result(done)


class Turn(NamedTuple):
    """What the main process decides between two steps, for all of them."""

    pace: int  # steps until losses are read again
    elapsed: float
    schedule: Schedule
    due: bool
    late: bool
    left: float  # seconds until the stage has to have landed
    signum: int
