"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) by name: the authors' binary archives, read as they are.

Downloaded once, into the cache; $POCKETVIT_DATA may hold the archive instead. Nothing is unpacked or unpickled.
"""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.cache import cache_folder
from pocketvit.data.download import downloaded, has_checksum
from pocketvit.data.sources.opener import Columns, Opener
from pocketvit.data.structures import Finding, Item, Section, Source, make_source
from pocketvit.errors import UserError

SIDE, CHANNELS = 32, 3


@dataclass(frozen=True)
class Archive:
    """One of the two sets.

    Args:
        url: of the archive
        sha256: hexadecimal, of its bytes
        train: names of the members with train images, without folder
        test: as train
        names: the member with class names, a line each
        labels: bytes before an image's pixels, of which the last is the label
    """

    url: str
    sha256: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: int

    @property
    def file(self) -> str:
        """The archive's own name."""
        return self.url.rpartition("/")[2]


AUTHORS = "https://www.cs.toronto.edu/~kriz"
ARCHIVES = {
    "cifar10": Archive(
        f"{AUTHORS}/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        labels=1,
    ),
    # Before its pixels an image has a coarse label, which is not used, and a fine one.
    "cifar100": Archive(
        f"{AUTHORS}/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ("train.bin",),
        ("test.bin",),
        "fine_label_names.txt",
        labels=2,
    ),
}


def open_cifar(spec: str, path: Path | None, columns: Columns) -> Source:
    """Open a set by its name; the test images are the authors'.

    Raises:
        UserError: it is not at hand and cannot be downloaded, or is not the authors' archive.
    """
    archive = ARCHIVES[spec]
    file = _at_hand(archive) or downloaded(archive.url, archive.sha256, cache_folder() / "downloads", spec)
    records, classes = _read(file, archive)
    sections = {
        part: Section(len(rows), functools.partial(_items, part, rows, archive.labels), _labels(rows, archive.labels))
        for part, rows in records.items()
    }
    return make_source(spec, spec, classes, sections, [Finding("archive", f"read from {file}")], lambda: archive.sha256)


def _at_hand(archive: Archive) -> Path | None:
    """The archive in $POCKETVIT_DATA."""
    file = Path(os.environ.get("POCKETVIT_DATA", ".")).expanduser() / archive.file
    if not file.is_file():
        return None
    if not has_checksum(file, archive.sha256):
        raise UserError(f"{file}: not the authors' archive, for its SHA-256 is another: remove it or copy it again")
    return file


@functools.lru_cache(maxsize=1)
def _read(file: Path, archive: Archive) -> tuple[dict[str, NDArray[np.uint8]], tuple[str, ...]]:
    """Rows (N, labels and pixels) of "train" and "test", and the names of the classes."""
    members: dict[str, bytes] = {}
    wanted = {*archive.train, *archive.test, archive.names}
    try:
        with tarfile.open(file, "r:gz") as opened:
            for member in opened:
                name = member.name.rpartition("/")[2]
                if name in wanted and (content := opened.extractfile(member)) is not None:
                    members[name] = content.read()
        width = archive.labels + SIDE * SIDE * CHANNELS
        records = {
            part: np.frombuffer(b"".join(members[name] for name in names), np.uint8).reshape(-1, width)
            for part, names in (("train", archive.train), ("test", archive.test))
        }
    except (tarfile.TarError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as the authors' archive ({error}): remove it") from None
    return records, tuple(members[archive.names].decode().split())


def _labels(rows: NDArray[np.uint8], before: int) -> NDArray[np.int64]:
    return rows[:, before - 1].astype(np.int64)


def _items(part: str, rows: NDArray[np.uint8], before: int) -> Iterator[Item]:
    """Images (32, 32, 3), which are stored channel by channel."""
    images = rows[:, before:].reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)
    return (Item(f"{part} image {number}", image) for number, image in enumerate(images))


CIFAR = Opener(
    words=" or ".join(f"'{name}'" for name in ARCHIVES),
    recognises=lambda spec, path: spec in ARCHIVES and path is None,  # a folder of that name comes first
    open=open_cifar,
    names=tuple(ARCHIVES),
)
