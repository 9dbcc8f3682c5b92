"""Which images `evaluate` tests: never one that the run learnt from, and every one of a set that it has not seen."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvit
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.run.folder import RunFolder
from pocketvit.run.summary import read_summary

SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2, "patch": 4}
BRIEF: dict[str, Any] = {
    **{f"model.{name}": value for name, value in SIZES.items()},
    **{"recipe": "tiny", "device": "cpu", "precision": "float32", "seeds": 1, "compile": "never"},
}


def pictures(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """PNG files of noise in class folders; `first` tells one set from another."""
    for number, (name, count) in enumerate(counts.items()):
        for index in range(count):
            file = root / name / f"{index:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([first, number, index])
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 20 images of each of three classes, and a run that was fine-tuned on it."""
    place = tmp_path_factory.mktemp("trained")
    data = pictures(place / "data", {"1": 20, "2": 20, "10": 20})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETVIT_CACHE", str(place / "cache"))
        run = pocketvit.finetune(str(data), out=place / "run", epochs=1, **{"finetune.min_steps": 0}, **BRIEF)
    return data, run.path


def test_the_runs_own_data_are_tested_by_what_it_held_out(trained: tuple[Path, Path]) -> None:
    data, run = trained
    found = pocketvit.evaluate(str(data), model=run)
    assert found["test"] == 12
    assert found["notes"] == ["the images that the run held out"]


