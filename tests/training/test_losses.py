"""Every kind of training has the losses that it had when they were recorded: by benchmarks/losses.py, in float32."""

import json
from pathlib import Path

import losses
import pytest

from pocketvit.training.step import GradientStep

RECORDED = json.loads(Path(__file__).with_name("losses.json").read_text())


class Enough(Exception):
    """The steps that are recorded are done."""


@pytest.mark.parametrize("name", RECORDED)
def test_losses_are_those_recorded(name, tmp_path, monkeypatch):
    run = GradientStep.run

    def as_many(self, place):
        if place == len(RECORDED[name]):
            raise Enough
        return run(self, place)

    monkeypatch.setattr(GradientStep, "run", as_many)
    with pytest.raises(Enough):
        losses.train(name, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["train_loss"] for line in lines] == pytest.approx(RECORDED[name], rel=1e-4)


def test_every_kind_in_float32_is_recorded():
    assert set(RECORDED) == {name for name in losses.RUNS if not name.endswith("bf16")}
