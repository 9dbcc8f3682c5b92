"""`fit` from weights that are there: they take the place of pre-training, beside arms from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import pocketvit as pv
from pocketvit.cli import main

BRIEF = {
    "model.width": 16, "model.depth": 1, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2,
    "resnet.depth": 8, "device": "cpu", "precision": "float32", "epochs": 1, "finetune.epochs": 1,
    "finetune.min_steps": 0, "labels_per_class": 5,
}  # fmt: skip
FLAGS = [f"--{name}={value}" for name, value in BRIEF.items()]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pv.pretrain("digits", out=tmp_path_factory.mktemp("before") / "pretrained", **BRIEF).path


@pytest.fixture(scope="module")
def fitted(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> pv.Run:
    return pv.fit("digits", init=pretrained, out=tmp_path_factory.mktemp("after") / "run", **BRIEF)


def test_nothing_is_pretrained_and_all_arms_are_compared(fitted: pv.Run, pretrained: Path) -> None:
    summary = json.loads((fitted.path / "summary.json").read_text())
    assert summary["pretrain"] == {}
    assert list(summary["finetune"][0]["arms"]) == ["mae", "random", "resnet"]
    assert not any(part["stage"].startswith("pretrain") for part in summary["details"]["plan"]["stages"])
    assert summary["details"]["init"] == "pretrained"
    assert "the weights are those of pretrained" in (fitted.path / "report.html").read_text()


def test_the_network_is_that_of_the_weights(pretrained: Path, tmp_path: Path) -> None:
    brief = {name: value for name, value in BRIEF.items() if not name.startswith("model.")}
    run = pv.finetune("digits", init=pretrained, recipe="tiny", out=tmp_path / "run", **brief)
    asked = yaml.safe_load((run.path / "config.yaml").read_text())["model"]
    assert (asked["preset"], asked["patch"], asked["width"], asked["depth"], asked["heads"]) == ("digits", 2, 16, 1, 2)
    assert asked["pool"] == "mean"  # the recipe's: the head is new
    findings = json.loads((run.path / "summary.json").read_text())["details"]["notes"]
    assert "network digits in place of tiny, as the weights of --init are" in findings
    again = pv.finetune("digits", init=pretrained, recipe="tiny", out=run.path, resume=True, **brief)
    assert again.path == run.path


def test_the_encoder_is_that_of_the_weights(fitted: pv.Run, pretrained: Path) -> None:
    alone = pv.probe("digits", model=pretrained, labels_per_class=5)["model"]
    assert json.loads((fitted.path / "summary.json").read_text())["probe"]["mae"] == pytest.approx(alone)
    by_itself = pv.finetune("digits", init=pretrained, out=fitted.path.parent / "alone", **BRIEF)
    runs = [json.loads((run.path / "summary.json").read_text())["finetune"][0] for run in (fitted, by_itself)]
    assert runs[0]["arms"]["mae"]["accuracy"] == runs[1]["arms"]["mae"]["accuracy"]


def test_a_run_goes_on_from_its_weights_and_from_no_others(
    fitted: pv.Run, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fitted.path / "summary.json").unlink()
    assert main(["resume", str(fitted.path)]) == 0
    assert json.loads((fitted.path / "summary.json").read_text())["details"]["init"] == "pretrained"
    assert main(["fit", "digits", "--resume", f"--out={fitted.path}", *FLAGS]) == 2
    assert "--init" in capsys.readouterr().err


def test_weights_that_no_arm_starts_from_are_refused(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["fit", "digits", f"--init={pretrained}", "--arms=random", f"--out={out}", *FLAGS]) == 2
    assert "add mae" in capsys.readouterr().err
    assert not out.exists()
