"""`predict` goes on past bad files where it is told to, and warns of images that the model has seen none like."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pocketvit
from pocketvit.cli import main
from pocketvit.config import ModelConfig
from pocketvit.data import Header, read_images
from pocketvit.errors import NotRead, UnlikeTraining, UserError
from pocketvit.model import weights
from pocketvit.model.weights import WeightsMeta
from pocketvit.verbs.strange import Strange

META = WeightsMeta(
    "classifier", ModelConfig("digits", patch=4), (16, 16, 3), (0.5, 0.4, 0.6), (0.2, 0.2, 0.2), ("cat", "dog")
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    weights.save(tmp_path / "w.safetensors", META.build(), META)
    return tmp_path / "w.safetensors"


def picture(path: Path, size: tuple[int, int] = (16, 16), mean: float = 0.5, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    pixels = np.clip(255 * mean + rng.normal(0, 40, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def strange(images: np.ndarray, headers: list[Header], meta: WeightsMeta) -> list[str]:
    """What is said of images that are unlike those of training, over two batches."""
    counted = Strange()
    for part in (slice(0, 1), slice(1, None)):
        counted.add(images[part], headers[part], meta)
    return counted.lines()


def test_a_bad_file_costs_itself_alone(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "c.png"):
        picture(tmp_path / "new" / name)
    (tmp_path / "new" / "b.png").write_bytes(b"xx")
    command = ["predict", str(tmp_path / "new"), "--model", str(model), "--top", "1"]
    assert main(command) == 2
    assert "b.png: cannot be decoded" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert [Path(line.split(",")[0]).name for line in out.splitlines()[1:]] == ["a.png", "c.png"]
    assert "b.png: cannot be decoded (not an image" in err
    assert main([*command, "--skip-bad", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [bool(row["top"]) for row in rows] == [True, False, True]
    assert "not an image" in rows[1]["error"]
    # The rows are those of each file alone.
    alone = pocketvit.predict(tmp_path / "new" / "c.png", model=model, top=1)
    assert alone[0]["top"][0]["class"] == rows[2]["top"][0]["class"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"size": (20, 20)}, None),
        ({"size": (224, 224)}, "over twice or under half as large as 16x16"),
        ({"size": (7, 7)}, "over twice or under half as large as 16x16"),
        ({"size": (28, 14)}, "of other proportions than 16x16"),
        ({"mean": 0.03}, "far darker or brighter"),
        ({"mode": "L"}, "are grey, where the model learnt from coloured ones"),
    ],
)
def test_images_unlike_training_are_told_apart(tmp_path: Path, changes: dict[str, object], words: str | None) -> None:
    file = picture(tmp_path / "a.png", **changes)
    images, headers = read_images([file], (16, 16), 3)
    lines = strange(images, [header for header in headers if not isinstance(header, str)], META)
    assert len(lines) == bool(words)
    assert all(line.startswith(f"1 of 1 images {line and 'are'}") and words and words in line for line in lines)


def test_a_model_of_large_images_expects_large_ones(tmp_path: Path) -> None:
    scaled = dataclasses.replace(META, native=(224.0, 224.0))
    images, headers = read_images([picture(tmp_path / "a.png", size=(224, 224))], (16, 16), 3)
    assert strange(images, [header for header in headers if not isinstance(header, str)], scaled) == []


def test_colours_for_a_grey_model_are_said(tmp_path: Path) -> None:
    grey = dataclasses.replace(META, shape=(16, 16, 1), mean=(0.5,), std=(0.2,))
    images, headers = read_images([picture(tmp_path / "a.png")], (16, 16), 1)
    (line,) = strange(images, [header for header in headers if not isinstance(header, str)], grey)
    assert "have colours, where the model learnt from grey ones" in line


def test_pixels_are_predicted_as_files_are(model: Path) -> None:
    rows = pocketvit.predict(np.zeros((2, 16, 16, 3), np.uint8), model=model)
    assert [row["file"] for row in rows] == ["image 0", "image 1"]
    with pytest.raises(UserError, match="an image of type int"):
        pocketvit.predict(5, model=model)


def test_the_warning_reaches_python_and_the_terminal(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = picture(tmp_path / "a.png", size=(224, 224))
    loaded = pocketvit.load(model)
    for use in (lambda: pocketvit.predict(file, model=model), lambda: loaded.predict(file), lambda: loaded.embed(file)):
        with pytest.warns(UnlikeTraining, match="1 of 1 images are over twice"):
            use()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["predict", str(file), "--model", str(model)]) == 0
    assert "pocketvit: 1 of 1 images are over twice" in capsys.readouterr().err


def test_what_a_folder_holds_beside_images_is_said(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of a format that is not read would have no row, and no word."""
    picture(tmp_path / "new" / "a.png")
    for name in ("b.heic", "c.heic", "d.txt"):
        (tmp_path / "new" / name).write_bytes(b"x")
    words = "new: 3 files or folders not read: 2 .heic, 1 .txt"
    with pytest.warns(NotRead, match=words):
        assert len(pocketvit.predict(tmp_path / "new", model=model)) == 1
    assert main(["predict", str(tmp_path / "new"), "--model", str(model)]) == 0
    assert words in capsys.readouterr().err
    (tmp_path / "new" / "a.png").unlink()
    with pytest.raises(UserError, match="no images found in this folder; 3 files or folders not read"):
        pocketvit.predict(tmp_path / "new", model=model)


@pytest.mark.parametrize("name", ["features.csv", "features.parquet"])
def test_features_of_files_whose_names_are_not_utf8(tmp_path: Path, model: Path, name: str) -> None:
    picture(tmp_path / "new" / "a.png").rename(tmp_path / "new" / os.fsdecode(b"caf\xe9.png"))
    assert pocketvit.embed(tmp_path / "new", model=model, out=tmp_path / name) == 1
    assert rb"caf\xe9.png" in (tmp_path / name).read_bytes()


@pytest.mark.parametrize("name", ["features.csv", "features.parquet"])
def test_features_that_are_there_stay_where_new_ones_fail(tmp_path: Path, model: Path, name: str) -> None:
    (tmp_path / name).write_text("an hour of computing")
    (tmp_path / "b.png").write_bytes(b"xx")
    with pytest.raises(UserError, match="cannot be decoded"):
        pocketvit.embed(tmp_path / "b.png", model=model, out=tmp_path / name)
    assert (tmp_path / name).read_text() == "an hour of computing"
    with pytest.raises(UserError, match=r"nowhere.*cannot be written"):
        pocketvit.embed(picture(tmp_path / "a.png"), model=model, out=tmp_path / "nowhere" / name)
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "b.png", name, "w.safetensors"}


def test_weights_that_diverged_answer_nothing(tmp_path: Path) -> None:
    network = META.build()
    torch.nn.init.constant_(next(network.parameters()), float("nan"))
    weights.save(tmp_path / "w.safetensors", network, META)
    for verb, more in ((pocketvit.predict, {}), (pocketvit.embed, {"out": tmp_path / "features.csv"})):
        with pytest.raises(UserError, match="no numbers: its training diverged, or its file is damaged"):
            verb(picture(tmp_path / "a.png"), model=tmp_path / "w.safetensors", **more)
