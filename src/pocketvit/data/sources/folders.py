"""Folders of image files: with train/ and test/, with class folders only, or with images only.

Splits are told by name, whatever the case (Training, seg_train beside seg_test, split=val). One folder around it all is
gone through.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pocketvit.data.listing import IMAGE_EXTENSIONS, SPLITS, Passed, entries, find_images, split_of, splits_among
from pocketvit.data.sources.opener import Opener
from pocketvit.data.structures import Finding, Item, Section, Source, hash_files, make_source
from pocketvit.errors import UserError


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
        UserError: no images, images both loose and in class folders, test classes that train lacks, folders that cannot
            be read, or class folders that seem to lie a level deeper.
    """
    passed = Passed()
    findings: list[Finding] = []
    outer, root = root, _unwrapped(root, passed, findings)
    loose, inner = entries(root, passed)
    folders = {folder.name: folder for folder in inner}
    splits = _split_folders(root, folders, loose, passed)
    if splits:
        listings = {}
        for part, folder in splits.items():
            place = _unwrapped(folder, passed, findings)
            listings[part] = _list_split(place, *entries(place, passed), passed, findings)
        ignored = sorted(set(folders) - {folder.name for folder in splits.values()})
        if ignored:
            text = f"folders beside train/ ignored: {', '.join(ignored)}"
            findings.append(Finding("folders ignored", text, tuple(ignored)))
    else:
        listings = {"all": _list_split(root, loose, inner, passed, findings)}
        alike = [name for name in folders if any(word in name.lower() for word in ("train", "test", "valid"))]
        if len(alike) > 1:
            text = f"read as classes, though they look like splits: {', '.join(alike)}"
            findings.append(Finding("splits as classes", text, tuple(alike)))
    files = [file for listing in listings.values() for file in listing.files]
    if not files:
        kinds = " ".join(sorted(extension[1:] for extension in IMAGE_EXTENSIONS))
        found = f"; {passed.words()}" if passed.counts else ""
        raise UserError(f"{root}: no images found (looked for {kinds}, and Parquet files{found})")

    classes = sorted({name for listing in listings.values() for name in listing.by_class})
    sections = {part: _section(root, listing, classes) for part, listing in listings.items()}
    return make_source(
        outer.resolve().name, str(root), classes, sections, [*findings, *passed.findings()],
        lambda: _fingerprint(root, listings, files),
    )  # fmt: skip


def _unwrapped(folder: Path, passed: Passed, findings: list[Finding]) -> Path:
    """The only folder in a folder, where nothing but folders lies in that one; else the folder itself.

    A single folder with images of its own is a class.
    """
    # Looked at with a count of its own: whoever reads it afterwards counts what it passes over.
    loose, inner = entries(folder, Passed())
    if loose or len(inner) != 1:
        return folder
    own = split_of(folder.name)
    if splits_among([inner[0].name]).get(inner[0].name, own) != own:
        return folder
    images, deeper = entries(inner[0], Passed())
    if images or not deeper:
        return folder
    text = f"{inner[0].name}/ is the only folder in {folder.name}/: its folders are read"
    findings.append(Finding("wrapped", text))
    return inner[0]


def _split_folders(root: Path, folders: dict[str, Path], loose: list[Path], passed: Passed) -> dict[str, Path]:
    """The folders that hold splits, by part; empty when the folders are classes (one may well be called train)."""
    named = splits_among(folders)
    parts = set(named.values())
    if not named or (len(named) < len(folders) and "train" not in parts):
        return {}
    if "train" not in parts:
        raise UserError(f"{root}: has {'/ and '.join(named)}/ but no train/: expected train/ beside it")
    if len(named) == 1 and len(folders) > 1 and not entries(folders[next(iter(named))], Passed())[1]:
        return {}
    splits: dict[str, Path] = {}
    for name, part in named.items():
        if part in splits:
            kind = "validation" if part == "val" else part
            raise UserError(
                f"{root}: both {splits[part].name}/ and {name}/ name the {kind} split: keep one of them, or join them"
            )
        splits[part] = folders[name]
    if loose:
        raise UserError(f"{root}: images lie beside train/: move them into it, or into a class folder in it")
    return splits


def _list_split(
    folder: Path, loose: list[Path], inner: list[Path], passed: Passed, findings: list[Finding]
) -> _Listing:
    found: dict[str, list[Path]] = {}
    own, below = {}, {}
    for path in inner:
        # Archives of other systems write the same name in other bytes.
        name = unicodedata.normalize("NFC", path.name)
        own[name], deeper = entries(path, Passed())
        below[name] = tuple(sorted(entry.name for entry in deeper))
        found[name] = found.get(name, []) + find_images(path, passed)
    by_class = {name: images for name, images in found.items() if images}
    if loose and by_class:
        raise UserError(
            f"{folder}: images lie both in it ({loose[0].name}) and in class folders ({min(by_class)}/): "
            "move all into class folders, or none"
        )
    hollow = [name for name in by_class if not own[name]]
    if hollow:
        name = hollow[0]
        alike = len(hollow) > 1 and len({below[name] for name in hollow}) == 1
        why = (
            "the same folders as the others"
            if alike
            else f"no images of its own, only folders ({below[name][0]}/, ...)"
        )
        splits = ", ".join(sorted(set(SPLITS.values())))
        raise UserError(
            f"{folder / name}/: a class folder that holds {why}: if its folders are the classes, give {folder / name}; "
            f"if it is a split, call it one of {splits}; else move its images up into it"
        )
    if by_class and len(by_class) < len(found):
        empty = sorted(set(found) - set(by_class))
        text = f"{folder.name}: folders without images ignored: {', '.join(empty)}"
        findings.append(Finding("folders ignored", text, tuple(empty)))
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


FOLDER = Opener(
    words="a folder of images, of class folders, or of train/ and test/ with class folders in them",
    recognises=lambda spec, path: path is not None and path.is_dir(),
    open=lambda spec, path, columns: open_folder(path or Path(spec)),
)
