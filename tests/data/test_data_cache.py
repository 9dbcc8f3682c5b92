"""The cache: found when nothing changed, never when something did, and never half-written."""

from __future__ import annotations

import numpy as np
import pytest

import pocketvit.data.decoding as decoding
from pocketvit.config import DataConfig
from pocketvit.data import Patching, load
from pocketvit.errors import UserError

CONFIG = DataConfig()


@pytest.fixture
def folder(tmp_path, class_folders):
    class_folders(tmp_path / "set" / "train")
    return class_folders(tmp_path / "set" / "test", count=2).parent


@pytest.fixture
def no_decoding(monkeypatch):
    def forbid():
        def refuse(*_, **__):
            raise AssertionError("decoded again")

        monkeypatch.setattr(decoding, "decode_image", refuse)
        monkeypatch.setattr(decoding, "read_header", refuse)

    return forbid


def entries(cache):
    return sorted(entry.name for entry in cache.iterdir())


def test_second_load_decodes_nothing(folder, no_decoding):
    first = load(str(folder), CONFIG)
    no_decoding()
    second = load(str(folder), CONFIG, patching=Patching(4))  # one native size: the same whatever the patch
    assert np.array_equal(first.train.images, second.train.images)
    assert first.notes == second.notes
    assert first.train.labels.tolist() == second.train.labels.tolist()
    assert first.mean == second.mean


def test_unsplit_images_stay_mapped(folder):
    data = load(str(folder), CONFIG)
    assert isinstance(data.test.images, np.memmap)
    assert not data.test.images.flags.writeable


def test_other_settings_and_content_make_other_entries(folder, image_cache, save):
    load(str(folder), CONFIG)
    load(str(folder), DataConfig(size=6))
    load(str(folder), DataConfig(skip_bad=True))
    load(str(folder), DataConfig(split_seed=5))  # splits are made after the cache
    assert len(entries(image_cache)) == 3
    save(folder / "train" / "cat" / "000.png", seed=999)
    before = load(str(folder), CONFIG).train.images
    assert len(entries(image_cache)) == 4
    (folder / "train" / "cat" / "000.png").rename(folder / "train" / "dog" / "zzz.png")
    assert len(load(str(folder), CONFIG).train) == len(before)
    assert len(entries(image_cache)) == 5


def test_patch_matters_only_for_mixed_sizes(tmp_path, save, image_cache):
    for index, size in enumerate([(8, 8), (10, 10)]):
        save(tmp_path / f"{index}.png", size=size)
    assert load(str(tmp_path), CONFIG, patching=Patching(4)).shape[:2] == (12, 12)
    assert load(str(tmp_path), CONFIG, patching=Patching(5)).shape[:2] == (10, 10)
    assert len(entries(image_cache)) == 2


def test_failed_decode_leaves_nothing(folder, image_cache):
    content = (folder / "test" / "dog" / "001.png").read_bytes()
    (folder / "test" / "dog" / "001.png").write_bytes(content[:-40])
    with pytest.raises(UserError, match=r"001\.png"):
        load(str(folder), CONFIG)
    assert entries(image_cache) == []


@pytest.mark.parametrize("name", ["meta.json", "train.images.npy", "train.labels.npy"])
@pytest.mark.parametrize("damage", ["cut", "missing", "garbage"])
def test_damaged_entry_is_rebuilt(folder, image_cache, no_decoding, name, damage):
    first = load(str(folder), CONFIG)
    (entry,) = image_cache.iterdir()
    content = (entry / name).read_bytes()
    (entry / name).unlink()
    if damage != "missing":
        (entry / name).write_bytes(content[: len(content) // 2] if damage == "cut" else b"garbage")
    again = load(str(folder), CONFIG)
    assert np.array_equal(first.val.images, again.val.images)
    assert entries(image_cache) == [entry.name]
    no_decoding()
    load(str(folder), CONFIG)


def test_pickled_entry_is_not_loaded(folder, image_cache):
    load(str(folder), CONFIG)
    (entry,) = image_cache.iterdir()
    np.save(entry / "train.labels.npy", np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    assert load(str(folder), CONFIG).train.labels.dtype == np.int64


def test_unwritable_cache_is_only_a_note(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "file" / "cache"))
    data = load(str(folder), CONFIG)
    assert len(data.test) == 4
    assert any("not cached" in note for note in data.notes)


def test_full_disk_is_only_a_note(folder, image_cache, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("pocketvit.data.cache.shutil.disk_usage", lambda _: usage)
    data = load(str(folder), CONFIG)
    assert any("no space left" in note for note in data.notes)
    assert entries(image_cache) == []


def test_racing_writer(folder, image_cache, monkeypatch):
    """Another process finishes the same entry while this one decodes."""
    import pocketvit.data.cache as cache

    real, depth = cache.decode_source, list[int]()

    def decode(*args):
        if not depth:
            depth.append(1)
            load(str(folder), CONFIG)
        return real(*args)

    monkeypatch.setattr(cache, "decode_source", decode)
    assert len(load(str(folder), CONFIG).test) == 4
    assert len(entries(image_cache)) == 1


def test_images_that_neither_disk_nor_memory_can_take_are_refused(folder):
    with pytest.raises(UserError, match=r"set: images of 400000x400000 take [\d,.]+ GB.* smaller --size"):
        load(str(folder), DataConfig(size=400_000))
