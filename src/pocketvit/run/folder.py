"""A run's folder: every name in it, and what the run came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import UserError
from pocketvit.files import read_json, write_whole

FORMAT = 2  # of what lies in a run's folder; a run of another one is not gone on with
CONFIG, SUMMARY, METRICS, FIGURES = "config.yaml", "summary.json", "metrics.jsonl", "figures.npz"
WEIGHTS, MAE_WEIGHTS = "model.safetensors", "mae.safetensors"
REPORT, RECONSTRUCTION = "report.html", "reconstruction.png"
MISTAKES, DOUBTS = "mistakes.csv", "doubtful-labels.csv"
MISTAKE = ("file", "true", "predicted", "probability")  # columns of the first
STAGES, CHECKPOINTS, TENSORBOARD = "stages", "checkpoints", "tensorboard"
LOCK, OWNER = ".lock", ".owner"
REPLACED = ".replaced"  # the run that was there before, until the new one has begun
# All that a run writes into its folder, beside these; nothing else is ever deleted.
OWN = frozenset(
    (
        *(CONFIG, SUMMARY, METRICS, FIGURES, WEIGHTS, MAE_WEIGHTS, REPORT, RECONSTRUCTION, MISTAKES, DOUBTS),
        *(STAGES, CHECKPOINTS, TENSORBOARD),
    )
)


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, by what they hold."""

    root: Path

    @property
    def config(self) -> Path:
        """Every setting, as YAML."""
        return self.root / CONFIG

    @property
    def summary(self) -> Path:
        """Results, as JSON."""
        return self.root / SUMMARY

    @property
    def metrics(self) -> Path:
        """A reading a line, as JSON."""
        return self.root / METRICS

    @property
    def figures(self) -> Path:
        """Arrays that the report shows."""
        return self.root / FIGURES

    @property
    def weights(self) -> Path:
        """What the run is for: the classifier, or the encoder where nothing was fine-tuned."""
        return self.root / WEIGHTS

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / REPORT

    @property
    def mistakes(self) -> Path:
        """Test images that the classifier gets wrong, as CSV."""
        return self.root / MISTAKES

    @property
    def doubts(self) -> Path:
        """Images whose label may be wrong, as CSV."""
        return self.root / DOUBTS

    @property
    def doubted(self) -> Path:
        """The first of them, as arrays."""
        return self.root / STAGES / "doubts.npz"

    @property
    def reconstruction(self) -> Path:
        """The gallery that `reconstruct` writes."""
        return self.root / RECONSTRUCTION

    @property
    def origin(self) -> Path:
        """What the run came from, as JSON."""
        return self.root / STAGES / "origin.json"

    @property
    def learnt(self) -> Path:
        """Digests of the images that it learnt from."""
        return self.root / STAGES / "learnt.npy"

    @property
    def call(self) -> Path:
        """What began the run, for whoever goes on with it, as JSON."""
        return self.root / STAGES / "call.json"

    def begun(self, otherwise: str) -> dict[str, Any]:
        """What `call` holds.

        Raises:
            UserError: images or weights that the run was begun with have moved; the message says what to do `otherwise`
                than to move them back.
            OSError: the run keeps none.
        """
        call = dict(read_json(self.call))
        for place in (call.get("data"), call.get("init")):
            # Sets that need no file have names.
            if place and Path(place).is_absolute() and not Path(place).exists():
                lost = f"it was begun with {place}, which is not there any more"
                raise UserError(f"{self.root}: {lost}: move it back, or {otherwise}")
        return call

    @property
    def clock(self) -> Path:
        """Seconds by stage."""
        return self.root / STAGES / "clock.json"

    @property
    def plan(self) -> Path:
        """What was planned."""
        return self.root / STAGES / "plan.json"

    def pretrained(self, objective: str) -> Path:
        """The network that an objective of pre-training made, whole."""
        return self.root / f"{objective}.safetensors"

    def result(self, stage: str) -> Path:
        """What a finished stage found, as JSON."""
        return self.root / STAGES / f"{stage}.json"

    def predicted(self, stage: str) -> Path:
        """Classes (N,) that a fine-tuning predicted for the test images."""
        return self.root / STAGES / f"{stage}.npy"

    def probabilities(self, arm: str) -> Path:
        """Probabilities (N, K) of the test images, of the first seed of an arm at its largest label budget."""
        return self.root / STAGES / f"predictions-{arm}.npy"

    def classifier(self, arm: str) -> Path:
        """Its weights."""
        return self.root / STAGES / f"classifier-{arm}.safetensors"

    def frozen(self, arm: str) -> Path:
        """A frozen encoder with the linear probe for its head."""
        return self.root / STAGES / f"frozen-{arm}.safetensors"

    def classifiers(self) -> dict[str, Path]:
        """Weights of all classifiers that are kept, by the name of the arm; frozen encoders say that they are."""
        found = {}
        for file in sorted((self.root / STAGES).glob("*.safetensors")):
            kind, _, arm = file.stem.partition("-")
            if kind in ("classifier", "frozen"):
                found[arm if kind == "classifier" else f"{arm}, frozen"] = file
        return found

    def checkpoints(self, stage: str) -> Path:
        """The folder of a stage's checkpoints."""
        return self.root / CHECKPOINTS / stage


def check_origin(folder: RunFolder, origin: Mapping[str, Any], learnt: Callable[[], NDArray[np.uint64]]) -> None:
    """Keep what a run came from or, where that is kept already, see that it is the same.

    Args:
        folder: of the run.
        origin: words for what decides the results beside the settings, each with something that tells it from others.
        learnt: gives the digests of the images that are learnt from or validated on.

    Raises:
        UserError: the run came from something else, or was begun by a version that kept it in another form.
    """
    if not folder.origin.exists():
        np.save(folder.learnt, learnt())
        write_whole(folder.origin, json.dumps({"format": FORMAT, **origin}, indent=1) + "\n")
        return
    before = read_json(folder.origin)
    if before.get("format", 1) != FORMAT:
        raise UserError(f"--resume: {folder.root} was begun by another version of PocketViT: start afresh")
    for words, value in origin.items():
        if before.get(words) != value:
            raise UserError(
                f"--resume: {words} is not what {folder.root} was begun with: give the same, or start afresh"
            )


def learnt_images(folder: RunFolder) -> tuple[str, NDArray[np.uint64]] | None:
    """The fingerprint of a run's data, and the digests of the images it learnt from; None where no run kept them."""
    try:
        return json.loads(folder.origin.read_text())["DATA"], np.load(folder.learnt)
    except (OSError, ValueError, KeyError):
        return None
