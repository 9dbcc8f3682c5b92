"""The benchmarks of docs/experiments.md: trials, splits, spread labels and forms at equal time."""

from __future__ import annotations

import json
from pathlib import Path

import equal_time
import numpy as np
import pytest
import splits
import spreading
import tables
import trials
from evidence import DETAILS

import pocketvit as pv


@pytest.mark.slow
def test_trials_share_what_they_have_in_common_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "results" / "trials-digits.json"
    small = ["--pretrain.epochs", "2", "--finetune.epochs", "1", "--finetune.min_steps", "8", "--labels-per-class", "5"]
    changes = ["finetune.repeats=2", "pretrain.optimizer=muon pretrain.lr=0.001", "finetune.reconstruction=1"]
    command = ["digits", "digits", *small, "--device", "cpu", "--seeds", "2", "--out", str(out)]
    command += [word for change in changes for word in ("--trial", change)]
    assert trials.main([*command, "--pause-after", "2s"]) == 0
    assert not out.exists()
    assert "the same command goes on" in capsys.readouterr().err
    assert trials.main(command) == 0
    found = json.loads(out.read_text())
    assert set(found["details"]) == DETAILS
    assert found["details"]["seeds"] == [0, 1]
    plain, repeats, muon, joint = found["trials"]
    assert [trial["changes"] for trial in found["trials"]] == [
        {}, {"finetune.repeats": "2"}, {"pretrain.optimizer": "muon", "pretrain.lr": "0.001"},
        {"finetune.reconstruction": "1"},
    ]  # fmt: skip
    for trial in found["trials"]:
        for init in ("mae", "random"):
            assert len(trial[init]["all"]) == 2
            assert trial[init]["validation_accuracy"] == pytest.approx(np.mean(trial[init]["all"]))
            # An epoch of all images, for the graph gives each a label.
            assert (trial[init]["labels"], trial[init]["steps"]) == (50, 25)
            assert len(trial[init]["test"]["all"]) == 2
        mae, random = (trial[init]["test"] for init in ("mae", "random"))
        assert mae["images"] == 359
        (gain,) = trial["gains"]
        assert (gain["arm"], gain["over"]) == ("mae", "random")
        assert gain["test"]["mean"] == pytest.approx(mae["accuracy"] - random["accuracy"])
        over = mae["over_first_trial"]
        assert (over is None) is (trial is plain)
        assert over is None or over["mean"] == pytest.approx(mae["accuracy"] - plain["mae"]["test"]["accuracy"])
    # How pre-training went is the same where its settings are, and from random init it does not matter.
    assert plain["mae"]["pretrain"] == repeats["mae"]["pretrain"] == joint["mae"]["pretrain"] != muon["mae"]["pretrain"]
    assert plain["random"]["all"] == muon["random"]["all"]
    assert muon["random"]["test"]["over_first_trial"]["mean"] == 0
    folders = [folder.name.rsplit("-", 1)[0] for folder in (tmp_path / "runs" / "trials-digits").iterdir()]
    assert {name: folders.count(name) for name in folders} == {
        "pretrain-mae": 2, "finetune-mae": 4, "finetune-random": 3,
    }  # fmt: skip

    (tmp_path / "README.md").write_text("<!-- table:tested-digits -->\n<!-- /table -->\n")
    assert tables.main(["--root", str(tmp_path)]) == 0
    row = f"| the recipe | {100 * plain['mae']['test']['accuracy']:.1f} ± {100 * plain['mae']['test']['std']:.1f} % |"
    assert row in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("<!-- table:trials-digits -->\n<!-- /table -->\n")
    assert tables.main(["--root", str(tmp_path)]) == 0
    rows = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert [row.split(" |")[0] for row in rows] == [
        "| `finetune.repeats 2`", "| `pretrain.optimizer muon` `pretrain.lr 0.001`", "| `finetune.reconstruction 1`",
    ]  # fmt: skip
    assert (
        "| from MAE, test | from MAE, over the first row | from random init, test |"
        in (tmp_path / "README.md").read_text()
    )


def test_trials_start_from_given_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"model.width": "16", "model.depth": "1", "model.heads": "2"}
    run = pv.pretrain("digits", recipe="digits", epochs=1, out=tmp_path / "given", device="cpu", **sizes)
    (tmp_path / "results").mkdir()
    out = tmp_path / "results" / "trials-digits.json"
    flags = [word for name, value in sizes.items() for word in (f"--{name}", value)]
    flags += ["--finetune.epochs", "1", "--finetune.min_steps", "2", "--labels-per-class", "5", "--device", "cpu"]
    command = ["digits", "digits", *flags, "--init", "given", "--inits", "mae", "--seeds", "1", "--out", str(out)]
    assert trials.main(command) == 0
    (trial,) = json.loads(out.read_text())["trials"]
    assert trial["mae"]["pretrain"] == {"init": "given"}
    assert trial["mae"]["probe"] == pv.probe(model=run, labels_per_class=5)["model"]
    assert [folder.name[:13] for folder in (tmp_path / "runs" / "trials-digits").iterdir()] == ["finetune-mae-"]
    assert "| `given`; frozen: kNN" in tables.table("trials-digits", out.parent)


