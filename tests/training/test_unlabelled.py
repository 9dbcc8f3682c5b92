"""Images without a label in fine-tuning: labels spread over a graph, and a teacher that is the network's average."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvit.config import DataConfig, Settings, resolve
from pocketvit.data import Dataset, label_subset, load
from pocketvit.data.structures import Split
from pocketvit.errors import UserError
from pocketvit.training.device import make_accelerator
from pocketvit.training.finetune import epoch_images, finetuning, unlabelled_images
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.memory import step_bytes
from pocketvit.training.objectives.supervised import Classification
from pocketvit.training.objectives.teaching import Student, held
from pocketvit.training.schedule import Deadlines
from pocketvit.training.spreading import Neighbours, neighbour_graph, read_off, spread
from pocketvit.training.step import GradientStep
from pocketvit.training.stops import Paused

SIZES = {"model.patch": 2, "model.width": 16, "model.depth": 2, "model.heads": 2, "resnet.depth": 8}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load("digits", DataConfig())
    return dataclasses.replace(whole, train=Split(whole.train.images[:600], whole.train.labels[:600]))


@pytest.fixture(scope="module")
def labelled(digits: Dataset) -> np.ndarray:
    assert digits.train.labels is not None
    return label_subset(digits.train.labels, per_class=5, seed=0, classes=digits.classes)


def settings(unlabelled: str, **more: Any) -> Settings:
    length = {"finetune.epochs": 1, "finetune.min_steps": 6, "finetune.batch_size": 16}
    return resolve(**SIZES, **length, **{"finetune.unlabelled": unlabelled, **more})


def made(digits: Dataset, labelled: np.ndarray, unlabelled: str, network: str = "vit", **more: Any) -> GradientStep:
    accelerator = make_accelerator("cpu", "float32")
    return finetuning(digits, labelled, settings(unlabelled, **more), accelerator, seed=0, init=None, network=network)


def trained(step: GradientStep) -> dict[str, torch.Tensor]:
    result = train(step, RunLog(quiet=True), {"stage": "f"})
    return Classification.classifier(result.model).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_spread_labels_are_right_and_keep_to_the_shares_of_the_classes(digits: Dataset, labelled: np.ndarray) -> None:
    soft, truth = Neighbours(digits).soft_labels(labelled), digits.train.labels
    assert truth is not None
    np.testing.assert_array_equal(np.flatnonzero(soft.known), labelled)
    np.testing.assert_array_equal(soft.values[labelled], np.eye(10)[truth[labelled]])
    np.testing.assert_allclose(soft.values.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(soft.values.mean(axis=0), 0.1, atol=0.005)
    assert (soft.values.argmax(axis=1) == truth)[~soft.known].mean() > 0.85
    # Smoothing is for what is certain.
    smoothed = soft.smoothed(0.1)
    np.testing.assert_allclose(smoothed[labelled].max(axis=1), 0.91, rtol=1e-5)
    np.testing.assert_array_equal(smoothed[~soft.known], soft.values[~soft.known])


def test_a_graph_of_many_pixels_is_measured_in_few_directions() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 200)).astype(np.float32)
    truth = np.arange(90) % 3
    points = centres[truth] + 0.3 * rng.normal(size=(90, 200)).astype(np.float32)
    graph = neighbour_graph(points[:60])
    assert graph.points.shape == (60, 60)
    soft = spread(graph, np.arange(3), truth[:3], 3)
    np.testing.assert_array_equal(soft.argmax(axis=1), truth[:60])
    np.testing.assert_array_equal(read_off(graph, soft, points[60:]).argmax(axis=1), truth[60:])


def test_images_that_no_label_reaches_are_shared_among_the_classes() -> None:
    """Two islands, labels on one of them alone; and pairs of images that are alike."""
    points = np.repeat(np.concatenate([np.arange(10.0), 1000 + np.arange(10.0)]), 2)[:, None].astype(np.float32)
    soft = spread(neighbour_graph(points), np.array([0, 19]), np.array([0, 1]), 2)
    assert np.isfinite(soft).all()
    assert soft[1, 0] > 0.9
    assert soft[18, 1] > 0.9
    np.testing.assert_allclose(soft[20:], 0.5, atol=0.1)


@pytest.mark.parametrize("network", ["vit", "resnet"])
@pytest.mark.parametrize("unlabelled", ["none", "graph", "teacher"])
def test_images_without_a_label_are_read_and_labels_outside_the_budget_never(
    digits: Dataset, labelled: np.ndarray, unlabelled: str, network: str
) -> None:
    images, labels = digits.train.images, digits.train.labels
    assert labels is not None
    poisoned, changed = np.full_like(labels, 7), 255 - images
    poisoned[labelled], changed[labelled] = labels[labelled], images[labelled]
    plain, blind, other = (
        trained(made(dataclasses.replace(digits, train=split), labelled, unlabelled, network))
        for split in (digits.train, Split(images, poisoned), Split(changed, labels))
    )
    assert same(plain, blind)
    assert same(plain, other) == (unlabelled == "none")


@pytest.mark.parametrize("unlabelled", ["graph", "teacher"])
def test_with_all_labels_there_is_nothing_to_add(digits: Dataset, unlabelled: str) -> None:
    everything = np.arange(len(digits.train))
    assert same(trained(made(digits, everything, unlabelled)), trained(made(digits, everything, "none")))


def test_an_epoch_is_of_what_has_a_label(digits: Dataset, labelled: np.ndarray) -> None:
    for unlabelled, others, epoch in (("none", 0, 50), ("graph", 550, 600), ("teacher", 550, 50)):
        config, step = settings(unlabelled).finetune, made(digits, labelled, unlabelled)
        assert unlabelled_images(digits, len(labelled), config) == others
        assert epoch_images(digits, len(labelled), config) == epoch == len(step.batches)


@pytest.mark.parametrize("network", ["vit", "resnet"])
def test_a_teacher_goes_on_where_it_stopped(
    digits: Dataset, labelled: np.ndarray, network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketvit.training.loop.SETTLE_SECONDS", 0.0)
    whole = trained(made(digits, labelled, "teacher", network))
    log, tags = RunLog(quiet=True), {"stage": "f"}
    with pytest.raises(Paused):
        train(made(digits, labelled, "teacher", network), log, tags, folder=tmp_path, deadlines=Deadlines(pause=0.0))
    resumed = train(made(digits, labelled, "teacher", network), log, tags, folder=tmp_path)
    assert same(Classification.classifier(resumed.model).state_dict(), whole)


def test_answers_are_held_to_the_prior_and_sharpened() -> None:
    torch.manual_seed(0)
    answers = (torch.randn(4000, 3) + torch.tensor([1.0, 0.0, 0.0])).softmax(dim=1)
    prior = torch.tensor([0.2, 0.3, 0.5])
    taught, sure = held(answers, answers.mean(dim=0), prior)
    torch.testing.assert_close(taught.sum(dim=1), torch.ones(4000))
    assert (answers.mean(dim=0) - prior).abs().max() > 0.25
    assert (taught.mean(dim=0) - prior).abs().max() < 0.1
    assert (taught.max(dim=1).values >= sure - 1e-6).all()
    # One that is as usual says nothing but the prior.
    plain, unsure = held(answers.mean(dim=0, keepdim=True), answers.mean(dim=0), prior)
    torch.testing.assert_close(unsure, prior.max()[None])
    assert plain.argmax() == 2


def test_the_teacher_is_the_average_and_sees_whole_images(
    digits: Dataset, labelled: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int, bool]] = []
    forward = Student.forward

    def recorded(self: Student, images: Any, visible: Any = None, others: Any = None, part: Any = None) -> Any:
        seen.append((self.training, len(images), torch.is_grad_enabled()))
        if others is not None:
            assert part.shape == (32, 8)  # of 16 patches
            assert visible is None
            assert others.shape == (32, 1, 8, 8)
        return forward(self, images, visible, others, part)

    monkeypatch.setattr(Student, "forward", recorded)
    step = made(digits, labelled, "teacher")
    step.run(0)
    assert seen == [(False, 32, False), (True, 16, True)]
    # What is evaluated and saved is the teacher.
    assert step.config.ema > 0
    average = step.finished()
    assert isinstance(average, Student)
    assert average is not step.objective.network


def test_a_step_with_a_teacher_takes_more_memory(digits: Dataset) -> None:
    cpu = torch.device("cpu")
    for network, times in (("vit", 2), ("resnet", 3)):
        plain, taught = (
            step_bytes("finetune", digits.shape, 10, settings(u), cpu, False, network)[1] for u in ("none", "teacher")
        )
        assert taught == pytest.approx(times * plain, rel=0.01)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"finetune.reconstruction": 1.0}, "finetune.reconstruction"),
        ({"finetune.optimizer": "schedule-free"}, "optimizer"),
    ],
)
def test_a_teacher_does_not_go_with_everything(more: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        settings("teacher", **more)
