"""The loop's state on disk: safetensors only, written beside and renamed, so a crash leaves the last good one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pocketvit.errors import UserError


def save_state(
    path: Path, step: int, optimizer: torch.optim.Optimizer, modules: dict[str, nn.Module], notes: dict[str, Any]
) -> None:
    """Write modules, optimiser moments and the number of finished steps; every random stream derives from the step.

    `notes` is what else to keep, as JSON.
    """
    tensors = {f"{name}/{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        beside,
        metadata={"step": str(step), "notes": json.dumps(notes)},
    )
    with open(beside, "rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)


def load_state(
    path: Path, optimizer: torch.optim.Optimizer, modules: dict[str, nn.Module]
) -> tuple[int, dict[str, Any]]:
    """Restore what `save_state` wrote, in place; returns the number of finished steps, and its notes.

    Raises:
        UserError: a damaged file, or the checkpoint of another network.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            step, notes = int(metadata["step"]), json.loads(metadata["notes"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name, module in modules.items():
            module.load_state_dict(_below(tensors, name))
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: not a checkpoint of this run ({str(error).splitlines()[0]}): start afresh") from None
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "optimizer").items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    full: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict({**full, "state": state})
    return step, notes


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}
