"""Optimisers over groups that the model declares, the learning rate, and a moving average of the weights."""

from __future__ import annotations

import copy
import dataclasses
import math
from functools import cached_property
from importlib import import_module
from itertools import compress, islice
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.config import OptimConfig
from pocketvit.errors import UserError
from pocketvit.model.network import Trainable

_EXTRA = 'pip install "pocketvit[optim]"'
# Module, class, and what to do where they are missing.
_SOURCES = {
    "adamw": ("torch.optim", "AdamW", "install PyTorch 2.9 or newer"),
    "muon": ("torch.optim", "Muon", "install PyTorch 2.9 or newer"),
    "lion": ("lion_pytorch.foreach", "Lion", _EXTRA),
    "schedule-free": ("schedulefree", "AdamWScheduleFree", _EXTRA),
}


def optimizer_class(name: str, flag: str = "--optimizer") -> Any:
    """The class that `OptimConfig.optimizer` names; UserError, naming `flag`, where it is not installed."""
    module, attribute, remedy = _SOURCES[name]
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError):
        raise UserError(f"{flag}: {name} is not installed here: {remedy}") from None


def make_optimizer(model: Trainable, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser that `config` names; whoever calls `step` sets the rate before it.

    Each group carries `lr_scale`, its share of the scheduled rate (layer-wise decay, arXiv 2003.10555).

    Raises:
        UserError: it is not installed.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    last = max(model.layer_of(name) for name, _ in named)
    matrices = {id(p) for p in model.matrices()} if config.optimizer == "muon" else set()
    # Muon's groups, and those of whatever has the rest. One for each rate and decay: a fused step costs the host about
    # as much for a group of one tensor as for one of a hundred.
    hidden: dict[tuple[float, float], dict[str, Any]] = {}
    rest: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        scale = config.layer_decay ** (last - model.layer_of(name))
        decay = 0.0 if model.no_weight_decay(name, parameter) else config.weight_decay
        group = (hidden if id(parameter) in matrices else rest).setdefault(
            (scale, decay), {"params": [], "lr_scale": scale, "weight_decay": decay}
        )
        group["params"].append(parameter)
    kind, groups = optimizer_class(config.optimizer), list(rest.values())
    if config.optimizer == "lion":
        # Its second beta, 0.99, is that of a momentum; AdamW's, of squares, would make it far too slow.
        return kind(groups)
    adam: dict[str, Any] = {"lr": config.lr, "betas": (0.9, config.beta2)}
    if config.optimizer == "schedule-free":
        return kind(groups, **adam)
    adamw = torch.optim.AdamW(groups, fused=True, **adam)
    if not hidden:  # as where the encoder is frozen
        return adamw
    # Updates as large as AdamW's usually are, for the same rate to serve both (Liu et al. 2025, arXiv 2502.16982).
    return Joint(kind(list(hidden.values()), lr=config.lr, adjust_lr_fn="match_rms_adamw"), adamw)


class Joint(torch.optim.Optimizer):
    """Optimisers of different parameters, as one: its groups are theirs, in order, and its state is everybody's."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of each part."""
        groups = iter(self.param_groups)
        for part in self._parts:
            # Anew in every step, for loading a state puts other objects in their place.
            part.state, part.param_groups = self.state, list(islice(groups, len(part.param_groups)))
            part.step()


def set_mode(optimizer: torch.optim.Optimizer, training: bool) -> None:
    """Put into the model the weights to train on, or those to use; they differ for schedule-free alone.

    Schedule-free (Defazio et al. 2024, arXiv 2405.15682) takes gradients between its average, which is to be used, and
    its fastest iterate. Going to one and back changes the weights by a rounding.
    """
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


def scaled(config: OptimConfig, batch_size: int) -> OptimConfig:
    """`config` with the rates for batches of `batch_size` images: linear scaling (Goyal et al. 2017, arXiv 1706.02677).

    They are then meant for that size: scaling once more changes nothing.
    """
    factor = batch_size / config.lr_base_size if config.lr_base_size else 1.0
    return dataclasses.replace(config, lr=config.lr * factor, min_lr=config.min_lr * factor, lr_base_size=0)


def learning_rate(step: float, steps: int, config: OptimConfig) -> float:
    """Linear warm-up, then a cosine from `lr` to `min_lr`, which schedule-free does without.

    It depends on the step alone, so resuming needs no state.
    """
    warmup = config.warmup * steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.optimizer == "schedule-free":
        return config.lr
    progress = (step - warmup) / max(1.0, steps - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2


class Average:
    """Exponential moving average of the weights, whose decay rises to `decay` so that the start is soon forgotten.

    Buffers, as the running statistics of a batch norm, are averaged with them; those that count are copied. torch's
    AveragedModel counts on the device, and so waits for it in every step; here the caller counts.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self._source = copy.deepcopy(model), decay, model

    @cached_property
    def _tensors(self) -> tuple[tuple[list[Tensor], list[Tensor]], ...]:
        """Averages, and what goes into them, listed at the first update: sharding may have replaced them before.

        Weights, which may be sharded, and buffers, which never are: no operation takes both.
        """
        average, source = self.model, self._source
        weights: tuple[list[Tensor], list[Tensor]] = [*average.parameters()], [*source.parameters()]
        return weights, ([*average.buffers()], [*source.buffers()])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's weights after `step`, counted from 0; the first are copied."""
        decay = min(self.decay, (1 + step) / (10 + step)) if step else 0.0
        for averages, sources in self._tensors:
            floating = [tensor.is_floating_point() for tensor in averages]
            if any(floating):
                torch._foreach_lerp_(list(compress(averages, floating)), list(compress(sources, floating)), 1 - decay)
            for average, source, averaged in zip(averages, sources, floating, strict=True):
                if not averaged:
                    average.copy_(source)
