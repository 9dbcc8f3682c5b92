"""Verbs on weights that are there: probe, evaluate, reconstruct, report; and budget, which needs none."""

from __future__ import annotations

import dataclasses
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketvit.config import SPLITTING, DataConfig, Settings, resolve, run_config
from pocketvit.data import Spec, image_digests, load_whole, scaled_size
from pocketvit.data.sources import find
from pocketvit.errors import UserError, of_place
from pocketvit.evaluation import probe as probing
from pocketvit.evaluation.metrics import Metrics
from pocketvit.evaluation.predictor import Predictor
from pocketvit.evaluation.reconstruct import reconstruct_images
from pocketvit.files import expanded, write_whole
from pocketvit.model import weights
from pocketvit.model.costs import classifier_costs
from pocketvit.model.devices import on_paper
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.networks import NETWORKS
from pocketvit.model.weights import weights_file
from pocketvit.pages.page import write_report
from pocketvit.run.folder import RECONSTRUCTION, RunFolder, learnt_images
from pocketvit.stages.arms import arms_of
from pocketvit.stages.images import labelled_indices, patching_of
from pocketvit.training.device import make_accelerator
from pocketvit.training.pretrain import step_costs
from pocketvit.verbs.asked import Data, spec_of
from pocketvit.verbs.model import load as load_model
from pocketvit.verbs.models import Model, data_of, dataset_like, few, mae_path_of, path_of, split_like, unknown_split
from pocketvit.verbs.progress import in_parts, waiting


def probe(
    data: Data | None = None, *, model: Model, settings: Settings | None = None, **overrides: Any
) -> dict[str, Any]:
    """kNN and linear-probe test accuracy of the frozen encoder in `model`, and of the same encoder at random init.

    Without `data`, on those of the run that made it.
    The probes read the labels that `labels_per_class` or `label_fraction` keep. `notes` says where test images are
    among those that the model learnt from. Raises UserError for bad data, settings or weights, and for other splits of
    the run's own data than its own.
    """
    spec, settings = _asked(data, model, settings, overrides)
    encoder, (_, meta) = weights.frozen_encoder(path_of(model)), weights.encoder_state(path_of(model))
    dataset, kept = dataset_like(spec, meta, settings.data), _learnt_by(model)
    if kept is not None and dataset.fingerprint == kept[0]:
        _check_splits(settings.data, resolve(config=run_config(path_of(model))).data)
    device = make_accelerator(settings.device, "float32").device
    per_class = settings.data.largest_budget
    labelled = labelled_indices(dataset, settings, per_class, settings.seed)
    images, labels = dataset.labelled("train")
    test_images, test_y = dataset.labelled("test")
    torch.manual_seed(settings.seed)
    fresh = NETWORKS[meta.network].build(meta.model, meta.shape)
    learnt = 0 if kept is None else int(np.isin(image_digests(test_images), kept[1]).sum())
    notes = [f"{learnt} of {len(test_y)} test images are among those that the model learnt from"] if learnt else []
    results: dict[str, Any] = {"labels": len(labelled), "test": len(test_y), "notes": notes}
    for name, network in (("model", encoder), ("random", fresh)):
        predictor = Predictor.of(network, meta, device)
        title = f"features of {'the model' if name == 'model' else 'random init'}"
        train_x, test_x = (in_parts(predictor.features, some, title) for some in (images[labelled], test_images))
        with waiting(f"a linear classifier on {len(labelled):,} labels"):
            results[name] = probing.probe(train_x, labels[labelled], test_x, test_y).to_json()
    return results


def evaluate(
    data: Data | None = None, *, model: Model, settings: Settings | None = None, **overrides: Any
) -> dict[str, Any]:
    """Accuracy, per-class accuracy, confusion matrix and calibration error of a classifier.

    On the data of the run that made it, which it takes without `data`, the test images are those that the run held
    out. Any other set is tested whole (its test split, where it has one), but for images that the run has learnt from.
    Classes are matched by their names, and need not all be there. `notes` says which images were tested, and how they
    were read.

    Raises:
        UserError: no classifier, bad data, or a class that the model does not know.
    """
    spec, settings = _asked(data, model, settings, overrides)
    trained = load_model(model, settings.device)
    trained.check_classifies()
    meta = trained.meta
    height, width, channels = meta.shape
    config = dataclasses.replace(settings.data, size=f"{height}x{width}")
    found = load_whole(spec, config, meta.rendering, channels)
    kept = _learnt_by(model)
    images, labels, notes = found.split.images, found.split.labels, [f"all {len(found.split)} labelled test images"]
    assert labels is not None
    if kept is None and found.fingerprint == meta.source:
        if found.own_test:
            notes = [f"all {len(found.split)} images of the test split"]
        elif meta.held_out:
            images, labels = dataset_like(spec, meta, split_like(settings.data, meta)).labelled("test")
            notes = ["the images that the run held out"]
        else:
            raise unknown_split(spec)
    elif kept is None:
        notes = ["it is not known which images these weights learnt from: those tested may be among them"]
    elif found.fingerprint == kept[0]:
        # A run without a test split of its own held one out, as its own settings say: by others, it may have learnt
        # from the images that would be tested.
        own = resolve(config=run_config(path_of(model))).data
        _check_splits(config, own)
        images, labels = dataset_like(spec, meta, settings.data).labelled("test")
        notes = ["the images that the run held out"]
    elif not (new := ~np.isin(image_digests(images), kept[1])).all():
        images, labels = images[new], labels[new]
        notes = [f"the data differ from the run's: {(~new).sum()} images that it learnt from are left out"]
        if not len(images):
            raise UserError(f"{spec}: the run learnt from every image there: give others to test on")
    labels = _as_known(spec, labels, found.classes, meta.classes)
    probabilities = in_parts(trained.predictor().probabilities, images, "test images")
    metrics = Metrics.of(probabilities, labels, meta.classes)
    missing = [name for name, value in metrics.per_class.items() if value is None]
    notes += [f"no images of {len(missing)} classes: {few(missing)}"] if missing else []
    notes += found.notes
    return {"dataset": Path(str(spec)).name or spec, "test": len(labels), "notes": notes, **metrics.to_json()}


