"""Random changes to images: what each does, that ranges hold, and that one seed gives one result."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit.config import AugmentConfig
from pocketvit.data.symmetry import views
from pocketvit.training.augment import Augment, mix, smoothed

OFF = AugmentConfig()
ALL = AugmentConfig(crop_scale=0.3, shift=0.2, rotate=40, erase=0.5)
POLICIES = ("randaugment", "trivialaugment")


def only(**changes: Any) -> AugmentConfig:
    return dataclasses.replace(OFF, **changes)


def random_images(batch: int, channels: int = 3, height: int = 8, width: int = 12) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def test_off_changes_nothing() -> None:
    images = random_images(4)
    assert torch.equal(Augment(OFF, 3)(images), images)


def test_flip_mirrors_half_of_the_images_left_to_right_and_leaves_the_rest() -> None:
    torch.manual_seed(0)
    images = random_images(400)
    flipped = Augment(OFF, 3, symmetry="mirror")(images)
    same, mirrored = ((flipped == other).flatten(1).all(1) for other in (images, images.flip(-1)))
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_flip_in_the_affine_map_is_the_same_mirror() -> None:
    torch.manual_seed(0)
    images = random_images(40)
    # A rotation too small to see sends the images through resampling.
    flipped = Augment(only(rotate=1e-6), 3, symmetry="mirror")(images)
    errors = torch.stack([(flipped - other).abs().amax((1, 2, 3)) for other in (images, images.flip(-1))])
    assert (errors.amin(0) < 1e-4).all()
    assert 5 < (errors[1] < 1e-4).sum() < 35


@pytest.mark.parametrize(("width", "expected"), [(8, 8), (12, 4)])
@pytest.mark.parametrize("rotate", [0.0, 1e-6], ids=["exact", "in the affine map"])
def test_all_symmetries_are_drawn_equally_often(width: int, expected: int, rotate: float) -> None:
    torch.manual_seed(0)
    image = random_images(1, width=width)
    changed = Augment(only(rotate=rotate), 3, symmetry="all")(image.expand(800, -1, -1, -1))
    known = [torch.from_numpy(one.copy()).movedim(-1, 1) for one in views(image.movedim(1, -1).numpy(), "all")]
    assert len(known) == expected
    # (views, images): which view each image has become.
    errors = torch.stack([(changed - one).abs().amax((1, 2, 3)) for one in known])
    assert (errors.amin(0) < 1e-3).all()
    counts = errors.argmin(0).bincount(minlength=expected)
    assert counts.min() > 0.7 * 800 / expected


@given(channels=st.integers(1, 13), height=st.integers(1, 20), width=st.integers(1, 20), batch=st.integers(1, 5))
@settings(deadline=None)
def test_everything_at_once_keeps_shape_and_range(channels: int, height: int, width: int, batch: int) -> None:
    images = random_images(batch, channels, height, width)
    changed = Augment(ALL, channels, fill=[0.5] * channels, symmetry="all")(images)
    assert changed.shape == images.shape
    assert changed.min() >= -1e-5
    assert changed.max() <= 1 + 1e-5


@pytest.mark.parametrize("crop_scale", [0.05, 0.4, 0.9])
def test_crops_stay_inside_and_keep_the_area_asked_for(crop_scale: float) -> None:
    torch.manual_seed(0)
    theta = Augment(only(crop_scale=crop_scale), 3)._affine(random_images(2000))
    scale_x, scale_y = theta[:, 0, 0], theta[:, 1, 1]
    assert (theta[:, 0, 2].abs() + scale_x <= 1 + 1e-6).all()
    assert (theta[:, 1, 2].abs() + scale_y <= 1 + 1e-6).all()
    area, ratio = scale_x * scale_y, scale_x / scale_y
    assert crop_scale - 1e-5 <= area.min() <= crop_scale + 0.05 * (1 - crop_scale)
    assert 1 - 0.05 * (1 - crop_scale) <= area.max() <= 1 + 1e-5
    assert ratio.min() >= 3 / 4 - 1e-5
    assert ratio.max() <= 4 / 3 + 1e-5


def test_shift_moves_by_at_most_its_share_of_the_side() -> None:
    torch.manual_seed(0)
    theta = Augment(only(shift=0.25), 3)._affine(random_images(500))
    assert torch.allclose(theta[:, :, :2], torch.eye(2).expand(500, 2, 2))
    # Coordinates are 2 wide.
    assert 0.45 < theta[:, :, 2].abs().max() <= 0.5


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 24), (30, 7)])
def test_rotation_is_rigid_in_pixels_whatever_the_sides(height: int, width: int) -> None:
    torch.manual_seed(0)
    theta = Augment(only(rotate=90), 3)._affine(random_images(200, 3, height, width))
    sides = torch.tensor([width, height], dtype=torch.float32)
    turn = theta[:, :, :2] * sides[:, None] / sides
    assert torch.allclose(turn @ turn.transpose(1, 2), torch.eye(2).expand(200, 2, 2), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turn), torch.ones(200), atol=1e-5)
    angle = torch.atan2(turn[:, 1, 0], turn[:, 0, 0]).rad2deg().abs()
    assert 80 < angle.max() <= 90.001


def test_erasing_fills_a_rectangle_of_the_share_asked_for_with_each_channels_value() -> None:
    torch.manual_seed(0)
    images = random_images(300, 2, 20, 30)
    fill = torch.tensor([7.0, 8.0]).view(2, 1, 1)
    erased = Augment(only(erase=0.5), 2, fill=[7.0, 8.0])(images)
    changed = erased != images
    hidden = changed[:, 0]
    assert (changed == hidden[:, None]).all()
    assert torch.equal(erased, torch.where(changed, fill, images))
    rows, columns = hidden.any(2), hidden.any(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None])
    assert 120 < rows.any(1).sum() < 180
    share = hidden.float().mean((1, 2))[rows.any(1)]
    assert share.min() > 0.01
    assert share.max() < 0.38


@pytest.mark.parametrize("policy", ["none", *POLICIES])
def test_one_seed_gives_one_result_and_another_seed_another(policy: Any) -> None:
    images, config = random_images(16), dataclasses.replace(ALL, policy=policy)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        change = Augment(config, 3)
        results.append(torch.stack([change(images) for _ in range(3)]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@given(
    batch=st.integers(1, 6),
    classes=st.integers(2, 9),
    mixup=st.sampled_from([0.0, 0.2, 1.0]),
    cutmix=st.sampled_from([0.0, 0.2, 1.0]),
    smoothing=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_mixed_targets_sum_to_1_and_images_keep_their_shape(
    batch: int, classes: int, mixup: float, cutmix: float, smoothing: float, seed: int
) -> None:
    torch.manual_seed(seed)
    images = random_images(batch)
    mixed, targets = mix(images, smoothed(torch.arange(batch) % classes, classes, smoothing), mixup, cutmix)
    assert mixed.shape == images.shape
    assert targets.shape == (batch, classes)
    assert targets.min() >= 0
    torch.testing.assert_close(targets.sum(1), torch.ones(batch))


def test_without_mixing_images_stay_and_targets_are_smoothed() -> None:
    images, labels = random_images(3), torch.tensor([0, 1, 1])
    for mixup, share in ((0.0, 1.0), (1.0, 0.0)):
        mixed, targets = mix(images, smoothed(labels, 4, 0.2), mixup, 0.0, share)
        assert torch.equal(mixed, images)
        torch.testing.assert_close(targets[0], torch.tensor([0.85, 0.05, 0.05, 0.05]))


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0)])
@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_targets_state_how_much_of_each_image_is_seen(mixup: float, cutmix: float, seed: int) -> None:
    # Image i is filled with i and belongs to class i: the expected class is the mean of the pixels.
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 8, 12).contiguous()
    torch.manual_seed(seed)
    mixed, targets = mix(images, torch.eye(5), mixup, cutmix)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ torch.arange(5.0))
    if cutmix:
        assert set(mixed.unique().tolist()) <= set(range(5))


def test_both_mixes_take_turns() -> None:
    torch.manual_seed(0)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 8, 12).contiguous()
    mixed = [mix(images, torch.eye(4), 1.0, 1.0, share=0.5)[0] for _ in range(300)]
    changed = [result for result in mixed if not torch.equal(result, images)]
    assert 110 < len(changed) < 190
    # A rectangle that is pasted keeps its pixels; mixup's lie between those of the two.
    pasted = [result for result in changed if torch.equal(result, result.round())]
    assert 45 < len(pasted) < 110
