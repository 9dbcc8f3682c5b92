"""Names that tell splits, as data sets are published, and names that do not."""

from __future__ import annotations

import pytest

from pocketvit.data.listing import split_of, split_of_file, splits_among


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Training", "TRAIN", "seg_train", "split=train", "set-train")),
        *((name, "train") for name in ("training_set", "train_images", "TrainData", "trainset")),
        *((name, "train") for name in ("train_dataset", "Train_Set_Folder")),
        *((name, "test") for name in ("test", "Testing", "evaluation", "seg_test", "split=test", "my_test_imgs")),
        *((name, "val") for name in ("val", "Valid", "validation", "dev", "eval", "my_val")),
        *((name, None) for name in ("trainer", "latest", "cat", "contest", "devices", "train_station", "test1", "")),
    ],
)
def test_a_split_is_told_by_a_whole_name_or_its_end(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_files_beginning_tells_its_split_too() -> None:
    assert [split_of_file(n) for n in ("train-00000-of-00002", "mnist_test", "Valid.0", "test_new", "images")] == [
        "train", "test", "val", "test", None,
    ]  # fmt: skip


def test_the_number_of_a_file_hides_its_split_from_nobody() -> None:
    assert [split_of_file(name) for name in ("trainA", "myTestData", "TESTIMONIALS")] == ["train", "test", None]
    names = ("cifar10-train-00000-of-00002", "cifar10-test-00000-of-00001-a09b74b3", "my_val_3", "speed-test-of-trains")
    assert [split_of_file(name) for name in names] == ["train", "test", "val", None]


@pytest.mark.parametrize(
    ("splits", "others"),
    [
        # As data sets are published.
        ({"train": "train", "test": "test", "val": "val"}, ("extra",)),
        ({"train": "Training", "test": "Test"}, ("test-multiple_fruits",)),
        ({"train": "training", "val": "validation", "test": "evaluation"}, ()),
        ({"train": "seg_train", "test": "seg_test"}, ("seg_pred",)),
        ({"train": "asl_alphabet_train", "test": "asl_alphabet_test"}, ()),
        ({"train": "GTSRB_Final_Training_Images", "test": "GTSRB_Final_Test_Images"}, ()),
        ({"train": "ILSVRC2012_img_train", "val": "ILSVRC2012_img_val"}, ()),
        ({"train": "mnist_train", "test": "MNIST_test"}, ("usps_test",)),
        ({"train": "trainingSet", "test": "testSet"}, ("trainingSample",)),
        ({"train": "train_images", "test": "test_images"}, ("unlabeled_images",)),
        ({"train": "train", "test": "test"}, ("train_masks", "test_masks")),
        ({"train": "train2017", "val": "val2017", "test": "test2017"}, ()),
        ({"train": "train_another", "val": "validation_another", "test": "test_another"}, ()),
        ({"train": "split=train", "val": "split=val"}, ()),
        ({"train": "Train_Data"}, ("Labels",)),
        ({"train": "train2017", "test": "test"}, ("train_masks",)),
        # Classes, for each says something else.
        ({}, ("steam-train", "crash-test")),
        ({}, ("steam-train", "diesel-train", "tram")),
        ({}, ("web-dev", "app-dev", "beta test")),
        ({}, ("train_station", "bus_station")),
        ({}, ("horse_train", "zebra_test")),
        ({}, ("train1", "train2")),
    ],
)
def test_splits_say_the_same_but_for_the_split(splits: dict[str, str], others: tuple[str, ...]) -> None:
    assert splits_among([*others, *splits.values()]) == {name: split for split, name in splits.items()}


def test_parts_of_a_split_are_told_beside_another() -> None:
    assert splits_among(["train1", "train_2", "test"]) == {"train1": "train", "train_2": "train", "test": "test"}
