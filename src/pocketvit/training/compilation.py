"""torch.compile where a short measured trial says that it pays."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pocketvit.training.checkpoint import Snapshot
from pocketvit.training.device import from_main
from pocketvit.training.step import GradientStep, Programs

WORTH_SECONDS = 240.0  # stages that eager steps finish sooner are not worth a minute of compiling
TRIAL_STEPS = 5
FIRST_STEPS = 3  # a CUDA graph is warmed up in the first, recorded in the second and replayed in the third

Say = Callable[[str], None]


def compile_if_working(step: GradientStep, start: Snapshot, say: Say) -> bool:
    """Compile a step's programs, unless a compiler or its absence fails in the first steps; returns whether they are.

    Args:
        step: whose state is `start`, and will be again.
        start: the state to try them from.
        say: takes a line on what failed.
    """
    eager = step.programs
    step.programs = eager.compiled(step.graphs)
    try:
        for number in range(start.step, start.step + FIRST_STEPS):
            step.run(number).item()
    except Exception as error:
        _return_to(eager, step, error, say)
    step.restore(start)
    return step.programs is not eager


def compile_if_faster(step: GradientStep, start: Snapshot, say: Say) -> bool:
    """Compile a step's programs where a few steps are faster so; returns whether they are. Args as above.

    The main process measures and decides.
    """
    say("torch.compile: a trial, of a minute or so, to see whether it pays")
    eager, began = step.programs, time.perf_counter()
    candidate = eager.compiled(step.graphs)
    try:
        slow, fast = (_seconds_a_step(programs, step, start) for programs in (eager, candidate))
    except Exception as error:
        _return_to(eager, step, error, say)
        step.restore(start)
        return False
    better = from_main(step.accelerator, fast < slow)
    say(
        f"torch.compile: {1000 * fast:.0f} ms a step against {1000 * slow:.0f} without, known after "
        f"{time.perf_counter() - began:.0f} s: training {'with' if better else 'without'} it"
    )
    step.programs = candidate if better else eager
    return better


def _return_to(eager: Programs, step: GradientStep, error: Exception, say: Say) -> None:
    """Eager programs train as well."""
    torch.compiler.reset()
    step.programs = eager
    say(f"torch.compile: failed ({type(error).__name__}: {str(error).splitlines()[0]}), training without it")


def _seconds_a_step(programs: Programs, step: GradientStep, start: Snapshot) -> float:
    step.programs = programs
    step.run(start.step).item()  # compiles, and warms up
    began = time.perf_counter()
    for number in range(start.step + 1, start.step + 1 + TRIAL_STEPS):
        loss = step.run(number)
    loss.item()
    seconds = (time.perf_counter() - began) / TRIAL_STEPS
    step.restore(start)
    return seconds
