"""Processes that measure: what one cannot do is a note, and the others go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvit.config import ModelConfig
from pocketvit.edge.latency import BATCHES, Contestant, Worker, WorkerError, measured, thread_counts, work
from pocketvit.edge.runtimes import EAGER, NAMED
from pocketvit.model import weights
from pocketvit.model.weights import WeightsMeta


@pytest.fixture
def contestant(tmp_path: Path) -> Contestant:
    meta = WeightsMeta(
        "classifier", ModelConfig("digits", patch=4, width=16, depth=1, heads=2), (8, 12, 3), (0.4, 0.5, 0.6),
        (0.2, 0.25, 0.3), ("cat", "dog", "élan"),
    )  # fmt: skip
    torch.manual_seed(0)
    file, images, labels = (tmp_path / name for name in ("m.safetensors", "images.npy", "labels.npy"))
    weights.save(file, meta.build(), meta)
    # Fewer than a batch.
    np.save(images, np.random.default_rng(0).integers(0, 256, (20, 8, 12, 3), dtype=np.uint8))
    np.save(labels, np.zeros(20, np.int64))
    return Contestant("net", EAGER, file, 1000, images, labels, 20)


def test_a_file_that_cannot_be_read_or_a_process_that_dies_is_a_note(contestant: Contestant, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    half.write_bytes(contestant.file.read_bytes()[:100])
    broken = replace(contestant, network="half", runtime=NAMED["ONNX Runtime float32"], file=half)
    dying = replace(contestant, network="dying", runtime=replace(EAGER, library="no_such_library"))
    told: list[tuple[str, int]] = []
    rows, peaks, notes = measured([broken, contestant, dying], [1], 1, lambda what, images: told.append((what, images)))
    assert [row["network"] for row in rows] == ["net"] * len(BATCHES)
    assert [note.split(":")[0] for note in notes] == [
        "half, ONNX Runtime float32, 1 thread", "dying, PyTorch float32, 1 thread",
    ]  # fmt: skip
    assert "not an ONNX file, or a damaged one" in notes[0]
    assert "its process ended, status 1" in notes[1]
    assert [peak["precision"] for peak in peaks] == ["float32"]
    # What was promised for the one that ran is what was told.
    assert sum(images for _, images in told) == work([contestant], [1], 1)


def test_outputs_that_are_no_numbers_have_no_accuracy(contestant: Contestant) -> None:
    """Their likeliest class would be the first, always."""
    network, meta = weights.load(contestant.file)
    torch.nn.init.constant_(next(network.parameters()), float("nan"))
    weights.save(contestant.file, network, meta)
    with Worker("torch", 1) as worker, pytest.raises(WorkerError, match="outputs are no numbers"):
        worker.ask(
            "examine", runtime=str(EAGER), file=str(contestant.file), images=str(contestant.images),
            labels=str(contestant.labels), batches=[1],
        )  # fmt: skip


def test_a_worker_examines_a_file_and_takes_turns(contestant: Contestant) -> None:
    about: dict[str, Any] = {"runtime": str(EAGER), "file": str(contestant.file), "images": str(contestant.images)}
    with Worker("torch", 1) as worker:
        found = worker.ask("examine", **about, labels=str(contestant.labels), batches=[1, 32])
        assert found["load_seconds"] > 0
        one, many = found["peak_bytes"]
        assert one is None or 0 < one <= many
        assert 0 <= found["accuracy"] <= 1
        assert found["accuracy"] * 20 == pytest.approx(round(found["accuracy"] * 20))
        assert len(worker.ask("turn", **about, batch=32, calls=3)["seconds"]) == 3
        with pytest.raises(WorkerError, match="AttributeError"):
            worker.ask("nonsense")


def test_threads_are_one_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_counts()[0] == 1
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert thread_counts() == [1, 4]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3}, raising=False)
    assert thread_counts() == [1]
