"""A time limit is a promise: everything is over by then, tested, and reported."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pocketvit
from pocketvit.cli import main
from pocketvit.errors import UserError
from pocketvit.pages import terminal
from pocketvit.run.summary import read_summary
from pocketvit.stages import speeds
from pocketvit.training import stage
from pocketvit.verbs import train

SIZES = {
    "model.width": 16, "model.depth": 1, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2,
    "resnet.depth": 8, "device": "cpu", "precision": "float32",
}  # fmt: skip
FLAGS = [f"--{name}={value}" for name, value in SIZES.items()]
# Two fine-tunings.
ONE: dict[str, Any] = {**SIZES, "arms": "mae,random", "seeds": 1, "labels_per_class": 5}


def details(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())["details"]
    return found


@pytest.mark.parametrize(
    ("seconds", "settings"), [(20, ONE), pytest.param(40, {"device": "cpu"}, marks=pytest.mark.slow)]
)
def test_all_is_done_by_then_and_the_time_is_used(tmp_path: Path, seconds: int, settings: dict[str, Any]) -> None:
    began = time.monotonic()
    run = pocketvit.fit("digits", time_limit=seconds, out=tmp_path / "run", **settings)
    took = time.monotonic() - began
    # The margins are for a machine that does other work: the report at the end cannot be shortened.
    assert 0.6 * seconds < took < 1.05 * seconds + 8
    assert (run.path / "model.safetensors").is_file()
    assert "What was planned, from some seconds of doing each thing" in (run.path / "report.html").read_text()
    plan = details(run.path)["plan"]
    assert plan["limit"] == seconds
    assert plan["seconds"] == pytest.approx(seconds, rel=0.06)
    assert sum(one["took"] for one in plan["stages"]) + plan["opening"] == pytest.approx(took, abs=4)
    with pytest.raises(UserError, match=f"was begun with {seconds}s"):
        pocketvit.fit("digits", time_limit=50, out=run.path, resume=True, **settings)


@pytest.mark.slow
def test_a_stage_that_runs_late_lands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps ten times as slow as they were when the plan was made."""
    measure = train.outlay
    slow = stage.GradientStep.run

    def outlay(*args: Any) -> Any:
        found = measure(*args)
        monkeypatch.setattr(stage.GradientStep, "run", lambda self, step: (time.sleep(0.03), slow(self, step))[1])
        return found

    monkeypatch.setattr(train, "outlay", outlay)
    began = time.monotonic()
    run = pocketvit.fit("digits", time_limit="40s", out=tmp_path / "run", device="cpu")
    assert time.monotonic() - began < 1.05 * 40 + 8
    # Those from random init take as many steps as those from MAE have taken.
    assert all(one["steps"] < one["planned_steps"] for one in details(run.path)["runs"] if one["init"] == "mae")


@pytest.mark.slow
def test_resuming_keeps_the_plan_and_counts_the_time_that_is_over(tmp_path: Path) -> None:
    args = ["fit", "digits", "--device=cpu", "--time-limit", "40s", "--out", str(tmp_path / "run")]
    assert main([*args, "--pause-after", "8s"]) == 0
    plan = json.loads((tmp_path / "run" / "stages" / "plan.json").read_text())
    spent = sum(json.loads((tmp_path / "run" / "stages" / "clock.json").read_text()).values())
    assert 7 < spent < 20
    began = time.monotonic()
    assert main([*args, "--resume"]) == 0
    assert time.monotonic() - began < 40 - spent + 12
    assert json.loads((tmp_path / "run" / "stages" / "plan.json").read_text()) == plan
    assert details(tmp_path / "run")["seconds"] == pytest.approx(40, rel=0.4)


def test_a_limit_too_short_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="too short here") as error:
        pocketvit.fit("digits", time_limit=0.5, out=tmp_path / "run", **SIZES)
    assert not (tmp_path / "run").exists()
    enough = str(error.value).split("give ")[1]
    assert pocketvit.plan("digits", time_limit=enough, **SIZES).limit == float(enough.removesuffix("s"))


def test_a_limit_that_is_refused_leaves_a_run_that_is_gone_on_with(tmp_path: Path) -> None:
    """As one of a version that kept no plan."""
    brief = {**SIZES, "epochs": 1, "finetune.epochs": 1, "finetune.min_steps": 5, "seeds": 1, "labels_per_class": 5}
    run = pocketvit.fit("digits", out=tmp_path / "run", **brief)
    (run.path / "stages" / "plan.json").unlink()
    before = {file.name for file in run.path.rglob("*")}
    with pytest.raises(UserError, match="too short here"):
        pocketvit.fit("digits", out=run.path, resume=True, time_limit=0.5, **brief)
    assert {file.name for file in run.path.rglob("*")} == before
    assert pocketvit.fit("digits", out=run.path, resume=True, **brief).summary["finetune"] == run.summary["finetune"]


def test_a_plan_trains_nothing_and_writes_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "digits", *FLAGS, "--plan"]) == 0
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().err
    heads = [line.split()[0] for line in said.splitlines() if not line.startswith(" ")]
    assert heads == ["Data", "Model", "Device", "Plan"]
    assert "8x8 grey" in said
    assert "3 arms x 3 seeds x 2 label counts" in " ".join(said.split())
    assert "ends near" in said


def test_slow_steps_are_waited_for_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes half a second on the clock: one that warms up, one after it, and two over the course."""
    clock, runs = SimpleNamespace(now=0.0), [0]
    step = stage.GradientStep.run

    def run(self: stage.GradientStep, place: int) -> Any:
        runs[0], clock.now = runs[0] + 1, clock.now + 0.5
        return step(self, place)

    monkeypatch.setattr(stage.GradientStep, "run", run)
    monkeypatch.setattr(speeds, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    made = pocketvit.plan("digits", labels_per_class="all", **SIZES)
    assert len(made.arms) == 3
    assert runs[0] == 3 * 4


def test_the_end_in_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    brief = ["--epochs=1", "--finetune.epochs=1", "--finetune.min_steps=5", "--labels-per-class=5,all", "--seeds=2"]
    assert main(["fit", "digits", *FLAGS, *brief, "--out", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    assert out.lstrip().startswith("Something simpler does better with all labels: SVM on raw pixels has 9")
    for words in (
        "MAE, fine-tuned", "Random init, trained alike", "MAE, frozen: linear probe", "SVM on raw pixels",
        "the most frequent class, always", "Saved   the ", "labels", "Weakest", ", planned ",
        f"pocketvit predict IMAGES --model {tmp_path / 'r'}", "report.html",
    ):  # fmt: skip
        assert words in out
    (saved,) = [line for line in out.splitlines() if line.rstrip().endswith("saved")]
    details = read_summary(tmp_path / "r")["details"]
    title = {"mae": "MAE", "random": "Random init", "resnet": "ResNet"}[details["shipped"]]
    assert saved.startswith(f"{title}, frozen: linear probe" if details["frozen"] else f"{title}, ")
    for python in ("None", "{'", "nan"):
        assert python not in out


def test_the_end_of_pretraining_says_what_to_do_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "digits", *FLAGS, "--epochs=1", "--out", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert f"pocketvit finetune DATA --init {tmp_path / 'r'}" in out
    assert "Pre-trained for 1 epochs" in out.replace(terminal.words.NBSP, " ")
