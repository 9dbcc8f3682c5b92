"""What lies in a folder: images, and all that is passed over, counted by kind so that it can be said."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pocketvit.data.structures import Finding
from pocketvit.errors import NotRead, UserError
from pocketvit.files import expanded

# What Pillow may read, and no more: others of its readers start programs. Its JPEG reader reads MPO.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
IMAGE_EXTENSIONS = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga"),
    )
)
# Small copies of the images that lie beside them, and what archives of other systems bring.
COPIES = frozenset(("@eadir", "__macosx", ".thumbnails", "thumbnails", "$recycle.bin"))
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "evaluation"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
}
_WORDS = "|".join(sorted(SPLITS, key=len, reverse=True))
_NAME = re.compile(
    rf"(?:split=)?(?P<before>(?:.*[-_. ])?)(?P<split>{_WORDS})"
    r"(?:[-_. ]?(?:data|set|split|folder|images?|imgs?))*(?P<after>(?:[-_. \d].*)?)",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # between two words of trainA
_SHARD = re.compile(r"(?:[-_. ]?\d.*)?")  # 00000-of-00002, of one file among several


def split_of(name: str) -> str | None:
    """The split that a name tells, "train", "val" or "test": as a whole, as its end (seg_train), in split=train, or
    with a word for a collection after it (test_set, TrainImages)."""
    found = _NAME.fullmatch(name)
    return SPLITS[found["split"].lower()] if found and not found["after"] else None


def split_of_file(stem: str) -> str | None:
    """The same of a file's name without its extension, whose beginning tells it too (train_a), and whose end may be
    followed by a number (mnist_train-00000-of-00002); a capital begins a word (trainA)."""
    found = _NAME.fullmatch(_CAMEL.sub("-", stem))
    told = found and (not found["before"] or _SHARD.fullmatch(found["after"]))
    return SPLITS[found["split"].lower()] if found and told else None


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Which of the names of folders that lie side by side tell splits, and which.

    One that says nothing else does (train, test_set), and beside such a one those that say a number, where none of
    them is all of a name for train (train1 beside test). One that says more (seg_train, train2017) does where another
    says the same of another split, and where none is for train yet: steam-train and crash-test are classes.
    """
    alike: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        if found := _NAME.fullmatch(name):
            rest = found["before"].lower(), found["after"].lower()
            alike.setdefault(rest, {})[name] = SPLITS[found["split"].lower()]
    whole = alike.pop(("", ""), {})
    if whole and "train" not in whole.values():
        for (before, after), told in alike.items():
            whole |= told if not before and not after.strip("-_. 0123456789") else {}
    if "train" in whole.values():
        return whole
    return whole | {
        name: split for told in alike.values() if len(set(told.values())) > 1 for name, split in told.items()
    }


@dataclass
class Passed:
    """What was not read, counted by kind."""

    counts: Counter[str] = field(default_factory=Counter)
    folders: set[tuple[int, int]] = field(default_factory=set)  # device and number of those gone into

    def findings(self) -> list[Finding]:
        """One line of it, or none."""
        return [Finding("not read", self.words())] if self.counts else []

    def words(self) -> str:
        """How many of each kind."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        return f"{self.counts.total()} files or folders not read: {kinds}"


def entries(
    folder: Path, passed: Passed, extensions: Collection[str] = IMAGE_EXTENSIONS
) -> tuple[list[Path], list[Path]]:
    """Files of some extensions (images) and folders in a folder, each sorted, links followed; a folder that was gone
    into before is not.

    A link that leads nowhere counts as a file, for its reader to complain of.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        found = sorted(folder.iterdir())
        own = folder.stat()
    except OSError as error:
        raise UserError(f"{folder}/: cannot be read ({error.strerror}): mend its permissions or move it away") from None
    passed.folders.add((own.st_dev, own.st_ino))
    files, folders = [], []
    for path in found:
        try:
            status = path.stat()
        except OSError:
            status = None
        if path.name.startswith("."):
            continue
        if status is not None and stat.S_ISDIR(status.st_mode):
            if path.name.lower() in COPIES:
                passed.counts[f"{path.name} (small copies of images)"] += 1
            elif (status.st_dev, status.st_ino) in passed.folders:
                passed.counts["links to a folder that is read already"] += 1
            else:
                folders.append(path)
        elif status is not None and not stat.S_ISREG(status.st_mode):
            passed.counts["pipes or devices"] += 1
        elif path.suffix.lower() in extensions:
            files.append(path)
        else:
            passed.counts[path.suffix.lower() or "files without an extension"] += 1
    return files, folders


def find_images(
    folder: Path, passed: Passed | None = None, extensions: Collection[str] = IMAGE_EXTENSIONS
) -> list[Path]:
    """All images (files of some extensions) under a folder, at any depth, in sorted order; what is passed over is
    counted in `passed`.

    Raises:
        UserError: a folder cannot be read.
    """
    passed = passed or Passed()
    files, folders = entries(folder, passed, extensions)
    for inner in folders:
        files += find_images(inner, passed, extensions)
    return files


def list_images(path: str | Path) -> list[Path]:
    """A file as it is, or all images under a folder in sorted order; warns of what else is there.

    Raises:
        UserError: nothing is there, or the folder holds no images.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"an image file of type {type(path).__name__}: expected a path, or several in a list")
    if not str(path):
        raise UserError("'': no file or folder: expected an image or a folder of images")
    path = expanded(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder: expected an image or a folder of images")
    passed = Passed()
    found = find_images(path, passed)
    if not found:
        raise UserError(f"{path}: no images found in this folder{f'; {passed.words()}' if passed.counts else ''}")
    if passed.counts:
        warnings.warn(f"{path}: {passed.words()}", NotRead, stacklevel=2)
    return found
