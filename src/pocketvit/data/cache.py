"""Decoded images on disk, under a key made of their content and of the settings that decoding depends on.

An entry is written in a folder beside its place and renamed into it, so that a half-written one is never seen. Together
they take at most MOST_BYTES: beyond, those that were not read for the longest time go. All may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from pocketvit.data.decoding import Decoded, Wanted, decode_source
from pocketvit.data.images import Rendering
from pocketvit.data.structures import Finding, Source, Split
from pocketvit.errors import UserError

MOST_BYTES = 10 * 10**9  # the newest set stays, even where it is larger
ABANDONED = 24 * 3600  # seconds after which a half-written entry is of a process that was killed
FORMAT = 6  # raise it when decoding gives other pixels or findings than before


def decode_cached(source: Source, content: str, wanted: Wanted) -> Decoded:
    """Decode a source, or map the arrays of an earlier time into memory (read-only).

    Args:
        source: what to decode
        content: its fingerprint
        wanted: what its images are to become

    Raises:
        UserError: an image cannot be decoded.
    """
    root = cache_folder()
    asked, native = _key(content, wanted), _key(content, wanted._replace(shape=None, patching=None, scale=1.0))
    for key in (native, asked) if wanted.shape is None else (asked,):
        entry = _read(root / key, source)
        if entry is not None and (key == asked or _suits(entry, wanted)):
            return entry
    try:
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
    except OSError as error:
        return _decode_in_memory(source, wanted, root, error.strerror or str(error))
    try:
        decoded = _decode_to_disk(source, wanted, partial, native, asked)
        _keep_bound(root)
        return decoded
    except OSError as error:
        return _decode_in_memory(source, wanted, root, error.strerror or str(error))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cache_folder() -> Path:
    """$POCKETVIT_CACHE, else pocketvit/ in $XDG_CACHE_HOME or ~/.cache, or in the temporary folder without a home."""
    if own := os.environ.get("POCKETVIT_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "pocketvit"
    try:
        return Path("~/.cache").expanduser() / "pocketvit"
    except RuntimeError:  # a container's user without a home
        return Path(tempfile.gettempdir()) / f"pocketvit-{os.getuid()}"


def _suits(entry: Decoded, wanted: Wanted) -> bool:
    """Whether images that kept their size are of the one that is asked for."""
    height, width = next(iter(entry.splits.values())).images.shape[1:3]
    return wanted.fitted((height, width)) == (height, width)


def _key(content: str, wanted: Wanted) -> str:
    settings = json.dumps([FORMAT, content, wanted])
    return hashlib.blake2b(settings.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _decode_in_memory(source: Source, wanted: Wanted, root: Path, reason: str) -> Decoded:
    def allocate(part: str, size: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        needed, (_, height, width, _) = int(np.prod(size, dtype=np.int64)), size
        if needed > psutil.virtual_memory().available:
            raise UserError(
                f"{source.name}: images of {height}x{width} take {needed / 1e9:,.1f} GB, more than memory has, and "
                f"{root} cannot take them ({reason}): give a smaller --size, or another folder in $POCKETVIT_CACHE"
            )
        return np.empty(size, np.uint8)

    decoded = decode_source(source, wanted, allocate)
    text = f"decoded images are not cached: {root} cannot be written ({reason}); $POCKETVIT_CACHE names another folder"
    findings = (*decoded.findings, Finding("not cached", text))
    return Decoded(decoded.splits, findings, decoded.native, decoded.rendering, decoded.own)


def _decode_to_disk(source: Source, wanted: Wanted, partial: Path, native: str, asked: str) -> Decoded:
    """Decode into `partial` and rename it to the key that fits; OSError where the disk doesn't play along."""

    def allocate(part: str, size: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        # A memory map on a full disk ends the process with SIGBUS, so look before leaping.
        if shutil.disk_usage(partial).free < 1.1 * int(np.prod(size, dtype=np.int64)):
            raise OSError("no space left on the disk")
        images: NDArray[np.uint8] = np.lib.format.open_memmap(partial / f"{part}.images.npy", "w+", np.uint8, size)
        return images

    decoded = decode_source(source, wanted, allocate)
    for part, split in decoded.splits.items():
        _write_split(partial, part, split)
    meta = {
        "format": FORMAT,
        "name": source.name,
        "classes": source.classes,
        "findings": decoded.findings,
        "native": decoded.native,
        "rendering": decoded.rendering,
        "own": decoded.own,
        "splits": {part: {"shape": split.images.shape} for part, split in decoded.splits.items()},
    }
    (partial / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    place = partial.with_name(native if decoded.native else asked)
    shutil.rmtree(place, ignore_errors=True)  # only a damaged entry, or a racing writer's equal one, can be there
    partial.chmod(0o755)  # mkdtemp lets nobody else read, and a cache may be shared
    try:
        partial.rename(place)
    except OSError:
        if not place.is_dir():
            raise
    entry = _read(place, source)
    if entry is None:
        raise OSError(f"{place.name} is unreadable after writing")
    return entry


def _write_split(folder: Path, part: str, split: Split) -> None:
    """Finish a split whose images are in their place in a folder already."""
    file = folder / f"{part}.images.npy"
    if len(split) < len(np.load(file, mmap_mode="r")):  # images were left out after their place was made
        np.save(folder / "shorter.npy", split.images)
        (folder / "shorter.npy").replace(file)
    elif isinstance(split.images, np.memmap):
        split.images.flush()
    if split.labels is not None:
        np.save(folder / f"{part}.labels.npy", split.labels)
    if split.names is not None:
        (folder / f"{part}.names.json").write_text(json.dumps(split.names.tolist()))


def _keep_bound(root: Path) -> None:
    """Remove what killed processes left, and the entries that were not read for longest, until the rest is small."""
    read, now = [], time.time()
    for entry in root.iterdir():
        with contextlib.suppress(OSError):  # other processes add and remove entries meanwhile
            age, size = now - entry.stat().st_mtime, sum(file.stat().st_size for file in entry.iterdir())
            if not entry.name.startswith(".partial-"):
                read.append((age, size, entry))
            elif age > ABANDONED:
                shutil.rmtree(entry, ignore_errors=True)
    total = 0
    for number, (_, size, entry) in enumerate(sorted(read)):
        total += size
        if total > MOST_BYTES and number:
            # Whoever has it mapped keeps its pages.
            shutil.rmtree(entry, ignore_errors=True)


def _read(place: Path, source: Source) -> Decoded | None:
    """An entry's arrays, or None where it is absent or damaged."""
    try:
        meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))
        with contextlib.suppress(OSError):  # a cache of someone else's
            os.utime(place)
        splits = {}
        for part, section in source.sections.items():
            images = np.load(place / f"{part}.images.npy", mmap_mode="r", allow_pickle=False)
            labels = None
            if section.labels is not None:
                labels = np.load(place / f"{part}.labels.npy", allow_pickle=False)
            if images.dtype != np.uint8 or list(images.shape) != meta["splits"][part]["shape"]:
                return None
            if labels is not None and (labels.dtype != np.int64 or labels.shape != (len(images),)):
                return None
            names = np.array(json.loads((place / f"{part}.names.json").read_text()), object)
            if len(names) != len(images):
                return None
            splits[part] = Split(images, labels, names)
        rendering = Rendering(*meta["rendering"])
        findings = tuple(Finding(kind, text, tuple(items)) for kind, text, items in meta["findings"])
        return Decoded(splits, findings, bool(meta["native"]), rendering, tuple(meta["own"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
