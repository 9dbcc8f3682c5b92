"""What makes a set worth less than it looks: copies, two labels, a single colour, groups, mirror images."""

import os
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from pocketvit.config import DataConfig
from pocketvit.data import Rendering, load, mirrored_classes, read_images
from pocketvit.data.checks import group_indices, image_hashes, likely_groups
from pocketvit.data.splits import grouped_split
from pocketvit.errors import UserError

CONFIG = DataConfig()


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def said(data, words):
    return [note for note in data.notes if words in note]


def test_copies_in_given_splits_are_counted(tmp_path, class_folders):
    class_folders(tmp_path / "train")
    for index in range(3):
        copy(tmp_path / "train" / "cat" / f"00{index}.png", tmp_path / "test" / "cat" / f"copy{index}.png")
    copy(tmp_path / "train" / "dog" / "000.png", tmp_path / "test" / "dog" / "copy.png")
    data = load(str(tmp_path), CONFIG)
    count = sum(any((image == other).all() for other in data.train.images) for image in data.test.images)
    assert said(data, f"{count} of 4 test images are identical to train images")


def test_an_image_under_two_labels_is_named(tmp_path, class_folders):
    class_folders(tmp_path)
    copy(tmp_path / "cat" / "000.png", tmp_path / "dog" / "same.png")
    (note,) = said(load(str(tmp_path), CONFIG), "1 images stand under two labels")
    assert "cat/000.png" in note or "dog/same.png" in note


def test_held_out_images_equal_none_of_the_rest(tmp_path, class_folders):
    class_folders(tmp_path)
    for name in ("cat", "dog"):
        for index in range(5):
            copy(tmp_path / name / f"00{index}.png", tmp_path / name / f"copy{index}.png")
    data = load(str(tmp_path), CONFIG)
    assert not said(data, "identical to")
    assert len(data.train) + len(data.val) + len(data.test) == sum(1 for _ in tmp_path.rglob("*.png"))


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3), (1, 1, 1), (32, 32, 3)])
def test_hashes_tell_images_apart(shape):
    images = np.random.default_rng(0).integers(0, 256, (2000, *shape), dtype=np.uint8)
    images[1000:] = images[:1000]
    images[1500:, 0, 0, 0] ^= 1
    distinct = len(np.unique(images.reshape(2000, -1), axis=0))
    assert len(np.unique(image_hashes(images))) == distinct
    assert (image_hashes(images)[1000:1500] == image_hashes(images[:500])).all()


def test_images_of_a_single_colour_are_counted(tmp_path, class_folders):
    class_folders(tmp_path)
    Image.new("RGB", (8, 8), "grey").save(tmp_path / "cat" / "blank.png")
    assert said(load(str(tmp_path), CONFIG), "1 images are of a single colour")


def tracks(folder, save, names=("a", "b"), each=6, size=4):
    for label, name in enumerate(names):
        for track in range(each):
            for shot in range(size):
                save(folder / name / f"{track + 10 * label:05}_{shot:05}.png", seed=1000 * label + 10 * track + shot)


def test_a_group_stays_on_one_side(tmp_path, save):
    tracks(tmp_path, save)
    data = load(str(tmp_path), DataConfig(group_by=r"(\d+)_\d+\.png"))
    sides = [{name.split("_")[0] for name in split.names} for split in (data.train, data.val, data.test)]
    assert all(not first & second for first, second in combinations(sides, 2))
    assert sum(map(len, sides)) == 12
    assert set(data.test.labels.tolist()) == {0, 1}
    assert not said(data, "look like groups")


def test_names_that_look_like_groups_are_said(tmp_path, save):
    tracks(tmp_path, save)
    (note,) = said(load(str(tmp_path), CONFIG), "look like groups")
    pattern = note.split("--group-by '")[1].split("'")[0]
    assert " " not in pattern  # a terminal's end of line would come into it
    assert len(set(group_indices(["a/00001_00002.png", "a/00001_00003.png", "a/00002_00000.png"], pattern))) == 2


