"""The command line from end to end: one tiny `fit` on the digits, and every verb on what it leaves behind."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import pocketvit
from pocketvit.cli import VERBS, main
from pocketvit.config import shipped
from pocketvit.model import weights
from pocketvit.run.folder import RunFolder
from pocketvit.stages import baselines, finetuning, pretraining

SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
TINY = [
    *(f"--model.{name}={value}" for name, value in SIZES.items()),
    "--resnet.depth=8",
    *("--epochs=2", "--finetune.epochs=1", "--finetune.min_steps=5", "--device=cpu", "--precision=float32"),
]
SEVERAL = ["fit", "digits", *TINY, "--seeds=2", "--labels-per-class=5,all", "--json"]
SINGLE = ["fit", "digits", *TINY, "--seeds=1", "--labels-per-class=5", "--json"]


@dataclass(frozen=True)
class Fitted:
    """A finished `fit`: its arguments, directory and standard output."""

    args: list[str]
    path: Path
    stdout: str

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stdout)
        return found


def fit(args: list[str], factory: pytest.TempPathFactory) -> Fitted:
    out = factory.mktemp("fit") / "run"
    stdout = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout):
        patch.setenv("POCKETVIT_CACHE", str(factory.mktemp("cache")))
        assert main([*args, "--out", str(out)]) == 0
    return Fitted([*args, "--out", str(out)], out, stdout.getvalue())


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A fit with two label budgets and two seeds."""
    return fit(SEVERAL, tmp_path_factory)


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A fit with one label budget and one seed."""
    return fit(SINGLE, tmp_path_factory)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten digits as PNG files in class folders, as a user would have them."""
    root = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for index in range(10):
        folder = root / str(digits.target[index])
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.rint(digits.images[index] * 255 / 16).astype(np.uint8)).save(folder / f"{index}.png")
    return root


def printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON object on standard output."""
    capsys.readouterr()
    assert main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_verb_is_a_function_of_the_package_whatever_was_loaded(single: Fitted) -> None:
    assert {name for name in VERBS if not callable(getattr(pocketvit, name, None))} == {"completion"}


def test_fit_prints_one_object_of_the_promised_keys(single: Fitted) -> None:
    assert len(single.stdout.splitlines()) == 1
    result = single.result
    (table,) = result["finetune"]
    assert result["format"] == 2
    assert [arm["name"] for arm in result["arms"]] == ["mae", "random", "resnet"]
    assert set(result) == {"format", "dataset", "model", "arms", "pretrain", "probe", "finetune", "files"}
    assert {key: set(result[key]) for key in ("dataset", "model", "probe", "files")} == {
        "dataset": {"name", "classes", "train", "val", "test", "shape"},
        "model": {"preset", "params", "macs", "macs_without_attention"},
        "probe": {"mae", "random"},
        "files": {"weights", "report", "config"},
    }
    assert set(result["pretrain"]["mae"]) == {
        *("epochs", "steps", "planned_steps", "compiled", "seconds", "cpu_seconds", "images_per_second"),
        *("train_loss", "heldout_loss", "verdict"),
    }
    assert set(table) == {"labels_per_class", "arms", "pixels", "gains"}
    assert {key: set(v) for key, v in result["probe"].items()} == {
        "mae": {"knn", "linear"},
        "random": {"knn", "linear"},
    }
    assert set(table["arms"]) == {"mae", "random", "resnet"}
    for name in table["arms"]:
        assert set(table["arms"][name]) == {"accuracy", "std", "seeds"}
        assert table["arms"][name]["seeds"] == [0]
    assert set(table["pixels"]) == {"name", "accuracy"}


def test_fit_counts_what_it_was_given(single: Fitted) -> None:
    dataset, model, pretrain = (single.result[key] for key in ("dataset", "model", "pretrain"))
    pretrain = pretrain["mae"]
    assert dataset["classes"] == [str(i) for i in range(10)]
    assert dataset["shape"] == [8, 8, 1]
    assert dataset["train"] + dataset["val"] + dataset["test"] == 1797
    assert model["preset"] == "digits"
    assert model["macs"] > model["macs_without_attention"] > 0
    assert pretrain["epochs"] == 2
    assert pretrain["verdict"] in ("still falling", "flat", "overfitting", "diverged", "too few readings to tell")


def test_gain_is_what_pretraining_added(single: Fitted) -> None:
    (table,) = single.result["finetune"]
    gains = {gain["over"]: gain for gain in table["gains"]}
    assert {over: gain["alike"] for over, gain in gains.items()} == {"random": True, "resnet": False}
    for over, gain in gains.items():
        assert gain["arm"] == "mae"
        assert gain["mean"] == pytest.approx(table["arms"]["mae"]["accuracy"] - table["arms"][over]["accuracy"])
        assert gain["interval"]["low"] <= gain["mean"] <= gain["interval"]["high"]


def test_the_files_that_fit_names_are_there(single: Fitted) -> None:
    files = single.result["files"]
    assert {Path(file).parent for file in files.values()} == {single.path}
    assert {name for name, file in files.items() if not Path(file).stat().st_size} == set()
    assert json.loads((single.path / "summary.json").read_text())["files"] == files


def test_several_budgets_give_a_list_with_the_budget_in_each(fitted: Fitted) -> None:
    tables = fitted.result["finetune"]
    assert [table["labels_per_class"] for table in tables] == [5, None]
    for table in tables:
        assert set(table) == {"labels_per_class", "arms", "pixels", "gains"}
        assert table["arms"]["mae"]["seeds"] == [0, 1]
    assert tables[0]["pixels"]["accuracy"] < tables[1]["pixels"]["accuracy"]


def test_a_run_is_not_written_over(fitted: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in fitted.path.rglob("*")}
    assert main(fitted.args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"pocketvit: --out {fitted.path}: holds a run already: add --overwrite or --resume")
    assert captured.out == ""
    assert {file: file.stat().st_mtime_ns for file in fitted.path.rglob("*")} == before


def test_overwrite_starts_afresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["pretrain", "digits", *TINY, "--epochs=1", "--out", str(tmp_path / "run")]
    assert main(args) == 0
    (tmp_path / "run" / "stages" / "left-over.json").write_text("{}")
    assert main([*args, "--seed=1"]) == 2
    assert main([*args, "--seed=1", "--overwrite"]) == 0
    assert not (tmp_path / "run" / "stages" / "left-over.json").exists()
    assert "seed: 1\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_overwrite_spares_a_folder_that_is_not_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["fit", "digits", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_resuming_a_finished_fit_repeats_no_stage(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a stage was repeated")

    for module, name in (
        (pretraining, "pretraining"),
        (finetuning, "finetuning"),
        (baselines, "metric"),
        (baselines, "pixel_baselines"),
    ):
        monkeypatch.setattr(module, name, never)
    weights = (fitted.path / "model.safetensors").read_bytes()
    assert main([*fitted.args, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == fitted.result
    assert (fitted.path / "model.safetensors").read_bytes() == weights


def test_resuming_with_other_settings_is_refused(fitted: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fitted.args, "--resume", "--lr=0.5"]) == 2
    assert "the settings differ" in capsys.readouterr().err


def test_resuming_where_no_run_is_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    assert main(["fit", "digits", "--out", str(tmp_path / "other"), "--resume"]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_predict_lists_classes_as_csv_and_as_json(
    fitted: Fitted, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["predict", str(photos), "--model", str(fitted.path), "--top", "2"]
    assert main(args) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["file", "rank", "class", "probability"]
    assert [row["rank"] for row in rows] == ["1", "2"] * 10
    result = printed(args, capsys)
    assert [guess["file"] for guess in result] == sorted(str(file) for file in photos.rglob("*.png"))
    as_table = [
        {"file": guess["file"], "rank": str(rank), "class": top["class"], "probability": str(top["probability"])}
        for guess in result
        for rank, top in enumerate(guess["top"], start=1)
    ]
    assert rows == as_table


def test_predict_takes_single_files_in_the_order_given(
    fitted: Fitted, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(file) for file in sorted(photos.rglob("*.png"), reverse=True)[:3]]
    result = printed(["predict", *files, "--model", str(fitted.path / "model.safetensors"), "--top=10"], capsys)
    assert [guess["file"] for guess in result] == files
    for guess in result:
        odds = [top["probability"] for top in guess["top"]]
        assert odds == sorted(odds, reverse=True)
        assert sum(odds) == pytest.approx(1, abs=1e-4)


def test_evaluate_repeats_the_test_accuracy_of_the_fit(fitted: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(["evaluate", "digits", "--model", str(fitted.path)], capsys)
    details = json.loads((fitted.path / "summary.json").read_text())["details"]
    run = next(
        run
        for run in details["runs"]
        if (run["init"], run["seed"], run["labels_per_class"]) == (details["shipped"], 0, None)
    )
    frozen = fitted.result["probe"][details["shipped"]]["linear"] if details["frozen"] else None
    assert result["accuracy"] == pytest.approx(run["accuracy"] if frozen is None else frozen)
    assert result["test"] == fitted.result["dataset"]["test"]
    assert np.sum(result["confusion"]) == result["test"]


def test_probe_repeats_the_probe_of_the_fit(fitted: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(["probe", "digits", "--model", str(fitted.path / "mae.safetensors")], capsys)
    assert result["model"]["linear"] == pytest.approx(fitted.result["probe"]["mae"]["linear"], abs=0.005)
    assert set(result["random"]) == {"knn", "linear"}


def test_reconstruct_writes_a_row_for_each_image(
    fitted: Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "gallery.png"
    args = ["reconstruct", "digits", "--model", str(fitted.path), "--out", str(file), "--count", "3"]
    assert printed(args, capsys) == {"file": str(file)}
    with Image.open(file) as picture:
        height, width = picture.height, picture.width
    # Each row holds three pictures of 8 x 8 pixels with a pixel of border, enlarged 16 times.
    assert (height, width) == (3 * 10 * 16, 3 * 10 * 16)


def test_report_is_written_again(single: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    page = single.path / "report.html"
    page.unlink()
    assert printed(["report", str(single.path)], capsys) == {"report": str(page)}
    assert "<html" in page.read_text()


@pytest.mark.parametrize(
    ("recipe", "params", "macs", "without_attention"),
    [
        ("paper", (3.59e6, 3.65e6), (0.60e9, 0.62e9), (0.255e9, 0.262e9)),
        ("lite", (0, 3.65e6), (0, 0.27e9), (0, 0.27e9)),
    ],
)
def test_budget_keeps_the_promised_figures(
    recipe: str,
    params: tuple[float, float],
    macs: tuple[float, float],
    without_attention: tuple[float, float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = printed(["budget", "--recipe", recipe], capsys)
    assert params[0] < result["params"] < params[1]
    assert macs[0] < result["macs"] < macs[1]
    assert without_attention[0] < result["macs_without_attention"] < without_attention[1]


def test_budget_takes_size_channels_and_classes(capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(["budget", "--recipe=lite", "--size=16x24", "--channels", "1", "--classes", "3"], capsys)
    assert result["shape"] == [16, 24, 1]
    assert result["classes"] == 3
    assert main(["budget", "--recipe=lite"]) == 0
    assert "params: " in capsys.readouterr().out


def test_fine_tuning_from_a_run(fitted: Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["finetune", "digits", "--init", str(fitted.path / "mae.safetensors"), *TINY, "--seeds=1"]
    result = printed([*args, "--labels-per-class=5", "--out", str(tmp_path / "run")], capsys)
    (table,) = result["finetune"]
    assert 0 <= table["arms"]["mae"]["accuracy"] <= 1
    assert (set(table["arms"]), table["pixels"], table["gains"]) == ({"mae"}, None, [])
    assert printed(["evaluate", "digits", "--model", str(tmp_path / "run")], capsys)["accuracy"] == pytest.approx(
        table["arms"]["mae"]["accuracy"]
    )


@pytest.mark.parametrize("place", ["models", "src/pocketvit/models"], ids=["checkout", "wheel"])
def test_a_shipped_model_is_found_by_its_name(
    place: str,
    fitted: Fitted,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, meta = weights.load(RunFolder(fitted.path).classifier("mae"))
    file = tmp_path / place / "some-digits.safetensors"
    weights.save(file, module, meta, torch.float16)
    (tmp_path / "recipes").symlink_to(shipped.recipe_path("digits").parent)
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "src" / "pocketvit" / "config" / "shipped.py"))
    by_name, by_path = (printed(["predict", str(photos), "--model", m], capsys) for m in ("some-digits", str(file)))
    assert by_name == by_path
    args = [*TINY, "--seeds=1", "--labels-per-class=5", "--out", str(tmp_path / "run")]
    assert printed(["finetune", "digits", "--init", "some-digits", *args], capsys)["finetune"][0]["arms"]["mae"]
    assert main(["predict", str(photos), "--model", "other-digits"]) == 2
    assert "(the shipped models are some-digits)" in capsys.readouterr().err


def test_python_gives_what_the_command_line_gives(
    fitted: Fitted, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from_shell = printed(["predict", str(photos), "--model", str(fitted.path)], capsys)
    assert pocketvit.predict(photos, model=fitted.path) == from_shell
