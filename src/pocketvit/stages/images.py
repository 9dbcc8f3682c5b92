"""The images of a run, as its settings and the weights that it starts from ask for them, and which labels are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pocketvit.config import ModelConfig, Settings
from pocketvit.data import Dataset, Finding, Patching, Spec, grown_patch, image_digests, label_subset, load
from pocketvit.data.sizes import MOST_PATCHES
from pocketvit.model import weights
from pocketvit.model.patches import check_patch
from pocketvit.model.weights import weights_file
from pocketvit.run.folder import RunFolder, learnt_images


def sized_as(settings: Settings, init: Path | None) -> tuple[Settings, Finding | None]:
    """Settings for the network that the weights of `init` are of, and what to say where that is another one.

    A preset gives way, for recipes name one; a size that is named beside it stays, and is refused where it is not that
    of the weights.
    """
    if init is None:
        return settings, None
    _, meta = weights.encoder_state(init)
    asked, theirs = settings.model, meta.model
    if not isinstance(theirs, ModelConfig):
        return settings, None
    sizes = {name: getattr(theirs.sizes(), name) for name in weights.ENCODER if getattr(asked, name) is None}
    before = asked.sizes()
    if all(getattr(before, name) == size for name, size in sizes.items()):
        return settings, None
    model = replace(asked, preset=theirs.preset, **sizes)
    text = f"network {theirs.preset} in place of {asked.preset}, as the weights of --init are"
    return replace(settings, model=model), Finding("network of --init", text)


def load_images(data: Spec, settings: Settings, need_labels: bool, init: Path | None) -> tuple[Dataset, Settings]:
    """The images, as the weights of `init` are used to them, and the settings with the patch that they ask for.

    A size that is asked for is theirs all the same. Raises UserError as `pocketvit.data.load`.
    """
    config, rendering, channels = settings.data, None, None
    if init is not None:
        _, meta = weights.encoder_state(init)
        config = replace(config, size=config.size or "{}x{}".format(*meta.shape))
        rendering, channels = meta.rendering, meta.shape[2]
    patching = patching_of(settings)
    dataset = load(data, config, patching=patching, rendering=rendering, channels=channels, need_labels=need_labels)
    return _with_patch(dataset if init is None else _beside(dataset, init), settings)


def patching_of(settings: Settings) -> Patching:
    """The patch that images are read for; one that was asked for stays, and so does any beside a size asked for."""
    patch = settings.model.sizes().patch
    return Patching(patch, fixed=settings.model.patch is not None or settings.data.size is not None)


def labelled_indices(dataset: Dataset, settings: Settings, per_class: int | None, seed: int) -> np.ndarray:
    """Indices of the train images whose labels a fine-tuning may read."""
    _, labels = dataset.labelled("train")
    fraction = settings.data.label_fraction
    return label_subset(labels, per_class=per_class, fraction=fraction, seed=seed, classes=dataset.classes)


def _beside(dataset: Dataset, init: Path) -> Dataset:
    """The same with a finding where test images are among those that the weights of `init` learnt from."""
    kept = learnt_images(RunFolder(weights_file(init).parent))
    if kept is None or dataset.test is None:
        return dataset
    count = int(np.isin(image_digests(dataset.test.images), kept[1]).sum())
    if not count:
        return dataset
    text = f"{count} of {len(dataset.test)} test images are among those that the weights of --init learnt from"
    finding = Finding("learnt before", f"{text}: accuracy on them may say more than that on new ones will")
    return replace(dataset, findings=(*dataset.findings, finding))


def _with_patch(dataset: Dataset, settings: Settings) -> tuple[Dataset, Settings]:
    """Both with the patch that the images ask for, where it is another one, and a note on it."""
    height, width, _ = dataset.shape
    patching = patching_of(settings)
    patch = grown_patch(height, width, patching)
    check_patch(height, width, patch)
    if patch == patching.side:
        return dataset, settings
    note = f"patches of {patch} px rather than {patching.side}, so that an image has at most {MOST_PATCHES}"
    finding = Finding("larger patch", f"{note} (--patch and --size decide otherwise)")
    dataset = replace(dataset, findings=(*dataset.findings, finding))
    return dataset, replace(settings, model=replace(settings.model, patch=patch))
