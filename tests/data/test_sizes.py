"""Minimal scaling: which size and patch images of a native size get."""

from math import prod

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketvit.config import DataConfig
from pocketvit.data import Patching, grown_patch, load, scaled_size


@pytest.mark.parametrize(
    ("own", "patching", "scale", "size", "patch"),
    [
        ((32, 32), Patching(4), 1, (32, 32), 4),
        ((50, 50), Patching(4), 1, (52, 52), 4),
        ((32, 32), Patching(3), 36 / 32, (36, 36), 3),
        ((28, 28), Patching(3), 36 / 32, (33, 33), 3),
        ((96, 96), Patching(4), 1, (96, 96), 6),
        ((100, 100), Patching(4), 1, (105, 105), 7),
        ((224, 224), Patching(4), 1, (128, 128), 8),
        ((224, 224), Patching(4, fixed=True), 1, (64, 64), 4),
        ((300, 200), Patching(4), 1, (152, 104), 8),
        ((64, 64), Patching(16), 1, (64, 64), 16),
        ((7, 5), Patching(4), 1, (8, 8), 4),
    ],
)
def test_sizes_that_are_known(
    own: tuple[int, int], patching: Patching, scale: float, size: tuple[int, int], patch: int
) -> None:
    assert scaled_size(*own, patching, scale) == size
    assert grown_patch(*size, patching) == patch


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 20), st.booleans())
@example(4000, 1, 3, False)
def test_the_patch_divides_a_size_of_few_patches(height, width, side, fixed):
    patching = Patching(side, fixed)
    size = scaled_size(height, width, patching)
    patch = grown_patch(*size, patching)
    assert all(length % patch == 0 and length > 0 for length in size)
    assert prod(length // patch for length in size) <= 256
    assert scaled_size(*size, patching) == size


def test_images_are_read_at_that_size_and_it_is_said(tmp_path, save):
    for index in range(4):
        save(tmp_path / f"{index}.png", seed=index, size=(10, 10))
    data = load(str(tmp_path), DataConfig(), patching=Patching(4))
    assert data.shape == (12, 12, 3)
    assert "4 images resized from 10x10 to 12x12" in data.notes
    assert load(str(tmp_path), DataConfig()).shape == (10, 10, 3)
    assert load(str(tmp_path), DataConfig(size=8), patching=Patching(4)).shape == (8, 8, 3)
    assert load(str(tmp_path), DataConfig(scale=1.5), patching=Patching(4)).shape == (16, 16, 3)
