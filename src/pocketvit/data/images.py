"""One image: from a file or bytes to uint8 pixels, whatever its format, mode or orientation.

Pixels are scaled once, by Pillow's bicubic filter, which widens itself (antialiases) where it reduces.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from pocketvit.data.listing import FORMATS
from pocketvit.data.structures import in_order
from pocketvit.errors import UserError

BRIGHT = 191  # of what is visible in transparent images: on white it would hardly be
GREY_MODES = frozenset(("1", "L", "LA", "La", "I", "F"))
MOVING_FORMATS = frozenset(("GIF", "WEBP", "PNG", "TIFF"))
ORIENTATION = 0x0112  # EXIF tag; values from 5 on lie on their side
TURNING = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # what Pillow reads an orientation from, in a PNG


class BadImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


class Header(NamedTuple):
    """What is told of an image before it is decoded, mostly without its pixels.

    Args:
        height: in pixels, after EXIF rotation
        width: as height
        mode: Pillow's
        grey: it has no colours
        transparent: it may have transparent pixels
        animated: it has several frames
        largest: value among its pixels where they have more than 8 bits, else 0
        brightness: mean of what is visible, 0 to 255, where other pixels are transparent, else None
    """

    height: int
    width: int
    mode: str
    grey: bool
    transparent: bool
    animated: bool
    largest: int = 0
    brightness: float | None = None


class Rendering(NamedTuple):
    """How the pixels of all images of a set become 8 bits that cover something.

    Args:
        bits: that images of more than 8 bits make use of: cameras of 12 bits write files of 16
        background: grey value that transparent images are laid over
    """

    bits: int = 16
    background: int = 255

    @classmethod
    def of(cls, headers: Sequence[Header]) -> Rendering:
        """As few bits as hold all values; black behind what is bright and white behind all else."""
        largest = max((header.largest for header in headers), default=0)
        seen = [header.brightness for header in headers if header.brightness is not None]
        bright = bool(seen) and float(np.median(seen)) > BRIGHT
        return cls(min(16, max(8, largest.bit_length())) if largest else 16, 0 if bright else 255)


NO_RENDERING = Rendering()


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow's decompression-bomb warning an error, and silence its remarks on odd metadata.

    Warning filters belong to the whole process, so enter this once around a pool of threads, not inside them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_header(content: Path | bytes | NDArray[np.uint8]) -> Header:
    """Read an image's size and mode.

    Raises:
        BadImage: the content isn't an image.
    """
    if isinstance(content, np.ndarray):
        height, width, channels = content.shape
        if channels not in (1, 3):
            raise BadImage(f"an array of {channels} channels: expected 1 (grey) or 3 (RGB)")
        return Header(height, width, "L" if channels == 1 else "RGB", channels == 1, False, False)
    with _open(content) as image:
        width, height = image.size
        if _may_be_turned(image) and image.getexif().get(ORIENTATION, 1) >= 5:
            width, height = height, width
        animated = image.format in MOVING_FORMATS and bool(getattr(image, "is_animated", False))
        deep = np.asarray(image) if image.mode.startswith("I") else _deep_colours(image, content)
        if deep is not None and "transparency" in image.info:
            raise BadImage("16 bits with one colour for what is transparent: save it with an alpha channel")
        deep = deep[..., :3] if deep is not None and deep.ndim == 3 else deep  # what is opaque is always at its largest
        transparent = image.has_transparency_data
        return Header(
            height, width, image.mode, _is_grey(image), transparent, animated,
            0 if deep is None else int(deep.max()), _brightness(image) if transparent else None,
        )  # fmt: skip


def decode_image(
    content: Path | bytes | NDArray[np.uint8], shape: tuple[int, int], channels: int, rendering: Rendering
) -> NDArray[np.uint8]:
    """Decode one image, the first frame if it moves, and scale it.

    Args:
        content: a file, its bytes, or pixels uint8 (H, W, C)
        shape: (height, width) to return
        channels: 1 for grey, 3 for RGB
        rendering: of deep and transparent images

    Returns:
        uint8 (height, width, channels)

    Raises:
        BadImage: the content isn't an image, or a damaged, huge or floating-point one.
    """
    height, width = shape
    if isinstance(content, np.ndarray):
        if content.shape == (height, width, channels):
            return content
        image: Image.Image = Image.fromarray(content[..., 0] if content.shape[2] == 1 else content)
        return _scale(image.convert("L" if channels == 1 else "RGB"), shape)
    with _open(content) as image:
        deep = _deep_colours(image, content)
        upright = ImageOps.exif_transpose(image if deep is None else _coloured(image, deep, rendering))
        return _scale(_to_mode(_to_8_bits(upright, rendering), "L" if channels == 1 else "RGB", rendering), shape)


def read_images(
    contents: Sequence[str | Path | bytes | NDArray[np.uint8]],
    shape: tuple[int, int],
    channels: int,
    rendering: Rendering = NO_RENDERING,
) -> tuple[NDArray[np.uint8], list[Header | str]]:
    """Decode images for prediction.

    Args:
        contents: files, their bytes, or pixels uint8 (H, W, C)
        shape: (height, width) to scale to
        channels: 1 for grey, 3 for RGB
        rendering: of the images that the model learnt from

    Returns:
        uint8 (N, height, width, channels) of the N images that can be decoded, in order; and, for each content, what
        was told of it, or else why it cannot be decoded.

    Raises:
        UserError: the channel count is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise UserError(f"image files give 1 channel or 3, and {channels} are expected here")
    images, headers = np.empty((len(contents), *shape, channels), np.uint8), []

    def decode(content: str | Path | bytes | NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Header] | str:
        content = Path(content) if isinstance(content, str) else content
        try:
            return decode_image(content, shape, channels, rendering), read_header(content)
        except BadImage as error:
            return str(error)

    done = 0
    with strict_pillow():
        for found in in_order(decode, contents):
            headers.append(found if isinstance(found, str) else found[1])
            if not isinstance(found, str):
                images[done] = found[0]
                done += 1
    return images[:done], headers


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _open(content: Path | bytes) -> Iterator[Image.Image]:
    """Open with Pillow; whatever goes wrong until the block ends is a BadImage."""
    try:
        if (len(content) if isinstance(content, bytes) else content.stat().st_size) == 0:
            raise BadImage("it holds 0 bytes")
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=_formats()) as image:
            yield image
    except BadImage:
        raise
    except FileNotFoundError as error:
        raise BadImage("no such file, or a link that leads nowhere") from error
    except UnidentifiedImageError as error:
        raise BadImage("not an image, or one damaged at its start") from error
    # Damaged files make Pillow's readers raise nearly anything: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise BadImage((str(error) or type(error).__name__).splitlines()[0]) from error


