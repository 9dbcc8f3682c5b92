"""torch.compile where a short measured trial says that it pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pocketvit.training.device import from_main

WORTH_SECONDS = 240.0  # stages that eager steps finish sooner are not worth a minute of compiling
TRIAL_STEPS = 5


def compiled(network: nn.Module) -> nn.Module:
    """The same network, its forward and backward pass compiled for the shapes that it meets.

    Random numbers are drawn as the eager network draws them.
    """
    import torch._inductor.config as inductor

    inductor.fallback_random = True
    return cast(nn.Module, torch.compile(network, dynamic=False))


def faster(
    network: nn.Module,
    run_step: Callable[[int, nn.Module], Tensor],
    first: int,
    undo: Callable[[], None],
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> nn.Module:
    """`network` or its compiled form, whichever trains faster in a few steps of each.

    Args:
        network: what is trained, in training mode.
        run_step: (step, network) trains one step and returns its loss.
        first: the step to try them from.
        undo: puts the state before the trial back.
        accelerator: of the training; the main process measures and decides.
        say: takes a line on what was chosen and why.
    """
    candidate, began = compiled(network), time.perf_counter()
    try:
        eager, fast = (_seconds_a_step(n, run_step, first, undo) for n in (network, candidate))
    except Exception as error:
        # Whatever a compiler or its absence raises, the eager network trains as well.
        torch.compiler.reset()
        undo()
        say(f"torch.compile: failed ({type(error).__name__}: {str(error).splitlines()[0]}), training without it")
        return network
    better = from_main(accelerator, fast < eager)
    say(
        f"torch.compile: {1000 * fast:.0f} ms a step against {1000 * eager:.0f} without, known after "
        f"{time.perf_counter() - began:.0f} s: training {'with' if better else 'without'} it"
    )
    return candidate if better else network


def _seconds_a_step(
    network: nn.Module, run_step: Callable[[int, nn.Module], Tensor], first: int, undo: Callable[[], None]
) -> float:
    run_step(first, network).item()  # compiles, and warms up
    began = time.perf_counter()
    for step in range(first + 1, first + 1 + TRIAL_STEPS):
        loss = run_step(step, network)
    loss.item()
    seconds = (time.perf_counter() - began) / TRIAL_STEPS
    undo()
    return seconds
