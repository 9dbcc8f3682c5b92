"""The loop's state on disk: safetensors only, the newest file and the one before it, each whole or not there."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from pocketvit.errors import UserError
from pocketvit.files import write_whole
from pocketvit.training.sharding import laid_out, whole

NEWEST, BEFORE, REPLAY = "checkpoint.safetensors", "checkpoint-before.safetensors", "replay.safetensors"
WRITTEN = "checkpoint-written.safetensors"  # until it is called the newest


@dataclass(frozen=True)
class Snapshot:
    """The state after `step` steps. Every random stream derives from the step, so none is kept.

    Args:
        step: finished steps.
        tensors: copies of the modules' and the optimiser's.
        numbers: what else the optimiser keeps, one dictionary a parameter group.
        notes: anything else to keep, as JSON.
    """

    step: int
    tensors: dict[str, Tensor]
    numbers: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def capture(step: int, optimizer: torch.optim.Optimizer, modules: dict[str, nn.Module]) -> Snapshot:
    """Copy the state, on the device where it is."""
    tensors = {f"{name}/{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}
    state = optimizer.state_dict()
    for index, moments in state["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in moments.items()}
    numbers = [{k: v for k, v in group.items() if isinstance(v, (int, float))} for group in state["param_groups"]]
    return Snapshot(step, {k: v.detach().clone().contiguous() for k, v in tensors.items()}, numbers)


def gathered(snapshot: Snapshot, keep: bool = True) -> Snapshot:
    """The same with whole tensors, or with none for who does not `keep` them.

    Where they are sharded, all processes have to call this, and the device holds one whole tensor at a time.
    """
    tensors = {}
    for name, tensor in snapshot.tensors.items():
        full = whole(tensor)
        if keep:
            tensors[name] = full.cpu()
    return replace(snapshot, tensors=tensors)


def restore(snapshot: Snapshot, optimizer: torch.optim.Optimizer, modules: dict[str, nn.Module]) -> None:
    """Put a state back, in place; RuntimeError or ValueError where it is that of another network."""
    for name, module in modules.items():
        kept, there = _below(snapshot.tensors, name), module.state_dict()
        module.load_state_dict({k: laid_out(v, there.get(k, v)) for k, v in kept.items()})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(snapshot.tensors, "optimizer").items():
        index, name = key.split("/")
        # A copy: the optimiser would go on writing into the snapshot.
        state.setdefault(int(index), {})[name] = laid_out(value, parameters[int(index)]).clone()
    groups = optimizer.state_dict()["param_groups"]
    merged = [group | numbers for group, numbers in zip(groups, snapshot.numbers, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})


def write(file: Path, snapshot: Snapshot) -> None:
    """Write a snapshot of whole tensors; OSError where it cannot be, with what was there before left as it was."""
    tensors = {k: v.cpu() for k, v in snapshot.tensors.items()}
    kept = {"step": snapshot.step, "numbers": snapshot.numbers, "notes": snapshot.notes, "sum": _checksum(tensors)}
    write_whole(file, to_bytes(tensors, {"state": json.dumps(kept)}))


def read(file: Path) -> Snapshot:
    """Read what `write` wrote; SafetensorError, OSError, KeyError or ValueError where it is damaged."""
    with safe_open(file, "pt") as opened:
        kept = json.loads((opened.metadata() or {})["state"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    if _checksum(tensors) != kept["sum"]:
        raise ValueError("its checksum does not match")
    return Snapshot(kept["step"], tensors, kept["numbers"], kept["notes"])


def save_state(folder: Path, snapshot: Snapshot) -> None:
    """Make `snapshot` the newest checkpoint in `folder`; the one that was is kept as the one before.

    Raises OSError where it cannot be written, with both left as they were.
    """
    # Before either is touched, for the newest may be damaged, and the one before the only one to go on from.
    write(folder / WRITTEN, snapshot)
    if (folder / NEWEST).exists():
        os.replace(folder / NEWEST, folder / BEFORE)
    os.replace(folder / WRITTEN, folder / NEWEST)


def load_state(
    folder: Path, optimizer: torch.optim.Optimizer, modules: dict[str, nn.Module], say: Callable[[str], None]
) -> Snapshot | None:
    """Restore the newest checkpoint in `folder` that is whole, in place; None where there is none.

    Raises:
        UserError: there are checkpoints, and none of them is whole and of this network.
    """
    reasons = []
    for file in (folder / WRITTEN, folder / NEWEST, folder / BEFORE):
        if not file.exists():
            continue
        try:
            snapshot = read(file)
            restore(snapshot, optimizer, modules)
        except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
            reasons.append(f"{file}: not a checkpoint of this run ({str(error).splitlines()[0]})")
        else:
            for reason in reasons:
                say(f"{reason}: going on from the one before it, of step {snapshot.step}")
            return snapshot
    if reasons:
        raise UserError(f"{'; '.join(reasons)}: start afresh")
    return None


def _checksum(tensors: dict[str, Tensor]) -> int:
    value = 0
    for key in sorted(tensors):
        value = zlib.crc32(tensors[key].contiguous().flatten().view(torch.uint8).numpy().data, value)
    return value


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}
