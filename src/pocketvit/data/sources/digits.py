"""The embedded set: 1,797 digits of 8x8 pixels, inside scikit-learn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pocketvit.data.sources.opener import Columns, Opener
from pocketvit.data.structures import Item, Section, Source, make_source

NAME = "digits"


def open_digits(spec: str, path: Path | None, columns: Columns) -> Source:
    """Open the set; its pixels of 0 to 16 are stretched to 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)

    def items() -> Iterator[Item]:
        return (Item(f"digit {index}", image) for index, image in enumerate(images))

    def fingerprint() -> str:
        return hashlib.blake2b(images.tobytes() + labels.tobytes(), digest_size=32).hexdigest()

    section = Section(len(images), items, labels)
    classes = [str(name) for name in digits.target_names]
    return make_source(NAME, NAME, classes, {"all": section}, [], fingerprint)


DIGITS = Opener(
    words=f"'{NAME}'",
    # A folder of that name is the user's own.
    recognises=lambda spec, path: spec == NAME and not (path and path.is_dir()),
    open=open_digits,
    names=(NAME,),
)
