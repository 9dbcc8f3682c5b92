"""A run's time is that of all its calls, stage by stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketvit.run import clock as module
from pocketvit.run.clock import OPENING, Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: moment[0])
    return moment


def test_time_is_that_of_the_stage_that_was_entered(now: list[float]) -> None:
    clock = Clock(began=90.0)
    assert clock.seconds == 10
    now[0] = 101
    clock.enter("pretrain")
    now[0] = 131
    clock.enter("probe")
    now[0] = 132
    assert clock.seconds == 42
    assert clock.stages == {OPENING: 11, "pretrain": 30}


def test_a_call_that_goes_on_counts_from_what_was_kept(now: list[float], tmp_path: Path) -> None:
    first = Clock(tmp_path / "clock.json")
    first.enter("pretrain")
    now[0] = 150
    first.tick()
    now[0] = 170  # lost with the kill
    again = Clock(tmp_path / "clock.json")
    again.enter("pretrain")
    now[0] = 180
    again.tick()
    assert again.stages == {OPENING: 0, "pretrain": 60}
    assert again.seconds == 60
