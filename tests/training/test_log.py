"""Progress where nobody watches: lines that are few, and say how long it will take."""

from __future__ import annotations

import re

import pytest

from pocketvit.training import log
from pocketvit.training.log import Place, RunLog, StageProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that `log` takes for the time."""
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    return now


def said(steps: int, done: int, per_epoch: int, seconds: float, clock: list[float]) -> list[str]:
    """What is said of a stage of `steps` steps, resumed at `done`, each of which takes `seconds`."""
    run_log = RunLog()
    lines: list[str] = []
    run_log.say = lines.append  # type: ignore[method-assign, assignment]
    with StageProgress(run_log, "pretrain", steps, done, per_epoch) as progress:
        for step in range(done + 1, steps + 1):
            clock[0] += seconds
            progress.update(step, "loss 0.5")
    return lines


def test_a_line_after_two_epochs_and_then_one_a_minute(clock: list[float]) -> None:
    lines = said(steps=100, done=0, per_epoch=5, seconds=2.0, clock=clock)
    assert [int(re.findall(r"step (\d+)/100", line)[0]) for line in lines] == [10, 40, 70, 100]
    assert lines[0] == "pretrain  step 10/100  loss 0.5  10 s/epoch  3 min left"


def test_a_resumed_stage_counts_from_where_it_goes_on(clock: list[float]) -> None:
    lines = said(steps=100, done=50, per_epoch=5, seconds=2.0, clock=clock)
    assert lines[0] == "pretrain  step 60/100  loss 0.5  10 s/epoch  80 s left"


def test_a_brief_stage_says_nothing(clock: list[float]) -> None:
    assert said(steps=100, done=0, per_epoch=5, seconds=0.1, clock=clock) == []


def test_a_place_in_a_plan_is_said_with_the_time_for_all(clock: list[float]) -> None:
    run_log = RunLog()
    lines: list[str] = []
    run_log.stage = Place(2, 9, "fine-tuning from MAE", later=7200.0)
    run_log.say = lines.append  # type: ignore[method-assign, assignment]
    with StageProgress(run_log, "not this", 100, 0, 10) as progress:
        clock[0] += 40
        progress.update(20, "loss 0.5")
    assert lines == ["2/9  fine-tuning from MAE  step 20/100  loss 0.5  20 s/epoch  3 min left, 2.0 h for all"]


def test_what_comes_later_takes_as_much_longer_as_the_stage_itself(clock: list[float]) -> None:
    run_log = RunLog()
    lines: list[str] = []
    run_log.stage = Place(1, 9, "pre-training (MAE)", later=3600.0, planned=100.0)
    run_log.say = lines.append  # type: ignore[method-assign, assignment]
    with StageProgress(run_log, "not this", 100, 0, 10) as progress:
        clock[0] += 40
        progress.update(20, "loss 0.5")  # 200 seconds in all, twice as many as planned
    assert lines[0].endswith("3 min left, 2.0 h for all")


def test_slow_epochs_do_not_keep_it_silent(clock: list[float]) -> None:
    assert len(said(steps=10, done=0, per_epoch=10, seconds=60.0, clock=clock)) == 10
