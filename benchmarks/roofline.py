"""How near a training step comes to what the device can do: its work, over rates measured in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REPEATS = 10


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best: FLOP/s of a matrix product, bytes/s (read and written) of a copy."""

    flops: float
    bytes: float

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype) -> Ceilings:
        """Square matrices of random numbers, and a copy that no cache holds; the best of REPEATS."""
        big = device.type == "cuda"
        side, count = (8192, 2**28) if big else (1536, 2**25)
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        source, target = torch.randn(count, device=device), torch.empty(count, device=device)
        product = fastest(lambda: a @ b, device)
        copy = fastest(lambda: target.copy_(source), device)
        return cls(2 * side**3 / product, 2 * source.nbytes / copy)

    def roofline(self, flops: float, moved: float, seconds: float) -> dict[str, float]:
        """A step's work and time beside the least time that the ceilings allow it; see docs/reproduce.md."""
        least = {"matmul_seconds": flops / self.flops, "copy_seconds": moved / self.bytes}
        return {
            "flops": flops, "bytes": moved, "seconds": seconds, **least,
            "utilisation": least["matmul_seconds"] / seconds,
            "roofline": max(least.values()) / seconds,
        }  # fmt: skip


def fastest(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of REPEATS calls, after three that warm up."""
    took = []
    for _ in range(3 + REPEATS):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        took.append(time.perf_counter() - began)
    return min(took[3:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class BytesMoved(TorchDispatchMode):
    """Counts, within it, the bytes that eager operators read and write; neither a view nor an allocation moves any.

    What a kernel keeps in registers or in a cache is not seen, and fused kernels move less.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__:
            given = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **(kwargs or {})}
            changed = [given[a.name] for a in func._schema.arguments if a.name in given and _is_written(a)]
            # An operator returns what it has made; what it changes in place it may return, or not.
            self.total += _nbytes(given) + (_nbytes(changed) if changed else _nbytes(result))
        return result


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