@pytest.mark.parametrize("pattern", ["cat_{}.png", "{}.png", "img001-{}.png", "digit {}"])
def test_numbered_images_are_no_groups(pattern):
    names = [pattern.format(f"{index:03}") for index in range(50)]
    assert likely_groups(names, np.zeros(50, np.int64)) == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("dog", "does not match the name 'cat_1'"), ("cat", "one group")],
)
def test_a_pattern_that_groups_nothing_is_refused(pattern, words):
    with pytest.raises(UserError, match=words):
        group_indices(["cat_1", "cat_2"], pattern)


def test_a_class_of_one_group_cannot_be_split():
    labels, groups = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 3, 3])
    with pytest.raises(UserError, match="class 'cat' are all of one group"):
        grouped_split(np.array([0, 0, 1, 1]), np.array([3, 3, 4, 4]), 0.5, 0, ["cat", "dog"])
    keep, hold = grouped_split(labels, groups, 0.3, 0, ["cat", "dog"])
    assert sorted([*keep, *hold]) == [0, 1, 2, 3, 4]


def arrows():
    """Images (40, 8, 8, 1) of arrows to the left and to the right, and of dots."""
    right = np.zeros((8, 8), np.uint8)
    right[3:5, 1:7] = right[2:6, 5] = 200
    dot = np.zeros((8, 8), np.uint8)
    dot[3:5, 3:5] = 200
    images = [right, right[:, ::-1], dot]
    noise = np.random.default_rng(0).integers(0, 20, (30, 8, 8))
    return (np.stack([images[i % 3] for i in range(30)]) + noise).astype(np.uint8)[..., None], np.arange(30) % 3


def test_classes_that_are_each_other_turned_are_named_where_training_turns():
    images, labels = arrows()
    upwards = np.where((labels == 1)[:, None, None, None], images[labels == 0][:1].swapaxes(1, 2), images)
    (finding,) = mirrored_classes(upwards, labels, ["right", "down", "dot"], "all")
    assert finding.items == ("right", "down")
    assert "--symmetry none" in finding.text
    assert mirrored_classes(upwards, labels, ["right", "down", "dot"], "mirror") == []


def test_classes_that_mirror_each_other_are_named():
    images, labels = arrows()
    (finding,) = mirrored_classes(images, labels, ["right", "left", "dot"], "mirror")
    assert "'right' and 'left'" in finding.text
    assert finding.items == ("right", "left")
    assert mirrored_classes(images[labels != 1], labels[labels != 1], ["right", "left", "dot"], "mirror") == []
    random = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    assert mirrored_classes(random, np.arange(60) % 3, "abc", "all") == []
    assert mirrored_classes(images, labels, ["right", "left", "dot"], "none") == []


def test_12_bits_in_16_fill_8(tmp_path):
    values = [np.random.default_rng(i).integers(0, 4096, (8, 8)).astype(np.uint16) for i in range(6)]
    values[0][0, 0] = 4095
    for index, pixels in enumerate(values):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    data = load(str(tmp_path), CONFIG)
    assert data.rendering == Rendering(12, 255)
    assert said(data, "6 images of 16 bits, of which they use 12")
    expected = np.rint(values[3] / 4095 * 255)
    assert any(np.abs(image[..., 0] - expected).max() <= 1 for image in (*data.train.images, *data.val.images))
    # A model that learnt so reads others alike, whatever their own largest value.
    dark, _ = read_images([tmp_path / "3.png"], (8, 8), 1, data.rendering)
    assert np.abs(dark[0, ..., 0] - expected).max() <= 1


@pytest.mark.parametrize(("ink", "background"), [(255, 0), (0, 255), (128, 255)])
def test_what_is_drawn_on_nothing_stays_visible(tmp_path, ink, background):
    for index in range(4):
        pixels = np.zeros((8, 8, 4), np.uint8)
        pixels[2:5, 2 : 4 + index % 2] = (ink, ink, ink, 255)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    data = load(str(tmp_path), CONFIG)
    assert data.rendering.background == background
    assert {int(image.min()) for image in data.train.images} == {min(ink, background)}
    assert {int(image.max()) for image in data.train.images} == {max(ink, background)}


def test_names_that_are_no_utf8_can_be_written(tmp_path, class_folders):
    class_folders(tmp_path)
    os.rename(os.fsencode(tmp_path / "dog"), os.fsencode(tmp_path) + b"/caf\xe9")
    data = load(str(tmp_path), CONFIG)
    assert data.classes == ("caf\\xe9", "cat")
    "".join(data.classes).encode()
