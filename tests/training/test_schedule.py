"""Landing: where the time will not do, the rest of the course is run through in fewer steps, whoever finishes it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small import Small
from torch import Tensor, nn

from pocketvit.config import OptimConfig
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.training import loop, schedule, stage
from pocketvit.training.batches import Batches
from pocketvit.training.device import make_accelerator
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.optimizer import learning_rate
from pocketvit.training.schedule import Deadlines, Pace, Schedule
from pocketvit.training.stage import TrainResult
from pocketvit.training.step import GradientStep

CONFIG, STEPS = OptimConfig(epochs=3, batch_size=8, lr=1e-2, ema=0.9), 15


class Killed(BaseException):
    """Stands for a death that nothing in the loop may catch."""


def run(folder: Path | None, land: float = math.inf, seed: int = 0, killed_at: int | None = None) -> TrainResult:
    """Train on 40 images of noise, 5 steps an epoch, and die as the step `killed_at` begins."""
    rng, calls = np.random.default_rng(0), iter(range(1000))
    images, labels = rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8), rng.integers(0, 3, 40)
    batches = Batches(images, labels, [0.5], [0.3], batch_size=8, seed=5, device="cpu")
    torch.manual_seed(seed)
    model = ViT(ViTShape((4, 4, 1), patch=2, width=8, depth=2, heads=2, mlp_ratio=2.0), 3, drop_path=0.1)

    def loss(model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        if next(calls) == killed_at:
            raise Killed
        return nn.functional.cross_entropy(model(images), labels)

    step = GradientStep(Small(model, batches, loss), CONFIG, make_accelerator("cpu", "float32"), seed=5)
    return train(step, RunLog(folder), {"stage": "test"}, folder=folder, deadlines=Deadlines(land=land))


def same_weights(a: TrainResult, b: TrainResult) -> bool:
    pairs = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


class Clock:
    """Each look at it takes a second, and a step is looked at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", 1000.0)
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 0.0)
    clock = Clock()
    monkeypatch.setattr(schedule, "time", clock)
    return clock


def test_a_landing_runs_through_the_rest_of_the_rates_in_fewer_steps() -> None:
    config = OptimConfig(lr=1.0, warmup=0.1)
    whole = Schedule(100, 100)
    landed = whole.ending(40, 20)
    assert [whole.at(step) for step in range(100)] == list(range(100))
    assert (landed.steps, landed.at(40), landed.at(60)) == (60, 40, 100)
    rates = [learning_rate(landed.at(step), landed.planned, config) for step in range(40, 60)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == learning_rate(40, 100, config)
    assert rates[-1] < 0.01
    again = landed.ending(50, 5)
    assert (again.steps, again.at(50), again.at(55)) == (55, landed.at(50), 100)
    longer = landed.ending(50, 70)  # not beyond what was planned
    assert (longer.steps, longer.at(50), longer.at(100)) == (100, landed.at(50), 100)


@pytest.mark.parametrize(("land", "steps"), [(math.inf, 100), (105, 100), (51, 50), (30, 30), (0, 2)])
def test_a_stage_lands_where_its_time_ends(land: float, steps: int) -> None:
    pace, current = Pace(), Schedule(100, 100)
    done = 0
    while done < current.steps:
        done += 1  # a second each
        current = pace.landed(current, done, land)
        assert done <= current.steps <= 100
    assert current.steps <= steps
    assert current.steps >= 0.9 * steps


def test_a_landing_that_did_too_much_is_taken_back_and_the_time_is_used(clock: Clock) -> None:
    pace, current, land = Pace(), Schedule(1000, 1000), 400.0
    done = changes = 0
    while done < current.steps:
        # Half of the speed until a tenth of the time is over, as where caches are cold.
        clock.now += 1 if clock.now < 60 else 0
        done += 1
        landed = pace.landed(current, done, land)
        changes += landed != current
        current = landed
    assert 0.95 * land < clock.now <= land
    assert 1 < changes < 12


def test_what_comes_before_the_first_look_says_nothing_of_the_pace(clock: Clock) -> None:
    pace, slow = Pace(), Schedule(100, 100)
    clock.now = 60.0  # a compiler worked for a minute
    for done in range(1, 30):
        assert pace.landed(slow, done, 165.0) == slow


def test_training_that_is_short_of_time_ends_with_a_low_rate_and_a_reading() -> None:
    landed = run(None, land=8.0)
    assert 5 <= landed.steps <= 8
    assert landed.planned == STEPS
    assert landed.history[-1]["step"] == landed.steps
    # The rate of the last step planned, or less: it has come down.
    assert landed.history[-1]["lr"] <= 0.1 * CONFIG.lr
    assert not same_weights(landed, run(None))


def test_killed_after_a_landing_the_resumed_run_lands_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(None, land=10.0)
    monkeypatch.setattr(schedule, "time", Clock())
    with pytest.raises(Killed):
        run(tmp_path, land=10.0, killed_at=whole.steps - 1)
    resumed = run(tmp_path, seed=99)  # nobody tells it of the time
    assert (resumed.steps, resumed.planned) == (whole.steps, STEPS)
    assert same_weights(resumed, whole)