def _asked(
    data: Data | None, model: Model, settings: Settings | None, overrides: dict[str, Any]
) -> tuple[Spec, Settings]:
    """The set, or that of the model's run without one; and the settings, or those of its run with `overrides`."""
    path = path_of(model)
    spec = spec_of(data_of(path, "give DATA") if data is None else data)
    return spec, settings or resolve(config=run_config(path), **overrides)


def _learnt_by(model: Model) -> tuple[str, NDArray[np.uint64]] | None:
    """What the run of a model learnt from (see `learnt_images`); None where its run is not there."""
    return learnt_images(RunFolder(weights_file(path_of(model)).parent))


def _check_splits(asked: DataConfig, own: DataConfig) -> None:
    """UserError where settings that decide what is held out are not those of the run."""
    for name in SPLITTING:
        if getattr(asked, name) != getattr(own, name):
            raise UserError(
                f"--data.{name}: the run held out its test images with {getattr(own, name)}, and learnt from others: "
                "leave it out"
            )


def _as_known(data: Spec, labels: NDArray[np.int64], classes: Sequence[str], known: Sequence[str]) -> NDArray[np.int64]:
    """Labels (N,) as indices into the model's classes, matched by name; UserError for one that it does not know."""
    numbers = {unicodedata.normalize("NFC", name): number for number, name in enumerate(known)}
    names = [unicodedata.normalize("NFC", name) for name in classes]
    unknown = sorted({names[label] for label in np.unique(labels)} - set(numbers))
    if unknown:
        raise UserError(f"{data}: the model does not know {few(unknown)}; its classes are {few(known)}")
    return np.array([numbers.get(name, -1) for name in names], np.int64)[labels]


def reconstruct(
    data: Data | None = None,
    *,
    model: Model,
    out: str | Path | None = None,
    count: int = 8,
    settings: Settings | None = None,
    **overrides: Any,
) -> Path:
    """Write a PNG with a row for each of `count` held-out images: input, what the encoder sees, reconstruction.

    `out` is reconstruction.png in the run by default, and never lies among the images. These are the run's own
    without `data`.
    """
    from PIL import Image

    if count < 1:
        raise UserError(f"--count {count}: expected at least 1")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a name that ends in .png")
    spec, settings = _asked(data, model, settings, overrides)
    mae, meta = weights.load(mae_path_of(model))
    if not isinstance(mae, MaskedAutoencoder):
        raise UserError(f"{path_of(model)}: a classifier has no decoder: give pre-trained weights")
    dataset = dataset_like(spec, meta, settings.data, need_labels=False)
    images = dataset.val.images[:count]
    made = reconstruct_images(mae, images, meta.mean, meta.std, settings.mae.mask_ratio, settings.seed)
    rows = np.concatenate([np.pad(array, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255) for array in made], 2)
    sheet = rows.reshape(-1, *rows.shape[2:])
    # Fewer than three channels are shown as grey, more as their first three.
    sheet = sheet[..., :3] if sheet.shape[-1] >= 3 else sheet[..., 0]
    zoom = max(1, 128 // meta.shape[0])
    picture = Image.fromarray(np.ascontiguousarray(sheet))
    beside = run_config(path_of(model))
    file = expanded(out or (beside.with_name(RECONSTRUCTION) if beside else RECONSTRUCTION))
    images_at = find(spec)
    if images_at and images_at.is_dir() and images_at.resolve() in file.resolve().parents:
        raise UserError(f"--out {file}: lies among the images of {spec}, where it would be taken for one: give another")
    stream = io.BytesIO()
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(stream, "PNG")
    try:
        write_whole(file, stream.getvalue())
    except OSError as error:
        raise of_place(error, f"--out {file}") from None
    return file


def report(run: str | Path) -> Path:
    """Write report.html of a run directory again, from what lies in it."""
    folder = expanded(run)
    if not folder.is_dir():
        raise UserError(f"{run}: no such run directory")
    return write_report(folder)


def budget(
    *,
    channels: int = 3,
    classes: int = 10,
    recipe: str | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Parameters and MACs of a network; see `pocketvit.model.costs.Costs` for the keys.

    "devices" says what it would take on small devices: see `pocketvit.model.devices.on_paper`. Images are of 32 px
    where no size is given. Pre-training is that by the first objective that `arms` names, as `contrast`.
    """
    for name, number in (("channels", channels), ("classes", classes)):
        if number < 1:
            raise UserError(f"--{name} {number}: expected at least 1")
    settings = settings or resolve(recipe, **overrides)
    height, width = settings.data.shape or scaled_size(32, 32, patching_of(settings), settings.data.scale)
    shape = (height, width, channels)
    objective = next((arm.objective for arm in arms_of(settings) if arm.objective), "mae")
    macs, params = step_costs(settings, shape, objective)
    cost = classifier_costs("vit", settings.model, shape, classes)
    about = {"preset": settings.model.preset, "shape": list(shape), "classes": classes}
    pretraining = {"pretrain_macs": macs, "pretrain_params": params}
    return {**about, **dataclasses.asdict(cost), **pretraining, "devices": on_paper(cost)}
