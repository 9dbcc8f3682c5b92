"""From what the user typed to an opened Source: the grammar that every verb shares.

Nothing is decoded here: an opened source knows its classes, labels and splits, and where its images lie.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pocketvit.data.folders import open_folder
from pocketvit.data.listing import IMAGE_EXTENSIONS
from pocketvit.data.parquet import open_parquet, parquet_files
from pocketvit.data.structures import Item, Section, Source, make_source
from pocketvit.errors import UserError

EMBEDDED = ("digits",)
ACCEPTED = (
    "'digits', a folder of images, of class folders, or of train/ and test/ with class folders in them, "
    "or a Parquet file or folder"
)


def open_source(spec: str, *, data_dir: str | Path | None = None, label_column: str | None = None) -> Source:
    """Open a set of images without decoding any.

    Args:
        spec: `digits`, a folder of images in one of the accepted layouts, or a Parquet file or folder
        label_column: of Parquet files; None takes the first that is called like one
        data_dir: where to look for a relative path that isn't in the working folder (default: $POCKETVIT_DATA)

    Raises:
        UserError: nothing is there, or what is there isn't a set of images.
    """
    data_dir = data_dir if data_dir is not None else os.environ.get("POCKETVIT_DATA")
    if spec in EMBEDDED and not Path(spec).is_dir():
        return _open_digits()
    path = _find(spec, data_dir)
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return open_parquet(path, label_column)
        kind = "a single image" if path.suffix.lower() in IMAGE_EXTENSIONS else f"a file of unknown kind ({path.name})"
        raise UserError(f"{spec}: {kind} is not a set of images; expected {ACCEPTED}")
    return open_parquet(path, label_column) if parquet_files(path) else open_folder(path)


def _find(spec: str, data_dir: str | Path | None) -> Path:
    path = Path(spec).expanduser()
    candidates = [path] if data_dir is None else [path, Path(data_dir).expanduser() / path]
    for candidate in candidates:
        if spec and candidate.exists():
            return candidate
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    matches = difflib.get_close_matches(path.name, [*EMBEDDED, *siblings], n=1)
    close = [match if match in EMBEDDED else str(path.with_name(match)) for match in matches]
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    raise UserError(f"'{spec}' does not exist{hint}; expected {ACCEPTED}")


def _open_digits() -> Source:
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
    return make_source("digits", "digits", classes, {"all": section}, [], fingerprint)
