"""One gradient step: what is trained, how, and on what, in one object.

All randomness of a step comes from (seed, step), so that a run that is resumed draws what it would have drawn.
Nothing here waits for the device: losses stay there until `read_losses`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pocketvit.config import OptimConfig
from pocketvit.model.network import Trainable
from pocketvit.training.batches import Batches
from pocketvit.training.checkpoint import Snapshot, capture, gathered, load_state, restore, save_state, write
from pocketvit.training.optimizer import Average, learning_rate, make_optimizer, scaled, set_mode
from pocketvit.training.schedule import Schedule
from pocketvit.training.sharding import gather, shard


class Objective(Protocol):
    """What a stage trains a network for."""

    @property
    def network(self) -> Trainable:
        """On the device."""

    @property
    def batches(self) -> Batches:
        """What it learns from."""

    @property
    def augment(self) -> Callable[[Tensor], Tensor]:
        """Changes (B, C, H, W) float images in [0, 1] before the loss sees them."""

    @property
    def reading_images(self) -> int:
        """Images that a reading goes through."""

    def prepare(self, course: float, average: nn.Module) -> None:
        """Called before each step with the share of the learning rate's course that is over.

        `average` is the network with averaged weights, where these are averaged, or else the network itself.
        """

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        """A mean over (B, C, H, W) images in [0, 1] with their (B,) labels; `network` may be a compiled form."""

    def read(self, network: nn.Module, epoch: int, last: bool) -> dict[str, float]:
        """Readings of a network on held-out images, by name."""


class Programs(NamedTuple):
    """What a step computes with: the network, and what changes its images, both as they are or both compiled."""

    network: nn.Module
    augment: Callable[[Tensor], Tensor]

    def compiled(self, graphs: bool) -> Programs:
        """The same, forward and backward pass compiled for the shapes that they meet.

        With `graphs`, the network's kernels are replayed as CUDA graphs, two launches for the host in place of
        hundreds.

        Random numbers come from the generators that eager programs draw from; on CUDA the compiler may draw them in
        another order (pytorch issue 181136), so that a run that goes on has to compute with what it began with.
        """
        import torch._inductor.config as inductor

        inductor.fallback_random = True
        network = torch.compile(self.network, dynamic=False, options={"triton.cudagraphs": graphs})
        return Programs(cast(nn.Module, network), torch.compile(self.augment, dynamic=False))


class GradientStep:
    """Model, optimiser, averaged weights, batches and loss: `run` is one step, and `capture` the state between two.

    `programs` is what it computes with, and `schedule` how long it is; `mark` is called with the name of each part of a
    step at its end, for whoever takes times.

    Args:
        objective: what is trained, in place unless it is sharded, and for what.
        config: length and optimiser.
        accelerator: device, precision and processes.
        seed: with the step, decides every random draw.
        sharded: of several processes, each keeps a part of the weights rather than a copy of them all.
    """

    def __init__(
        self, objective: Objective, config: OptimConfig, accelerator: Accelerator, *, seed: int, sharded: bool = False
    ) -> None:
        self.objective, self.accelerator, self.seed = objective, accelerator, seed
        self.batches = objective.batches
        self.config = scaled(config, self.batches.batch_size)
        self.rescaled = self.config.lr != config.lr
        model = objective.network
        self._model, self._average = model, Average(model, config.ema) if config.ema else None
        self._trained = self._average.model if self._average else model
        self._modules = {"model": model} | ({"average": self._trained} if self._average else {})
        self._usable = self._trained
        self.sharded = sharded and accelerator.num_processes > 1
        if self.sharded:
            self._usable = copy.deepcopy(self._trained)
            for module in self._modules.values():
                shard(module, accelerator, trained=module is model)
        self._optimizer = make_optimizer(model, self.config)
        # Listed once, for walking the tree of modules takes the host longer than a kernel.
        self._weights = list(model.parameters())
        copies = accelerator.num_processes > 1 and not self.sharded
        self._eager = DistributedDataParallel(model) if copies else model
        self.programs = Programs(self._eager, objective.augment)
        self.graphs = False
        self.mark: Callable[[str], None] = lambda part: None
        steps = total_steps(config, len(self.batches))
        self.schedule = Schedule(steps, steps)
        # Snapshots are taken in this mode, for a change of modes rounds the weights.
        set_mode(self._optimizer, training=True)
        model.train()

    def rate(self, step: int) -> float:
        """The learning rate of a step, before each layer's share of it."""
        return learning_rate(self.schedule.at(step), self.schedule.planned, self.config)

    def run(self, step: int) -> Tensor:
        """Take a step, counted from 0; returns the loss on this process's images, a scalar on the device."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        self.objective.prepare(self.schedule.at(step) / self.schedule.planned, self._trained)
        rate = self.rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        total = torch.zeros((), device=self.accelerator.device)
        for part in range(self.config.accumulate):
            total += self._add_gradients(step, part)
        if self.config.clip:
            self.accelerator.clip_grad_norm_(self._weights, self.config.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average:
            self._average.update(step)
        self.mark("optimiser")
        return total

    def _add_gradients(self, step: int, part: int) -> Tensor:
        """Those of a part of the batch, to what the parts before it left; returns its share of the loss."""
        parts = self.config.accumulate
        torch.manual_seed((self.seed * 1_000_003 + step) * parts + part)
        images, labels, _ = self.batches.at(step, part, parts)
        self.mark("draw")
        # Outside of autocast, which would round the coordinates at which an image is read.
        images = self.programs.augment(images)
        self.mark("augment")
        # Gradients are exchanged once a step, with the last part's.
        alone = nullcontext() if part == parts - 1 else self.accelerator.no_sync(self._eager)
        with alone, self.accelerator.autocast():
            loss = self.objective.loss(self.programs.network, images, labels) / parts
        self.mark("forward")
        self.accelerator.backward(loss)
        self.mark("backward")
        return loss.detach()

    def read_losses(self, losses: Sequence[Tensor]) -> list[float]:
        """Losses of steps over all processes; the one place where the host waits for the device."""
        values = torch.stack(list(losses))
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(values)
            values /= self.accelerator.num_processes
        return values.tolist()

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Within it, nothing trains; gives the network to use: whole, with averaged weights where there are some."""
        set_mode(self._optimizer, training=False)
        if self.sharded:
            gather(self._trained, into=self._usable)
        try:
            yield self._usable
        finally:
            set_mode(self._optimizer, training=True)
            self._model.train()

    def finished(self) -> nn.Module:
        """The network to use after the last step, in evaluation mode; nothing can be trained any more."""
        set_mode(self._optimizer, training=False)
        if self.sharded:
            gather(self._trained, into=self._usable)
        return self._usable.eval()

    def capture(self, step: int) -> Snapshot:
        """A copy of the state after `step` steps, on the device."""
        return capture(step, self._optimizer, self._modules)

    def restore(self, snapshot: Snapshot) -> None:
        """Put a state back."""
        restore(snapshot, self._optimizer, self._modules)

    def load(self, folder: Path, say: Callable[[str], None]) -> Snapshot | None:
        """Put the newest checkpoint in a folder back; returns it, or None where there is none."""
        return load_state(folder, self._optimizer, self._modules, say)

    def save(self, folder: Path, snapshot: Snapshot) -> None:
        """Make a snapshot the newest checkpoint in a folder; all processes have to call this. Raises `save_state`'s."""
        state = gathered(snapshot, keep=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            save_state(folder, state)

    def save_before(self, step: int, good: Snapshot, file: Path) -> None:
        """Write the state before a step to a file, by repeating the steps from the state `good`."""
        self.restore(good)
        for earlier in range(good.step, step):
            self.run(earlier)
        state = gathered(self.capture(step), keep=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            write(file, replace(state, notes=good.notes))


def total_steps(config: OptimConfig, images: int) -> int:
    """Steps of a stage on so many images: its epochs, or `min_steps` where that is more."""
    return max(config.epochs * epoch_steps(config, images), config.min_steps)


def epoch_steps(config: OptimConfig, images: int) -> int:
    """Steps of an epoch on so many images; see `Batches.steps_per_epoch`."""
    return images // min(config.batch_size, images)
