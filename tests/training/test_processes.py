"""Runs through the command line, in processes of their own that are really killed, starved of disk, or paused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketvit.cli import main
from pocketvit.training.checkpoint import BEFORE, NEWEST, read

pytestmark = pytest.mark.usefixtures("checkpoint_after_every_step")

SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
TINY = [f"--model.{name}={value}" for name, value in SIZES.items()]
PRETRAIN = ["pretrain", "digits", *TINY, "--device", "cpu", "--precision", "float32", "--epochs", "2"]
# A checkpoint after every step, and then time for somebody to shoot.
CHILD = """
import sys, time
from pocketvit.cli import main
from pocketvit.training import loop, stage, step

save = step.save_state
stage.CHECKPOINT_SECONDS = loop.SETTLE_SECONDS = 0
step.save_state = lambda *args: (save(*args), time.sleep(0.2))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert main([*PRETRAIN, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("number", "status"), [pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_process_ended_by_a_signal_resumes_to_the_same_bits(
    tmp_path: Path, whole_run: Path, number: signal.Signals, status: int
) -> None:
    out = tmp_path / "run"
    checkpoint = out / "checkpoints" / "pretrain-mae" / "checkpoint.safetensors"
    # The number of threads decides the order of sums, and so the last bits.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *PRETRAIN, "--out", str(out)],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(np.random.default_rng().uniform(0, 0.5))
        child.send_signal(number)
        _, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == status
    assert "Traceback" not in stderr
    assert 0 < read(checkpoint).step < 20
    assert main([*PRETRAIN, "--out", str(out), "--resume"]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole_run / "model.safetensors").read_bytes()
    summaries = [json.loads((folder / "summary.json").read_text())["pretrain"]["mae"] for folder in (out, whole_run)]
    assert summaries[0]["heldout_loss"] == summaries[1]["heldout_loss"]
    assert summaries[0]["verdict"] == summaries[1]["verdict"]


FULL_DISK = """
import resource, signal, sys
from pocketvit.cli import main
from pocketvit.training import loop, stage, step

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
stage.CHECKPOINT_SECONDS = loop.SETTLE_SECONDS = 0
read = step.GradientStep.read_losses
count = iter(range(100))

def reading(*args):
    if next(count) == 5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    return read(*args)

step.GradientStep.read_losses = reading
sys.exit(main(sys.argv[1:]))
"""


def test_a_disk_that_fills_up_leaves_the_last_good_state(tmp_path: Path, whole_run: Path) -> None:
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *PRETRAIN, "--out", str(out)], env=environment, capture_output=True, text=True
    )
    assert child.returncode == 2
    assert "Traceback" not in child.stderr
    assert "cannot be written (File too large): mend that, then repeat the command" in child.stderr.splitlines()[-1]
    folder = out / "checkpoints" / "pretrain-mae"
    assert sorted(file.name for file in folder.iterdir()) == [BEFORE, NEWEST]
    assert (read(folder / NEWEST).step, read(folder / BEFORE).step) == (5, 4)
    assert main([*PRETRAIN, "--out", str(out), "--resume"]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole_run / "model.safetensors").read_bytes()


def test_a_pause_ends_with_status_0_and_slices_end_with_the_same_bits(
    tmp_path: Path, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, calls = tmp_path / "run", 0
    while not (out / "summary.json").exists():
        resume = ["--resume"] if calls else []
        assert main([*PRETRAIN, "--out", str(out), "--pause-after", "0.01s", "--json", *resume]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert "unfinished" in printed or "pretrain" in printed
        calls += 1
        if calls == 5:  # the rest at once
            assert main([*PRETRAIN, "--out", str(out), "--resume"]) == 0
    assert calls == 5
    assert (out / "model.safetensors").read_bytes() == (whole_run / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
