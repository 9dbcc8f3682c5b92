"""The house can be read: from a command to the backward pass in five files."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path

import pytest
import torch

import pocketvit
from pocketvit.cli import main
from pocketvit.training.loop import train

PACKAGE = Path(pocketvit.__file__).parent
REPO = PACKAGE.parents[1]
SMALL = ["--model.width=16", "--model.depth=1", "--model.heads=2", "--model.decoder_width=16", "--epochs=1"]


def test_a_command_reaches_its_backward_pass_in_five_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[list[str]] = []
    backward = torch.Tensor.backward

    def recorded(self: torch.Tensor, *args: object, **kwargs: object) -> None:
        frames = (Path(frame.filename) for frame in traceback.extract_stack())
        own = (str(file.relative_to(PACKAGE)) for file in frames if file.is_relative_to(PACKAGE))
        stacks.append(list(dict.fromkeys(own)))
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", recorded)
    args = ["pretrain", "digits", *SMALL, "--model.decoder_heads=2", "--device=cpu", "--precision=float32"]
    assert main([*args, "--out", str(tmp_path / "run")]) == 0
    files = ["cli.py", "verbs/train.py", "stages/pretraining.py", "training/loop.py", "training/step.py"]
    assert stacks
    assert all(stack == files for stack in stacks)


def test_the_loop_fits_a_screen() -> None:
    assert len(inspect.getsource(train).splitlines()) <= 95
    assert len(inspect.signature(train).parameters) <= 9


@pytest.mark.parametrize("folder", ["src", "benchmarks"])
def test_no_file_is_longer_than_a_person_reads(folder: str) -> None:
    lengths = {file.name: len(file.read_text().splitlines()) for file in (REPO / folder).rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 320} == {}
