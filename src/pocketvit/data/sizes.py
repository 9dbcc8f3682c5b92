"""The size that images are trained at: their own, or the next above it that the patch divides (minimal scaling).

Source: arXiv 2402.03752, section 3: images are given to the network at nearly their native size, not at 224 px.
"""

from __future__ import annotations

import math
from typing import NamedTuple

MOST_PATCHES = 256  # attention takes time with the square of their number
LARGEST_PATCH = 8


class Patching(NamedTuple):
    """The patch that a network is given.

    Args:
        side: in pixels
        fixed: it was asked for, so that it does not grow
    """

    side: int
    fixed: bool = False


def scaled_size(height: float, width: float, patching: Patching, scale: float = 1.0) -> tuple[int, int]:
    """(height, width) in pixels that images of a native size are scaled to.

    Both sides, times `scale`, are rounded up to multiples of the patch that `grown_patch` gives; where there would be
    more than 256 patches even so, both shrink alike until there are not.
    """
    target = height * scale, width * scale
    patch = grown_patch(math.ceil(target[0]), math.ceil(target[1]), patching)
    rows, columns = _patches(*target, patch)
    if rows * columns > MOST_PATCHES:
        shrink = math.sqrt(MOST_PATCHES * patch**2 / (target[0] * target[1]))
        rows, columns = (max(1, int(side * shrink / patch)) for side in target)
        # A side of a single patch cannot shrink along.
        rows = min(rows, max(1, MOST_PATCHES // columns))
        columns = min(columns, MOST_PATCHES // rows)
    return rows * patch, columns * patch


def grown_patch(height: int, width: int, patching: Patching) -> int:
    """The least patch from `patching.side` to 8 px that cuts the image into at most 256, or else 8; as it is if fixed.

    The same for the size that `scaled_size` makes of (height, width).
    """
    if patching.fixed or patching.side > LARGEST_PATCH:
        return patching.side
    sides = range(patching.side, LARGEST_PATCH + 1)
    return next((side for side in sides if math.prod(_patches(height, width, side)) <= MOST_PATCHES), LARGEST_PATCH)


def _patches(height: float, width: float, patch: int) -> tuple[int, int]:
    # 28 times 9/8 is 31.5 in binary too, but 20 times 1.1 is a hair above 22.
    return math.ceil(round(height / patch, 6)), math.ceil(round(width / patch, 6))
