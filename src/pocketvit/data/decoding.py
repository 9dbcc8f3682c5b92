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
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketvit.data.images import BadImage, Header, Rendering, decode_image, read_header, strict_pillow
from pocketvit.data.sizes import Patching, scaled_size
from pocketvit.data.structures import NAMES_LISTED, Finding, Item, Source, Split, in_order
from pocketvit.errors import UserError

R = TypeVar("R")
Content = Path | bytes | NDArray[np.uint8]
Allocate = Callable[[str, tuple[int, int, int, int]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Decoded:
    """A source's images in memory or on disk.

    Args:
        splits: one a section of the source
        findings: what was scaled, converted or left out
        native: all images had one size, which was kept; the same then for every patch that needs no other
        rendering: of deep and transparent images
        own: median (height, width) of the train images before they were scaled
    """

    splits: Mapping[str, Split]
    findings: tuple[Finding, ...]
    native: bool
    rendering: Rendering
    own: tuple[float, float]


class Wanted(NamedTuple):
    """What a source's images are to become.

    Args:
        shape: (height, width) to scale to; None makes it from the images' own, or their median where sizes are mixed
        patching: what an own size is rounded for, as `scaled_size` does; None keeps it
        scale: factor on an own size
        rendering: of the images that a model learnt from; None finds it out
        channels: 1 for grey, 3 for RGB; None takes RGB where any image has colours
        skip_bad: leave out images that cannot be decoded, and say so in a note
    """

    shape: tuple[int, int] | None = None
    patching: Patching | None = None
    scale: float = 1.0
    rendering: Rendering | None = None
    channels: int | None = None
    skip_bad: bool = False

    def fitted(self, own: tuple[float, float]) -> tuple[int, int]:
        """(height, width) that images of an own size, or median, are decoded to where none is asked for."""
        if self.patching is not None:
            return scaled_size(*own, self.patching, self.scale)
        height, width = (max(1, round(side * self.scale)) for side in own)
        return height, width


def decode_source(source: Source, wanted: Wanted, allocate: Allocate) -> Decoded:
    """Decode all images of a source to one size and one channel count.

    Args:
        source: what to decode
        wanted: what its images are to become
        allocate: makes the array (N, H, W, C) for the section of a given name

    Raises:
        UserError: an image cannot be decoded and bad ones are not to be skipped, or no image of a section can.
    """
    shape, skip_bad = wanted.shape, wanted.skip_bad
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
        medians = np.median([(header.height, header.width) for header in train], axis=0)
        own = float(medians[0]), float(medians[1])
        if shape is None:
            shape = wanted.fitted(own)
            native = sizes == {shape}
        else:
            native = False
        rendering = wanted.rendering or Rendering.of(known)
        channels = wanted.channels or (1 if all(header.grey for header in known) else 3)

        splits: dict[str, Split] = {}
        bad: list[str] = []
        for part in source.sections:
            size = (*shape, channels)
            images = partial(allocate, part)
            splits[part], missing = _decode_section(source, part, headers[part], size, rendering, skip_bad, images)
            bad += missing
    findings = _findings(known, sizes, shape, channels, rendering)
    if bad:
        more = f" and {len(bad) - NAMES_LISTED} more" if len(bad) > NAMES_LISTED else ""
        text = f"{len(bad)} images cannot be decoded and are left out: {', '.join(bad[:NAMES_LISTED])}{more}"
        findings.append(Finding("bad images", text, tuple(bad)))
    return Decoded(splits, tuple(findings), native, rendering, own)


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
    headers: Sequence[Header | str],
    size: tuple[int, int, int],
    rendering: Rendering,
    skip_bad: bool,
    allocate: Callable[[tuple[int, int, int, int]], NDArray[np.uint8]],
) -> tuple[Split, list[str]]:
    """Decode the images whose header could be read; also returns the names of those left out."""
    section = source.sections[part]
    readable = np.array([isinstance(header, Header) for header in headers])
    bad = [header for header in headers if isinstance(header, str)]
    kept = np.flatnonzero(readable)
    images = allocate((len(kept), *size))
    decode = partial(decode_image, shape=size[:2], channels=size[2], rendering=rendering)
    done, names = 0, []

    def pass_over() -> Iterator[Item]:
        for item in compress(section.items(), readable.copy()):
            names.append(item.name)
            yield item

    for position, result in zip(kept, _attempt(decode, pass_over(), source, skip_bad), strict=True):
        if isinstance(result, str):
            bad.append(result)
            readable[position] = False
        else:
            images[done] = result
            done += 1
    if done == 0:
        raise UserError(f"{source.root}: none of the {section.count} {part} images can be decoded")
    labels = None if section.labels is None else section.labels[readable]
    good = np.array(names, object)[readable[kept]]
    return Split(images[:done], labels, good), bad


def _findings(
    headers: Sequence[Header],
    sizes: Collection[tuple[int, int]],
    shape: tuple[int, int],
    channels: int,
    rendering: Rendering,
) -> list[Finding]:
    findings = []
    scaled = sum((header.height, header.width) != shape for header in headers)
    if len(sizes) > 1:
        text = f"{len(headers)} images of {len(sizes)} sizes resized to {shape[0]}x{shape[1]}"
        findings.append(Finding("resized", text))
    elif scaled:
        height, width = next(iter(sizes))
        findings.append(Finding("resized", f"{scaled} images resized from {height}x{width} to {shape[0]}x{shape[1]}"))
    modes = Counter(header.mode for header in headers)
    if len(modes) > 1:
        counts = ", ".join(f"{count} {mode}" for mode, count in modes.most_common())
        text = f"images of mixed modes decoded as {'grey' if channels == 1 else 'RGB'}: {counts}"
        findings.append(Finding("mixed modes", text))
    coloured = sum(not header.grey for header in headers)
    if channels == 1 and coloured:
        findings.append(
            Finding("colours lost", f"{coloured} images have colours and are made grey, as the model's are")
        )
    elif channels == 3 and not coloured:
        findings.append(Finding("no colours", "all images are grey, and are taken for RGB, as the model's are"))
    deep = sum(header.mode.startswith("I") or header.largest > 0 for header in headers)
    if deep:
        used = "" if rendering.bits == 16 else f", of which they use {rendering.bits}"
        findings.append(Finding("16 bits", f"{deep} images of 16 bits{used} scaled to 8 bits"))
    transparent = sum(header.transparent for header in headers)
    if transparent:
        over = "white" if rendering.background else "black, since what is visible is bright"
        findings.append(Finding("transparent", f"{transparent} images with transparency laid over {over}"))
    animated = sum(header.animated for header in headers)
    if animated:
        findings.append(Finding("animated", f"{animated} animated images: only the first frame of each is used"))
    return findings
