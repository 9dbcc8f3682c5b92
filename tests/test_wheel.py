"""The wheel, unpacked as an installer would: shipped recipes and models are in it, and found by their names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocketvit.config.shipped import shipped_files

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel's package lies in."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *words: str) -> Any:
    """What the installed package prints as JSON, in a folder that is no checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pocketvit.cli", *words, "--device=cpu", "--json"]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize(("folder", "suffix"), [("recipes", ".yaml"), ("models", ".safetensors"), ("models", ".md")])
def test_what_ships_is_in_the_wheel(installed: Path, folder: str, suffix: str) -> None:
    names = {file.name for file in (installed / "pocketvit" / folder).glob(f"*{suffix}")}
    assert names == {file.name for file in (REPO / folder).glob(f"*{suffix}")}
    assert names


@pytest.mark.slow
def test_shipped_models_predict_and_are_started_from(installed: Path, tmp_path: Path) -> None:
    classifiers = sorted(name for name in shipped_files("models") if not name.endswith("-mae"))
    assert classifiers
    random = np.random.default_rng(0)
    for name in ("red", "blue"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            pixels[..., 0 if name == "red" else 2] = 255
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    for model in classifiers:
        (row,) = run(installed, tmp_path, "predict", "images/red/0.png", "--model", model)
        assert sum(guess["probability"] for guess in row["top"]) <= 1.001
        out = f"--out={tmp_path / model}"
        brief = ("--preset=lite", "--epochs=1", "--finetune.min_steps=0", "--precision=float32", out)
        found = run(installed, tmp_path, "finetune", "images", "--init", f"{model}-mae", *brief)
        assert list(found["finetune"][0]["arms"]) == ["mae"]
