"""Batches: each index once an epoch, and nothing but the step decides which."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvit.training.batches import Batches


def batches(n: int, batch_size: int, seed: int = 0, shape: tuple[int, int, int] = (2, 3, 1)) -> Batches:
    images = np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)
    channels = shape[-1]
    labels = np.arange(n) % 7
    return Batches(images, labels, [0.4] * channels, [0.2] * channels, batch_size=batch_size, seed=seed, device="cpu")


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
def test_an_epoch_takes_each_index_once_but_for_an_incomplete_last_batch(
    n: int, batch_size: int, seed: int, epoch: int
) -> None:
    data = batches(n, batch_size, seed)
    size = min(n, batch_size)
    first = epoch * data.steps_per_epoch
    taken = [data.at(step)[2] for step in range(first, first + data.steps_per_epoch)]
    assert {len(indices) for indices in taken} == {size}
    indices = torch.cat(taken).tolist()
    assert len(set(indices)) == len(indices) == n // size * size
    assert set(indices) <= set(range(n))


@given(steps=st.lists(st.integers(0, 200), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_a_batch_depends_on_its_step_and_not_on_the_steps_before(steps: list[int], seed: int) -> None:
    used = batches(23, 4, seed)
    for step in steps:
        assert torch.equal(used.at(step)[2], batches(23, 4, seed).at(step)[2])


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70), repeats=st.integers(1, 5))
def test_repeats_bring_each_image_several_times_in_a_batch_and_in_one_only(
    n: int, batch_size: int, repeats: int
) -> None:
    images = np.zeros((n, 1, 1, 1), np.uint8)
    data = Batches(images, None, [0.0], [1.0], batch_size=batch_size, repeats=repeats, seed=0, device="cpu")
    size = min(n, batch_size)
    assert data.steps_per_epoch == n // size
    different = -(-size // repeats)
    seen: list[int] = []
    for step in range(n // different):
        indices = data.at(step)[2].tolist()
        assert len(indices) == size
        counts = [indices.count(i) for i in set(indices)]
        assert len(counts) == different
        assert max(counts) <= repeats
        assert size - (repeats - 1) * different <= counts.count(max(counts)) <= different
        seen += set(indices)
    assert len(seen) == len(set(seen)) == n // different * different


@pytest.mark.parametrize("resident", [True, False])
def test_samples_are_images_drawn_by_the_global_generator(resident: bool) -> None:
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    data = Batches(images, None, [0.0], [1.0], batch_size=4, seed=0, device="cpu", resident=resident)
    torch.manual_seed(3)
    drawn = data.sample(2000)
    assert drawn.shape == (2000, 1, 1, 1)
    counts = torch.bincount((drawn * 255).round().long().flatten(), minlength=40)
    assert len(counts) == 40  # every image, and nothing else
    assert counts.min() > 20
    assert counts.max() < 90
    torch.manual_seed(3)
    assert torch.equal(data.sample(2000), drawn)
    assert not torch.equal(data.sample(2000), drawn)


def test_orders_differ_between_epochs_and_between_seeds() -> None:
    orders = [tuple(batches(50, 5, seed).order(epoch).tolist()) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_the_sampler_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    batches(10, 3).at(7)
    assert torch.equal(before, torch.get_rng_state())


@given(height=st.integers(1, 5), width=st.integers(1, 5), channels=st.integers(1, 13))
def test_a_batch_holds_the_images_and_labels_at_its_indices(height: int, width: int, channels: int) -> None:
    shape = (height, width, channels)
    values = np.random.default_rng(9).integers(0, 256, (9, *shape), dtype=np.uint8)
    images, labels, indices = batches(9, 4, shape=shape).at(1)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert labels is not None
    assert labels.tolist() == [i % 7 for i in indices.tolist()]
    np.testing.assert_allclose(images.permute(0, 2, 3, 1), values[indices] / 255, rtol=1e-6)


def test_chunks_walk_through_all_images_in_order_and_normalise_each_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 3, 2), dtype=np.uint8)
    images.flags.writeable = False
    mean, std = [0.1, 0.7], [0.5, 0.25]
    data = Batches(images, None, mean, std, batch_size=4, seed=0, device="cpu")
    chunks = list(data.chunks())
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(torch.cat(chunks).permute(0, 2, 3, 1), expected, atol=1e-5)
    assert data.at(0)[1] is None


@pytest.mark.filterwarnings("error")
def test_a_read_only_greyscale_set_is_copied_not_shared() -> None:
    images = np.zeros((3, 2, 2, 1), dtype=np.uint8)
    images.flags.writeable = False
    data = Batches(images, None, [0.0], [1.0], batch_size=2, seed=0, device="cpu")
    data.at(0)[0].fill_(1)
    next(data.chunks()).fill_(1)
    assert not images.any()
    assert not data.at(0)[0].any()


@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), parts=st.sampled_from([1, 2]), jump=st.integers(0, 30))
def test_images_that_stay_on_the_disk_come_in_the_same_batches(n: int, batch_size: int, parts: int, jump: int) -> None:
    images = np.random.default_rng(n).integers(0, 256, (n, 3, 2, 2), dtype=np.uint8)
    images.flags.writeable = False
    size = max(parts, min(n, batch_size) // parts * parts)
    if size > n:
        return
    common = {"mean": [0.1, 0.2], "std": [1.0, 2.0], "batch_size": size, "seed": 1, "device": "cpu"}
    kept, streamed = (Batches(images, np.arange(n), resident=resident, **common) for resident in (True, False))
    for step in [*range(2 * kept.steps_per_epoch), jump]:
        for part in range(parts):
            for a, b in zip(kept.at(step, part, parts), streamed.at(step, part, parts), strict=True):
                assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(kept.chunks(), streamed.chunks(), strict=True))


def test_a_set_larger_than_the_memory_left_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((10, 4, 4, 1), np.uint8)
    for free, resident in ((320, True), (319, False)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert Batches(images, None, [0.0], [1.0], batch_size=2, seed=0, device="cpu").resident is resident


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        batches(0, 4)
