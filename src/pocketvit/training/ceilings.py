"""What a device does at best, measured here and now."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

WARM_UP, REPEATS = 3, 10


def matmul_flops(device: torch.device, dtype: torch.dtype, repeats: int = REPEATS, warm_up: int = WARM_UP) -> float:
    """FLOP/s of the best product of square random matrices, of several sides on a CPU; int8 is summed up in int32."""
    multiply = torch._int_mm if dtype == torch.int8 else torch.matmul
    best = 0.0
    for side in (8192,) if device.type == "cuda" else (256, 512, 1024):
        a, b = (_random(side, device, dtype) for _ in range(2))
        work = partial(multiply, a, b)
        best = max(best, 2 * side**3 / fastest(work, device, repeats, warm_up))
    return best


def _random(side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    if dtype == torch.int8:
        return torch.randint(-127, 128, (side, side), device=device, dtype=dtype)
    return torch.randn(side, side, device=device).to(dtype)


def fastest(work: Callable[[], Any], device: torch.device, repeats: int = REPEATS, warm_up: int = WARM_UP) -> float:
    """Seconds of the fastest of so many calls, after some that warm up."""
    took = []
    for _ in range(warm_up + repeats):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        took.append(time.perf_counter() - began)
    return min(took[warm_up:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