def _may_be_turned(image: Image.Image) -> bool:
    """Whether metadata may say that the image is to be turned; a quick look, which says yes too often."""
    if image.format == "TIFF":  # Pillow turns it by itself, and its size says so already.
        return False
    if isinstance(image, PngImageFile) and image.fp:
        # Metadata may follow the pixels, which Pillow would decode to get there, in every file, for the few that turn.
        place = image.fp.tell()
        image.fp.seek(0)
        content = image.fp.read()
        image.fp.seek(place)
        return any(name in content for name in TURNING)
    return True


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB") or [0, 1, 2]).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in GREY_MODES or image.mode.startswith("I;16") or _is_deep_grey_alpha(image)


def _is_deep_grey_alpha(image: Image.Image) -> bool:
    """Whether it is grey with alpha, of 16 bits each: Pillow calls that RGBA."""
    return any(tile[3] == "LA;16B" for tile in getattr(image, "tile", []))


def _brightness(image: Image.Image) -> float | None:
    """Mean of the visible pixels; None where all are visible, or none."""
    pixels = np.asarray(image.convert("LA"))
    visible = pixels[..., 1] > 127
    return None if visible.all() or not visible.any() else float(pixels[..., 0][visible].mean())


def _to_8_bits(image: Image.Image, rendering: Rendering) -> Image.Image:
    if image.mode == "F":
        raise BadImage("floating-point pixels have no fixed range: save them with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("pixels beyond 16 bits: save them with 8 or 16 bits")
    return Image.fromarray(_in_8_bits(values, rendering.bits))


def _in_8_bits(values: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    white = 2**bits - 1
    return np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)


def _deep_colours(image: Image.Image, content: Path | bytes) -> NDArray[np.int64] | None:
    """(H, W, C) values of an image of 16 bits a colour, of which Pillow would read the upper 8; None of any other."""
    tiles = getattr(image, "tile", [])
    if _is_deep_grey_alpha(image):
        with _open(content) as other:
            # As many bytes as a pixel of 8 bits has: of grey and of alpha, each the upper and the lower.
            other.tile = [(*tile[:3], "RGBA") for tile in tiles]  # type: ignore[attr-defined]
            bytes_ = np.asarray(other).astype(np.int64)
        return (bytes_[..., ::2] * 256 + bytes_[..., 1::2])[..., [0, 0, 0, 1]]
    lower = [(*tile[:3], _other_byte(tile[3])) for tile in tiles]
    if image.mode not in ("RGB", "RGBA") or lower == [tuple(tile) for tile in tiles]:
        return None
    with _open(content) as other:
        other.tile = lower  # type: ignore[attr-defined]
        return np.asarray(image).astype(np.int64) * 256 + np.asarray(other)


def _other_byte(arguments: Any) -> Any:
    """A decoder's arguments, for the other byte of values of 16 bits."""
    if isinstance(arguments, tuple):
        return tuple(map(_other_byte, arguments))
    if not isinstance(arguments, str) or arguments[-4:-1] != ";16":
        return arguments
    own = arguments[-1].replace("N", sys.byteorder[0].upper())
    return arguments[:-1] + {"L": "B", "B": "L"}[own]


def _coloured(image: Image.Image, deep: NDArray[np.int64], rendering: Rendering) -> Image.Image:
    """The image of 8 bits of deep values (H, W, C); its transparency has all 16."""
    values = np.concatenate([_in_8_bits(deep[..., :3], rendering.bits), _in_8_bits(deep[..., 3:], 16)], axis=2)
    made = Image.fromarray(values)
    made.info = image.info
    return made


def _to_mode(image: Image.Image, mode: str, rendering: Rendering) -> Image.Image:
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        background = Image.new("RGBA", solid.size, (*[rendering.background] * 3, 255))
        image = Image.alpha_composite(background, solid).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _scale(image: Image.Image, shape: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = shape
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image, dtype=np.uint8).reshape(height, width, -1)
