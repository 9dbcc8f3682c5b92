"""Images that are unlike those that a model learnt from: its answers on them may mean nothing, and that is said."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pocketvit.data import Header
from pocketvit.errors import UnlikeTraining
from pocketvit.model.weights import WeightsMeta

FAR = 2.0  # deviations of training's pixels that an image's mean may be from theirs


class Strange:
    """What sets images apart from those that a model learnt from, counted over batches."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._images = 0

    def add(self, images: NDArray[np.uint8], headers: Sequence[Header | str], meta: WeightsMeta) -> None:
        """Count those of a batch (N, H, W, C); of `headers`, which may hold why others could not be read."""
        read = [found for found in headers if not isinstance(found, str)]
        self._images += len(read)
        self._counts.update(unlike(images, read, meta))

    def lines(self) -> list[str]:
        """In words, for people."""
        return [
            f"{count} of {self._images} images {words}: the model has seen none like them, and its answers may mean "
            "nothing"
            for words, count in self._counts.items()
        ]

    def warn(self) -> None:
        """By Python's warnings, of the line that called whoever calls this."""
        for line in self.lines():
            warnings.warn(line, UnlikeTraining, stacklevel=4)


def unlike(images: NDArray[np.uint8], headers: Sequence[Header], meta: WeightsMeta) -> dict[str, int]:
    """What sets images apart from those that a model learnt from, so far that its answers mean little: how many.

    Args:
        images: (N, H, W, C), as the model takes them.
        headers: (N,), what they were before.
        meta: of the model.
    """
    channels, (height, width) = meta.shape[2], meta.native or meta.shape[:2]
    wrong = {
        f"are over twice or under half as large as {width:g}x{height:g}": [
            not 0.5 <= math.sqrt(h.height * h.width / (height * width)) <= 2 for h in headers
        ],
        f"are of other proportions than {width:g}x{height:g}": [
            not 0.75 <= (h.height * width) / (h.width * height) <= 4 / 3 for h in headers
        ],
    }
    if channels == 1:
        wrong["have colours, where the model learnt from grey ones"] = [not h.grey for h in headers]
    elif len(set(meta.mean)) > 1:  # grey images saved as RGB have equal channels
        wrong["are grey, where the model learnt from coloured ones"] = [h.grey for h in headers]
    if len(images):
        means = images.reshape(len(images), -1, channels).mean(axis=1) / 255
        far = np.abs(means - np.array(meta.mean)) > FAR * np.array(meta.std)
        wrong["are far darker or brighter"] = far.any(axis=1).tolist()
    return {words: sum(found) for words, found in wrong.items() if any(found)}
