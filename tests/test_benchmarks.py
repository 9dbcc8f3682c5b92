"""The benchmarks measure what they say: the loop's own step, networks of one size, all parts of the evidence."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import contestants
import equal_time
import numpy as np
import pytest
import splits
import spreading
import tables
import throughput
import torch
import trials
from PIL import Image

import pocketvit as pv
from pocketvit.config import ModelConfig, Settings
from pocketvit.data import load
from pocketvit.model.costs import costs
from pocketvit.training.device import make_accelerator
from pocketvit.training.finetune import finetuning
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.pretrain import pretraining

REPO = Path(__file__).resolve().parents[1]
TINY = ["--sizes", "tiny", "--batch-size", "8", "--repeats", "2", "--steps", "1", "--device", "cpu"]
PRECISIONS = ["float32", "bf16"]
NAMES = {"pocketvit", "transformers", "vit-pytorch"}
DETAILS = {
    "command", "commit", "diff", "date", "versions", "environment", "seconds", "device", "settings", "seeds",
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    common.write_images(folder, 24)
    return folder


def small(recipe: str) -> Settings:
    """Three steps of each stage of a recipe, with a network of two layers."""
    settings = common.settings_of(recipe, 8)
    sizes = {"width": 32, "depth": 2, "heads": 2, "decoder_width": 32, "decoder_heads": 2}
    short = {"epochs": 1, "min_steps": 0}
    return dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, **sizes),
        pretrain=dataclasses.replace(settings.pretrain, **short),
        finetune=dataclasses.replace(settings.finetune, **short),
    )


def run(parts: list[str], out: Path, flags: list[str]) -> dict[str, Any]:
    assert throughput.main([*TINY, "--images", "16", "--parts", *parts, *flags, "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def is_spread(summary: dict[str, Any]) -> bool:
    """Positive, in order, and a value for each repeat."""
    values = summary["all"]
    return 0 < summary["min"] <= summary["median"] <= summary["max"] < math.inf and len(values) == 2


@pytest.mark.parametrize("stage", common.STAGES)
def test_the_step_is_the_training_loops(stage: str, images: Path) -> None:
    settings = small("lite")
    dataset = load(str(images), settings.data)
    accelerator = make_accelerator("cpu", "float32")
    if stage == "pretrain":
        step = pretraining(dataset, settings, accelerator)
    else:
        step = finetuning(dataset, np.arange(24), settings, accelerator, seed=settings.seed, init=None)
    trained = train(step, RunLog(quiet=True), {"stage": stage})
    ours = contestants.Ours(stage, dataset, settings, accelerator)
    for _ in range(trained.steps):
        ours.full_step()
    assert trained.steps == 3
    assert all(map(torch.equal, ours.training.finished().parameters(), trained.model.parameters()))


@pytest.mark.parametrize("sizes", ["paper", "tiny"])
def test_networks_have_one_size(sizes: str, images: Path) -> None:
    settings = common.settings_of(sizes, 8)
    dataset = load(str(images), settings.data)
    accelerator = make_accelerator("cpu", "float32")
    ready = contestants.ready_batches(dataset, settings, accelerator.device)
    cost = costs(settings.model, dataset.shape, 10, settings.mae.mask_ratio)
    expected = {"pretrain": (cost.pretrain_params, cost.pretrain_macs), "finetune": (cost.params, cost.macs)}
    assert set(contestants.names()) == NAMES
    for stage, (params, macs) in expected.items():
        for name in NAMES - {"pocketvit"}:
            size = throughput.size_of(contestants.make(name, stage, dataset, settings, accelerator), ready)
            # Class tokens, biases of attention and norms of patches are what differs.
            assert size["params"] == pytest.approx(params, rel=0.01), (stage, name)
            assert size["macs"] == pytest.approx(macs, rel=0.05), (stage, name)
        ours = throughput.size_of(contestants.make("pocketvit", stage, dataset, settings, accelerator), ready)
        assert ours == {"params": params, "macs": macs if stage == "pretrain" else cost.macs_computed}


def test_an_item_of_the_others_is_the_file_scaled_and_normalised(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load(str(images), common.settings_of("paper", 8).data)
    files = contestants.Files(images / "train", dataset, crop_scale=0.4, flip=False)
    monkeypatch.setattr(files, "_box", lambda width, height: (0, 0, width, height))
    assert len(files) == 24
    pixels, label = files[5]
    assert dataset.classes[label] == files.files[5].parent.name
    with Image.open(files.files[5]) as opened:
        scaled = np.asarray(opened.resize((36, 36), Image.Resampling.BICUBIC)) / 255
    expected = (scaled - np.array(dataset.mean)) / np.array(dataset.std)
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_crops_of_the_others_keep_the_area_asked_for(images: Path) -> None:
    dataset = load(str(images), common.settings_of("tiny", 8).data)
    files = contestants.Files(images / "train", dataset, crop_scale=0.4, flip=False)
    torch.manual_seed(0)
    boxes = np.array([files._box(32, 32) for _ in range(500)])
    assert boxes.min() == 0
    assert boxes.max() == 32
    sides = boxes[:, 2:] - boxes[:, :2]
    areas, ratios = sides.prod(axis=1) / 32**2, sides[:, 0] / sides[:, 1]
    # Sides are rounded to pixels.
    assert 0.38 < areas.min() < 0.45
    assert areas.max() > 0.9
    assert 0.7 < ratios.min() < 0.8 < 1.25 < ratios.max() < 1.42


@pytest.mark.slow
def test_evidence_of_steps_epochs_and_parts(tmp_path: Path) -> None:
    found = run(
        ["step", "epoch", "profile"], tmp_path / "results" / "throughput-cpu.json", ["--precision", *PRECISIONS]
    )
    assert set(found["details"]) == DETAILS
    assert found["details"]["versions"].keys() >= {"torch", "transformers", "vit-pytorch", "pocketvit"}
    assert [(row["stage"], row["precision"]) for row in found["step"]] == [
        (stage, precision) for precision in PRECISIONS for stage in common.STAGES
    ]
    for row in found["step"]:
        assert set(row["contestants"]) == NAMES
        for rival in row["contestants"].values():
            assert is_spread(rival["images_per_second"])
            assert is_spread(rival["over_baseline"])
            assert 0 < rival["last_loss"] < 10
        losses = [rival["first_loss"] for rival in row["contestants"].values()]
        assert max(losses) < 4 * min(losses)
    for row in found["epoch"]:
        assert set(row["contestants"]) == NAMES - {"pocketvit"} | {"pocketvit cold", "pocketvit warm"}
        assert all(is_spread(rival["images_per_second"]) for rival in row["contestants"].values())
        assert row["images"] == 16
        assert set(row["workers_tried_seconds"]) == {"0", "2"}
        cold, warm = (row["contestants"][f"pocketvit {kind}"]["loading_seconds"] for kind in ("cold", "warm"))
        assert warm["min"] < cold["max"]
    for row in found["profile"]:
        parts = [summary["all"] for part, summary in row["seconds"].items() if part != "step"]
        assert len(parts) == 5
        assert [sum(values) for values in zip(*parts, strict=True)] == pytest.approx(
            row["seconds"]["step"]["all"], rel=0.01
        )
        assert 0 < row["input_share"]["median"] < 1
        # Two measured times: on a machine that does other work the quotient may be anything above nought.
        assert row["share_of_product"]["median"] > 0
        step = row["seconds"]["step"]["all"]
        assert row["flop_per_second"]["all"] == pytest.approx([6 * 8 * row["macs"] / s for s in step], rel=0.01)

    (tmp_path / "README.md").write_text("<!-- table:throughput-cpu -->\n<!-- /table -->\n")
    assert tables.main(["--root", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    for part in ("| pre-training step | bf16 |", "| fine-tuning step | float32 |", "not decoded before | bf16 |"):
        assert part in text
    ratio = found["step"][0]["contestants"]["pocketvit"]["over_baseline"]["median"]
    shown = float(
        next(line for line in text.splitlines() if "training step | float32" in line).split("|")[6].split()[0]
    )
    assert shown == pytest.approx(ratio, abs=0.02)


@pytest.mark.slow
def test_evidence_of_memory(tmp_path: Path) -> None:
    flags = ["--precision", "float32", "--stages", "pretrain"]
    (row,) = run(["memory"], tmp_path / "memory.json", flags)["memory"]
    assert set(row["contestants"]) == NAMES
    for rival in row["contestants"].values():
        # Gradients and two moments of float32 take this much at least.
        params = costs(ModelConfig("tiny"), (32, 32, 3), 10).params
        assert rival["peak_mib"] > rival["steps_mib"] > 3 * 4 * params / 2**20 > 0


@pytest.mark.slow
def test_this_tree_against_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("git") or not (REPO / ".git").exists():
        pytest.skip("no git or no .git here, so no other commit to compare with")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "against.json"
    flags = ["--against", "HEAD", "--precision", "float32", "--repeats", "2", "--steps", "2", "--out", str(out)]
    assert throughput.main([*TINY, *flags]) == 0
    found = json.loads(out.read_text())
    assert set(found["details"]) == DETAILS
    assert len(found["against"]) == 40
    assert [pair["work"] for pair in found["pairs"]] == ["pretrain", "finetune", "finetune, RandAugment"]
    for pair in found["pairs"]:
        this, other = (pair["images_per_second"][side]["all"] for side in ("this", "other"))
        assert pair["ratio"]["all"] == pytest.approx([a / b for a, b in zip(this, other, strict=True)], rel=1e-2)
        assert is_spread(pair["ratio"])
        assert is_spread(pair["ratio_with_set_up"])
        # The same code on both sides, but for what is not committed: a turn is not several times another.
        assert 0.2 < pair["ratio"]["median"] < 5
    worktrees = subprocess.run(["git", "-C", str(REPO), "worktree", "list"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in worktrees


@pytest.mark.slow
def test_evidence_of_scaling(tmp_path: Path) -> None:
    out = tmp_path / "results" / "scaling-cpu.json"
    flags = ["--images", "16", "40", "--tokens", "4", "16", "--precision", "float32", "--out", str(out)]
    command = [sys.executable, "benchmarks/scaling.py", *TINY, *flags]
    subprocess.run(command, cwd=REPO, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = json.loads(out.read_text())
    assert set(found["details"]) == DETAILS
    (counts,), (tokens,) = found["images"], found["tokens"]
    assert [(row["images"], row["streamed"]) for row in counts["rows"]] == [
        (16, False), (40, False), (16, True), (40, True),
    ]  # fmt: skip
    assert [(row["stage"], row["patches"]) for row in tokens["rows"]] == [
        ("pretrain", 4), ("pretrain", 16), ("finetune", 4), ("finetune", 16),
    ]  # fmt: skip
    for row in counts["rows"] + tokens["rows"]:
        height, width, _ = row["shape"]
        assert row["patches"] == height * width // 4**2
        speeds = row["images_per_second"]["all"]
        assert row["macs_per_second"]["all"] == pytest.approx([row["macs"] * speed for speed in speeds], rel=0.01)
        assert row["over_median"] > 0
    (tmp_path / "README.md").write_text("<!-- table:scaling-cpu -->\n<!-- /table -->\n")
    assert tables.main(["--root", str(tmp_path)]) == 0
    assert "| 40 from the file | pre-training | float32 |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("script", "flags", "named"),
    [
        (throughput, ["--images", "7"], "--images 7"),
        (throughput, ["--repeats", "0"], "--repeats"),
        (throughput, ["--parts", "nonsense"], "--parts"),
        (throughput, ["--against", "no-such-commit"], "--against no-such-commit"),
    ],
)
def test_wrong_flags_are_named(script: Any, flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script.main([*TINY, *flags])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


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
