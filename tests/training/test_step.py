"""A step as a device sees it: nothing in it waits for the host, and a compiler takes each network whole, once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from pocketvit.config import Settings, resolve
from pocketvit.data import Dataset, Patching, load
from pocketvit.training import loop
from pocketvit.training.batches import Batches
from pocketvit.training.device import make_accelerator
from pocketvit.training.finetune import finetuning
from pocketvit.training.log import RunLog
from pocketvit.training.pretrain import pretraining
from pocketvit.training.stage import TrainResult
from pocketvit.training.step import GradientStep

STAGES = ("pretrain", "finetune")


def settings(**more: object) -> Settings:
    """Recipe lite-cifar10 with all that it does to images and weights, at small sizes."""
    sizes = {"width": 32, "depth": 3, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
    return resolve(
        "lite-cifar10", **{f"model.{name}": size for name, size in sizes.items()}, **{"data.size": 8, "model.patch": 2},
        **{"pretrain.epochs": 2, "finetune.epochs": 2, "pretrain.batch_size": 256, "finetune.batch_size": 256},
        **{"finetune.augment.erase": 0.25, "mae.decode_share": 0.5, "pretrain.augment.rotate": 5, **more},
    )  # fmt: skip


@pytest.fixture
def digits() -> Dataset:
    return load("digits", settings().data, patching=Patching(2))


def train(stage: str, dataset: Dataset, chosen: Settings, accelerator: Accelerator) -> TrainResult:
    log = RunLog(quiet=True)
    if stage == "pretrain":
        step = pretraining(dataset, chosen, accelerator)
    else:
        step = finetuning(dataset, np.arange(len(dataset.train)), chosen, accelerator, seed=0, init=None)
    return loop.train(step, log, {"stage": stage}, compilation=chosen.compile)


@pytest.fixture
def valueless(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """A device whose tensors have no values: whoever reads one, or a mask's size, gets an error.

    Fake CUDA tensors would do as well, but that a build of torch without CUDA ends the process at their first gradient.
    """
    accelerator = make_accelerator("cpu", "float32")
    monkeypatch.setattr(type(accelerator), "device", torch.device("meta"))
    # Reading the losses is what the loop waits for, now and then.
    monkeypatch.setattr(GradientStep, "read_losses", lambda self, losses: [1.0] * len(losses))
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 0.0)
    # Its fused kernel wants a device by name.
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused, **more: adamw(groups, foreach=True, **more))
    return accelerator


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_in_a_step_waits_for_the_device(
    stage: str, digits: Dataset, valueless: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    original = Batches.at

    def counted(self: Batches, step: int, *more: int) -> object:
        steps.append(step)
        return original(self, step, *more)

    monkeypatch.setattr(Batches, "at", counted)
    monkeypatch.setattr(Batches, "chunks", lambda self: (_ for _ in ()).throw(EvaluationReached))
    with pytest.raises(EvaluationReached):
        train(stage, digits, settings(), valueless)
    assert len(steps) >= 4  # an epoch, until the first reading


class EvaluationReached(Exception):
    """The steps before the first reading are over."""


def test_a_step_that_waits_would_be_found() -> None:
    value = torch.ones(3, device="meta")
    for wait in (lambda: value.sum().item(), lambda: value[value > 0], lambda: value.nonzero()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()


@pytest.mark.parametrize("stage", STAGES)
def test_a_compiler_takes_each_stage_whole_and_once(
    stage: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    compiler = torch.compile

    def whole(program: object, **options: object) -> object:
        made.append(program)
        # What breaks or is repeated is decided before the backend, the slow part, which only lowers.
        return compiler(program, **options, fullgraph=True, backend="aot_eager")  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "compile", whole)
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        chosen = dataclasses.replace(settings(), compile="always")
        result = train(stage, digits, chosen, make_accelerator("cpu", "bf16"))
    torch.compiler.reset()
    assert result.compiled  # a graph that breaks or is compiled again would have ended in eager steps
    assert len(made) == 2
    assert len(result.history) == 2
