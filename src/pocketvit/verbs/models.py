"""What verbs take for a model: a run, a weights file, or a shipped model's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pocketvit.config import SPLITTING, DataConfig, model_path
from pocketvit.data import Dataset, Spec, load
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta
from pocketvit.run.folder import RunFolder
from pocketvit.training.objectives import PRETRAINING


class Trained(Protocol):
    """What a verb that trains gives back."""

    @property
    def path(self) -> Path:
        """The run's folder."""


Model = Trained | str | Path


def path_of(model: Model) -> Path:
    """A run's folder, or a file, be it there or not; raises UserError for what is no model, or a name that none has."""
    path = model if isinstance(model, (str, Path)) else getattr(model, "path", None)
    if path is None:
        raise UserError(
            f"--model of type {type(model).__name__}: expected a run, a file or the name of a shipped model"
        )
    return model_path(path)


def mae_path_of(model: Model) -> Path:
    """Weights with a decoder: a run of `fit` keeps them beside the classifier's. Raises as `path_of`."""
    path = path_of(model)
    kept = (RunFolder(path).pretrained(objective) for objective in PRETRAINING)
    return next((file for file in kept if file.is_file()), path)


def init_of(model: Model | None) -> Path | None:
    """What a training starts from, looked at before the images are decoded; None for random init."""
    if model is None:
        return None
    weights.encoder_state(path_of(model))
    return path_of(model)


def classifier_of(model: Model) -> tuple[Network, WeightsMeta]:
    """A network and what it says of itself. Raises UserError for a masked autoencoder, and as `path_of`."""
    module, meta = weights.load(path_of(model))
    if not isinstance(module, Network):
        raise UserError(f"{path_of(model)}: pre-trained weights have no classifier: run finetune with --init first")
    return module, meta


def data_of(path: Path, otherwise: str) -> str:
    """The set that a run, or a file in one, was begun with; UserError where it is not known, which says what to do
    `otherwise`."""
    try:
        return str(RunFolder(path if path.is_dir() else path.parent).begun(otherwise)["data"])
    except (OSError, ValueError, KeyError):
        raise UserError(f"{path}: it is not known which images it came from: {otherwise}") from None


def dataset_like(data: Spec, meta: WeightsMeta, config: DataConfig, need_labels: bool = True) -> Dataset:
    """The data as the weights are used to them: of their size, channels and rendering. Raises as `load`."""
    height, width, channels = meta.shape
    sized = dataclasses.replace(config, size=f"{height}x{width}")
    return load(data, sized, rendering=meta.rendering, channels=channels, need_labels=need_labels)


def split_like(config: DataConfig, meta: WeightsMeta) -> DataConfig:
    """With the splits of the run that made the weights, where these know them, wherever they lie.

    By others, what tests them could be what they learnt from.
    """
    return dataclasses.replace(config, **{name: meta.held_out[name] for name in SPLITTING if meta.held_out})


def unknown_split(data: Spec) -> UserError:
    """Of weights that lie elsewhere than in their run, and do not know how it split images that have no test split."""
    return UserError(
        f"{data}: the weights learnt from images of this set, and only their run knows which: give it instead"
    )


def few(names: Sequence[str]) -> str:
    """The first five, and how many there are."""
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
