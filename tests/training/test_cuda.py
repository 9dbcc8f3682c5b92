"""What only a CUDA device can show; each test's name says what is not checked where there is none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketvit.config import ModelConfig, OptimConfig, Settings, resolve
from pocketvit.data import Dataset, Patching, load
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.training import loop
from pocketvit.training.batches import Batches
from pocketvit.training.device import describe, make_accelerator
from pocketvit.training.log import RunLog
from pocketvit.training.optimizer import make_optimizer
from pocketvit.training.pretrain import pretraining
from pocketvit.training.schedule import Deadlines
from pocketvit.training.stage import TrainResult
from pocketvit.training.stops import Paused


@pytest.fixture(autouse=True)
def cuda(request: pytest.FixtureRequest) -> None:
    if not torch.cuda.is_available():
        what = request.node.name.removeprefix("test_").replace("_", " ")
        pytest.skip(f"no CUDA device here, so not checked: {what}")


def settings(**more: object) -> Settings:
    small = {"width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
    model = {f"model.{name}": value for name, value in small.items()}
    return resolve("digits", **model, epochs=3, device="cuda", **{"pretrain.ema": 0.9, **more})


def digits(of: Settings) -> Dataset:
    return load("digits", of.data, patching=Patching(2))


def train(of: Settings, folder: Path | None = None, pause: float = math.inf) -> TrainResult:
    accelerator = make_accelerator("cuda", of.precision, of.deterministic)
    step, quiet = pretraining(digits(of), of, accelerator), RunLog(quiet=True)
    return loop.train(
        step, quiet, {"stage": "pretrain"}, folder=folder, deadlines=Deadlines(pause=pause), compilation=of.compile
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_pretraining_on_cuda_learns_as_on_the_cpu(precision: str) -> None:
    chosen = settings(precision=precision)
    found = train(chosen)
    step = pretraining(digits(chosen), chosen, make_accelerator("cpu", "float32"))
    cpu = loop.train(step, RunLog(quiet=True), {"stage": "pretrain"})
    assert next(found.model.parameters()).is_cuda
    # Other generators draw other masks, so the two agree as two seeds do.
    assert found.train_loss == pytest.approx(cpu.train_loss, rel=0.1)


def test_deterministic_mode_resumes_to_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 0.0)
    chosen = settings(deterministic=True)
    whole = train(chosen)
    with pytest.raises(Paused):
        train(chosen, tmp_path, pause=0.0)
    resumed = train(chosen, tmp_path)
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_step_never_waits_for_the_device() -> None:
    device = torch.device("cuda")
    mae = MaskedAutoencoder(ModelConfig("digits"), (8, 8, 1)).to(device).train()
    optimizer = make_optimizer(mae, OptimConfig())
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    batches = Batches(pixels, None, [0.5], [0.3], batch_size=32, seed=0, device=device)
    for step in range(4):
        # The first steps allocate and load kernels.
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            images, _, _ = batches.at(step)
            mae(batches.normalise(images)).loss.backward()
            torch.nn.utils.clip_grad_norm_(mae.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_step_learns_as_the_eager_one_does() -> None:
    eager, compiled = (train(settings(compile=choice, precision="float32")) for choice in ("never", "always"))
    assert compiled.train_loss == pytest.approx(eager.train_loss, rel=1e-3)


def test_images_streamed_through_pinned_memory_are_those_of_the_resident_set() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), np.uint8)
    sets = [
        Batches(pixels, None, [0.5] * 3, [0.3] * 3, batch_size=32, seed=0, device="cuda", resident=resident)
        for resident in (True, False)
    ]
    for step in range(7):
        resident, streamed = (batches.at(step)[0] for batches in sets)
        assert resident.is_cuda
        assert torch.equal(resident, streamed)


def test_evidence_names_the_device_and_its_precision() -> None:
    assert describe(make_accelerator("cuda", "bf16")) == {"device": torch.cuda.get_device_name(), "precision": "bf16"}
