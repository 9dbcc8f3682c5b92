"""The one way in: from what the user typed to train, validation and test arrays of one shape.

Test images are never used to choose anything: not the validation split, nor the mean and standard deviation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketvit.config import DataConfig
from pocketvit.data.cache import decode_cached
from pocketvit.data.checks import copies, likely_groups
from pocketvit.data.decoding import Wanted
from pocketvit.data.holdout import can_be_stratified, hold_out, take
from pocketvit.data.images import NO_RENDERING, Rendering
from pocketvit.data.sizes import Patching
from pocketvit.data.sources import open_source
from pocketvit.data.sources.opener import Columns
from pocketvit.data.splits import label_subset
from pocketvit.data.structures import Finding, Source, Spec, Split
from pocketvit.errors import UserError

__all__ = ["Dataset", "Split", "load"]

SMALLEST_STD = 1e-3  # a constant channel must not divide by zero
STATISTICS_CHUNK = 1 << 20  # bytes at a time


@dataclass(frozen=True)
class Dataset:
    """Decoded images, split.

    Args:
        name: `digits`, or the folder's or file's name without its extension
        classes: class names, in the order of the labels; empty without labels
        train: what is learnt from
        val: what choices are made on
        test: what results are reported on; None where there are neither labels nor a test split
        mean: of each channel of the train images, in units of [0, 1]
        std: as mean; at least 1e-3
        findings: what the user should know about how the set was read
        fingerprint: of the source's content, hexadecimal: equal content gives an equal one
        rendering: how deep and transparent images became 8 bits
        native: median (height, width) of the train images before they were scaled; None where not known
        own_test: whether the source brings the test images, and they were not held out from others
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    findings: tuple[Finding, ...]
    fingerprint: str = ""
    rendering: Rendering = NO_RENDERING
    native: tuple[float, float] | None = None
    own_test: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """The findings in words."""
        return tuple(finding.text for finding in self.findings)

    def labelled(self, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The images (N, H, W, C) of "train", "val" or "test" that have labels, and these (N,).

        Raises:
            UserError: none has one.
        """
        part: Split | None = getattr(self, split)
        if part is None or part.labels is None:
            raise UserError(f"{self.name}: labels are needed, and its {split} images have none")
        known = part.labels >= 0
        return (part.images, part.labels) if known.all() else (part.images[known], part.labels[known])

    def names_of(self, split: str) -> NDArray[np.object_]:
        """(N,) names of the images that `labelled` gives: the items', or else counts. Raises as it."""
        _, labels = self.labelled(split)
        part: Split = getattr(self, split)
        if part.names is None:
            return np.array([f"{split} image {number}" for number in range(len(labels))], dtype=np.object_)
        assert part.labels is not None
        return part.names[part.labels >= 0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def load(
    spec: Spec,
    config: DataConfig,
    *,
    patching: Patching | None = None,
    rendering: Rendering | None = None,
    channels: int | None = None,
    need_labels: bool = False,
) -> Dataset:
    """Open a set of images, decode it (or find it in the cache), and split it.

    Args:
        spec: what `open_source` accepts
        config: size, splits, how many images, and whether bad ones are left out
        patching: the network's patch, for which height and width are rounded where `config` asks for no size
        rendering: of the images that a model learnt from; None finds it out
        channels: that a model takes, 1 or 3; None takes 3 where any image has colours
        need_labels: refuse a set without labels, or with a single class

    Raises:
        UserError: no images, bad images, labels missing, or too few images to split.
    """
    source = open_source(spec, Columns(config.label_column, config.group_by))
    if need_labels:
        _require_labels(spec, source)
    content = source.fingerprint()
    decoded = decode_cached(
        source, content, Wanted(config.shape, patching, config.scale, rendering, channels, config.skip_bad)
    )
    findings = [*source.findings, *decoded.findings]
    given = decoded.splits
    train, val, test = given.get("train") or given["all"], given.get("val"), given.get("test")
    val, test = (part and _labelled_part(part, findings) for part in (val, test))
    if train.labels is not None:
        findings += _unlabelled(train)
        _check_classes(source, train)

    stratified = can_be_stratified(source, train, 1 + (val is None) + (test is None), need_labels, findings)
    if len(train) < 1 + (val is None):
        raise UserError(f"{spec}: holds {len(train)} train image: at least 2 are needed, one of them to validate")
    if train.labels is not None and train.names is not None and not (val and test) and config.group_by is None:
        findings += likely_groups(train.names.tolist(), train.labels)
    own_test = test is not None
    if test is None and train.labels is not None and len(train) > 2:
        train, test = hold_out(train, config.test_fraction, config.split_seed, source, stratified, config.group_by)
        text = f"the source has no test split: {len(test)} of {len(train) + len(test)} images held out for testing"
        findings.append(Finding("test held out", f"{text} (seed {config.split_seed})"))
    if val is None:
        train, val = hold_out(train, config.val_fraction, config.split_seed, source, stratified, config.group_by)
    train = _some(train, config, findings)
    findings += copies({"train": train, "val": val} | ({"test": test} if test else {}))
    mean, std = _statistics(train.images)
    return Dataset(
        source.name, source.classes, train, val, test, mean, std, tuple(findings),
        digest(content.encode("utf-8", "surrogateescape")), decoded.rendering, decoded.own, own_test,
    )  # fmt: skip


def _some(train: Split, config: DataConfig, findings: list[Finding]) -> Split:
    """As many of the train images as are asked for."""
    if config.images is None or config.images >= len(train):
        return train
    labels = train.labels if train.labels is not None else np.zeros(len(train), np.int64)
    chosen = take(train, label_subset(labels, fraction=config.images / len(train), seed=config.split_seed))
    text = f"{len(chosen)} of the train images are used (--data.images {config.images})"
    findings.append(Finding("some images", text))
    return chosen


class Whole(NamedTuple):
    """A set that nothing is learnt from; its fingerprint is that of a Dataset made of it.

    Args:
        split: its test split, or else all of it
        classes: names
        fingerprint: hexadecimal
        own_test: it is a test split that the source brings
        notes: what the user should know about how it was read
    """

    split: Split
    classes: tuple[str, ...]
    fingerprint: str
    own_test: bool
    notes: tuple[str, ...]


def load_whole(
    spec: Spec, config: DataConfig, rendering: Rendering | None = None, channels: int | None = None
) -> Whole:
    """The labelled images of a set that nothing is learnt from: its test split, or else all of it.

    Args:
        spec: what `open_source` accepts
        config: size, and whether bad images are left out
        rendering: as for `load`
        channels: as for `load`

    Raises:
        UserError: no images, bad images, or no labels.
    """
    source = open_source(spec, Columns(config.label_column))
    if all(section.labels is None for section in source.sections.values()):
        raise UserError(f"labels are needed here, and '{spec}' has none: give class folders or a label column")
    content = source.fingerprint()
    decoded = decode_cached(
        source, content, Wanted(config.shape, None, config.scale, rendering, channels, config.skip_bad)
    )
    findings = [*source.findings, *decoded.findings]
    split = decoded.splits.get("test") or decoded.splits.get("all") or decoded.splits["train"]
    fingerprint = digest(content.encode("utf-8", "surrogateescape"))
    split = _labelled_part(split, findings)
    notes = tuple(finding.text for finding in findings)
    return Whole(split, source.classes, fingerprint, "test" in decoded.splits, notes)


def digest(content: bytes) -> str:
    """A short name of bytes, hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _require_labels(spec: Spec, source: Source) -> None:
    section = source.sections.get("train") or source.sections["all"]
    table = "; labels in a .csv file are not read" if any(" .csv" in note for note in source.notes) else ""
    table += "".join(f"; {found.text}" for found in source.findings if found.kind == "no label column")
    if section.labels is None:
        raise UserError(
            f"labels are needed here, and '{spec}' has none: give class folders or a label column "
            f"(pretrain works without){table}"
        )
    present = np.unique(section.labels[section.labels >= 0])
    if len(present) < 2:
        raise UserError(
            f"'{spec}' has train images of one class only ('{source.classes[present[0]]}'): at least two are needed "
            f"to classify (pretrain works with one){table}"
        )


def _labelled_part(split: Split, findings: list[Finding]) -> Split:
    """A split to validate or test on, without the images that have no label where others have one."""
    if split.labels is None or (split.labels >= 0).all():
        return split
    text = f"{int((split.labels < 0).sum())} images to validate or test have no label and are left out"
    findings.append(Finding("unlabelled", text))
    return take(split, np.flatnonzero(split.labels >= 0))


def _unlabelled(train: Split) -> list[Finding]:
    count = int((train.labels < 0).sum()) if train.labels is not None else 0
    words = f"{count} of {len(train)} images have no label: pre-training takes them, fine-tuning those that have one"
    return [Finding("unlabelled", words)] if count else []


def _check_classes(source: Source, train: Split) -> None:
    """Raise UserError where a class has lost all of its images, as those that cannot be decoded."""
    section = source.sections.get("train") or source.sections["all"]
    assert section.labels is not None
    assert train.labels is not None
    lost = np.setdiff1d(section.labels, train.labels)
    if len(lost):
        name = source.classes[lost[0]]
        raise UserError(
            f"{source.root}: no images of class '{name}' are left, since none of them can be decoded: mend them, or "
            "move the class away"
        )


def _statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images uint8 (N, H, W, C), in units of [0, 1]."""
    _, _, width, channels = images.shape
    total, squares = np.zeros(width * channels), np.zeros(width * channels)
    step = max(1, STATISTICS_CHUNK // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):
        # Rows of pixels, because sums down columns as narrow as the channels are six times slower.
        rows = images[start : start + step].reshape(-1, width * channels).astype(np.float64)
        total += rows.sum(axis=0)
        squares += np.einsum("rc,rc->c", rows, rows)
    count = images.size / channels
    mean = total.reshape(width, channels).sum(axis=0) / count
    variance = squares.reshape(width, channels).sum(axis=0) / count - mean**2
    std = np.maximum(np.sqrt(np.maximum(variance, 0)) / 255, SMALLEST_STD)
    return tuple((mean / 255).tolist()), tuple(std.tolist())
