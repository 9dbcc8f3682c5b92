"""A whole source: two passes over its images, headers first (which size, how many channels?), then pixels.

Two passes, because images of mixed sizes need a common size before the first of them is scaled, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.images import BadImage, Header, decode_image, read_header, strict_pillow
from pocketvit.data.sizes import Patching, scaled_size
from pocketvit.data.structures import Item, Section, Source, Split, in_order
from pocketvit.errors import UserError

NAMES_LISTED = 10

R = TypeVar("R")
Content = Path | bytes | NDArray[np.uint8]
Allocate = Callable[[str, tuple[int, int, int, int]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Decoded:
    """A source's images in memory or on disk.

    Args:
        splits: one a section of the source
        notes: what was scaled, converted or left out
        native: all images had one size, which was kept; the same then for every patch that needs no other
    """

    splits: Mapping[str, Split]
    notes: tuple[str, ...]
    native: bool


def decode_source(
    source: Source,
    shape: tuple[int, int] | None,
    patching: Patching | None,
    scale: float,
    skip_bad: bool,
    allocate: Allocate,
) -> Decoded:
    """Decode all images of a source to one size and one channel count.

    Args:
        source: what to decode
        shape: (height, width) to scale to; None makes it from the images' own, or their median where sizes are mixed
        patching: what an own size is rounded for, as `scaled_size` does; None keeps it
        scale: factor on an own size
        skip_bad: leave out images that cannot be decoded, and say so in a note
        allocate: makes the array (N, H, W, C) for the section of a given name

    Raises:
        UserError: an image cannot be decoded and skip_bad is off, or no image of a section can.
    """
    with strict_pillow():
        headers = {
            part: list(_attempt(read_header, section.items(), source, skip_bad))
            for part, section in source.sections.items()
        }
        known = [header for section in headers.values() for header in section if isinstance(header, Header)]
        train = [header for header in headers.get("train", headers.get("all", [])) if isinstance(header, Header)]
        if not train:
            raise UserError(f"{source.root}: none of its train images can be decoded")
        sizes = {(header.height, header.width) for header in known}
        own = np.median([(header.height, header.width) for header in train], axis=0)
        if shape is None:
            shape = fitted_size((float(own[0]), float(own[1])), patching, scale)
            native = sizes == {shape}
        else:
            native = False
        channels = 1 if all(header.grey for header in known) else 3

        splits: dict[str, Split] = {}
        bad: list[str] = []
        for part, section in source.sections.items():
            size = (*shape, channels)
            splits[part], missing = _decode_section(source, part, section, headers[part], size, skip_bad, allocate)
            bad += missing
    notes = _notes(known, sizes, shape, channels)
    if bad:
        more = f" and {len(bad) - NAMES_LISTED} more" if len(bad) > NAMES_LISTED else ""
        notes.append(f"{len(bad)} images cannot be decoded and are left out: {', '.join(bad[:NAMES_LISTED])}{more}")
    return Decoded(splits, tuple(notes), native)


def _attempt(
    function: Callable[[Content], R], items: Iterable[Item], source: Source, skip_bad: bool
) -> Iterator[R | str]:
    """Map over the items' content, in order; an item that cannot be decoded gives its name."""

    def attempt(item: Item) -> R | str:
        try:
            return function(item.content)
        except BadImage as error:
            if skip_bad:
                return item.name
            raise UserError(
                f"{Path(source.root, item.name)}: cannot be decoded ({error}): "
                "mend or remove it, or give --skip-bad to leave such images out"
            ) from error

    return in_order(attempt, items)


def _decode_section(
    source: Source,
    part: str,
    section: Section,
    headers: Sequence[Header | str],
    size: tuple[int, int, int],
    skip_bad: bool,
    allocate: Allocate,
) -> tuple[Split, list[str]]:
    """Decode the images whose header could be read; also returns the names of those left out."""
    readable = np.array([isinstance(header, Header) for header in headers])
    bad = [header for header in headers if isinstance(header, str)]
    kept = np.flatnonzero(readable)
    images = allocate(part, (len(kept), *size))
    decode = partial(decode_image, shape=size[:2], channels=size[2])
    done = 0
    for position, result in zip(
        kept, _attempt(decode, compress(section.items(), readable), source, skip_bad), strict=True
    ):
        if isinstance(result, str):
            bad.append(result)
            readable[position] = False
        else:
            images[done] = result
            done += 1
    if done == 0:
        raise UserError(f"{source.root}: none of the {section.count} {part} images can be decoded")
    labels = None if section.labels is None else section.labels[readable]
    return Split(images[:done], labels), bad


def fitted_size(own: tuple[float, float], patching: Patching | None, scale: float) -> tuple[int, int]:
    """(height, width) that images of an own size, or median, are decoded to where none is asked for."""
    if patching is not None:
        return scaled_size(*own, patching, scale)
    height, width = (max(1, round(side * scale)) for side in own)
    return height, width


def _notes(
    headers: Sequence[Header], sizes: Collection[tuple[int, int]], shape: tuple[int, int], channels: int
) -> list[str]:
    notes = []
    scaled = sum((header.height, header.width) != shape for header in headers)
    if len(sizes) > 1:
        notes.append(f"{len(headers)} images of {len(sizes)} sizes resized to {shape[0]}x{shape[1]}")
    elif scaled:
        height, width = next(iter(sizes))
        notes.append(f"{scaled} images resized from {height}x{width} to {shape[0]}x{shape[1]}")
    modes = Counter(header.mode for header in headers)
    if len(modes) > 1:
        counts = ", ".join(f"{count} {mode}" for mode, count in modes.most_common())
        notes.append(f"images of mixed modes decoded as {'grey' if channels == 1 else 'RGB'}: {counts}")
    deep = sum(header.mode.startswith("I") for header in headers)
    if deep:
        notes.append(f"{deep} images of 16 bits scaled to 8 bits")
    transparent = sum(header.transparent for header in headers)
    if transparent:
        notes.append(f"{transparent} images with transparency laid over white")
    animated = sum(header.animated for header in headers)
    if animated:
        notes.append(f"{animated} animated images: only the first frame of each is used")
    return notes
