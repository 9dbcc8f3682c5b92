"""Intervals that cover what they promise to."""

import numpy as np
import pytest
from scipy.stats import t

from pocketvit.evaluation.statistics import deviation, difference, interval

RNG = np.random.default_rng(0)


def drawn(seeds: int, images: int, over_seeds: float, over_images: float, apart: float) -> np.ndarray:
    """Differences in correctness (S, N): seeds and images have effects, and the rest is chance."""
    chance = apart + RNG.normal(0, over_seeds, (seeds, 1)) + RNG.normal(0, over_images, (1, images))
    first, second = RNG.random((2, seeds, images))
    return (first < 0.5 + chance / 2).astype(float) - (second < 0.5 - chance / 2).astype(float)


# One seed tells nothing of others: its interval is of the test images alone.
@pytest.mark.parametrize(("seeds", "over_seeds"), [(1, 0.0), (3, 0.0), (3, 0.02), (3, 0.1), (5, 0.02), (5, 0.1)])
def test_it_covers_the_truth_19_times_in_20(seeds: int, over_seeds: float) -> None:
    found = [interval(drawn(seeds, 300, over_seeds, 0.2, 0.05)) for _ in range(1000)]
    covered = np.mean([one.low <= 0.05 <= one.high for one in found])
    # Least, 92 %, where there are 3 seeds and they decide: their variance is itself a guess then.
    assert 0.91 <= covered <= 0.995


def test_with_one_pretraining_it_speaks_of_that_one() -> None:
    """Seeds that share a pre-training share its luck: the interval covers their mean, not that of all pre-trainings."""
    own, all_of_them = [], []
    for _ in range(600):
        luck = RNG.normal(0, 0.1)
        found = interval(drawn(3, 300, 0.02, 0.2, luck))
        own.append(found.low <= luck <= found.high)
        all_of_them.append(found.low <= 0 <= found.high)
    assert np.mean(own) > 0.935
    assert np.mean(all_of_them) < 0.8


def test_few_seeds_do_not_make_it_as_wide_as_their_degrees_of_freedom_alone() -> None:
    values = drawn(3, 2000, 0.0, 0.2, 0.0)
    found = interval(values)
    over_seeds = np.var(values.mean(axis=1), ddof=1) / 3
    over_images = np.var(values.mean(axis=0), ddof=1) / 2000
    assert found.high - found.mean < t.ppf(0.975, 2) * np.sqrt(over_seeds + over_images)
    assert found.high - found.mean > 1.96 * np.sqrt(over_images)


@pytest.mark.parametrize(
    ("images", "better", "worse"), [(10, 0.1, 0.02), (20, 0.02, 0.0), (20, 0.1, 0.1), (60, 0.02, 0.02), (300, 0.02, 0)]
)
def test_it_covers_the_truth_where_few_images_tell(images: int, better: float, worse: float) -> None:
    """Some images are right by the first alone, some by the second alone, and most by both or neither."""
    drawn = RNG.choice([1.0, -1.0, 0.0], p=[better, worse, 1 - better - worse], size=(2000, 1, images))
    found = [interval(one) for one in drawn]
    assert np.mean([one.low <= better - worse <= one.high for one in found]) > 0.925


def test_two_images_are_no_verdict() -> None:
    found = interval(np.ones((1, 2)))
    assert (found.low, found.high) == (-1, 1)


def test_a_difference_is_paired() -> None:
    right = RNG.random((3, 400)) < 0.6
    same = difference(right, right)
    assert (same.mean, same.seeds, same.images) == (0, 3, 400)
    assert -0.01 < same.low < 0 < same.high < 0.01  # of other images, some might differ
    better = right.copy()
    better[:, :40] = True
    found = difference(better, right)
    assert found.mean == pytest.approx(better.mean() - right.mean())
    assert 0 < found.low < found.mean < found.high


def test_one_image_tells_nothing() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        interval(np.ones((3, 1)))


def test_deviations_divide_by_one_less() -> None:
    assert deviation([1, 2, 3]) == pytest.approx(1.0)
    assert deviation([5.0]) == 0.0
