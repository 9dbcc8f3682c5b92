"""What a data scientist has in Python: runs, models, features, an estimator; of files, arrays and PIL images."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import pocketvit as pv
from pocketvit import estimator
from pocketvit.cli import main
from pocketvit.verbs import model as models

SIZES = {"model.width": 16, "model.depth": 1, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2}
BRIEF: dict[str, Any] = {
    **SIZES, "device": "cpu", "epochs": 2, "finetune.epochs": 1, "finetune.min_steps": 60, "seeds": 2,
    "labels_per_class": "5,all", "finetune.lr": 3e-3, "arms": "mae,random",
}  # fmt: skip

ALONE = {**BRIEF, "arms": "all"}  # of one fine-tuning, which has but one


def digits(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 8, 8) and names."""
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return images[:count], np.array([f"d{label}" for label in found.target])[:count]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pv.Run:
    return pv.fit("digits", out=tmp_path_factory.mktemp("fit") / "run", quiet=True, **BRIEF)


def rows(found: Any) -> list[dict[str, Any]]:
    """Of a data frame, or of the list that stands for one without pandas."""
    return found if isinstance(found, list) else found.to_dict("records")


def test_a_run_says_in_a_line_what_it_came_to(run: pv.Run) -> None:
    said = repr(run)
    assert said.startswith(f"<Run {run.path}: ")
    assert " % " in said
    assert len(said) < 250 + len(str(run.path))
    assert "\n" not in said
    moved = dataclasses.replace(run, path=run.path / "moved")
    assert repr(moved) == f"<Run {moved.path}>"  # to show a run is no reason to fail


def test_the_leaderboard_has_every_method(run: pv.Run) -> None:
    board = rows(run.leaderboard())
    assert {"MAE, fine-tuned", "Random init, trained alike", "SVM on raw pixels"} < {row["method"] for row in board}
    assert sum(row["saved"] for row in board) == 1
    assert {"5 labels per class", "all labels"} < board[0].keys()
    last = [row["all labels"] for row in board]
    assert last == sorted(last, reverse=True)
    arms = run.summary["finetune"][1]["arms"]
    assert next(row for row in board if row["kind"] == "mae")["all labels"] == arms["mae"]["accuracy"]


def test_the_mistakes_are_those_of_the_saved_classifier(run: pv.Run) -> None:
    mistakes = rows(run.mistakes())
    evaluation = json.loads((run.path / "summary.json").read_text())["details"]["evaluation"]
    assert len(mistakes) == round((1 - evaluation["accuracy"]) * run.summary["dataset"]["test"])
    sure = [row["probability"] for row in mistakes]
    assert sure == sorted(sure, reverse=True)
    images = {f"digit {number}": image for number, image in enumerate(digits(1797)[0])}
    wrong = np.stack([images[row["file"]] for row in mistakes[:20]])
    assert pv.load(run).predict(wrong).tolist() == [row["predicted"] for row in mistakes[:20]]
    page = (run.path / "report.html").read_text()
    assert mistakes[0]["file"] in page


def test_a_run_without_mistakes_has_the_columns_of_one(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    found = pv.Run(tmp_path, {}).mistakes()
    assert isinstance(found, pandas.DataFrame)
    assert list(found.columns) == ["file", "true", "predicted", "probability"]


def test_a_run_shows_itself_in_a_notebook(run: pv.Run) -> None:
    html = run._repr_html_()
    assert "MAE, fine-tuned" in html
    assert "report.html" in html
    assert html.count("<tr") == 1 + len(rows(run.leaderboard()))


def test_all_kinds_of_images_give_one_answer(run: pv.Run, tmp_path: Path) -> None:
    images, _ = digits(6)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    model = pv.load(run)
    expected = model.predict_proba(images)
    assert expected.shape == (6, 10)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    files = sorted(tmp_path.glob("*.png"))
    kinds: list[Any] = [
        tmp_path, str(tmp_path), files, images[..., None], list(images), [Image.open(file) for file in files],
        [files[0], images[1], Image.open(files[2]), *files[3:]],
    ]  # fmt: skip
    for kind in kinds:
        np.testing.assert_allclose(model.predict_proba(kind), expected, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(images[0]), expected[:1], atol=1e-6)
    assert model.predict(images).tolist() == [model.classes_[i] for i in expected.argmax(1)]
    # Other sizes are scaled, colours become grey.
    large = np.repeat(np.repeat(images, 3, 1), 3, 2)
    assert model.predict_proba(np.stack([large] * 3, axis=-1)).shape == (6, 10)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(images), expected)
    assert "10 classes" in repr(model)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((2, 8, 8), np.float32), "images of float32: expected uint8"),
        (np.zeros((2, 8, 8, 4), np.uint8), "expected (N, H, W) or (N, H, W, C)"),
        ([], "no images"),
        (5, "an image of type int"),
        ("nowhere.png", "nowhere.png"),
        ("", "no file or folder"),  # and not the working folder, as where a script's variable is empty
        (Image.new("F", (8, 8)), "floating-point pixels"),
        (Image.new("HSV", (8, 8)), "mode HSV: convert it to RGB"),
    ],
)
def test_what_is_no_image_is_named(run: pv.Run, given: Any, words: str) -> None:
    with pytest.raises(pv.UserError) as error:
        pv.load(run).predict(given)
    assert words in str(error.value)


