"""How sure an accuracy, or a difference of two, is.

Two things are drawn anew when an experiment is repeated: seeds (initial weights, batches, which labels are read) and
test images. Both variances are estimated, and their sum is what an interval is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample (divided by n - 1), 0 where there is but one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


class Interval(NamedTuple):
    """A mean of shares of images, and what it may be elsewhere, with a confidence of 95 %.

    Args:
        mean: of the sample
        low: end of the interval
        high: its other end
        seeds: that were averaged; with one, the interval is that of the test images alone
        images: that were tested
    """

    mean: float
    low: float
    high: float
    seeds: int
    images: int

    def to_json(self) -> dict[str, Any]:
        """The fields, as what JSON can hold."""
        return {**self._asdict(), "level": LEVEL}


def interval(values: NDArray[np.floating]) -> Interval:
    """The mean of (S, N) values of N images under S seeds: whether each is right, or a difference of two such.

    The variance over seeds (of their means, S - 1 degrees of freedom) and the variance over images (of their means over
    seeds, to which a bootstrap over images converges, N - 1 degrees) are added. The sum's degrees of freedom are
    those of Welch (1947) and Satterthwaite (1946); S - 1 alone would make intervals of few seeds up to twice too wide.

    One image more, of value 1 or -1, counts in the variance over images: where nearly all are 0, those few that are not
    tell too little of their own number (Agresti and Min 2005, who add half an image to each side). Without it, no
    difference in 20 images would be an interval of no width, and four images, all to one side, would be a verdict.

    Raises:
        ValueError: fewer than two images.
    """
    from scipy.stats import t

    seeds, images = values.shape
    if images < 2:
        raise ValueError(f"{images} test images tell nothing of others: at least 2 are needed")
    spread = float(np.var(values.mean(axis=0))) * images + 1
    over_images = spread / (images - 1) / images
    over_seeds = float(np.var(values.mean(axis=1), ddof=1)) / seeds if seeds > 1 else 0.0
    variance, mean = over_images + over_seeds, float(values.mean())
    parts = over_images**2 / (images - 1) + (over_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    reach = float(t.ppf((1 + LEVEL) / 2, variance**2 / parts)) * variance**0.5
    return Interval(mean, max(mean - reach, -1.0), min(mean + reach, 1.0), seeds, images)


def difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Interval:
    """The first's accuracy less the second's, with both right or wrong (S, N) on the same images, paired by seed."""
    return interval(first.astype(np.float64) - second.astype(np.float64))


def told_apart(first: float, second: float, images: int) -> bool:
    """Whether two accuracies on `images` test images differ by more than chance, where only the two are known.

    As if each had images of its own, which asks for more than pairs would (see `difference`).
    """
    variance = (first * (1 - first) + second * (1 - second) + 1 / images) / images
    return abs(first - second) > NormalDist().inv_cdf((1 + LEVEL) / 2) * variance**0.5
