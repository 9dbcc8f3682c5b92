"""torch.compile: the same training, and a trial that leaves no trace in it."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small import Small
from torch import Tensor, nn

from pocketvit.config import ModelConfig, OptimConfig
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.training import compilation, loop
from pocketvit.training.batches import Batches
from pocketvit.training.checkpoint import NEWEST, read
from pocketvit.training.device import make_accelerator
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.schedule import Deadlines
from pocketvit.training.stage import TrainResult
from pocketvit.training.step import GradientStep, Programs
from pocketvit.training.stops import Paused

EPOCHS, STEPS = 3, 15


class Said(RunLog):
    """A log that keeps what it says."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Wrapped(nn.Module):
    """Stands for a compiled network: another module, the same arithmetic."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


@pytest.fixture(autouse=True)
def try_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loop, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 0.0)
    yield
    torch.compiler.reset()


def run(
    choice: str,
    log: RunLog | None = None,
    folder: Path | None = None,
    pause: float = math.inf,
    land: float = math.inf,
) -> TrainResult:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    batches = Batches(images, None, [0.5], [0.3], batch_size=8, seed=5, device="cpu")
    torch.manual_seed(0)
    mae = MaskedAutoencoder(
        ModelConfig("digits", width=16, depth=2, heads=2, decoder_width=8, decoder_heads=2), (8, 8, 1)
    )
    mae.encoder.drop_path = 0.3
    objective = Small(mae, batches, lambda model, images, labels: model(batches.normalise(images)).loss)
    config = OptimConfig(epochs=EPOCHS, batch_size=8, lr=1e-2)
    step = GradientStep(objective, config, make_accelerator("cpu", "float32"), seed=5)
    return train(
        step, log or RunLog(quiet=True), {"stage": "test"},
        folder=folder, deadlines=Deadlines(land, pause), compilation=choice,
    )  # fmt: skip


def same_weights(a: TrainResult, b: TrainResult) -> bool:
    pairs = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def replace_compiler(monkeypatch: pytest.MonkeyPatch, make: Callable[[nn.Module], nn.Module]) -> None:
    def compiled(programs: Programs, graphs: bool = False) -> Programs:
        return programs._replace(network=make(programs.network))

    monkeypatch.setattr(Programs, "compiled", compiled)


def time_forward_passes(monkeypatch: pytest.MonkeyPatch, compiled: float) -> None:
    """By the trial's clock an eager forward pass takes a second, one of a compiled network `compiled` seconds."""
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now

    def timed(network: type[nn.Module], seconds: float) -> None:
        forward = network.forward

        def run_clock(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            clock.now += seconds
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(network, "forward", run_clock)

    monkeypatch.setattr(compilation, "time", clock)
    timed(MaskedAutoencoder, 1.0)
    timed(Wrapped, compiled - 1.0)  # it goes on to the eager one


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_the_compiled_network_draws_and_learns_as_the_eager_one_does() -> None:
    eager, fast = run("never"), run("always")
    assert fast.steps == eager.steps == STEPS
    # Masks and dropped paths are the same; only the order of summation differs.
    assert fast.train_loss == pytest.approx(eager.train_loss, rel=1e-5)


@pytest.mark.parametrize("wins", [True, False])
def test_the_trial_leaves_no_trace_in_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wins: bool) -> None:
    replace_compiler(monkeypatch, Wrapped)
    time_forward_passes(monkeypatch, compiled=0.5 if wins else 2.0)
    log = Said()
    tried = run("auto", log, tmp_path)
    assert same_weights(tried, run("never"))
    assert next(line for line in log.lines if "ms a step" in line).endswith("with it" if wins else "without it")
    assert read(tmp_path / NEWEST).notes["compiled"] is wins


def test_a_resumed_run_goes_on_with_what_was_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[nn.Module] = []
    replace_compiler(monkeypatch, lambda network: made.append(network) or Wrapped(network))
    time_forward_passes(monkeypatch, compiled=0.5)
    with pytest.raises(Paused):
        run("auto", folder=tmp_path, pause=0.0)
    log = Said()
    run("auto", log, tmp_path)
    assert len(made) == 2  # once tried, once for the resumed run
    assert not [line for line in log.lines if "torch.compile" in line]


@pytest.mark.parametrize("choice", ["auto", "always"])
def test_a_compiler_that_fails_is_named_and_done_without(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    class Broken(Wrapped):
        def forward(self, images: Tensor) -> Any:
            raise RuntimeError("no compiler\nand a long story")

    replace_compiler(monkeypatch, Broken)
    log = Said()
    assert same_weights(run(choice, log), run("never"))
    assert log.lines[-1] == "torch.compile: failed (RuntimeError: no compiler), training without it"


def test_a_short_stage_is_not_worth_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "WORTH_SECONDS", 240.0)
    replace_compiler(monkeypatch, lambda network: pytest.fail("compiled"))
    log = Said()
    run("auto", log)
    assert not log.lines


def test_a_stage_that_has_to_end_soon_is_not_worth_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_compiler(monkeypatch, lambda network: pytest.fail("compiled"))
    run("auto", land=time.monotonic())
