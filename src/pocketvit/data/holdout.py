"""Images held out of a set: to test and to validate on, stratified by class, grouped, and without copies of others."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.cache import cache_folder
from pocketvit.data.checks import group_indices, image_hashes
from pocketvit.data.splits import check_class_sizes, grouped_split, stratified_split
from pocketvit.data.structures import Finding, Source, Split
from pocketvit.errors import UserError

SMALLEST_MAP = 1 << 24  # bytes; copies of smaller sets stay in memory
COPIED_AT_ONCE = 64  # images


def hold_out(
    split: Split, fraction: float, seed: int, source: Source, stratified: bool, group_by: str | None
) -> tuple[Split, Split]:
    """What is learnt from, and what is held out.

    Args:
        split: images, of which those with a label may be held out
        fraction: of them, to be held out
        seed: of the choice
        source: names its classes
        stratified: the same share of each class
        group_by: pattern in file names that tells what stays together, where the source's column does not

    Raises:
        UserError: groups that cannot be held out so.
    """
    labels = split.labels if stratified else None
    known = np.arange(len(split)) if labels is None else np.flatnonzero(labels >= 0)
    strata = None if labels is None else labels[known]
    if group_by is not None:
        assert split.names is not None
        names = split.names.tolist()
        groups = group_indices(names, group_by) if source.group is None else _numbered(map(source.group, names))
        _, held = grouped_split(strata, groups[known], fraction, seed, source.classes)
        # Images without a label are learnt from, but not those that belong to ones held out.
        kept = np.flatnonzero(~np.isin(groups, groups[known[held]]))
        return take(split, kept), take(split, known[held])
    _, held = stratified_split(strata, len(known), fraction, seed, source.classes)
    hold = _without_copies(split, known[held])
    # Held out are images with labels; those without one are learnt from.
    return take(split, np.setdiff1d(np.arange(len(split)), hold)), take(split, hold)


def _numbered(groups: Iterable[str]) -> NDArray[np.int64]:
    """(N,): the number of each image's group."""
    return np.unique(np.array(list(groups)), return_inverse=True)[1].astype(np.int64)


def _without_copies(split: Split, held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the held-out images that equal none of the others, where each of their classes keeps one at least."""
    digests = image_hashes(split.images)
    alone = held[~np.isin(digests[held], np.delete(digests, held))]
    if split.labels is None:
        return alone if len(alone) else held
    return alone if np.isin(split.labels[held], split.labels[alone]).all() else held


def take(split: Split, indices: NDArray[np.int64]) -> Split:
    """The images at (n,) indices."""
    labels = None if split.labels is None else split.labels[indices]
    names = None if split.names is None else split.names[indices]
    return Split(_mapped(split.images, indices), labels, names)


def _mapped(images: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """images[indices]; of mapped ones, in a file without a name, so that a large set takes no memory of its own."""
    if not isinstance(images, np.memmap) or len(indices) * images[:1].nbytes < SMALLEST_MAP:
        chosen: NDArray[np.uint8] = images[indices]
        return chosen
    try:
        with tempfile.TemporaryFile(dir=cache_folder()) as file:
            shape = (len(indices), *images.shape[1:])
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
            mapped = np.memmap(file, np.uint8, "r+", shape=shape)
    except (OSError, AttributeError):  # a full disk; a system that keeps no file without a name
        return np.asarray(images[indices])
    for start in range(0, len(indices), COPIED_AT_ONCE):
        mapped[start : start + COPIED_AT_ONCE] = images[indices[start : start + COPIED_AT_ONCE]]
    mapped.flags.writeable = False
    return mapped


def can_be_stratified(source: Source, train: Split, parts: int, need_labels: bool, findings: list[Finding]) -> bool:
    """Whether each class has images for all `parts` of a split; where labels are needed, UserError if it has not."""
    if train.labels is None:
        return False
    try:
        check_class_sizes(train.labels[train.labels >= 0], parts, source.classes)
    except UserError as error:
        if need_labels:
            raise
        findings.append(Finding("not stratified", f"the split is not stratified by class: {error}"))
        return False
    return True
