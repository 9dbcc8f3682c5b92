"""Patches: round trips over any size and channel count, masks that partition, and advice where a patch does not fit."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit.errors import UserError
from pocketvit.model import check_patch, patchify, random_mask, unpatchify

SIDES = st.integers(1, 6)


@settings(deadline=None)
@given(batch=st.integers(1, 3), channels=st.integers(1, 13), rows=SIDES, columns=SIDES, patch=st.integers(1, 5))
def test_patches_round_trip(batch: int, channels: int, rows: int, columns: int, patch: int) -> None:
    height, width = rows * patch, columns * patch
    images = torch.arange(batch * channels * height * width).reshape(batch, channels, height, width)
    patches = patchify(images, patch)
    assert patches.shape == (batch, rows * columns, patch * patch * channels)
    assert torch.equal(unpatchify(patches, patch, height, width), images)


@settings(deadline=None)
@given(channels=st.integers(1, 13), rows=SIDES, columns=SIDES, patch=st.integers(1, 5), data=st.data())
def test_a_patch_is_flattened_as_row_column_channel(
    channels: int, rows: int, columns: int, patch: int, data: st.DataObject
) -> None:
    images = torch.arange(channels * rows * columns * patch**2).reshape(1, channels, rows * patch, columns * patch)
    r, c = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    window = images[0, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
    assert torch.equal(patchify(images, patch)[0, r * columns + c], window.permute(1, 2, 0).flatten())


def test_patches_keep_integer_types() -> None:
    assert patchify(torch.zeros(1, 3, 4, 6, dtype=torch.uint8), 2).dtype == torch.uint8


@settings(deadline=None)
@given(
    batch=st.integers(1, 5),
    n=st.integers(1, 150),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(),
)
def test_a_mask_partitions_the_patches(batch: int, n: int, ratio: float, seed: int, ties: bool) -> None:
    noise = torch.from_numpy(np.random.default_rng(seed).random((batch, n)))
    noise = noise.round(decimals=1) if ties else noise
    visible, mask = random_mask(noise, ratio)
    keep = max(1, round(n * (1 - ratio)))
    assert visible.shape == (batch, keep)
    assert visible.dtype == torch.int64
    assert mask.shape == (batch, n)
    assert (mask.sum(dim=1) == n - keep).all()
    for shown, hidden, values in zip(visible, mask, noise, strict=True):
        everything = torch.cat([shown, hidden.nonzero().flatten()])
        assert torch.equal(everything.sort().values, torch.arange(n))
        assert (shown.diff() > 0).all()
        if hidden.any():
            assert values[shown].max() <= values[hidden].min()


def test_the_paper_shows_36_of_144_patches() -> None:
    assert random_mask(torch.rand(2, 144), 0.75)[0].shape == (2, 36)


@settings(deadline=None)
@given(rows=SIDES, columns=SIDES, patch=st.integers(1, 9))
def test_a_patch_that_fits_passes(rows: int, columns: int, patch: int) -> None:
    check_patch(rows * patch, columns * patch, patch)


@settings(deadline=None)
@given(height=st.integers(1, 100), width=st.integers(1, 100), patch=st.integers(2, 20))
def test_a_patch_that_does_not_fit_gets_sizes_and_patches_that_do(height: int, width: int, patch: int) -> None:
    if height % patch == 0 and width % patch == 0:
        return
    with pytest.raises(UserError) as caught:
        check_patch(height, width, patch)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"--patch {patch} does not divide the image size {height}x{width}: use --size ")
    sizes, _, patches = message.partition("use --size ")[2].partition(" or --patch ")
    offered = [(int(h), int(w)) for h, w in re.findall(r"(\d+)x(\d+)", sizes)]
    assert offered
    for h, w in offered:
        check_patch(h, w, patch)
        assert abs(h - height) < patch
        assert abs(w - width) < patch
    for p in map(int, re.findall(r"\d+", patches)):
        check_patch(height, width, p)


def test_the_advice_reads_well() -> None:
    with pytest.raises(UserError, match=r"^--patch 3 does not divide the image size 32x32: use --size 30x30 or 33x33"):
        check_patch(32, 32, 3)
    with pytest.raises(UserError, match=r"or --patch 2, 4, 8, 16$"):
        check_patch(32, 32, 3)
