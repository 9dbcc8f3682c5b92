"""Pre-training and fine-tuning on real digits, at sizes that take seconds."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvit.config import DataConfig, ModelConfig, Settings, resolve
from pocketvit.data import Dataset, label_subset, load
from pocketvit.data.structures import Split
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.weights import WeightsMeta
from pocketvit.training import batches
from pocketvit.training.batches import Batches
from pocketvit.training.device import make_accelerator
from pocketvit.training.finetune import finetuning, make_classifier
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.objectives.mae import MaskedAutoencoding
from pocketvit.training.objectives.supervised import Classification
from pocketvit.training.pretrain import pretraining
from pocketvit.training.stage import TrainResult

MODEL = ModelConfig(
    patch=2, width=16, depth=2, heads=2, mlp_ratio=2.0, decoder_width=16, decoder_depth=1, decoder_heads=2
)


def settings(**overrides: object) -> Settings:
    base = resolve(**{"pretrain.epochs": 6, "pretrain.batch_size": 64, "pretrain.lr": 5e-3, **overrides})
    return dataclasses.replace(base, model=dataclasses.replace(MODEL, decoder_attention=base.model.decoder_attention))


@pytest.fixture
def digits() -> Dataset:
    whole = load("digits", DataConfig())
    train = Split(whole.train.images[:400], whole.train.labels[:400])
    return dataclasses.replace(whole, train=train)


def pretrained(digits: Dataset, precision: str = "float32", **overrides: object) -> TrainResult:
    step = pretraining(digits, settings(**overrides), make_accelerator("cpu", precision))
    return train(step, RunLog(), {"stage": "pretrain"})


def finetuned(digits: Dataset, labelled: np.ndarray, init: Path | None = None, **overrides: object) -> TrainResult:
    s = settings(**{"finetune.epochs": 1, "finetune.min_steps": 8, "finetune.batch_size": 16, **overrides})
    accelerator = make_accelerator("cpu", "float32")
    result = train(finetuning(digits, labelled, s, accelerator, seed=0, init=init), RunLog(), {"stage": "f"})
    return dataclasses.replace(result, model=Classification.classifier(result.model))


@pytest.mark.parametrize(("attention", "share"), [("self", 1.0), ("self", 0.25), ("cross", 1.0), ("cross", 0.25)])
def test_pretraining_lowers_the_loss_on_held_out_images(digits: Dataset, attention: str, share: float) -> None:
    result = pretrained(digits, decode_share=share, **{"model.decoder_attention": attention})
    losses = [reading["heldout_loss"] for reading in result.history]
    assert len(losses) == 6
    assert losses[-1] < 0.95 * losses[0]
    # Held-out images are decoded whole, so that losses can be compared over shares.
    norm = {"mean": digits.mean, "std": digits.std, "device": "cpu", "seed": 0}
    (images,) = Batches(digits.val.images, None, batch_size=len(digits.val), **norm).chunks()
    noise = torch.rand(len(digits.val), 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = result.model(images, 0.75, noise)
    assert out.prediction.shape[:2] == (len(digits.val), 16)
    assert losses[-1] == pytest.approx(out.loss.item(), rel=1e-5)


def test_pretraining_decodes_the_share_it_is_told_to(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    forward = MaskedAutoencoder.forward

    def recorded(self: MaskedAutoencoder, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        counts.append((self.training, out.prediction.shape[1]))
        return out

    monkeypatch.setattr(MaskedAutoencoder, "forward", recorded)
    pretrained(digits, decode_share=0.25, **{"pretrain.epochs": 1})
    # 4 of 16 patches are visible, a quarter of the 12 others are sampled.
    assert set(counts) == {(True, 4 + 3), (False, 16)}


def test_pretraining_reads_no_labels(digits: Dataset) -> None:
    bare = dataclasses.replace(
        digits, classes=(), test=None, train=Split(digits.train.images, None), val=Split(digits.val.images, None)
    )
    with_labels, without = pretrained(digits), pretrained(bare)
    for a, b in zip(with_labels.model.state_dict().values(), without.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_held_out_loss_is_the_same_twice_and_draws_nothing(digits: Dataset) -> None:
    objective = MaskedAutoencoding(digits, settings(), make_accelerator("cpu", "float32"))
    before = torch.get_rng_state()
    first = objective.read(objective.network, 1, False)
    assert torch.equal(torch.get_rng_state(), before)
    assert objective.read(objective.network, 2, True) == first
    swapped = dataclasses.replace(digits, val=Split(digits.val.images[::-1].copy(), digits.val.labels))
    other = MaskedAutoencoding(swapped, settings(), make_accelerator("cpu", "float32"))
    assert other.read(other.network, 1, False) != first  # each image has a mask of its own


def test_how_often_a_run_is_evaluated_changes_nothing(digits: Dataset) -> None:
    """The kNN reading and the held-out loss come between two steps, and must not move the random stream."""
    calls = []
    accelerator, every = make_accelerator("cpu", "float32"), settings(**{"pretrain.knn_every": 1})
    knn = lambda vit: float(len(calls.append(1) or calls))  # noqa: E731
    read = train(pretraining(digits, every, accelerator, knn=knn), RunLog(), {"stage": "pretrain"})
    assert len(calls) == 6
    for a, b in zip(read.model.state_dict().values(), pretrained(digits).model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_bf16_trains_float32_weights_to_nearly_the_same_loss(digits: Dataset) -> None:
    half, full = pretrained(digits, "bf16"), pretrained(digits)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert half.history[-1]["heldout_loss"] == pytest.approx(full.history[-1]["heldout_loss"], rel=0.05)
    assert half.history[-1]["heldout_loss"] != full.history[-1]["heldout_loss"]


@pytest.mark.parametrize("reconstruction", [0.0, 1.0])
def test_labels_outside_the_budget_are_never_read(digits: Dataset, reconstruction: float) -> None:
    labels = digits.train.labels
    assert labels is not None
    labelled = label_subset(labels, per_class=5, seed=0, classes=digits.classes)
    assert len(labelled) == 50
    poisoned = np.full_like(labels, 7)
    poisoned[labelled] = labels[labelled]
    other = dataclasses.replace(digits, train=Split(digits.train.images, poisoned))
    joint = {"finetune.reconstruction": reconstruction}
    honest, blind = finetuned(digits, labelled, **joint), finetuned(other, labelled, **joint)
    for a, b in zip(honest.model.state_dict().values(), blind.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reconstruction", [0.0, 1.0])
def test_images_outside_the_budget_are_read_for_reconstruction_alone(digits: Dataset, reconstruction: float) -> None:
    changed = digits.train.images.copy()
    changed[50:] = 255 - changed[50:]
    other = dataclasses.replace(digits, train=Split(changed, digits.train.labels))
    joint = {"finetune.reconstruction": reconstruction}
    a, b = (finetuned(d, np.arange(50), **joint).model.state_dict() for d in (digits, other))
    assert list(a) == list(make_classifier(digits, settings(), 0, None).state_dict())  # no decoder
    assert all(torch.equal(a[name], b[name]) for name in a) == (reconstruction == 0)


def test_a_classifier_learns_to_reconstruct_beside(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    forward = MaskedAutoencoder.forward

    def recorded(self: MaskedAutoencoder, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        assert self.encoder.head.out_features == 10
        losses.append(out.loss.item())
        return out

    monkeypatch.setattr(MaskedAutoencoder, "forward", recorded)
    longer = {"finetune.reconstruction": 1.0, "finetune.min_steps": 300, "finetune.lr": 5e-3}
    straight = {"finetune.augment.crop_scale": 1.0}
    result = finetuned(digits, np.arange(400), **longer, **straight)
    assert len(losses) == 300
    assert np.mean(losses[-30:]) < 0.8 * np.mean(losses[:30])
    assert result.history[-1]["val_accuracy"] > 0.4


def test_a_label_inside_the_budget_is_read(digits: Dataset) -> None:
    labels = digits.train.labels
    assert labels is not None
    labelled = np.arange(50)
    changed = labels.copy()
    changed[:50] = (labels[:50] + 1) % 10
    other = dataclasses.replace(digits, train=Split(digits.train.images, changed))
    a, b = finetuned(digits, labelled).model, finetuned(other, labelled).model
    assert not torch.equal(a.head.weight, b.head.weight)


def test_a_frozen_encoder_keeps_its_bits_and_the_head_learns(digits: Dataset) -> None:
    s = settings()
    start = make_classifier(digits, s, 0, None).state_dict()
    model = finetuned(digits, np.arange(200), **{"finetune.freeze_encoder": True}).model
    for name, value in model.state_dict().items():
        assert (name, torch.equal(value, start[name])) == (name, not name.startswith("head."))


def test_fine_tuning_starts_from_the_weights_it_is_given(digits: Dataset, tmp_path: Path) -> None:
    mae = pretrained(digits).model
    assert isinstance(mae, MaskedAutoencoder)
    file = tmp_path / "model.safetensors"
    weights.save(file, mae, WeightsMeta("mae", MODEL, digits.shape, digits.mean, digits.std, digits.classes))
    started = make_classifier(digits, settings(), 0, file)
    for name, value in mae.encoder.state_dict().items():
        assert torch.equal(started.state_dict()[name], value)
    frozen = finetuned(digits, np.arange(200), file, **{"finetune.freeze_encoder": True}).model
    assert torch.equal(frozen.pos_embed, mae.encoder.pos_embed)


def test_layer_wise_decay_is_for_pretrained_weights_alone(digits: Dataset, tmp_path: Path) -> None:
    meta = WeightsMeta("mae", MODEL, digits.shape, digits.mean, digits.std, digits.classes)
    weights.save(tmp_path / "mae.safetensors", pretrained(digits, **{"pretrain.epochs": 1}).model, meta)
    for init, alike in ((None, True), (tmp_path / "mae.safetensors", False)):
        ends = [
            finetuned(digits, np.arange(100), init, **{"finetune.layer_decay": decay}).model.state_dict()
            for decay in (0.5, 1.0)
        ]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0]) == alike


def test_random_init_has_a_rate_of_its_own(digits: Dataset) -> None:
    def end(**changes: float) -> dict[str, torch.Tensor]:
        settings = {f"finetune.{name}": value for name, value in {"scratch_rate": 1.0, **changes}.items()}
        return finetuned(digits, np.arange(100), None, **settings).model.state_dict()

    doubled, same = end(scratch_rate=2.0, lr=1e-3, min_lr=1e-5), end(lr=2e-3, min_lr=2e-5)
    assert all(torch.equal(doubled[name], same[name]) for name in same)


def test_a_set_that_is_mapped_from_its_file_stays_there_where_all_of_it_is_labelled(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "RESIDENT_SHARE", 0.0)
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(200_000, *digits.shape))
    labels = np.resize(digits.train.labels, len(mapped))
    large = dataclasses.replace(digits, train=Split(mapped, labels))
    tracemalloc.start()
    try:
        finetuning(large, np.arange(len(labels)), settings(), make_accelerator("cpu", "float32"), seed=0, init=None)
        assert tracemalloc.get_traced_memory()[1] < mapped.nbytes / 2
    finally:
        tracemalloc.stop()


def test_fine_tuning_learns_from_few_labels(digits: Dataset) -> None:
    longer = {
        "finetune.min_steps": 400,
        "finetune.lr": 5e-3,
        "finetune.augment.crop_scale": 1.0,
    }
    history = finetuned(digits, np.arange(400), **longer).history
    assert history[-1]["val_accuracy"] > 0.5


def test_normalised_targets_of_one_value_are_refused(digits: Dataset) -> None:
    one = dataclasses.replace(MODEL, patch=1)
    with pytest.raises(UserError, match=r"normalise_targets.*larger --patch"):
        MaskedAutoencoder(one, digits.shape, normalise_targets=True)
