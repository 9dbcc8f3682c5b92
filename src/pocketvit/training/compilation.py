"""torch.compile where a short measured trial says that it pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pocketvit.training.device import from_main

WORTH_SECONDS = 240.0  # stages that eager steps finish sooner are not worth a minute of compiling
TRIAL_STEPS = 5
FIRST_STEPS = 3  # a CUDA graph is warmed up in the first, recorded in the second and replayed in the third


class Programs(NamedTuple):
    """What a step computes with: the network, and what changes its images, both as they are or both compiled."""

    network: nn.Module
    augment: Callable[[Tensor], Tensor]


RunStep = Callable[[int, Programs], Tensor]
Say = Callable[[str], None]


def compiled(programs: Programs, graphs: bool = False) -> Programs:
    """The same programs, forward and backward pass compiled for the shapes that they meet.

    With `graphs`, the network's kernels are replayed as CUDA graphs, two launches for the host in place of hundreds.

    Random numbers come from the generators that eager programs draw from; on CUDA the compiler may draw them in another
    order (pytorch issue 181136), so that a run that goes on has to compute with what it began with.
    """
    import torch._inductor.config as inductor

    inductor.fallback_random = True
    network = torch.compile(programs.network, dynamic=False, options={"triton.cudagraphs": graphs})
    return Programs(cast(nn.Module, network), torch.compile(programs.augment, dynamic=False))


def working(
    programs: Programs, run_step: RunStep, first: int, undo: Callable[[], None], say: Say, graphs: bool
) -> Programs:
    """`programs` compiled, or as they are where a compiler or its absence fails in the first steps.

    Args:
        programs: what trains, in training mode.
        run_step: (step, programs) trains one step and returns its loss.
        first: the step to try them from.
        undo: puts the state before it back.
        say: takes a line on what failed.
        graphs: whether the network is replayed as CUDA graphs.
    """
    candidate = compiled(programs, graphs)
    try:
        for step in range(first, first + FIRST_STEPS):
            run_step(step, candidate).item()
    except Exception as error:
        return _without(programs, error, undo, say)
    undo()
    return candidate


def faster(
    programs: Programs,
    run_step: RunStep,
    first: int,
    undo: Callable[[], None],
    accelerator: Accelerator,
    say: Say,
) -> Programs:
    """`programs` or their compiled form, whichever trains faster in a few steps of each.

    Args as in `working`; the main process of `accelerator` measures and decides.
    """
    candidate, began = compiled(programs), time.perf_counter()
    try:
        eager, fast = (_seconds_a_step(p, run_step, first, undo) for p in (programs, candidate))
    except Exception as error:
        return _without(programs, error, undo, say)
    better = from_main(accelerator, fast < eager)
    say(
        f"torch.compile: {1000 * fast:.0f} ms a step against {1000 * eager:.0f} without, known after "
        f"{time.perf_counter() - began:.0f} s: training {'with' if better else 'without'} it"
    )
    return candidate if better else programs


def _without(programs: Programs, error: Exception, undo: Callable[[], None], say: Say) -> Programs:
    """Eager programs train as well."""
    torch.compiler.reset()
    undo()
    say(f"torch.compile: failed ({type(error).__name__}: {str(error).splitlines()[0]}), training without it")
    return programs


def _seconds_a_step(programs: Programs, run_step: RunStep, first: int, undo: Callable[[], None]) -> float:
    run_step(first, programs).item()  # compiles, and warms up
    began = time.perf_counter()
    for step in range(first + 1, first + 1 + TRIAL_STEPS):
        loss = run_step(step, programs)
    loss.item()
    seconds = (time.perf_counter() - began) / TRIAL_STEPS
    undo()
    return seconds
