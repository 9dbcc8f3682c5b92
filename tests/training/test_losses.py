"""Every kind of training has the losses that it had when they were recorded: by benchmarks/losses.py, in float32."""

import json
from pathlib import Path

import losses
import pytest

RECORDED = json.loads(Path(__file__).with_name("losses.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_losses_are_those_recorded(name, tmp_path):
    losses.train(name, tmp_path / "run")
    readings = [reading["train_loss"] for reading in losses.read(tmp_path / "run")["readings"]]
    assert len(readings) == losses.STEPS
    assert readings[: len(RECORDED[name])] == pytest.approx(RECORDED[name], rel=1e-4)


def test_every_kind_in_float32_is_recorded():
    assert set(RECORDED) == {name for name in losses.RUNS if not name.endswith("bf16")}
