"""AdamW over groups that the model declares, a warm-up cosine, and a moving average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pocketvit.config import OptimConfig


class Trainable(Protocol):
    """A module that says which parameters weight decay spares and how deep each of them lies."""

    def no_weight_decay(self, name: str, parameter: Tensor) -> bool: ...
    def layer_of(self, name: str) -> int: ...


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; each group carries `lr_scale`, its share of the scheduled rate (layer-wise decay, arXiv 2003.10555)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    last = max(model.layer_of(name) for name, _ in named)  # type: ignore[operator]
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        layer, spared = model.layer_of(name), model.no_weight_decay(name, parameter)  # type: ignore[operator]
        group = groups.setdefault(
            (layer, spared),
            {
                "params": [],
                "lr_scale": config.layer_decay ** (last - layer),
                "weight_decay": 0.0 if spared else config.weight_decay,
            },
        )
        group["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()), lr=config.lr, betas=(0.9, config.beta2), fused=True)


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Linear warm-up, then a cosine from `lr` to `min_lr`; depends on the step alone, so resuming needs no state."""
    warmup = config.warmup * steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, steps - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2


class Average:
    """Exponential moving average of the weights, whose decay rises to `decay` so that the start is soon forgotten.

    torch's AveragedModel counts on the device, and so waits for it in every step; here the loop counts.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step`, counted from 0; the first are copied."""
        decay = min(self.decay, (1 + step) / (10 + step)) if step else 0.0
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
