"""Images as people have them: splits under other names, folders around folders, links, pipes, labels of any kind."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketvit.config import DataConfig, default_recipe
from pocketvit.data import Arrays, load
from pocketvit.data.sources import open_source
from pocketvit.data.sources.opener import Columns
from pocketvit.errors import UserError

CONFIG = DataConfig()
Folders = Callable[..., Path]


def counts(path: Path) -> dict[str, int]:
    return {part: section.count for part, section in open_source(str(path)).sections.items()}


def test_two_sets_of_splits_side_by_side_are_refused(tmp_path: Path, class_folders: Folders) -> None:
    for name in ("cat_train", "cat_test", "dog_train", "dog_test"):
        class_folders(tmp_path / name)
    with pytest.raises(UserError, match="both cat_test/ and dog_test/ name the test split: keep one of them"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("names", [("steam-train", "crash-test"), ("steam-train", "tram", "road-train")])
def test_classes_may_end_like_splits(tmp_path: Path, class_folders: Folders, names: tuple[str, ...]) -> None:
    assert open_source(str(class_folders(tmp_path, classes=names))).classes == tuple(sorted(names))


@pytest.mark.parametrize(
    "names",
    [
        *(("Training", "Testing"), ("Train", "Test"), ("seg_train", "seg_test"), ("training_set", "test_set")),
        ("train2017", "test2017"),
    ],
)
def test_splits_under_other_names(tmp_path: Path, class_folders: Folders, names: tuple[str, str]) -> None:
    class_folders(tmp_path / names[0])
    class_folders(tmp_path / names[1], count=3)
    source = open_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert counts(tmp_path) == {"train": 20, "test": 6}


def test_one_folder_around_it_all_is_gone_through_and_said(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path / "archive" / "pets" / "train")
    class_folders(tmp_path / "archive" / "pets" / "test", count=2)
    source = open_source(str(tmp_path / "archive"))
    assert (source.name, source.classes) == ("archive", ("cat", "dog"))
    assert {part: section.count for part, section in source.sections.items()} == {"train": 20, "test": 4}
    assert any("pets/ is the only folder in archive/" in note for note in source.notes)
    # Also in a split, as seg_train/seg_train/ is published.
    class_folders(tmp_path / "intel" / "seg_train" / "seg_train")
    class_folders(tmp_path / "intel" / "seg_test" / "seg_test", count=2)
    assert open_source(str(tmp_path / "intel")).classes == ("cat", "dog")


def test_a_single_class_is_no_wrapper(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path, classes=("cat",))
    assert open_source(str(tmp_path)).classes == ("cat",)


def test_class_folders_of_folders_are_refused_with_what_to_give(tmp_path: Path, class_folders: Folders) -> None:
    for part in ("Images", "Masks"):
        class_folders(tmp_path / "signs" / part, classes=("00000", "00001"))
    with pytest.raises(
        UserError, match=r"Images/: a class folder that holds the same folders as the others.*give .*Imag"
    ):
        open_source(str(tmp_path / "signs"))
    class_folders(tmp_path / "years", classes=("dog",))
    class_folders(tmp_path / "years" / "cat", classes=("2019", "2020"))
    with pytest.raises(UserError, match=r"cat/: a class folder that holds no images of its own, only folders \(2019/"):
        open_source(str(tmp_path / "years"))


def test_what_looks_like_splits_and_is_read_as_classes_is_said(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path, classes=("trainA", "testA"))
    assert any("look like splits: testA, trainA" in note for note in open_source(str(tmp_path)).notes)


def test_pictures_by_any_name_that_pillow_reads(
    tmp_path: Path, class_folders: Folders, save: Callable[..., Path]
) -> None:
    class_folders(tmp_path)
    for index in range(3):
        save(tmp_path / "dog" / f"x{index}.jpg", seed=index).rename(tmp_path / "dog" / f"x{index}.JFIF")
    assert counts(tmp_path) == {"all": 23}
    data = load(str(tmp_path), CONFIG)
    assert len(data.train) + len(data.val) + len(data.test) == 23


def test_what_is_passed_over_is_counted_by_kind_in_one_line(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path)
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / "cat" / "a.heic").write_bytes(b"x")
    (tmp_path / "cat" / "b.heic").write_bytes(b"x")
    os.mkfifo(tmp_path / "cat" / "z.png")
    copies = tmp_path / "dog" / "@eaDir" / "000.png"
    copies.mkdir(parents=True)
    shutil.copy(tmp_path / "dog" / "000.png", copies / "SYNOPHOTO_THUMB_M.png")
    source = open_source(str(tmp_path))
    assert source.sections["all"].count == 20
    assert source.notes == (
        "5 files or folders not read: 1 .csv, 2 .heic, 1 @eaDir (small copies of images), 1 pipes or devices",
    )


def test_links_are_followed_once(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path / "elsewhere", classes=("more",))
    data = class_folders(tmp_path / "data")
    (data / "dog" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (data / "dog" / "back").symlink_to(data)
    (data / "self").symlink_to(data)
    source = open_source(str(data))
    assert source.classes == ("cat", "dog")
    assert source.sections["all"].count == 30
    assert any("2 links to a folder that is read already" in note for note in source.notes)


def test_a_folder_that_cannot_be_read_stops(
    tmp_path: Path, class_folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path)
    look = Path.iterdir

    def refused(self: Path) -> object:
        if self.name == "dog":
            raise PermissionError(13, "Permission denied")
        return look(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match=r"dog/: cannot be read \(Permission denied\)"):
        open_source(str(tmp_path))


def test_a_link_that_leads_nowhere_is_a_bad_image(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path)
    (tmp_path / "cat" / "z.png").symlink_to("/nonexistent/a.png")
    with pytest.raises(
        UserError, match=r"cat/z\.png: cannot be decoded \(no such file, or a link that leads nowhere\)"
    ):
        load(str(tmp_path), CONFIG)
    data = load(str(tmp_path), DataConfig(skip_bad=True))
    assert any("1 images cannot be decoded and are left out: cat/z.png" in note for note in data.notes)


def test_a_class_that_loses_all_its_images_is_refused(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path)
    (tmp_path / "emu").mkdir()
    for index in range(4):
        (tmp_path / "emu" / f"{index}.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match="no images of class 'emu' are left"):
        load(str(tmp_path), DataConfig(skip_bad=True))


def test_only_formats_that_are_named_are_read(tmp_path: Path, class_folders: Folders) -> None:
    """Pillow would start another program for an EPS file, whatever it is called."""
    class_folders(tmp_path)
    (tmp_path / "cat" / "z.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n")
    with pytest.raises(UserError, match=r"cat/z\.png: cannot be decoded \(not an image"):
        load(str(tmp_path), CONFIG)


def test_a_folder_called_digits_is_the_users(
    tmp_path: Path, class_folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path / "digits", classes=("even", "odd"))
    monkeypatch.chdir(tmp_path)
    assert open_source("digits").classes == ("even", "odd")
    assert default_recipe("digits", "cpu") == "tiny"  # not the demo's either


def table(path: Path, labels: pa.Array, name: str = "label", like: Path | None = None) -> Path:
    """The table that `like` has, with another column of labels."""
    images = pq.read_table(like or path).column("image")
    pq.write_table(pa.table({"image": images, name: labels}), path)
    return path


@pytest.mark.parametrize("name", ["labels", "target", "Label", "coarse_label", "Class"])
def test_a_label_column_under_another_name(tmp_path: Path, parquet: Callable[..., Path], name: str) -> None:
    file = parquet(tmp_path / "a.parquet", [0, 1] * 10)
    table(file, pa.array([0, 1] * 10), name)
    assert open_source(str(file)).sections["all"].labels.tolist() == [0, 1] * 10


def test_a_label_column_by_flag_and_what_could_be_one(tmp_path: Path, parquet: Callable[..., Path]) -> None:
    file = parquet(tmp_path / "a.parquet", [0, 1] * 10)
    table(file, pa.array(["x", "y"] * 10), "diagnosis")
    source = open_source(str(file))
    assert source.sections["all"].labels is None
    assert source.notes == ("no column of labels: --label-column names one of diagnosis",)
    assert open_source(str(file), Columns(label="diagnosis")).classes == ("x", "y")
    assert load(str(file), DataConfig(label_column="diagnosis"), need_labels=True).classes == ("x", "y")
    with pytest.raises(UserError, match=r"--label-column grade: .* has no such column, only image, diagnosis"):
        open_source(str(file), Columns(label="grade"))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (pa.array([True, False] * 10), ("False", "True")),
        (pa.array([1.0, 0.0] * 10), ("0", "1")),
        (pa.array(["b", "a"] * 10, pa.string_view()), ("a", "b")),
        (pa.array(["b", "a"] * 10, pa.large_string()).dictionary_encode(), ("a", "b")),
    ],
)
def test_labels_of_other_types(tmp_path: Path, parquet: Callable[..., Path], labels: pa.Array, classes: tuple) -> None:
    source = open_source(str(table(parquet(tmp_path / "a.parquet", [0, 1] * 10), labels)))
    assert source.classes == classes
    assert source.sections["all"].labels.tolist() == [1, 0] * 10


def test_images_beside_the_file_that_names_them(tmp_path: Path, save: Callable[..., Path]) -> None:
    names = [save(tmp_path / "images" / f"{i}.png", seed=i).relative_to(tmp_path).as_posix() for i in range(10)]
    column = pa.array(
        [{"bytes": None, "path": name} for name in names], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"image": column, "label": [0, 1] * 5}), tmp_path / "a.parquet")
    data = load(str(tmp_path / "a.parquet"), CONFIG)
    assert len(data.train) + len(data.val) + len(data.test) == 10


@pytest.mark.parametrize("missing", [-1, None])
def test_images_without_a_label_are_learnt_from_and_others_judge(
    tmp_path: Path, parquet: Callable[..., Path], missing: int | None
) -> None:
    file = parquet(tmp_path / "a.parquet", [0] * 40)
    table(file, pa.array([0, 1, missing, missing] * 10, pa.int64()))
    data = load(str(file), CONFIG, need_labels=True)
    assert data.classes == ("0", "1")
    assert (data.train.labels < 0).sum() == 20
    assert (data.val.labels >= 0).all()
    assert (data.test.labels >= 0).all()
    images, labels = data.labelled("train")
    assert len(images) == len(labels) == len(data.train) - 20
    assert set(labels) == {0, 1}
    assert any("20 of 40 images have no label" in note for note in data.notes)
    some = load(str(file), DataConfig(images=10))
    assert 0 < len(some.train) < len(data.train)
    # Nobody's label has changed: each kept image carries its own.
    by_content = {image.tobytes(): label for image, label in zip(data.train.images, data.train.labels, strict=True)}
    assert all(by_content[i.tobytes()] == label for i, label in zip(some.train.images, some.train.labels, strict=True))


def test_test_images_without_a_label_are_left_out(tmp_path: Path, parquet: Callable[..., Path]) -> None:
    parquet(tmp_path / "train.parquet", [0, 1] * 10)
    test = parquet(tmp_path / "test.parquet", [0, 1] * 4)
    table(test, pa.array([0, None, 1, None] * 2, pa.int64()))
    data = load(str(tmp_path), CONFIG)
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert any("4 images to validate or test have no label" in note for note in data.notes)


def test_a_column_of_a_parquet_file_groups_images(parquet, tmp_path: Path) -> None:
    file = parquet(tmp_path / "cells row 3.parquet", [i % 2 for i in range(40)])
    patients = [f"p{i // 4}" for i in range(40)]
    pq.write_table(pq.read_table(file).append_column("patient", pa.array(patients)), file)
    data = load(str(file), DataConfig(group_by="patient", val_fraction=0.25), need_labels=True)
    assert "grouped by the column 'patient'" in data.notes
    sides = []
    for split in (data.train, data.val, data.test):
        assert split is not None
        assert split.names is not None
        sides.append({patients[int(re.findall(r"row (\d+)", name)[1])] for name in split.names})
    assert all(sides)
    assert len(set.union(*sides)) == sum(map(len, sides)) == 10
    # Any other word is a pattern in names, as before.
    with pytest.raises(UserError, match="does not match the name"):
        load(str(file), DataConfig(group_by="slide"), need_labels=True)


def test_a_name_in_other_bytes_is_the_same_class(tmp_path: Path, class_folders: Folders) -> None:
    """As archives from a Mac have it: one letter with its accent, or two."""
    class_folders(tmp_path / "train", classes=("caf\u00e9", "tea"))
    class_folders(tmp_path / "test", count=3, classes=("cafe\u0301", "tea"))
    source = open_source(str(tmp_path))
    assert source.classes == ("caf\u00e9", "tea")
    assert source.sections["test"].labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_names_that_are_all_but_the_same_are_said(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path / "train", classes=("Cat", "cat", "dog"))
    assert any(
        "all but the same, and which are kept apart: 'Cat', 'cat'" in n for n in open_source(str(tmp_path)).notes
    )
    shutil.rmtree(tmp_path / "train" / "Cat")
    class_folders(tmp_path / "test", count=3, classes=("CAT", "dog"))
    with pytest.raises(UserError, match="'CAT' is in the test split but not in the train split, which has 'cat'"):
        open_source(str(tmp_path))


def test_what_cannot_be_read_is_told_where_there_is_nothing_else(tmp_path: Path) -> None:
    for name in ("a/1.heic", "b/2.heic", "labels.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"no images found .*3 files or folders not read: 1 .csv, 2 .heic"):
        open_source(str(tmp_path))


def test_labels_in_a_table_beside_one_folder_are_told(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path, classes=("images",))
    (tmp_path / "labels.csv").write_text("file,label\n")
    with pytest.raises(UserError, match=r"one class only \('images'\).*labels in a .csv file are not read"):
        load(str(tmp_path), CONFIG, need_labels=True)


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        (np.array([0, -1, 3, 3]), ("0", "3"), [0, -1, 1, 1]),
        (np.array([0.0, np.nan, 3.0, 3.0]), ("0", "3"), [0, -1, 1, 1]),
        (np.array([0, 0, 3, 3], np.uint8), ("0", "3"), [0, 0, 1, 1]),
        (np.array(["b", None, "a", "a"], object), ("a", "b"), [1, -1, 0, 0]),
        (np.array([True, False, False, True]), ("False", "True"), [1, 0, 0, 1]),
    ],
)
def test_labels_in_memory_may_be_missing(labels: np.ndarray, classes: tuple[str, ...], indices: list[int]) -> None:
    source = open_source(Arrays(np.zeros((4, 8, 8), np.uint8), labels))
    assert source.classes == classes
    assert source.sections["all"].labels.tolist() == indices


@pytest.mark.parametrize("labels", [[0, 1, 2, 0], [0.5, 0, 1, 0], ["a", "b", "a", "b"]])
def test_labels_in_memory_that_name_no_class_are_refused(labels: list[object]) -> None:
    with pytest.raises(UserError, match=r"^arrays: label"):
        open_source(Arrays(np.zeros((4, 8, 8), np.uint8), np.array(labels), ("a", "b")))


def test_a_column_tells_the_splits_of_rows(tmp_path: Path, parquet: Folders) -> None:
    file = parquet(tmp_path / "all.parquet", [0, 1] * 5)
    told = ["Train", "test", "validation", "train", "train"] * 2
    pq.write_table(pq.read_table(file).append_column("split", pa.array(told)), file)
    source = open_source(str(file))
    assert counts(file) == {"train": 6, "val": 2, "test": 2}
    assert source.sections["test"].labels.tolist() == [1, 0]
    names = [item.name for item in source.sections["test"].items()]
    assert names == ["all.parquet row 1 (1.png)", "all.parquet row 6 (6.png)"]


@pytest.mark.parametrize(
    ("told", "sections", "note"),
    [
        (
            ["train", "train", "unused", "test", None] * 2,
            {"train": 4, "test": 2},
            "4 rows whose column 'split' says '', 'unused' are of no split, and are left out",
        ),
        (["left", "right"] * 5, {"all": 10}, "the column 'split' names no train split ('left', 'right')"),
        (["test"] * 10, {"all": 10}, "the column 'split' names no train split (test)"),
    ],
)
def test_a_column_that_tells_no_splits_of_some_rows_is_said(
    tmp_path: Path, parquet: Folders, told: list[str | None], sections: dict[str, int], note: str
) -> None:
    """Merged and split anew, such a set would be trained on its own test images."""
    file = parquet(tmp_path / "all.parquet", [0, 1] * 5)
    pq.write_table(pq.read_table(file).append_column("split", pa.array(told)), file)
    assert counts(file) == sections
    assert any(found.startswith(note) for found in open_source(str(file)).notes)


def test_each_label_column_of_a_file_has_its_own_labels(tmp_path: Path, parquet: Folders) -> None:
    """The cache keeps labels beside the images, which are the same for both."""
    file = parquet(tmp_path / "all.parquet", [0, 1, 2] * 8)
    pq.write_table(pq.read_table(file).append_column("coarse", pa.array([0] * 12 + [1] * 12)), file)
    for asked, label in ((None, lambda row: row % 3), ("coarse", lambda row: row // 12), (None, lambda row: row % 3)):
        train = load(str(file), DataConfig(label_column=asked), need_labels=True).train
        rows = [int(re.findall(r"row (\d+)", name)[0]) for name in train.names]
        assert train.labels.tolist() == [label(row) for row in rows]


def test_what_lies_beside_parquet_files_is_said(tmp_path: Path, parquet: Folders, class_folders: Folders) -> None:
    parquet(tmp_path / "data" / "one" / "a.parquet", [0, 1] * 5)
    parquet(tmp_path / "elsewhere" / "b.parquet", [0, 1] * 5)
    (tmp_path / "data" / "two").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "two" / "self").symlink_to(tmp_path / "data")
    os.mkfifo(tmp_path / "data" / "c.parquet")  # whoever opened it would wait for ever
    (tmp_path / "data" / "README.md").write_text("x")
    class_folders(tmp_path / "data" / "pictures", count=2)
    source = open_source(str(tmp_path / "data"))
    assert source.sections["all"].count == 20
    assert set(source.notes) == {
        "read together as one set: one/a.parquet, two/b.parquet",
        "4 image files lie beside the Parquet files: only those that a row names are read",
        "3 files or folders not read: 1 .md, 1 links to a folder that is read already, 1 pipes or devices",
    }


def test_an_empty_table_is_no_set(tmp_path: Path, parquet: Folders) -> None:
    with pytest.raises(UserError, match=r"no train images found: add some"):
        open_source(str(parquet(tmp_path / "none.parquet", [])))


def test_a_refusal_for_want_of_labels_names_the_columns_that_may_hold_them(tmp_path: Path, parquet: Folders) -> None:
    file = parquet(tmp_path / "all.parquet", ["a", "b"] * 5, label="species")
    with pytest.raises(UserError, match="--label-column names one of species"):
        load(str(file), CONFIG, need_labels=True)


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (("trainA", "testA"), None),
        (("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001-a09b74b3"), None),
        (("train", "train-old", "test"), "read together as the train split: train-old.parquet, train.parquet"),
        (("mytrain", "mytest"), "read together as one set: mytest.parquet, mytrain.parquet"),
    ],
)
def test_parquet_files_that_become_one_split_are_said(
    tmp_path: Path, parquet: Callable[..., Path], names: tuple[str, ...], note: str | None
) -> None:
    for name in names:
        parquet(tmp_path / f"{name}.parquet", [0, 1] * 5)
    source = open_source(str(tmp_path))
    assert [finding.text for finding in source.findings if finding.kind == "files joined"] == ([note] if note else [])
    assert (set(source.sections) == {"train", "test"}) == (names[0] != "mytrain")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8)], "images of several sizes"),
        (np.zeros((0, 8, 8), np.uint8), "no images"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_source(Arrays(images))
