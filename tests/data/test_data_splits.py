"""Splits and label subsets: seeded, stratified, and honest about the test images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvit.config import DataConfig
from pocketvit.data import label_subset, load
from pocketvit.data.splits import stratified_split
from pocketvit.errors import UserError

CONFIG = DataConfig()
class_sizes = st.lists(st.integers(2, 30), min_size=1, max_size=6)


def labels_of(sizes, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


@settings(max_examples=50, deadline=None)
@given(class_sizes, st.floats(0.01, 0.99), st.integers(0, 5))
def test_stratified_split(sizes, fraction, seed):
    labels = labels_of(sizes)
    keep, hold = stratified_split(labels, len(labels), fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([keep, hold])), np.arange(len(labels)))
    for label, size in enumerate(sizes):
        held = (labels[hold] == label).sum()
        assert 1 <= held <= size - 1
        assert abs(held - fraction * size) <= 1
    again = stratified_split(labels, len(labels), fraction, seed)
    assert np.array_equal(keep, again[0])
    assert np.array_equal(hold, again[1])


def test_split_without_labels_and_seeds():
    keep, hold = stratified_split(None, 100, 0.1, 0)
    assert (len(keep), len(hold)) == (90, 10)
    assert not np.array_equal(hold, stratified_split(None, 100, 0.1, 1)[1])


def test_split_refused():
    with pytest.raises(UserError, match="class 'dog' has too few images: 1"):
        stratified_split(np.array([0, 0, 1]), 3, 0.5, 0, ("cat", "dog"))
    with pytest.raises(UserError, match="at least 2"):
        stratified_split(None, 1, 0.5, 0)
    with pytest.raises(UserError, match="above 0 and below 1"):
        stratified_split(None, 10, 1.0, 0)


@settings(max_examples=50, deadline=None)
@given(class_sizes, st.integers(0, 5), st.data())
def test_labels_per_class(sizes, seed, data):
    labels = labels_of(sizes)
    count = data.draw(st.integers(1, min(sizes)))
    chosen = label_subset(labels, per_class=count, seed=seed)
    assert np.array_equal(chosen, np.unique(chosen))
    assert np.bincount(labels[chosen]).tolist() == [count] * len(sizes)
    fewer = label_subset(labels, per_class=data.draw(st.integers(1, count)), seed=seed)
    assert set(fewer) <= set(chosen)


@settings(max_examples=50, deadline=None)
@given(class_sizes, st.floats(0.001, 1))
def test_label_fraction(sizes, fraction):
    labels = labels_of(sizes)
    kept = np.bincount(labels[label_subset(labels, fraction=fraction)])
    assert kept.tolist() == [max(1, int(np.floor(fraction * size + 0.5))) for size in sizes]


def test_label_subset_seeds_and_refusals():
    labels = labels_of([20, 20])
    assert np.array_equal(label_subset(labels), np.arange(40))
    assert not np.array_equal(label_subset(labels, per_class=5, seed=0), label_subset(labels, per_class=5, seed=1))
    with pytest.raises(UserError, match="class 'dog' has 3 train images"):
        label_subset(np.array([0] * 9 + [1] * 3), per_class=5, classes=("cat", "dog"))
    with pytest.raises(UserError, match="class 'emu' has 0 train images"):
        label_subset(np.array([0, 1]), per_class=1, classes=("cat", "dog", "emu"))
    for budget in ({"per_class": 0}, {"fraction": 0.0}, {"fraction": 1.5}, {"per_class": 1, "fraction": 0.5}):
        with pytest.raises(UserError):
            label_subset(labels, **budget)


def test_load_is_stratified_and_seeded(tmp_path, class_folders):
    class_folders(tmp_path, count=20)
    data = load(str(tmp_path), CONFIG)
    assert [np.bincount(split.labels).tolist() for split in (data.train, data.val, data.test)] == [
        [14, 14],
        [2, 2],
        [4, 4],
    ]
    other = load(str(tmp_path), DataConfig(split_seed=1))
    assert np.array_equal(data.test.images, load(str(tmp_path), CONFIG).test.images)
    assert not np.array_equal(data.test.images, other.test.images)


def test_too_small_class(tmp_path, class_folders):
    class_folders(tmp_path)
    class_folders(tmp_path, count=2, classes=("emu",))
    with pytest.raises(UserError, match="class 'emu' has too few images: 2, and the splits need at least 3"):
        load(str(tmp_path), CONFIG, need_labels=True)
    assert any("not stratified" in note for note in load(str(tmp_path), CONFIG).notes)


def test_one_class(tmp_path, class_folders):
    class_folders(tmp_path, classes=("cat",))
    with pytest.raises(UserError, match=r"one class only \('cat'\)"):
        load(str(tmp_path), CONFIG, need_labels=True)
    assert load(str(tmp_path), CONFIG).classes == ("cat",)


def test_one_image(tmp_path, save):
    save(tmp_path / "a.png")
    with pytest.raises(UserError, match="at least 2 are needed"):
        load(str(tmp_path), CONFIG)


def test_mean_and_std_are_those_of_train_only(tmp_path, class_folders):
    class_folders(tmp_path / "train")
    for part in ("val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), "white").save(tmp_path / part / name / "a.png")
    data = load(str(tmp_path), CONFIG)
    train = data.train.images.astype(np.float64) / 255
    assert np.allclose(data.mean, train.mean((0, 1, 2)), atol=1e-12)
    assert np.allclose(data.std, train.std((0, 1, 2)), atol=1e-9)


def test_std_of_constant_images(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), (255, 51, 0)).save(tmp_path / name)
    data = load(str(tmp_path), CONFIG)
    assert data.std == (1e-3,) * 3
    assert np.allclose(data.mean, (1, 0.2, 0))
