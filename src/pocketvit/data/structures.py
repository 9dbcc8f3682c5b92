"""What passes between the steps of loading: a source's sections before decoding, splits after it.

Also the few rules that every kind of source obeys, applied in `make_source`.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketvit.errors import UserError

NAMES_LISTED = 10

T = TypeVar("T")
R = TypeVar("R")


class Finding(NamedTuple):
    """Something that a person should know of a set.

    Args:
        kind: a short name, the same for all findings of its sort
        text: in words, with counts and examples
        items: names of the images that it is about, where they are few; the text names some of them
    """

    kind: str
    text: str
    items: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory, as a set.

    Args:
        images: uint8 (N, H, W) or (N, H, W, C), with 1 or 3 channels
        labels: (N,) of names or numbers, None, NaN or below 0 for an image without one; or None
        classes: K names, where labels are numbers from 0 to K - 1; empty takes those of the labels, sorted
        name: for run folders and messages
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any] | None = None
    classes: tuple[str, ...] = ()
    name: str = "arrays"

    def __str__(self) -> str:
        return self.name


Spec = str | Arrays
"""What a set is given as: a name, a folder, a file; or what is in memory."""


class Item(NamedTuple):
    """One image before decoding.

    Args:
        name: the image's path relative to the source's root (for Parquet: file, row and path), for notes and errors
        content: a file, its bytes (empty where a row holds no image), or pixels (uint8 (H, W, C))
    """

    name: str
    content: Path | bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class Section:
    """The images that a source keeps together, not decoded yet.

    Args:
        count: number of images
        items: starts a pass over them, always in the same order
        labels: int64 (count,) indices into the source's classes, -1 for an image without one; or None
    """

    count: int
    items: Callable[[], Iterator[Item]]
    labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class Source:
    """A set of images, opened and checked but not decoded.

    Args:
        name: short name for run folders and tables
        root: folder that item names are relative to (or the name of an embedded set), for messages
        classes: class names, empty when there are no labels
        sections: "all", or "train" and, where the source brings them, "val" and "test"
        findings: what the user should know about how the source was read
        fingerprint: hashes the whole content (slow: reads every byte); equal content gives an equal value
        group: what an image belongs to, by its name, where a column that was asked for tells that
    """

    name: str
    root: str
    classes: tuple[str, ...]
    sections: Mapping[str, Section]
    findings: tuple[Finding, ...]
    fingerprint: Callable[[], str]
    group: Callable[[str], str] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """The findings in words."""
        return tuple(finding.text for finding in self.findings)


@dataclass(frozen=True)
class Split:
    """Decoded images of one split.

    Args:
        images: uint8 (N, H, W, C); may be a read-only memory map
        labels: int64 (N,) class indices, -1 for an image without one; or None
        names: (N,) of text, the items'; or None
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    names: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.images)


def make_source(
    name: str,
    root: str,
    classes: Sequence[str],
    sections: Mapping[str, Section],
    findings: Sequence[Finding],
    fingerprint: Callable[[], str],
    group: Callable[[str], str] | None = None,
) -> Source:
    """Apply the rules that all sources share, then build the Source.

    A val section without a test section plays the part of test; one without labels beside a labelled train section
    is left out.

    Raises:
        UserError: no train images, labels in test but none in train, or a class that train lacks.
    """
    sections, findings = dict(sections), list(findings)
    train = sections.get("train") or sections.get("all")
    if train is None or train.count == 0:
        others = [part for part in sections if part not in ("train", "all")]
        hint = f" (only {', '.join(others)}): add a train split" if others else ": add some"
        raise UserError(f"{root}: no train images found{hint}")
    for part in ("val", "test"):
        section = sections.get(part)
        if section is None:
            continue
        if section.count == 0:
            findings.append(Finding("split left out", f"the {part} split holds no images and is left out"))
            del sections[part]
        elif section.labels is None and train.labels is not None:
            text = f"the {part} split ({section.count} images) has no labels and is left out"
            findings.append(Finding("split left out", text))
            del sections[part]
        elif section.labels is not None and train.labels is None:
            raise UserError(f"{root}: the {part} split has labels and the train split has none: label both or neither")
        elif section.labels is not None and train.labels is not None:
            unknown = np.setdiff1d(section.labels[section.labels >= 0], train.labels)
            if len(unknown):
                name = classes[unknown[0]]
                alike = [classes[label] for label in np.unique(train.labels[train.labels >= 0])
                         if classes[label].casefold() == name.casefold()]  # fmt: skip
                raise UserError(
                    f"{root}: class '{name}' is in the {part} split but not in the train split"
                    + (f", which has '{alike[0]}': give both one name" if alike else ": every class needs train images")
                )
    findings += _alike(classes)
    if "val" in sections and "test" not in sections:
        sections["test"] = sections.pop("val")
        text = "the source has a val split and no test split: val is used as the test split"
        findings.append(Finding("val is test", text))
    return Source(printable(name), root, tuple(map(printable, classes)), sections, tuple(findings), fingerprint, group)


def _alike(classes: Sequence[str]) -> list[Finding]:
    """A warning of names that differ in case or in spaces alone."""
    folded: dict[str, list[str]] = {}
    for name in classes:
        folded.setdefault(" ".join(name.casefold().split()), []).append(name)
    several = [f"'{name}'" for names in folded.values() if len(names) > 1 for name in names]
    if not several:
        return []
    text = f"classes whose names are all but the same, and which are kept apart: {', '.join(several[:NAMES_LISTED])}"
    return [Finding("classes alike", text, tuple(several))]


def printable(name: str) -> str:
    """A name with what is no UTF-8 in it written as \\xe9 and the like, so that any file can hold it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def in_order(function: Callable[[T], R], items: Iterable[T], chunk: int = 128) -> Iterator[R]:
    """Map over items in a pool of one thread a core; results come in order, and few are held at a time."""
    workers = os.cpu_count() or 1
    iterator = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[list[R]]] = deque()
        while batch := list(islice(iterator, chunk)):
            pending.append(pool.submit(lambda batch: [function(item) for item in batch], batch))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def hash_files(root: Path, files: Sequence[Path]) -> str:
    """Hash the names (relative to root) and bytes of files; streams them, so large files cost no memory."""

    def digest(file: Path) -> bytes:
        content = hashlib.blake2b(digest_size=32)
        try:
            with file.open("rb", buffering=0) as stream:
                while block := stream.read(1 << 20):
                    content.update(block)
        except OSError as error:
            # Whoever decodes it says so, or leaves it out.
            return f"unreadable: {error.strerror}".encode()
        return content.digest()

    whole = hashlib.blake2b(digest_size=32)
    for file, content in zip(files, in_order(digest, files), strict=True):
        whole.update(file.relative_to(root).as_posix().encode("utf-8", "surrogateescape") + b"\0" + content)
    return whole.hexdigest()