@pytest.mark.slow
def test_splits_pair_forms_arms_and_raw_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    out = tmp_path / "results" / "splits-digits.json"
    small = ["--pretrain.epochs", "1", "--finetune.epochs", "1", "--finetune.min_steps", "4", "--arms", "mae,resnet"]
    sizes = ["--model.width", "16", "--model.depth", "1", "--model.heads", "2", "--resnet.depth", "8"]
    command = ["digits", "digits", *small, *sizes, "--device", "cpu", "--seeds", "1", "--splits", "1", "2"]
    assert splits.main([*command, "--out", str(out)]) == 2
    assert "one label budget" in capsys.readouterr().err
    command += ["--labels-per-class", "5", "--form", "finetune.unlabelled=none", "--out", str(out)]
    assert splits.main(command) == 0
    found = json.loads(out.read_text())
    assert found["labels"] == 50
    named = [(bool(row["changes"]), row["method"]) for row in found["methods"]]
    assert named[:2] == [(False, "mae"), (False, "resnet")]
    assert named[-2:] == [(True, "mae"), (True, "resnet")]
    assert (False, "label spreading") in named
    lead, *others = found["methods"]
    assert lead["gain"] is None
    for row in others:
        first, second = (a - b for a, b in zip(lead["all"], row["all"], strict=True))
        assert row["gain"]["mean"] == pytest.approx((first + second) / 2)
        # Student's t with one degree of freedom.
        assert row["gain"]["high"] - row["gain"]["mean"] == pytest.approx(12.7062 * abs(first - second) / 2, rel=1e-4)
    assert tables.table("splits-digits", out.parent).count("\n| ") == len(found["methods"])


def test_trials_compare_objectives_of_pre_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "results" / "trials-digits.json"
    small = ["--pretrain.epochs", "1", "--finetune.epochs", "1", "--finetune.min_steps", "2", "--labels-per-class", "5"]
    command = ["digits", "digits", *small, "--device", "cpu", "--seeds", "1", "--finetune.unlabelled", "none"]
    assert trials.main([*command, "--inits", "mae", "contrast", "--out", str(out)]) == 0
    (plain,) = json.loads(out.read_text())["trials"]
    assert set(plain) == {"changes", "mae", "contrast", "gains"}
    losses = [plain[init]["pretrain"]["train_loss"] for init in ("mae", "contrast")]
    assert losses[0] < losses[1]  # by what is added to it
    assert plain["mae"]["probe"].keys() == {"knn", "linear"}
    assert plain["mae"]["probe"] != plain["contrast"]["probe"]
    (tmp_path / "README.md").write_text("<!-- table:trials-digits -->\n<!-- /table -->\n")
    assert tables.main(["--root", str(tmp_path)]) == 0
    told = (tmp_path / "README.md").read_text()
    assert "| pre-training, from MAE | pre-training, from MAE + contrast |" in told
    assert f"frozen: kNN {100 * plain['contrast']['probe']['knn']:.1f} %" in told


def test_evidence_of_spread_labels_says_what_a_graph_names_rightly(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    flags = ["digits", "digits", "--draws", "2", "--usual", "--labels-per-class", "5", "--data.images", "400"]
    assert spreading.main([*flags, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert (found["labels"], len(found["accuracy"]["others"]["all"])) == (50, 2)
    for name in ("others", "validation", "usual"):
        assert 0.8 < found["accuracy"][name]["mean"] < 1
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize("change", ["finetune.no_such_setting=1", "finetune.repeats", "finetune.repeats=0"])
def test_a_trial_that_cannot_be_is_refused_before_any_runs(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert trials.main(["digits", "digits", "--trial", change]) == 2
    assert change.split("=")[0] in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_forms_of_fine_tuning_have_equal_time_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(equal_time, "REPO", tmp_path)
    sizes = [f"--model.{name}=16" for name in ("width", "decoder_width")] + [
        "--model.heads=2",
        "--model.depth=1",
        "--labels-per-class=5",
    ]
    form = "finetune.patch_share=0.5:0.25,0.5:1"
    command = ["digits", "digits", "--seconds", "1", "--seeds", "2", "--name", "digits", "--trial", form, *sizes]
    assert equal_time.main(command) == 0
    file = tmp_path / "results" / "equal-time-digits.json"
    found = json.loads(file.read_text())
    whole, part = found["forms"]
    assert (whole["changes"], part["changes"]) == ({}, {"finetune.patch_share": "0.5:0.25,0.5:1"})
    assert (found["labels"], found["images"]) == (50, 145)
    for form_found in (whole, part):
        (length,) = form_found["lengths"]
        assert len(length["all"]) == len(length["cpu_seconds"]) == 2
        assert length["steps"] == pytest.approx(form_found["images_per_second"] / 50, abs=1)
    assert whole["lengths"][0]["gain"] is None
    gain = part["lengths"][0]["gain"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    expected = part["lengths"][0]["validation_accuracy"] - whole["lengths"][0]["validation_accuracy"]
    assert gain["mean"] == pytest.approx(expected)
    # Nothing is trained twice.
    monkeypatch.setattr(equal_time, "train", None)
    assert equal_time.main(command) == 0
    assert json.loads(file.read_text())["forms"] == found["forms"]
    (tmp_path / "README.md").write_text("<!-- table:equal-time-digits -->\n<!-- /table -->\n")
    assert tables.main(["--root", str(tmp_path)]) == 0
    assert "| `finetune.patch_share 0.5:0.25,0.5:1` | 1 s |" in (tmp_path / "README.md").read_text()
    assert equal_time.main(["digits", "digits", "--seconds", "1", "--name", "x", "--trial", "pretrain.lr=1"]) == 2
    assert "--trial pretrain.lr: not a setting of fine-tuning" in capsys.readouterr().err
