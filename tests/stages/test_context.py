"""What stages make of a plan: the steps that it gives them, and the images that it lets encoders read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvit.config import resolve
from pocketvit.stages import finetuning
from pocketvit.stages.arms import RANDOM
from pocketvit.stages.context import Context
from pocketvit.stages.finetuning import finetune_stage
from pocketvit.stages.plan import Part, Plan
from pocketvit.stages.pretraining import pretrain_stage
from pocketvit.training.log import RunLog
from pocketvit.training.stops import Paused

SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
TINY = {**{f"model.{name}": value for name, value in SIZES.items()}, "device": "cpu", "precision": "float32"}


def opened(out: Path, plan: Plan, **overrides: Any) -> Context:
    settings = resolve("digits", **TINY | overrides)
    context = Context.open(
        "fit",
        "digits",
        settings,
        out=out,
        overwrite=False,
        resume=False,
        pause_after=None,
        need_labels=True,
        quiet=True,
    )
    return context.planned(plan)


def test_a_stage_takes_the_steps_that_it_is_given_be_they_less_than_an_epoch(tmp_path: Path) -> None:
    plan = Plan((Part("pretrain-mae", "pre-training", 1.0, trains=True, steps=3),))
    context = opened(tmp_path / "run", plan, labels_per_class="all")
    assert len(context.dataset.train) > 5 * max(
        context.settings.pretrain.batch_size, context.settings.finetune.batch_size
    )
    pretrained = pretrain_stage(context, "mae", tmp_path / "mae.safetensors")
    finetuned = finetune_stage(context, RANDOM, None, None, 0, steps=pretrained["steps"])
    for done in (pretrained, finetuned):
        assert (done["steps"], done["planned_steps"], done["epochs"]) == (3, 3, 1)


def test_more_steps_than_the_epochs_that_were_asked_for_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of 1,293 images is one batch of 1,000: what is left over is dropped."""
    lengths = {
        "finetune.epochs": 1,
        "finetune.min_steps": 2,
        "finetune.batch_size": 1000,
        "finetune.unlabelled": "none",
    }
    context = opened(tmp_path / "run", Plan(), labels_per_class="all", **lengths)

    def wait(*args: object, **kwargs: object) -> None:
        raise Paused

    monkeypatch.setattr(finetuning, "train", wait)
    with pytest.raises(Paused):  # said before the steps are waited for
        finetune_stage(replace(context, log=RunLog()), RANDOM, None, None, 0)
    assert "--finetune.min_steps asks for 2 steps, where 1 epochs would be 1" in capsys.readouterr().err


def test_encoders_read_the_few_labels_that_there_are_first(tmp_path: Path) -> None:
    context = opened(tmp_path / "run", Plan(probed=200), labels_per_class="all,2")
    read = context.probed("train")
    assert len(np.unique(read)) == 200
    assert np.isin(context.labelled(2, context.settings.seed), read).all()
    assert len(context.probed("test")) == 200
    _, labels = context.dataset.labelled("train")
    first = labels[context.planned(Plan(probed=10)).probed("train")]
    assert sorted(first) == list(range(10))  # one of each class before a second
    assert math.isclose(read.mean(), len(context.dataset.train) / 2, rel_tol=0.2)  # the others, of all by chance
