"""An arm more: an objective of pre-training that is added in one place is everywhere else at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import pocketvit
from pocketvit.config import resolve
from pocketvit.data import load
from pocketvit.data.symmetry import views
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.pages import words
from pocketvit.pages.sections import leaderboard
from pocketvit.run.summary import read_summary
from pocketvit.stages.arms import arms_named, known_arms
from pocketvit.training.objectives import PRETRAINING
from pocketvit.training.objectives.mae import MaskedAutoencoding
from pocketvit.training.stops import NonFiniteLoss

SMALL = {
    "model.width": 16, "model.depth": 1, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2,
    "pretrain.epochs": 2, "finetune.epochs": 1, "finetune.min_steps": 4, "labels_per_class": 5, "seeds": 2,
    "resnet.depth": 8, "device": "cpu", "precision": "float32",
}  # fmt: skip


class Copy(MaskedAutoencoding):
    """Does what the masked autoencoder does, under a name of its own."""

    title, colour = "Copied MAE", "#118844"


def test_a_new_objective_is_an_arm_of_every_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRETRAINING, "copy", Copy)
    run = pocketvit.fit("digits", recipe="digits", out=tmp_path / "run", **SMALL)
    summary, (table,) = run.summary, run.summary["finetune"]
    assert [arm["name"] for arm in summary["arms"]] == ["mae", "copy", "random", "resnet"]
    assert list(table["arms"]) == ["mae", "copy", "random", "resnet"]
    # A copy it is: the same seed gives the same weights.
    assert summary["pretrain"]["copy"]["heldout_loss"] == summary["pretrain"]["mae"]["heldout_loss"]
    assert table["arms"]["copy"] == table["arms"]["mae"]
    assert summary["probe"]["copy"] == summary["probe"]["mae"]
    pairs = [(first, over) for first in ("mae", "copy") for over in ("random", "resnet")]
    assert [(gain["arm"], gain["over"]) for gain in table["gains"]] == pairs
    page = (run.path / "report.html").read_text().replace(words.NBSP, " ")
    assert "Copied MAE, fine-tuned" in page
    assert "#118844" in page


def test_arms_keep_their_order_whatever_theirs_is_in_a_flag() -> None:
    assert arms_named(["resnet", "contrast", "random", "mae"]) == known_arms()
    assert [arm.name for arm in arms_named(["random"])] == ["random"]
    with pytest.raises(KeyError):
        arms_named(["mea"])


def test_the_saved_classifier_is_calibrated_on_no_more_labels_than_it_had(tmp_path: Path) -> None:
    few = pocketvit.finetune("digits", recipe="digits", out=tmp_path / "few", **{**SMALL, "labels_per_class": 1})
    many = pocketvit.finetune("digits", recipe="digits", out=tmp_path / "many", **SMALL)
    for run, calibrated in ((few, False), (many, True)):
        _, meta = weights.load(run.path)
        details = read_summary_details(run.path)
        assert meta.temperature == details["runs"][0]["temperature"] == details["evaluation"]["temperature"]
        # 10 labels are too few to tell, 50 are not.
        assert (meta.temperature != 1.0) == calibrated
        assert details["evaluation"]["ece"] == pytest.approx(pocketvit.evaluate("digits", model=run)["ece"], abs=1e-4)
    assert details["evaluation"]["ece"] < details["evaluation"]["ece_uncalibrated"]


def read_summary_details(folder: Path) -> dict[str, Any]:
    details: dict[str, Any] = json.loads((folder / "summary.json").read_text())["details"]
    return details


@pytest.mark.parametrize("way", ["graph", "teacher"])
def test_a_fit_says_what_it_learnt_from_images_without_a_label(tmp_path: Path, way: str) -> None:
    settings = {**SMALL, "labels_per_class": "5,all", "seeds": 1, "finetune.unlabelled": way}
    run = pocketvit.fit("digits", recipe="digits", out=tmp_path / "run", arms="random,resnet", **settings)
    runs = read_summary_details(run.path)["runs"]
    told = [(one["init"], one["labels"], one["unlabelled"], one["unlabelled_by"]) for one in runs]
    assert told == [
        ("random", 50, 1243, way), ("resnet", 50, 1243, way), ("random", 1293, 0, "none"), ("resnet", 1293, 0, "none")
    ]  # fmt: skip
    said = {"graph": "labels spread over a graph", "teacher": "named by a teacher"}[way]
    assert f"1,243 in fine-tuning, {said}" in (run.path / "report.html").read_text()


def test_a_frozen_encoder_is_saved_where_its_linear_head_is_better(tmp_path: Path) -> None:
    """Fine-tuning that hardly learns: the linear classifier on the encoder as it was does better."""
    stuck = {**SMALL, "pretrain.epochs": 20, "finetune.lr": 1e-7, "labels_per_class": "all", "seeds": 1}
    run = pocketvit.fit("digits", recipe="digits", out=tmp_path / "run", arms="mae,random", **stuck)
    details, probe = read_summary_details(run.path), run.summary["probe"]["mae"]
    assert (details["shipped"], details["frozen"]) == ("mae", True)
    assert set(probe) == {"knn", "linear"}
    assert probe["linear"] > 0.5
    assert details["evaluation"]["accuracy"] == pytest.approx(probe["linear"], abs=0.01)
    assert pocketvit.evaluate("digits", model=run)["accuracy"] == pytest.approx(probe["linear"], abs=0.01)
    saved = [row for row in leaderboard_of(run) if row["saved"]]
    assert [row["method"] for row in saved] == ["MAE, frozen: linear probe"]
    assert pocketvit.load(run).predict_proba(np.zeros((1, 8, 8), np.uint8)).shape == (1, 10)


def test_wrong_labels_are_listed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_digits()
    images, labels = np.rint(found.images * (255 / 16)).astype(np.uint8), found.target.copy()
    planted = np.random.default_rng(0).permutation(len(labels))[:40]
    labels[planted] = (labels[planted] + 3) % 10
    longer = {**SMALL, "pretrain.epochs": 30, "model.width": 32, "seeds": 1, "arms": "mae"}
    run = pocketvit.fit((images, labels), recipe="digits", out=tmp_path / "run", **longer)
    lines = (run.path / "doubtful-labels.csv").read_text().splitlines()
    assert lines[0].split(",") == [
        *("file", "label", "suggested", "probability_of_label", "probability_of_suggested", "like")
    ]
    first = [int(line.split(",")[0].removeprefix("image ")) for line in lines[1:41]]
    # One or two would be there by chance; the encoder is a brief one.
    assert len(set(first) & set(planted)) >= 10
    assert read_summary_details(run.path)["doubtful_labels"] == len(lines) - 1
    assert "Labels to look at" in (run.path / "report.html").read_text()


def leaderboard_of(run: Any) -> list[dict[str, Any]]:
    found = run.leaderboard()
    return found if isinstance(found, list) else found.to_dict("records")


def test_a_fit_compares_what_it_is_asked_to(tmp_path: Path) -> None:
    run = pocketvit.fit("digits", recipe="digits", out=tmp_path / "run", arms="resnet, random", **SMALL)
    summary, (table,) = run.summary, run.summary["finetune"]
    assert [arm["name"] for arm in summary["arms"]] == list(table["arms"]) == ["random", "resnet"]
    assert summary["pretrain"] == {}
    assert table["gains"] == []
    assert not (run.path / "mae.safetensors").exists()
    with pytest.raises(
        UserError, match=r"arms: no arm is called 'cnn': expected some of mae, contrast, random, .*or all"
    ):
        pocketvit.fit("digits", arms="mae,cnn", out=tmp_path / "other", **SMALL)


def test_a_resnet_is_saved_where_it_is_best_and_serves_every_verb(tmp_path: Path) -> None:
    settings = {**SMALL, "seeds": 1, "labels_per_class": "all", "finetune.min_steps": 40}
    run = pocketvit.fit("digits", recipe="digits", out=tmp_path / "run", **settings)
    details = read_summary(run.path)["details"]
    assert details["shipped"] == "resnet"
    assert run.summary["model"]["preset"] == "resnet-8"
    network, meta = weights.load(run.path)
    assert (type(network).__name__, meta.network) == ("ResNet", "resnet")
    accuracy = run.summary["finetune"][0]["arms"]["resnet"]["accuracy"]
    assert pocketvit.evaluate("digits", model=run)["accuracy"] == pytest.approx(accuracy)
    assert pocketvit.load(run).embed(np.zeros((2, 8, 8), np.uint8)).shape == (2, 64)
    assert set(pocketvit.probe("digits", model=run)) >= {"model", "random"}
    page = (run.path / "report.html").read_text().replace(words.NBSP, " ")
    assert "The ResNet was saved" in page
    assert "A ResNet trained from scratch for as many steps has" in page


def test_finetune_trains_one_arm(tmp_path: Path) -> None:
    run = pocketvit.finetune("digits", recipe="digits", out=tmp_path / "run", arms="resnet", **SMALL)
    assert list(run.summary["finetune"][0]["arms"]) == ["resnet"]
    for arms in ("mae", "random,resnet"):
        with pytest.raises(UserError, match=f"arms {arms}: finetune trains one arm: expected one that is trained fr"):
            pocketvit.finetune("digits", arms=arms, out=tmp_path / "other", **SMALL)
    assert not (tmp_path / "other").exists()


def test_predictions_averaged_over_symmetries_stand_apart(tmp_path: Path) -> None:
    settings = {**SMALL, "seeds": 1, "labels_per_class": 5}
    plain = pocketvit.finetune("digits", recipe="digits", out=tmp_path / "plain", **settings)
    assert "over_views" not in plain.summary["finetune"][0]["arms"]["random"]
    run = pocketvit.finetune("digits", recipe="digits", out=tmp_path / "run", symmetry="all", **settings)
    found = run.summary["finetune"][0]["arms"]["random"]
    images, labels = load("digits", resolve("digits", **settings).data).labelled("test")
    predictor = pocketvit.load(run).predictor()
    logits = sum(predictor.logits(np.ascontiguousarray(one)) for one in views(images, "all"))
    assert found["over_views"]["accuracy"] == (logits.argmax(axis=1) == labels).mean()
    assert found["accuracy"] == (predictor.logits(images).argmax(axis=1) == labels).mean()
    rows = [row["name"] for row in leaderboard(run.summary, run.summary["finetune"])]
    assert "Random init, trained alike, mean over symmetries" in rows


def test_a_training_is_called_by_what_sets_it_apart() -> None:
    mae, resnet = arms_named(["mae", "resnet"])
    assert mae.training(None, 0, budgets=1, seeds=1) == "fine-tuning from MAE"
    assert mae.training(None, 1, budgets=2, seeds=3) == "fine-tuning from MAE, all labels, seed 1"
    assert resnet.training(5, 0, budgets=2, seeds=1) == "training a ResNet, 5 labels per class"


@pytest.mark.parametrize(("verb", "title"), [("pretrain", "pre-training (MAE)"), ("finetune", "training a ResNet")])
def test_a_verb_alone_calls_its_stage_as_fit_does(tmp_path: Path, verb: str, title: str) -> None:
    arms = {"pretrain": "mae", "finetune": "resnet"}[verb]
    with pytest.raises(NonFiniteLoss, match=f"^{re.escape(title)}: the loss is not finite"):
        getattr(pocketvit, verb)(
            "digits", out=tmp_path / "run", arms=arms, lr=1e30, **(SMALL | {"seeds": 1, f"{verb}.warmup": 0.0})
        )
