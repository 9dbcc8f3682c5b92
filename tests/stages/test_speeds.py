"""Paces that a plan is made of are those of training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pocketvit
from pocketvit.stages import speeds
from pocketvit.training.step import GradientStep

SCRIPT = """
import json, sys
from pathlib import Path
import pocketvit
from pocketvit.config import resolve
from pocketvit.training.batches import Batches

taken, at = [], Batches.at

def taking(self, *place):
    found = at(self, *place)
    taken.append(len(found[0]))
    return found

Batches.at = taking
settings = resolve("digits", **json.loads(sys.argv[1]))
pocketvit.plan("digits", settings=settings)
print(json.dumps([sorted(set(taken)), settings.finetune.batch_size]))
"""
SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
TINY = {f"model.{name}": size for name, size in SIZES.items()} | {"device": "cpu", "precision": "float32"}


@pytest.mark.slow
def test_each_of_two_processes_is_measured_on_its_half_of_a_batch(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    settings = json.dumps({**TINY, "arms": "random", "labels_per_class": "all", "seeds": 1})
    done = subprocess.run(
        [sys.executable, *launch, str(script), settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 2
    for taken, batch in told:
        assert taken == [batch // 2]


def test_stages_are_measured_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may hold a copy of the images, on a device that has room for one."""
    alive: list[weakref.ref[GradientStep]] = []

    def recorded(make: Callable[..., GradientStep]) -> Callable[..., GradientStep]:
        def made(*args: Any, **more: Any) -> GradientStep:
            assert all(step() is None for step in alive)
            step = make(*args, **more)
            alive.append(weakref.ref(step))
            return step

        return made

    for name in ("pretraining", "finetuning"):
        monkeypatch.setattr(speeds, name, recorded(getattr(speeds, name)))
    pocketvit.plan("digits", recipe="digits", labels_per_class="all", seeds=1, **TINY)
    assert len(alive) >= 3


def test_a_set_in_the_order_of_its_classes_is_planned_where_encoders_read_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first images, as many as they read, are all of one class."""
    monkeypatch.setattr(speeds, "PROBE_SHARE", 1e-6)
    labels = np.repeat([0, 1], 400)
    images = np.random.default_rng(0).integers(0, 100, (800, 8, 8), dtype=np.uint8)
    images += (100 * labels[:, None, None]).astype(np.uint8)
    made = pocketvit.plan((images, labels), time_limit=60, recipe="digits", labels_per_class="all", seeds=1, **TINY)
    assert made.probed == speeds.LEAST_PROBED
