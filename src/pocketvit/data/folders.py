"""Folders of image files: with train/ and test/, with class folders only, or with images only.

Hidden files and folders are passed over; other files that are not images are counted in a note.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pocketvit.data.structures import Item, Section, Source, hash_files, make_source
from pocketvit.errors import UserError

IMAGE_EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
)
SPLIT_NAMES = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class _Listing:
    """The images of one split: loose ones, and those in class folders (never both)."""

    loose: list[Path]
    by_class: dict[str, list[Path]]

    @property
    def files(self) -> list[Path]:
        return self.loose or [file for name in sorted(self.by_class) for file in self.by_class[name]]


def open_folder(root: Path) -> Source:
    """Open a folder of image files.

    Raises:
        UserError: no images, images both loose and in class folders, or test classes that train lacks.
    """
    notes: list[str] = []
    folders = {entry.name: entry for entry in _visible(root) if entry.is_dir()}
    splits = _split_folders(root, folders)
    if splits:
        listings = {part: _list_split(folder, notes) for part, folder in splits.items()}
        ignored = sorted(set(folders) - {folder.name for folder in splits.values()})
        if ignored:
            notes.append(f"folders beside train/ ignored: {', '.join(ignored)}")
    else:
        listings = {"all": _list_split(root, notes)}
    files = [file for listing in listings.values() for file in listing.files]
    if not files:
        kinds = " ".join(sorted(extension[1:] for extension in IMAGE_EXTENSIONS))
        raise UserError(f"{root}: no images found (looked for {kinds}, and Parquet files)")

    classes = sorted({name for listing in listings.values() for name in listing.by_class})
    sections = {part: _section(root, listing, classes) for part, listing in listings.items()}
    return make_source(
        root.resolve().name, str(root), classes, sections, notes, lambda: _fingerprint(root, listings, files)
    )


def find_images(folder: Path) -> list[Path]:
    """All images under a folder, at any depth, in sorted order; hidden files and folders are passed over."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(names) if _is_image(name)]
    return found


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error


def _split_folders(root: Path, folders: dict[str, Path]) -> dict[str, Path]:
    """The folders that hold splits, by part; empty when the folders are classes (one may well be called train)."""
    named = [name for name in folders if name in SPLIT_NAMES]
    if not named or (len(named) < len(folders) and "train" not in named):
        return {}
    if "train" not in named:
        raise UserError(f"{root}: has {'/ and '.join(named)}/ but no train/: expected train/ beside it")
    is_class = len(named) == 1 and len(folders) > 1 and not any(e.is_dir() for e in _visible(folders["train"]))
    if is_class:
        return {}
    splits: dict[str, Path] = {}
    for name in named:
        if SPLIT_NAMES[name] in splits:
            other = splits[SPLIT_NAMES[name]].name
            raise UserError(f"{root}: both {other}/ and {name}/ name the validation split: keep one of them")
        splits[SPLIT_NAMES[name]] = folders[name]
    if any(_is_image(entry.name) and entry.is_file() for entry in _visible(root)):
        raise UserError(f"{root}: images lie beside train/: move them into it, or into a class folder in it")
    return splits


def _list_split(folder: Path, notes: list[str]) -> _Listing:
    entries = _visible(folder)
    files = [entry for entry in entries if entry.is_file()]
    loose = [file for file in files if _is_image(file.name)]
    found = {entry.name: find_images(entry) for entry in entries if entry.is_dir()}
    by_class = {name: images for name, images in found.items() if images}
    if loose and by_class:
        raise UserError(
            f"{folder}: images lie both in it ({loose[0].name}) and in class folders ({min(by_class)}/): "
            "move all into class folders, or none"
        )
    if by_class and len(by_class) < len(found):
        notes.append(f"{folder.name}: folders without images ignored: {', '.join(sorted(set(found) - set(by_class)))}")
    if len(loose) < len(files):
        notes.append(f"{folder.name}: {len(files) - len(loose)} files that are not images ignored")
    return _Listing(loose, by_class)


def _section(root: Path, listing: _Listing, classes: Sequence[str]) -> Section:
    files = listing.files
    labels = None
    if listing.by_class:
        names = sorted(listing.by_class)
        indices = np.array([classes.index(name) for name in names], dtype=np.int64)
        labels = np.repeat(indices, [len(listing.by_class[name]) for name in names])
    return Section(len(files), partial(_items, root, files), labels)


def _items(root: Path, files: Sequence[Path]) -> Iterator[Item]:
    return (Item(file.relative_to(root).as_posix(), file) for file in files)


def _fingerprint(root: Path, listings: dict[str, _Listing], files: Sequence[Path]) -> str:
    # The same files may be read as classes or as loose images, depending on what lies around them.
    layout = ",".join(f"{part}:{len(listing.loose)}:{len(listing.files)}" for part, listing in listings.items())
    return f"{layout}:{hash_files(root, files)}"
