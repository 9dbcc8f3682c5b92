"""Every layout of images that is accepted, and every one that is refused."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pocketvit.config import DataConfig
from pocketvit.data import load
from pocketvit.data.sources import open_source
from pocketvit.errors import UserError
from pocketvit.training.batches import Batches

CONFIG = DataConfig()


def counts(source):
    return {part: section.count for part, section in source.sections.items()}


def test_digits():
    data = load("digits", CONFIG, need_labels=True)
    assert data.name == "digits"
    assert data.shape == (8, 8, 1)
    assert len(data.classes) == 10
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    assert data.train.images.dtype == np.uint8
    assert data.train.images.max() == 255
    assert any("no test split" in note for note in data.notes)


def test_class_folders(tmp_path, class_folders):
    class_folders(tmp_path / "pets")
    source = open_source(str(tmp_path / "pets"))
    assert source.name == "pets"
    assert source.classes == ("cat", "dog")
    assert counts(source) == {"all": 20}
    assert source.sections["all"].labels.tolist() == [0] * 10 + [1] * 10


def test_train_and_test(tmp_path, class_folders):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "test", count=3)
    data = load(str(tmp_path), CONFIG, need_labels=True)
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 6)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_val_alone_plays_test(tmp_path, class_folders, name):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / name, count=3)
    data = load(str(tmp_path), CONFIG)
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 6)
    assert any("used as the test split" in note for note in data.notes)


def test_val_beside_test_is_validation(tmp_path, class_folders):
    for part, count in (("train", 10), ("val", 4), ("test", 3)):
        class_folders(tmp_path / part, count=count)
    data = load(str(tmp_path), CONFIG)
    assert (len(data.train), len(data.val), len(data.test)) == (20, 8, 6)


def test_unlabelled_folder(tmp_path, save):
    for index in range(10):
        save(tmp_path / f"{index}.png", seed=index)
    data = load(str(tmp_path), CONFIG)
    assert (len(data.train), len(data.val), data.test) == (9, 1, None)
    assert data.classes == ()
    assert data.train.labels is None
    with pytest.raises(UserError, match="pretrain works without"):
        load(str(tmp_path), CONFIG, need_labels=True)


def test_unlabelled_train_and_test(tmp_path, save):
    for index in range(4):
        save(tmp_path / "train" / f"{index}.png", seed=index)
        save(tmp_path / "test" / f"{index}.png", seed=10 + index)
    data = load(str(tmp_path), CONFIG)
    assert (len(data.train), len(data.val), len(data.test)) == (3, 1, 4)


def test_train_only(tmp_path, class_folders):
    class_folders(tmp_path / "train")
    assert counts(open_source(str(tmp_path))) == {"train": 20}
    assert len(load(str(tmp_path), CONFIG).test) == 4


def test_a_class_may_be_called_train(tmp_path, class_folders):
    class_folders(tmp_path, classes=("car", "plane", "train"))
    assert open_source(str(tmp_path)).classes == ("car", "plane", "train")


def test_unlabelled_test_beside_labelled_train_is_left_out(tmp_path, class_folders, save):
    class_folders(tmp_path / "train")
    save(tmp_path / "test" / "a.png")
    source = open_source(str(tmp_path))
    assert counts(source) == {"train": 20}
    assert "no labels" in source.notes[0]


def test_hidden_and_other_files_are_ignored(tmp_path, class_folders):
    class_folders(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "cat" / "._000.png").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.txt").write_text("x")
    source = open_source(str(tmp_path))
    assert counts(source) == {"all": 20}
    assert source.notes == ("1 files or folders not read: 1 .txt",)


def test_parquet_class_names_from_metadata(tmp_path, parquet):
    parquet(tmp_path / "set" / "data" / "train-00000.parquet", [0, 1] * 10, names=["cat", "dog"])
    parquet(tmp_path / "set" / "data" / "test-00000.parquet", [1, 0], names=["cat", "dog"])
    source = open_source(str(tmp_path / "set"))
    assert source.name == "set"
    assert source.classes == ("cat", "dog")
    assert counts(source) == {"test": 2, "train": 20}
    assert source.sections["test"].labels.tolist() == [1, 0]


def test_parquet_without_names(tmp_path, parquet):
    file = parquet(tmp_path / "mine.parquet", [7, 3] * 10)
    source = open_source(str(file))
    assert source.name == "mine"
    assert source.classes == ("3", "7")
    assert counts(source) == {"all": 20}
    assert source.sections["all"].labels.tolist() == [1, 0] * 10


def test_parquet_text_labels_plain_bytes_and_other_columns(tmp_path, parquet):
    file = parquet(tmp_path / "a.parquet", ["b", "a"] * 5, column="img", label="fine_label", plain=True)
    data = load(str(file), CONFIG, need_labels=True)
    assert data.classes == ("a", "b")
    assert data.shape == (8, 8, 3)


def test_parquet_split_told_by_folder(tmp_path, parquet):
    parquet(tmp_path / "train" / "0000.parquet", [0, 1] * 5)
    parquet(tmp_path / "validation" / "0000.parquet", [0, 1])
    source = open_source(str(tmp_path))
    assert counts(source) == {"train": 10, "test": 2}
    assert "used as the test split" in source.notes[0]


def test_parquet_unlabelled_and_hidden_test_labels(tmp_path, parquet):
    assert open_source(str(parquet(tmp_path / "a.parquet", None))).sections["all"].labels is None
    parquet(tmp_path / "b" / "train.parquet", [0, 1] * 5)
    parquet(tmp_path / "b" / "test.parquet", [-1, -1])
    assert counts(open_source(str(tmp_path / "b"))) == {"train": 10}


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0.5, 1.5], None, "expected integers or text"),
        ([0, 5], ["a", "b"], "lies beyond the 2 class names"),
    ],
)
def test_parquet_bad_labels(tmp_path, parquet, labels, names, message):
    with pytest.raises(UserError, match=message):
        open_source(str(parquet(tmp_path / "a.parquet", labels, names)))


def test_parquet_refused(tmp_path, parquet):
    with pytest.raises(UserError, match=r"no column called image or img among pixels, label"):
        open_source(str(parquet(tmp_path / "a.parquet", [0, 1], column="pixels")))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"b\.parquet: not a readable Parquet file"):
        open_source(str(tmp_path / "b.parquet"))
    parquet(tmp_path / "c" / "train-0.parquet", [0, 1])
    parquet(tmp_path / "c" / "other.parquet", [0, 1])
    with pytest.raises(UserError, match="tells no split"):
        open_source(str(tmp_path / "c"))
    parquet(tmp_path / "d" / "test-0.parquet", [0, 1])
    with pytest.raises(UserError, match="add a train split"):
        open_source(str(tmp_path / "d"))
    parquet(tmp_path / "e" / "train-0.parquet", [0, 1])
    parquet(tmp_path / "e" / "test-0.parquet", [0, 2])
    with pytest.raises(UserError, match="class '2' is in the test split but not in the train split"):
        open_source(str(tmp_path / "e"))


def test_missing_path(tmp_path):
    with pytest.raises(UserError, match=r"did you mean 'digits'\?.*expected 'digits', 'cifar10'"):
        open_source("digit")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"did you mean '.*photos'"):
        open_source(str(tmp_path / "photo"))
    with pytest.raises(UserError, match="does not exist"):
        open_source("")


def test_data_dir(tmp_path, class_folders, monkeypatch):
    class_folders(tmp_path / "pets")
    monkeypatch.setenv("POCKETVIT_DATA", str(tmp_path))
    assert counts(open_source("pets")) == {"all": 20}
    assert len(load("pets", CONFIG).test) == 4


def test_folders_refused(tmp_path, class_folders, save):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="no images found"):
        open_source(str(tmp_path / "empty"))
    save(class_folders(tmp_path / "both") / "loose.png")
    with pytest.raises(UserError, match="both in it"):
        open_source(str(tmp_path / "both"))
    class_folders(tmp_path / "split" / "train")
    class_folders(tmp_path / "split" / "test", count=1, classes=("cat", "emu"))
    with pytest.raises(UserError, match="class 'emu' is in the test split but not in the train split"):
        open_source(str(tmp_path / "split"))
    class_folders(tmp_path / "no-train" / "test")
    with pytest.raises(UserError, match="no train/"):
        open_source(str(tmp_path / "no-train"))
    for name in ("train", "val", "valid"):
        class_folders(tmp_path / "twice" / name)
    with pytest.raises(UserError, match=r"both val/ and valid/ name the validation split"):
        open_source(str(tmp_path / "twice"))


def test_files_refused(tmp_path, save):
    (tmp_path / "a.xyz").write_bytes(b"x")
    with pytest.raises(UserError, match="unknown kind"):
        open_source(str(tmp_path / "a.xyz"))
    with pytest.raises(UserError, match="a single image"):
        open_source(str(save(tmp_path / "a.png")))


def test_real_sets(shared_data):
    satellite = load(str(shared_data("eurosat_32")), CONFIG, need_labels=True)
    assert satellite.shape == (32, 32, 3)
    assert satellite.classes[9] == "SeaLake"
    assert (len(satellite.train), len(satellite.val), len(satellite.test)) == (21870, 2430, 2700)


def test_real_grey_set(shared_data):
    glyphs = load(str(shared_data("chars74k_fnt_28")), CONFIG, need_labels=True)
    assert glyphs.shape == (28, 28, 1)
    assert len(glyphs.classes) == 34
    assert len(glyphs.mean) == 1


@pytest.mark.slow
def test_cifar10_is_on_the_device_within_half_a_minute_and_then_within_two_seconds(shared_data):
    source = str(shared_data("cifar10"))
    took = []
    for _ in range(2):
        start = time.perf_counter()
        dataset = load(source, CONFIG, need_labels=True)
        norm = {"mean": dataset.mean, "std": dataset.std, "batch_size": 1024, "seed": 0, "device": "cpu"}
        parts = [Batches(*dataset.labelled(split), **norm) for split in ("train", "val", "test")]
        took.append(time.perf_counter() - start)
        assert [len(part) for part in parts] == [45000, 5000, 10000]
    assert took[0] < 30, took
    assert took[1] < 2, took


def test_import_is_light():
    code = "import sys, pocketvit.data; assert not {'torch', 'sklearn', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_part_of_the_train_images(tmp_path, class_folders):
    class_folders(tmp_path, count=40)
    whole, part = (load(str(tmp_path), DataConfig(images=images)) for images in (None, 10))
    assert np.bincount(part.train.labels).tolist() == [5, 5]
    assert [note for note in part.notes if "10 of the train images are used" in note]
    kept = {image.tobytes() for image in part.train.images}
    assert kept < {image.tobytes() for image in whole.train.images}
    # Those that validate and test are the same, so that accuracies compare.
    assert np.array_equal(part.val.images, whole.val.images)
    assert np.array_equal(part.test.images, whole.test.images)
    more = load(str(tmp_path), DataConfig(images=20))
    assert kept < {image.tobytes() for image in more.train.images}
    assert len(load(str(tmp_path), DataConfig(images=1000)).train) == len(whole.train)


def test_images_stay_as_they_are(tmp_path, save):
    for index in range(4):
        save(tmp_path / f"{index}.png", seed=index)
    data = load(str(tmp_path), CONFIG)
    originals = {np.asarray(Image.open(tmp_path / f"{index}.png")).tobytes() for index in range(4)}
    loaded = {image.tobytes() for split in (data.train, data.val) for image in split.images}
    assert loaded == originals
