"""What verbs that do not train show while a person waits, on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

PART = 2048  # images between two moves of a bar; whole batches, so that the results are those without it


def in_parts(
    compute: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: NDArray[np.uint8], title: str
) -> NDArray[np.float32]:
    """What `compute` makes of (N, H, W, C) images, at least one, with a bar and the time that is left."""
    parts, console = [images[start : start + PART] for start in range(0, len(images), PART)], Console(stderr=True)
    shown = track(parts, title, console=console, transient=True, disable=not console.is_terminal)
    return np.concatenate([compute(part) for part in shown])


def waiting(title: str) -> AbstractContextManager[object]:
    """Within it, a person sees that something is under way whose end is not known."""
    return Console(stderr=True).status(title)
