"""The symmetries of a square, and of an oblong: changes of an image that may leave its class what it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def views(images: NDArray[np.generic], symmetry: str) -> list[NDArray[np.generic]]:
    """(N, H, W, C) images under each symmetry, themselves first.

    Args:
        images: of any type
        symmetry: "none", 1 view; "mirror", left to right, 2; "all", 8 of square images, 4 of others
    """
    found = [images]
    if symmetry != "none":
        found += [one[:, :, ::-1] for one in found]
    if symmetry == "all":
        found += [one[:, ::-1] for one in found]
        if images.shape[1] == images.shape[2]:
            found += [one.swapaxes(1, 2) for one in found]
    return found