def test_features_are_those_of_the_network_and_travel_with_names(
    run: pv.Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images, _ = digits(4)
    (tmp_path / "new").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "new" / f"{number}.png")
    features = pv.load(run).embed(images)
    assert features.shape == (4, SIZES["model.width"])
    command = ["embed", str(tmp_path / "new"), "--model", str(run.path)]
    assert main([*command, "--out", str(tmp_path / "f.parquet")]) == 0
    table = pq.read_table(tmp_path / "f.parquet")
    assert [Path(name).name for name in table["file"].to_pylist()] == ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_allclose(np.array(table["features"].to_pylist()), features, atol=1e-6)
    capfd.readouterr()
    assert main(command) == 0
    (head, *lines) = csv.reader(capfd.readouterr().out.splitlines())
    assert head[:2] == ["file", "f0"]
    np.testing.assert_allclose(np.array([line[1:] for line in lines], float), features, rtol=1e-4, atol=1e-5)
    assert main([*command, "--out", str(tmp_path / "f.txt")]) == 2
    assert "ends in .parquet or .csv" in capfd.readouterr().err


def test_an_encoder_alone_has_features_and_no_classes(tmp_path: Path) -> None:
    run = pv.pretrain("digits", out=tmp_path / "run", device="cpu", epochs=1, **SIZES)
    model = pv.load(run)
    assert model.embed(digits(3)[0]).shape == (3, 16)
    with pytest.raises(pv.UserError, match="no classifier"):
        model.predict(digits(3)[0])


