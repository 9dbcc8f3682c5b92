"""Images that are in memory already, for whoever works in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pocketvit.data.sources.opener import Columns, Opener
from pocketvit.data.structures import Arrays, Item, Section, Source, Spec, make_source
from pocketvit.errors import UserError


def open_arrays(spec: Spec, path: Path | None, columns: Columns) -> Source:
    """Open them; UserError where they are not images of 8 bits, or not as many as their labels."""
    assert isinstance(spec, Arrays)
    images = np.asarray(spec.images)
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
        if not classes:
            names, given = np.unique(given, return_inverse=True)
            classes = tuple(map(str, names))
        labels = given.astype(np.int64)

    def items() -> Iterator[Item]:
        return (Item(f"image {number}", image) for number, image in enumerate(images))

    def fingerprint() -> str:
        content = hashlib.blake2b(repr((images.shape, classes)).encode(), digest_size=32)
        content.update(images.tobytes())
        content.update(b"" if labels is None else labels.tobytes())
        return content.hexdigest()

    return make_source(spec.name, spec.name, classes, {"all": Section(len(images), items, labels)}, [], fingerprint)


ARRAYS = Opener(
    words="from Python a pair of arrays",
    recognises=lambda spec, path: isinstance(spec, Arrays),
    open=open_arrays,
)
