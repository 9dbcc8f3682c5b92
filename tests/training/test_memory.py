"""What a step will take is known before it is taken."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pocketvit.config import resolve
from pocketvit.data import Dataset, Patching, load
from pocketvit.errors import UserError
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.training import memory
from pocketvit.training.checkpoint import Snapshot
from pocketvit.training.device import make_accelerator
from pocketvit.training.memory import check_memory, peak_bytes, saved_bytes, step_bytes
from pocketvit.training.stage import Checkpoints
from pocketvit.training.step import GradientStep

CPU = torch.device("cpu")
SETTINGS = resolve("digits")


@pytest.fixture
def digits() -> Dataset:
    return load("digits", SETTINGS.data, patching=Patching(2))


def test_the_meta_device_counts_what_a_real_pass_keeps(digits: Dataset) -> None:
    def counted(device: str) -> int:
        vit = ViT(ViTShape.of(SETTINGS.model, digits.shape), 10).to(device)
        images = torch.zeros(4, 1, 8, 8, device=device)
        return saved_bytes(vit, images, lambda: vit(images).sum())

    # The fused kernels differ in a few numbers that they keep for each head and token.
    assert counted("meta") == pytest.approx(counted("cpu"), rel=0.1)
    # 17 tokens of width 96 in 4 layers, of which a layer keeps about 10 copies in float32.
    assert 0.5 < counted("meta") / (4 * 17 * 96 * 4 * 4 * 10) < 2


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_part_of_a_batch_takes_a_part(digits: Dataset, stage: str) -> None:
    halved = dataclasses.replace(
        SETTINGS, **{stage: dataclasses.replace(getattr(SETTINGS, stage), accumulate=2)}
    )  # fmt: skip
    always, images = step_bytes(stage, digits.shape, 10, SETTINGS, CPU, bf16=False)
    assert step_bytes(stage, digits.shape, 10, halved, CPU, bf16=False) == (always, pytest.approx(images / 2, rel=0.02))


def test_what_does_not_fit_is_refused_with_what_would(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    always, images = step_bytes("finetune", digits.shape, 10, SETTINGS, CPU, bf16=False)
    accelerator = make_accelerator("cpu", "float32")
    monkeypatch.setattr(memory, "free_bytes", lambda device: int((always + images / 3) / 0.9))
    with pytest.raises(UserError, match=r"--finetune\.accumulate [34], a larger --patch, or .*--size 4x4"):
        check_memory("finetune", digits, SETTINGS, accelerator)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int((always + images) / 0.9) + 10)
    check_memory("finetune", digits, SETTINGS, accelerator)


def test_what_work_takes_beside_the_rest_is_told() -> None:
    held = torch.ones(10_000_000)  # before it, and so not counted
    taken = peak_bytes(lambda: torch.ones(25_000_000), CPU)  # 100 MB, given back at its end
    assert taken is None or taken == pytest.approx(100e6, rel=0.1)
    assert len(held) == 10_000_000


def test_the_device_holds_one_snapshot_at_a_time(tmp_path: Path) -> None:
    stage = SimpleNamespace(snapshot=lambda done: Snapshot(done, {"weights": torch.ones(25_000_000)}))  # 100 MB
    checkpoints = Checkpoints(stage, tmp_path, 0)
    taken = peak_bytes(lambda: checkpoints.keep(1, 0.0, write=False), CPU)
    assert taken is None or taken < 50e6
    assert checkpoints.good.step == 1


@pytest.mark.parametrize(("times", "refused"), [(1, False), (4, True)])
def test_a_trial_that_takes_more_than_was_estimated_is_believed(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, times: int, refused: bool
) -> None:
    always, images = step_bytes("finetune", digits.shape, 10, SETTINGS, CPU, bf16=False)
    accelerator = make_accelerator("cpu", "float32")
    monkeypatch.setattr(memory, "free_bytes", lambda device: int((always + 2 * images) / 0.9))
    monkeypatch.setattr(memory, "TRIAL", 1.0)  # a whole batch
    steps: list[object] = []

    def measured(work: Callable[[], object], device: torch.device) -> int:
        steps.append(work())
        return always + times * images

    monkeypatch.setattr(memory, "peak_bytes", measured)
    if refused:
        with pytest.raises(UserError, match="a step of finetune on 50 images"):
            check_memory("finetune", digits, SETTINGS, accelerator)
    else:
        check_memory("finetune", digits, SETTINGS, accelerator)
    assert len(steps) == 1


def test_a_step_that_is_small_is_not_tried(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    always, images = step_bytes("finetune", digits.shape, 10, SETTINGS, CPU, bf16=False)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10 * (always + images))
    monkeypatch.setattr(memory, "peak_bytes", lambda *_: pytest.fail("tried"))
    check_memory("finetune", digits, SETTINGS, make_accelerator("cpu", "float32"))


def test_images_that_stand_in_a_batch_several_times_are_no_more(digits: Dataset) -> None:
    repeated = dataclasses.replace(SETTINGS, finetune=dataclasses.replace(SETTINGS.finetune, repeats=3))
    once, often = (step_bytes("finetune", digits.shape, 10, about, CPU, False) for about in (SETTINGS, repeated))
    assert often == once


def test_a_trial_is_of_no_more_images_than_go_through_the_device_at_once(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(SETTINGS.finetune, accumulate=5)
    settings, tried = dataclasses.replace(SETTINGS, finetune=config), []
    always, images = step_bytes("finetune", digits.shape, 10, settings, CPU, bf16=False)
    make = memory.finetuning

    def made(*args: Any, **more: Any) -> GradientStep:
        step = make(*args, **more)
        tried.append(step.batches.batch_size)
        return step

    monkeypatch.setattr(memory, "finetuning", made)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int((always + 2 * images) / 0.9))
    check_memory("finetune", digits, settings, make_accelerator("cpu", "float32"))
    assert 2 <= tried[0] <= config.batch_size / 5