def test_without_data_a_model_is_judged_on_its_runs_own(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = trained
    assert pocketvit.evaluate(model=run) == pocketvit.evaluate(str(data), model=run)
    assert pocketvit.probe(model=run) == pocketvit.probe(str(data), model=run)
    shutil.copy(run / "model.safetensors", tmp_path)
    with pytest.raises(UserError, match="it is not known which images it came from: give DATA"):
        pocketvit.evaluate(model=tmp_path / "model.safetensors")


def test_images_in_memory_are_judged_as_files_are(trained: tuple[Path, Path], tmp_path: Path) -> None:
    others = pictures(tmp_path / "others", {"1": 4, "10": 4}, first=9)
    images = np.stack([np.asarray(Image.open(file)) for file in sorted(others.rglob("*.png"))])
    in_memory = pocketvit.evaluate((images, ["1"] * 4 + ["10"] * 4), model=trained[1])
    of_files = pocketvit.evaluate(str(others), model=trained[1])
    assert in_memory["confusion"] == of_files["confusion"]


def test_a_probe_tests_no_images_that_were_learnt_from_without_a_word(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = trained
    assert pocketvit.probe(str(data), model=run)["notes"] == []
    with pytest.raises(UserError, match=r"^data.split_seed: the run held out"):
        pocketvit.probe(str(data), model=run, **{"data.split_seed": 1})
    changed = shutil.copytree(data, tmp_path / "changed")
    (changed / "1" / "000.png").unlink()
    (note,) = pocketvit.probe(str(changed), model=run)["notes"]
    assert "test images are among those that the model learnt from" in note


@pytest.mark.parametrize(
    "other", [{"split_seed": 1}, {"test_fraction": 0.5}, {"val_fraction": 0.3}, {"group_by": "^(.)"}]
)
def test_no_other_split_is_drawn_of_the_runs_own_data(trained: tuple[Path, Path], other: dict[str, object]) -> None:
    data, run = trained
    with pytest.raises(UserError, match=f"^data.{next(iter(other))}: the run held out"):
        pocketvit.evaluate(str(data), model=run, **{f"data.{name}": value for name, value in other.items()})


def test_a_set_that_the_run_has_not_seen_is_tested_whole(trained: tuple[Path, Path], tmp_path: Path) -> None:
    new = pictures(tmp_path / "new", {"1": 5, "2": 3, "10": 1}, first=9)
    found = pocketvit.evaluate(str(new), model=trained[1])
    assert found["test"] == 9
    assert np.sum(found["confusion"], axis=1).tolist() == [5, 1, 3]  # in the model's order, 1, 10, 2


def test_of_changed_data_no_image_is_tested_that_was_learnt_from(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = trained
    changed = shutil.copytree(data, tmp_path / "changed")
    pictures(changed / "more", {"x": 4}, first=7)
    for index, file in enumerate(sorted((changed / "more" / "x").iterdir())):
        file.rename(changed / "2" / f"0-new{index}.png")
    shutil.rmtree(changed / "more")
    found = pocketvit.evaluate(str(changed), model=run)
    # The 12 that were held out for testing, and the 4 that are new; the other 48 were learnt from or chosen by.
    assert found["test"] == 16
    assert found["notes"] == ["the data differ from the run's: 48 images that it learnt from are left out"]


def test_classes_are_matched_by_name_and_need_not_all_be_there(trained: tuple[Path, Path], tmp_path: Path) -> None:
    few = pictures(tmp_path / "few", {"2": 4}, first=5)
    found = pocketvit.evaluate(str(few), model=trained[1])
    assert found["test"] == 4
    assert found["notes"][-1] == "no images of 2 classes: 1, 10"
    assert found["per_class"]["1"] is None
    with pytest.raises(UserError, match="does not know emu; its classes are 1, 10, 2"):
        pocketvit.evaluate(str(pictures(tmp_path / "other", {"2": 2, "emu": 2}, first=6)), model=trained[1])


def test_weights_without_their_run_know_their_set_and_how_it_was_split(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    copied = shutil.copy(trained[1] / "model.safetensors", tmp_path / "copied.safetensors")
    found, own = (pocketvit.evaluate(str(trained[0]), model=model) for model in (copied, trained[1]))
    assert found == own
    assert found["notes"][0] == "the images that the run held out"
    network, meta = weights.load(copied)
    weights.save(tmp_path / "older.safetensors", network, replace(meta, held_out=None))
    for verb in (pocketvit.evaluate, pocketvit.export):
        out = {"out": tmp_path / "m.onnx"} if verb is pocketvit.export else {}
        with pytest.raises(UserError, match="learnt from images of this set, and only their run knows which"):
            verb(data=str(trained[0]), model=tmp_path / "older.safetensors", **out)
    changed = shutil.copytree(trained[0], tmp_path / "changed")
    (changed / "1" / "000.png").unlink()
    found = pocketvit.evaluate(str(changed), model=copied)
    assert found["test"] == 59
    assert "it is not known which images these weights learnt from" in found["notes"][0]


def test_a_test_split_is_new_to_weights_of_its_set(tmp_path: Path) -> None:
    data = pictures(pictures(tmp_path / "set" / "train", {"1": 12, "2": 12}).parent / "test", {"1": 4, "2": 4}, first=1)
    run = pocketvit.finetune(
        str(data.parent), out=tmp_path / "run", **BRIEF, **{"finetune.epochs": 1, "finetune.min_steps": 1}
    )
    copied = shutil.copy(run.path / "model.safetensors", tmp_path / "copied.safetensors")
    found = pocketvit.evaluate(str(data.parent), model=copied)
    assert (found["test"], found["notes"]) == (8, ["all 8 images of the test split"])


def test_test_images_that_were_pre_trained_on_are_said(trained: tuple[Path, Path], tmp_path: Path) -> None:
    brief = {"finetune.epochs": 1, "finetune.min_steps": 0, **BRIEF}
    init = {"init": trained[1], "out": tmp_path / "run", "overwrite": True}
    said = "test images are among those that the weights of --init learnt from"
    same = pocketvit.finetune(str(trained[0]), **init, **brief)
    assert not any(said in note for note in read_summary(same.path)["details"]["notes"])
    other = pocketvit.finetune(str(trained[0]), **init, **brief, **{"data.split_seed": 1})
    assert any(said in note for note in read_summary(other.path)["details"]["notes"])


def test_resuming_with_other_data_or_another_init_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = trained
    copied = shutil.copytree(run, tmp_path / "run")
    assert RunFolder(copied).origin.is_file()
    assert len(np.load(RunFolder(copied).learnt)) == 48
    other = pictures(tmp_path / "other", {"1": 20, "2": 20, "10": 20}, first=3)
    again = {"out": copied, "resume": True, "epochs": 1, "finetune.min_steps": 0, **BRIEF}
    with pytest.raises(UserError, match="resume=True: DATA is not what"):
        pocketvit.finetune(str(other), **again)
    with pytest.raises(UserError, match="resume=True: init is not what"):
        pocketvit.finetune(str(data), init=run, **again)
    assert pocketvit.finetune(str(data), **again).summary["finetune"][0]["arms"]["random"]["seeds"] == [0]


def test_images_become_grey_or_rgb_as_the_models_are(trained: tuple[Path, Path], tmp_path: Path) -> None:
    grey = pictures(tmp_path / "grey", {"1": 8, "2": 8, "10": 8}, first=4)
    for file in grey.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    found = pocketvit.evaluate(str(grey), model=trained[1])
    assert found["test"] == 24
    assert found["notes"][-1] == "all images are grey, and are taken for RGB, as the model's are"
    # Grey images are fine-tuned as RGB from weights that learnt from RGB: the run knows its own images again.
    brief = {"epochs": 1, "finetune.min_steps": 0, **BRIEF}
    run = pocketvit.finetune(str(grey), init=trained[1], out=tmp_path / "run", **brief)
    assert pocketvit.evaluate(str(grey), model=run)["notes"][0] == "the images that the run held out"
    assert pocketvit.probe(str(grey), model=run)["test"] == 6
