"""Every mistake a user can make ends in one line on stderr and status 2, and leaves nothing behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pocketvit.cli import main
from pocketvit.config import ModelConfig
from pocketvit.model import weights
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.weights import WeightsMeta
from pocketvit.stages import finetuning, pretraining

SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
TINY = [
    *(f"--model.{name}={value}" for name, value in SIZES.items()),
    *("--epochs=1", "--finetune.epochs=1", "--finetune.min_steps=1"),
    *("--device=cpu", "--precision=float32"),
]


def image(path: Path, seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], mode: str = "RGB") -> Path:
    for offset, (name, count) in enumerate(counts.items()):
        for index in range(count):
            image(root / name / f"{index}.png", 100 * offset + index, mode=mode)
    return root


def loose(root: Path, count: int = 12) -> Path:
    for index in range(count):
        image(root / f"{index}.png", index)
    return root


def corrupt(root: Path) -> Path:
    class_folders(root, {"cat": 10, "dog": 10})
    file = root / "dog" / "3.png"
    file.write_bytes(file.read_bytes()[:60])
    return root


def digits_weights(path: Path, preset: str = "tiny") -> Path:
    config = ModelConfig(preset=preset)
    meta = WeightsMeta("mae", config, (8, 8, 1), (0.5,), (0.3,))
    weights.save(path, MaskedAutoencoder(config, (8, 8, 1)), meta)
    return path


def text(path: Path, content: str = "not weights\n") -> Path:
    path.write_text(content)
    return path


def foreign_weights(path: Path) -> Path:
    save_file({"w": torch.zeros(3)}, path)
    return path


ALL = "--labels-per-class=all"  # the recipe of the digits has several budgets, for `fit`

Make = Callable[[Path], list[str]]
# What is typed, made in an empty folder that is also the working folder, and words of the complaint.
MISTAKES: dict[str, tuple[Make, tuple[str, ...]]] = {
    "a path that is not there": (lambda t: ["fit", "photoz"], ("'photoz' does not exist", "expected")),
    "a path like one that is there": (
        lambda t: ["fit", str(class_folders(t / "photos", {"a": 1}).with_name("photoz"))],
        ("photoz", "photos"),
    ),
    "an empty folder": (lambda t: [(t / "empty").mkdir() or "fit", str(t / "empty")], ("no images found",)),
    "one class only": (
        lambda t: ["fit", str(class_folders(t / "one", {"cat": 12}))],
        ("one class only", "'cat'", "pretrain works with one"),
    ),
    "a class too small to split": (
        lambda t: ["fit", str(class_folders(t / "few", {"cat": 12, "dog": 2}))],
        ("class 'dog' has too few images: 2", "at least 3"),
    ),
    "more labels a class than there are": (
        lambda t: ["fit", str(class_folders(t / "d", {"cat": 12, "dog": 12})), "--labels-per-class=5,500", "--patch=4"],
        ("500 labels per class", "class 'cat' has"),
    ),
    "a corrupt image": (
        lambda t: ["fit", str(corrupt(t / "d"))],
        ("d/dog/3.png: cannot be decoded", "--skip-bad"),
    ),
    "a patch that does not divide": (
        lambda t: ["pretrain", str(loose(t / "d")), "--patch=3", "--size=8"],
        ("--patch 3 does not divide the image size 8x8", "--size 6x6 or 9x9", "--patch 2, 4"),
    ),
    "a size beyond memory, before anything is decoded": (
        lambda t: ["fit", str(corrupt(t / "d")), "--size=12000"],
        ("images of 12000x12000 takes about", "GB of memory", "--size 6000x6000"),
    ),
    "no labels to fit": (lambda t: ["fit", str(loose(t / "d"))], ("labels are needed", "pretrain works without")),
    "no labels to fine-tune": (lambda t: ["finetune", str(loose(t / "d"))], ("labels are needed",)),
    "an unknown flag": (lambda t: ["fit", "digits", "--epocs=3"], ("--epocs", "did you mean --epochs?")),
    "an unknown dotted flag": (
        lambda t: ["fit", "digits", "--finetune.mixupp=1"],
        ("--finetune.mixupp", "did you mean --finetune.mixup?"),
    ),
    "an unknown key in a file": (
        lambda t: ["fit", "digits", "--config", str(text(t / "c.yaml", "pretrain: {epocs: 3}\n"))],
        ("'epocs'", "did you mean epochs?"),
    ),
    "an unknown key in a recipe": (
        lambda t: ["fit", "digits", "--recipe", str(text(t / "c.yaml", "modle: {patch: 2}\n"))],
        ("modle",),
    ),
    "a file that is no YAML": (
        lambda t: ["fit", "digits", "--config", str(text(t / "c.yaml", "a: [1\n"))],
        ("parsing",),
    ),
    "a value instead of a group": (
        lambda t: ["fit", "digits", "--config", str(text(t / "c.yaml", "pretrain: 5\n"))],
        ("--pretrain: one value stands for a group",),
    ),
    "an unknown recipe": (lambda t: ["fit", "digits", "--recipe=lightt"], ("--recipe", "'lightt'", "lite")),
    "weights of other sizes than those asked for": (
        lambda t: ["finetune", "digits", ALL, "--init", str(digits_weights(t / "w.safetensors")), "--model.depth=4"],
        ("w.safetensors: weights of other sizes", "tiny", "leave --model.depth out"),
    ),
    "a text file as weights to start from": (
        lambda t: ["finetune", "digits", ALL, "--init", str(text(t / "w.safetensors"))],
        ("w.safetensors: not a safetensors file",),
    ),
    "weights of another program": (
        lambda t: ["finetune", "digits", ALL, "--init", str(foreign_weights(t / "w.safetensors"))],
        ("without PocketViT's metadata",),
    ),
    "weights that are not there": (
        lambda t: ["finetune", "digits", ALL, "--init", str(t / "none")],
        ("none: no such file",),
    ),
    "a model of no such name to start from": (
        lambda t: ["finetune", "digits", ALL, "--init", "light-cifar10"],
        ("'light-cifar10': no run directory, no weights file and no shipped model",),
    ),
    "a size that is none": (lambda t: ["fit", "digits", "--size=huge"], ("--size: 'huge'", "HEIGHTxWIDTH")),
    "a size of nothing": (lambda t: ["fit", "digits", "--size=8x0"], ("--size: '8x0'",)),
    "a number that is none": (lambda t: ["fit", "digits", "--epochs=many"], ("epochs", "many")),
    "no epochs": (lambda t: ["fit", "digits", "--epochs=0"], (" --epochs: 0", "at least 1")),
    "no epochs, by its dotted name": (lambda t: ["fit", "digits", "--pretrain.epochs=0"], ("--pretrain.epochs: 0",)),
    "no images a batch": (lambda t: ["finetune", "digits", "--batch_size=0"], (" --batch-size: 0",)),
    "more than every patch hidden": (lambda t: ["fit", "digits", "--mask-ratio=1.5"], (" --mask-ratio: 1.5",)),
    "no seeds": (lambda t: ["fit", "digits", "--seeds=0"], ("--seeds: 0",)),
    "targets that cannot be normalised": (
        lambda t: ["pretrain", "digits", "--patch=1", "--mae.normalise_targets"],
        ("--mae.normalise_targets", "larger --patch"),
    ),
    "heads that do not divide the width": (
        lambda t: ["fit", "digits", "--model.heads=5"],
        ("--model.heads 5 does not divide",),
    ),
    "a choice that is none": (
        lambda t: ["fit", "digits", "--preset=huge"],
        ("--preset huge: expected one of paper, lite, tiny, digits",),
    ),
    "a share that is no number": (
        lambda t: ["fit", "digits", "--label-fraction=half"],
        ("--label-fraction half: expected a number",),
    ),
    "a value for a group of settings": (
        lambda t: ["fit", "digits", "--model=tiny"],
        ("--model tiny: that is a group of settings", "--model.NAME VALUE"),
    ),
    "a flag without its value": (
        lambda t: ["fit", "digits", "--time-limit"],
        ("--time-limit: expected a value after it",),
    ),
    "images in place of a verb": (lambda t: [str(loose(t / "d"))], ("no verb", "pocketvit fit")),
    "a user without a home": (
        lambda t: ["fit", "~nobody-of-this-name/a"],
        ("'~nobody-of-this-name/a' does not exist",),
    ),
    "a name too long for any file": (lambda t: ["fit", 300 * "a"], ("does not exist; expected",)),
    "an unknown verb": (lambda t: ["fitt", "digits"], ("no verb 'fitt'", "did you mean fit?")),
    "counts and a fraction of labels": (
        lambda t: ["fit", "digits", "--labels-per-class=5", "--label-fraction=0.1"],
        ("--labels-per-class and --label-fraction exclude each other",),
    ),
    "labels a class that are no count": (
        lambda t: ["fit", "digits", "--labels-per-class=few"],
        ("--labels-per-class: 'few'",),
    ),
    "a device that is not here": (
        lambda t: ["fit", "digits", "--device=mps"],
        ("--device mps: none found here", "--device auto"),
    ),
    "a single image as data": (lambda t: ["fit", str(image(t / "a.png"))], ("a single image is not a set",)),
    "a word too many": (lambda t: ["fit", "digits", "extra"], ("not understood: extra",)),
}
NO_OUT = {
    "predict with a model of no such name": (
        lambda t: ["predict", str(image(t / "a.png")), "--model", "light-cifar10"],
        ("'light-cifar10': no run directory, no weights file and no shipped model",),
    ),
    "evaluate with a model of no such name": (
        lambda t: ["evaluate", "digits", "--model", "light-cifar10"],
        ("'light-cifar10': no run directory, no weights file and no shipped model",),
    ),
    "evaluate without a model": (lambda t: ["evaluate", "digits"], ("--model",)),
    "probe without a model": (lambda t: ["probe", "digits"], ("--model",)),
    "reconstruct without a model": (lambda t: ["reconstruct", "digits"], ("--model",)),
    "predict without a model": (
        lambda t: ["predict", str(image(t / "a.png"))],
        ("missing: --model (run directory",),
    ),
    "predict without an image": (
        lambda t: ["predict", "--model", str(t)],
        ("missing: IMAGES (image files and folders of images",),
    ),
    "a device that is none": (
        lambda t: ["embed", str(image(t / "a.png")), "--model", str(digits_weights(t / "w.st")), "--device=gpu"],
        ("--device gpu: expected one of auto, cpu, cuda, mps",),
    ),
    "a budget of no channels": (lambda t: ["budget", "--channels=0"], ("--channels 0: expected at least 1",)),
    "a picture of another kind": (
        lambda t: ["reconstruct", "digits", "--model", str(digits_weights(t / "w.safetensors")), "--out=a.jpg"],
        ("--out a.jpg: expected a name that ends in .png",),
    ),
    "a run among its images": (
        lambda t: ["fit", str(class_folders(t / "d", {"cat": 10, "dog": 10})), *TINY, "--out", str(t / "d" / "run")],
        ("d/run: lies among the images", "give a folder beside them"),
    ),
    "a run among its images that is to go on and was never begun": (
        lambda t: [
            "fit",
            str(class_folders(t / "d", {"cat": 10, "dog": 10})),
            *TINY,
            "--resume",
            "--out",
            str(t / "d" / "run"),
        ],
        ("d/run: lies among the images", "give a folder beside them"),
    ),
    "evaluate with a text file": (
        lambda t: ["evaluate", "digits", "--model", str(text(t / "w.safetensors"))],
        ("not a safetensors file",),
    ),
    "evaluate with a run that did not finish": (
        lambda t: ["evaluate", "digits", "--model", str(t)],
        ("no model.safetensors", "whose run has finished"),
    ),
    "evaluate weights without a classifier": (
        lambda t: ["evaluate", "digits", "--model", str(digits_weights(t / "w.safetensors"))],
        ("have no classifier", "finetune"),
    ),
    "predict with weights without a classifier": (
        lambda t: ["predict", str(image(t / "a.png")), "--model", str(digits_weights(t / "w.safetensors"))],
        ("have no classifier",),
    ),
    "report of nothing": (lambda t: ["report", str(t / "none")], ("none: no such run directory",)),
    "report of a folder that is no run": (lambda t: ["report", str(t)], ("summary.json",)),
    "a patch that does not divide, in a budget": (
        lambda t: ["budget", "--size=32", "--patch=5"],
        ("--patch 5 does not divide", "--size 30x30 or 35x35"),
    ),
}


def complaint(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a mistake gets; fails where there is more, or another status."""
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pocketvit: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that is not noticed fails at once, instead of training for minutes."""

    def train(*args: object, **kwargs: object) -> None:
        raise AssertionError("the mistake was not noticed before training")

    monkeypatch.setattr(pretraining, "train", train)
    monkeypatch.setattr(finetuning, "train", train)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_gets_one_line_and_leaves_no_run(
    mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = MISTAKES[mistake]
    args = [*make(tmp_path), f"--out={tmp_path / 'out'}"]
    message = complaint(args, capsys)
    assert [words for words in expected if words not in message] == []
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("mistake", list(NO_OUT))
def test_a_mistake_in_a_verb_that_makes_no_run_gets_one_line(
    mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = NO_OUT[mistake]
    message = complaint(make(tmp_path), capsys)
    assert [words for words in expected if words not in message] == []
    assert not (tmp_path / "reconstruction.png").exists()


def test_skip_bad_leaves_corrupt_images_out_and_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = corrupt(tmp_path / "data")
    args = ["pretrain", str(data), *TINY, "--patch=4", "--skip-bad", "--out", str(tmp_path / "out"), "--json"]
    assert main(args) == 0
    captured = capsys.readouterr()
    assert "1 images cannot be decoded and are left out: dog/3.png" in captured.err
    assert len(captured.out.splitlines()) == 1


def test_images_of_mixed_sizes_are_resized_and_this_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = loose(tmp_path / "data")
    image(data / "large.png", size=(20, 30))
    assert main(["pretrain", str(data), *TINY, "--patch=4", "--out", str(tmp_path / "out")]) == 0
    assert "13 images of 2 sizes resized to 8x8" in capsys.readouterr().err


def test_images_of_mixed_modes_are_converted_and_this_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = loose(tmp_path / "data")
    image(data / "grey.png", mode="L")
    assert main(["pretrain", str(data), *TINY, "--patch=4", "--out", str(tmp_path / "out")]) == 0
    assert "images of mixed modes decoded as RGB: 12 RGB, 1 L" in capsys.readouterr().err


def test_an_out_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = text(tmp_path / "file")
    message = complaint(["pretrain", "digits", f"--out={file / 'run'}"], capsys)
    assert f"--out {file / 'run'}: cannot be written" in message
    assert file.read_text() == "not weights\n"


def test_what_is_not_installed_is_named_before_a_run_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert "--tensorboard: not installed here: pip install" in complaint(["fit", "digits", "--tensorboard"], capsys)
    assert not Path("runs").exists()


def test_images_that_vanish_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = class_folders(tmp_path / "data", {"cat": 8, "dog": 8})
    shutil.rmtree(data / "cat")
    assert "one class only ('dog')" in complaint(["fit", str(data)], capsys)


def test_a_last_step_that_diverges_is_not_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["finetune", "digits", *TINY, "--lr=1e30", "--finetune.min_steps=1", "--labels-per-class=1", "--seeds=1"]
    # On soft labels of all images there would be more steps than the one.
    assert main([*command, "--finetune.unlabelled=none", "--out", str(out)]) == 1
    assert "the last steps left a network whose outputs are not finite: lower --lr" in capsys.readouterr().err
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize("count", [0, -3])
def test_a_gallery_shows_one_image_at_least(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--count" in complaint(["reconstruct", "digits", "--model=lite-cifar10-mae", f"--count={count}"], capsys)
