"""Images that are in memory already, for whoever works in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.sources.opener import Columns, Opener
from pocketvit.data.structures import Arrays, Item, Section, Source, Spec, make_source
from pocketvit.errors import UserError


def open_arrays(spec: Spec, path: Path | None, columns: Columns) -> Source:
    """Open them; UserError where they are not images of 8 bits, or not as many as their labels."""
    assert isinstance(spec, Arrays)
    try:
        images = np.asarray(spec.images)
    except ValueError:
        raise UserError(f"{spec}: images of several sizes: scale them to one, or give a folder") from None
    if not images.size:
        raise UserError(f"{spec}: no images")
    if images.dtype != np.uint8:
        raise UserError(f"{spec}: images of {images.dtype}: expected uint8, from 0 to 255")
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        expected = "expected (N, H, W), or (N, H, W, C) of 1 or 3 channels"
        raise UserError(f"{spec}: an array of shape {images.shape}: {expected}")
    labels, classes = None, spec.classes
    if spec.labels is not None:
        given = np.asarray(spec.labels)
        if given.shape != (len(images),):
            raise UserError(f"{spec}: {len(images)} images and labels of shape {given.shape}: expected one each")
        classes, labels = _indexed(spec, given)

    def items() -> Iterator[Item]:
        return (Item(f"image {number}", image) for number, image in enumerate(images))

    def fingerprint() -> str:
        content = hashlib.blake2b(repr((images.shape, classes)).encode(), digest_size=32)
        content.update(images.tobytes())
        content.update(b"" if labels is None else labels.tobytes())
        return content.hexdigest()

    return make_source(spec.name, spec.name, classes, {"all": Section(len(images), items, labels)}, [], fingerprint)


def _indexed(spec: Arrays, given: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Class names, and labels as indices into them: -1 for NaN, None and numbers below 0; None where all are such."""
    values = given.tolist()
    missing = np.array([is_missing(value) for value in values], bool)
    if given.dtype.kind in "iuf":
        numbers = np.where(missing, -1, given.astype(np.float64 if given.dtype.kind == "f" else np.int64))
        if (numbers != np.floor(numbers)).any():
            raise UserError(f"{spec}: labels that are fractions: expected names, or whole numbers")
        given = numbers.astype(np.int64)
        missing = given < 0
    elif spec.classes and given.dtype.kind != "b":
        raise UserError(f"{spec}: labels of {given.dtype} beside names of classes: expected numbers from 0 on")
    else:
        given = np.array([str(value) for value in values], str)
    if missing.all():
        return spec.classes, None
    if spec.classes:
        numbers = given.astype(np.int64) if given.dtype.kind == "i" else given == "True"
        if (numbers >= len(spec.classes)).any():
            raise UserError(f"{spec}: label {numbers.max()} lies beyond the {len(spec.classes)} classes")
        return spec.classes, np.where(missing, -1, numbers).astype(np.int64)
    names, places = np.unique(given[~missing], return_inverse=True)
    labels = np.full(len(given), -1, np.int64)
    labels[~missing] = places
    return tuple(map(str, names)), labels


def is_missing(label: Any) -> bool:
    """Whether a label is none: None, NaN, or what pandas has for it."""
    return label is None or type(label).__name__ == "NAType" or bool(label != label)


ARRAYS = Opener(
    words="from Python a pair of arrays",
    recognises=lambda spec, path: isinstance(spec, Arrays),
    open=open_arrays,
)