def test_many_images_are_predicted_as_they_come(run: pv.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a chunk is decoded ahead of the first row."""
    monkeypatch.setattr(models, "CHUNK", 2)
    decoded: list[int] = []
    read = models.read_images
    monkeypatch.setattr(models, "read_images", lambda some, *rest: (decoded.append(len(some)), read(some, *rest))[1])
    for number, image in enumerate(digits(7)[0]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    from pocketvit.verbs.predict import predictions

    found = predictions(tmp_path, model=run)
    assert Path(next(found)["file"]).name == "0.png"
    assert decoded == [2]
    assert len(list(found)) == 6
    assert decoded == [2, 2, 2, 1]


def test_arrays_are_a_set_of_images(tmp_path: Path) -> None:
    images, names = digits()
    run = pv.finetune((images, names), out=tmp_path / "run", **{**ALONE, "epochs": 1, "labels_per_class": "all"})
    assert run.summary["dataset"]["classes"] == sorted(set(names))
    assert run.summary["dataset"]["name"] == "arrays"
    for bad, words in (
        ((images, names[:-1]), "300 images and labels of shape (299,)"),
        ((images.astype(float), names), "images of float64: expected uint8"),
        ((images[:, None], names), "an array of shape"),
    ):
        with pytest.raises(pv.UserError) as error:
            pv.finetune(bad, out=tmp_path / "other", **ALONE)
        assert words in str(error.value)


def small(**more: Any) -> pv.PocketViTClassifier:
    settings = {**SIZES, "model.preset": "digits", "finetune.min_steps": 60, "finetune.lr": 3e-3, "arms": "mae,random"}
    return pv.PocketViTClassifier(
        recipe="digits", epochs=1, finetune_epochs=1, settings=settings, device="cpu", **more
    )  # fmt: skip


def test_the_estimator_keeps_scikit_learns_contract() -> None:
    images, names = digits()
    model = small(random_state=3)
    again = clone(model)
    assert again.get_params() == model.get_params()
    assert again.set_params(epochs=2).epochs == 2
    with pytest.raises(NotFittedError):
        model.predict(images)
    assert model.fit(images, names) is model
    assert model.classes_.tolist() == sorted(set(names))
    predicted = model.predict(images)
    assert predicted.dtype.kind == "U"
    assert set(predicted) <= set(names)
    # Better than chance, on images that it has mostly learnt from.
    assert model.score(images, names) > 0.2
    assert model.transform(images[:5]).shape == (5, 16)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(images[:9]), predicted[:9])
    numbers = clone(model).fit(images, np.arange(len(images)) % 3 * 10)
    assert set(numbers.predict(images[:20])) <= {0, 10, 20}


def test_the_estimators_errors_speak_python() -> None:
    images, names = digits(20)
    with pytest.raises(pv.UserError, match=r"^pretrain.epochs: 0 is out of range"):
        small().set_params(epochs=0).fit(images, names)
    with pytest.raises(pv.UserError, match=r"^not understood: finetune.lrr=1 \(did you mean finetune.lr\?\)"):
        small().set_params(settings={"finetune.lrr": 1}).fit(images, names)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_labels_that_are_missing_are_no_class_of_the_estimators(missing: Any) -> None:
    images, names = digits(20)
    with pytest.raises(pv.UserError, match="y: 1 labels are missing"):
        small().fit(images, np.array([missing, *names[1:]], object))


@pytest.mark.parametrize("data", [None, ["my_images"], digits(2)[0], (*digits(2), "d0")])
def test_what_is_no_set_is_named(data: Any) -> None:
    with pytest.raises(pv.UserError, match=f"data of type {type(data).__name__}: expected a name, a folder"):
        pv.fit(data)


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(pv.UserError, match=r"^model of type NoneType"):
        pv.load(None)


def test_a_home_is_found_where_no_shell_has(run: pv.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.path.parent))
    assert pv.load("~/run").classes_.tolist() == pv.load(run).classes_.tolist()
    with pytest.raises(pv.UserError, match=f"^out {run.path}: holds a run already"):
        pv.fit("digits", out="~/run")


@pytest.mark.slow
def test_the_estimator_is_cross_validated_in_two_processes() -> None:
    scores = cross_val_score(small(), *digits(150), cv=2, n_jobs=2)
    assert scores.shape == (2,)
    assert (scores >= 0).all()


def test_the_estimator_is_searched_and_put_in_pipelines() -> None:
    images, names = digits(150)
    search = GridSearchCV(small(), {"finetune_epochs": [1, 2]}, cv=2).fit(images, names)
    assert search.best_params_["finetune_epochs"] in (1, 2)
    darker = make_pipeline(FunctionTransformer(lambda x: x // 2), small())
    assert darker.fit(images, names).predict(images[:4]).shape == (4,)


def test_a_run_that_was_stopped_goes_on_by_its_name_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = {**BRIEF, "epochs": 20, "finetune.min_steps": 5, "seeds": 1, "labels_per_class": 5}
    flags = [f"--{name}={value}" for name, value in long.items()]
    assert main(["fit", "digits", *flags, "--out", str(tmp_path / "run"), "--pause-after", "1.5s"]) == 0
    assert "pocketvit resume RUN" in capsys.readouterr().out
    assert not (tmp_path / "run" / "summary.json").exists()
    assert main(["resume", str(tmp_path / "run")]) == 0
    whole = pv.fit("digits", out=tmp_path / "whole", **long)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finetune"] == whole.summary["finetune"]
    assert main(["resume", str(tmp_path / "nowhere")]) == 2
    assert "no run that can be gone on with" in capsys.readouterr().err


def test_what_a_run_was_begun_with_and_has_moved_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(20):
        (tmp_path / "set" / f"{index % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(tmp_path / "set" / f"{index % 2}" / f"{index}.png")
    brief = {name: value for name, value in BRIEF.items() if not name.startswith("labels")}
    flags = [f"--{name}={value}" for name, value in {**brief, "arms": "mae"}.items()]
    begin = ["fit", *flags, "--out", str(tmp_path / "run")]
    assert main([*begin, str(tmp_path / "set")]) == 0
    (tmp_path / "set").rename(tmp_path / "moved")
    for verb, todo in (
        (["resume"], "repeat the command that began it, with the new place and --resume"),
        (["export", "--out", str(tmp_path / "m.onnx")], "give --data"), (["bench"], "give --data"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main([*verb, str(tmp_path / "run")]) == 2
        said = f"it was begun with {tmp_path / 'set'}, which is not there any more: move it back, or {todo}"
        assert capsys.readouterr().err == f"pocketvit: {tmp_path / 'run'}: {said}\n"
    assert main([*begin, str(tmp_path / "moved"), "--resume"]) == 0


@pytest.mark.parametrize("module", [estimator, models])
def test_examples_in_docstrings_are_true(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed


def test_the_package_says_what_is_in_it() -> None:
    code = "import pocketvit, sys; print(dir(pocketvit), pocketvit.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    for name in ("fit", "load", "PocketViTClassifier", "embed", "False"):
        assert name in done.stdout


def test_a_run_does_not_take_the_name_of_its_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in ("digits", "digits/first", tmp_path / "digits"):
        with pytest.raises(pv.UserError, match="'digits' would be that folder, not the set"):
            pv.pretrain("digits", out=out, **SIZES)
    assert not list(tmp_path.iterdir())


def test_what_reads_a_model_draws_no_pages() -> None:
    code = "import pocketvit, sys; pocketvit.load; print(sys.modules.keys() & {'jinja2', 'matplotlib'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "set()\n"
