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
import numpy as np
import pytest
import tables
import throughput
import torch
from evidence import DETAILS
from PIL import Image

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
