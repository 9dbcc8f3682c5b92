"""Contrast of two views beside reconstruction: its loss is the papers', and what is kept is a masked autoencoder."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pocketvit
from pocketvit.config import DataConfig, Settings, resolve
from pocketvit.data import Dataset, load
from pocketvit.data.structures import Split
from pocketvit.draws import sharing
from pocketvit.errors import UserError
from pocketvit.model import weights
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.stages.arms import arms_of
from pocketvit.training.checkpoint import NEWEST, read
from pocketvit.training.device import make_accelerator
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.memory import step_bytes
from pocketvit.training.objectives import PRETRAINING
from pocketvit.training.objectives.contrast import Contrast, ContrastiveMAE, nt_xent
from pocketvit.training.objectives.mae import MaskedAutoencoding
from pocketvit.training.pretrain import pretraining
from pocketvit.training.schedule import Deadlines
from pocketvit.training.stops import Paused

SIZES = {
    "model.patch": 2, "model.width": 16, "model.depth": 2, "model.heads": 2, "model.decoder_width": 16,
    "model.decoder_depth": 1, "model.decoder_heads": 2, "pretrain.batch_size": 32, "pretrain.epochs": 1,
}  # fmt: skip
CPU = make_accelerator("cpu", "float32")


def settings(**more: Any) -> Settings:
    return resolve(**{**SIZES, "mask_ratio": 0.5, **more})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load("digits", DataConfig())
    return dataclasses.replace(whole, train=Split(whole.train.images[:200], None))


def objective(digits: Dataset, **more: Any) -> Contrast:
    made = Contrast(digits, settings(**more), CPU)
    assert isinstance(made.network, ContrastiveMAE)
    return made


def projected(network: torch.nn.Module) -> list[Tensor]:
    """Where what goes into the projector is put from now on."""
    seen: list[Tensor] = []
    assert isinstance(network, ContrastiveMAE)
    network.projector.register_forward_hook(lambda module, args, output: seen.append(args[0].detach()))
    return seen


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_equation_1_of_simclr(temperature: float) -> None:
    views = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 11)[:, None]
    z = views.double().numpy()
    similar = [[a @ b / math.sqrt(a @ a * (b @ b)) for b in z] for a in z]
    total = 0.0
    for i in range(10):
        other = (i + 5) % 10
        among = sum(math.exp(similar[i][k] / temperature) for k in range(10) if k != i)
        total -= math.log(math.exp(similar[i][other] / temperature) / among)
    assert nt_xent(views, temperature).item() == pytest.approx(total / 10, rel=1e-5)
    # A single image has nothing to be told from.
    assert nt_xent(views[[0, 5]], temperature).item() == 0


@pytest.mark.parametrize("share", [None, 0.5])
def test_reconstruction_is_that_of_the_masked_autoencoder(digits: Dataset, share: float | None) -> None:
    network = objective(digits).network
    images, noise = torch.randn(12, 1, 8, 8), torch.rand(12, 16)
    found = network(images, 0.5, noise, share)
    assert torch.equal(found.reconstruction, network.mae(images[:6], 0.5, noise[:6], share).loss)
    assert found.loss.item() == pytest.approx((found.reconstruction + 0.3 * found.contrast).item())
    assert torch.equal(objective(digits, **{"contrast.weight": 0.0}).network(images, 0.5, noise, share).loss,
                       found.reconstruction)  # fmt: skip


def test_contrast_is_of_the_two_views_and_reaches_the_encoder_alone(digits: Dataset) -> None:
    network = objective(digits).network
    images, noise = torch.randn(12, 1, 8, 8), torch.rand(12, 16)
    seen = projected(network)
    found = network(images, 0.5, noise)
    assert torch.equal(found.contrast, nt_xent(network.projector(seen[0]), 0.2))
    # Read of both views' visible patches alone, as of any other image that is masked so.
    visible = noise.argsort(dim=1)[:, :8].sort(dim=1).values
    torch.testing.assert_close(seen[0], network.mae.encoder.features(images, visible))
    found.contrast.backward()
    assert network.mae.encoder.patch_embed.weight.grad.abs().sum() > 0
    assert all(p.grad is None for name, p in network.mae.named_parameters() if name.startswith("decoder"))


def test_the_views_of_an_image_differ_in_augmentation_and_in_masks(digits: Dataset) -> None:
    made = objective(digits)
    images = torch.rand(6, 1, 8, 8)
    first, second = made.augment(images).chunk(2)
    assert first.shape == images.shape
    assert not torch.isclose(first, second).all(dim=(1, 2, 3)).any()
    seen = projected(made.network)
    Contrast.views_loss(made.settings, made.network, torch.cat([images, images]))
    first, second = seen[0].chunk(2)
    assert not torch.isclose(first, second).all(dim=1).any()


def test_processes_draw_the_views_and_masks_that_one_would(digits: Dataset) -> None:
    made = objective(digits)
    network, images = made.network.eval(), torch.rand(8, 1, 8, 8)
    seen = projected(network)

    def views(some: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels, and what is read of them, (2, B, ...)."""
        torch.manual_seed(0)
        pixels = made.augment(some)
        made.views_loss(made.settings, network, pixels)
        return pixels.unflatten(0, (2, -1)), seen[-1].unflatten(0, (2, -1))

    whole = views(images)
    for rank in range(2):
        own = slice(4 * rank, 4 * rank + 4)
        with sharing(rank, 2):
            for one, all_of_it in zip(views(images[own]), whole, strict=True):
                torch.testing.assert_close(one, all_of_it[:, own])


def test_the_held_out_loss_is_the_same_twice_draws_nothing_and_has_maes_masks(digits: Dataset) -> None:
    made = objective(digits, **{"contrast.weight": 0.0})
    before = torch.get_rng_state()
    (first,) = made.read(made.network, 1, False).values()
    assert torch.equal(torch.get_rng_state(), before)
    assert made.read(made.network, 2, True) == {"heldout_loss": first}
    mae = MaskedAutoencoding(digits, settings(), CPU)
    # From one seed, they begin with the same weights.
    assert first == mae.read(mae.network, 1, False)["heldout_loss"]
    weighed = objective(digits)
    (more,) = weighed.read(weighed.network, 1, False).values()
    # Untrained, it picks by chance among all the others.
    assert (more - first) / 0.3 == pytest.approx(math.log(2 * len(digits.val) - 1), rel=0.05)


def test_training_goes_on_where_it_stopped_and_lowers_the_held_out_loss(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketvit.training.loop.SETTLE_SECONDS", 0.0)
    log, tags = RunLog(quiet=True), {"stage": "p"}
    longer = settings(**{"pretrain.epochs": 4, "pretrain.ema": 0.9, "pretrain.lr": 5e-3})
    step = lambda: pretraining(digits, longer, CPU, "contrast")  # noqa: E731
    whole = train(step(), log, tags)
    with pytest.raises(Paused):
        train(step(), log, tags, folder=tmp_path, deadlines=Deadlines(pause=0.0))
    kept = read(tmp_path / NEWEST).tensors
    assert {name.split("/")[0] for name in kept if "projector.1.running_mean" in name} == {"model", "average"}
    resumed = train(step(), log, tags, folder=tmp_path)
    for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    losses = [reading["heldout_loss"] for reading in whole.history]
    assert losses[-1] < losses[0]


def test_a_step_takes_the_memory_of_both_views(digits: Dataset) -> None:
    cpu, about = torch.device("cpu"), settings()
    mae, both = (step_bytes("pretrain", digits.shape, 10, about, cpu, False, kind) for kind in PRETRAINING)
    assert both[0] > mae[0]  # the projector's weights
    assert 1.3 < both[1] / mae[1] < 2


def test_all_arms_are_those_that_are_usual() -> None:
    assert [arm.name for arm in arms_of(Settings())] == ["mae", "random", "resnet"]
    assert [arm.name for arm in arms_of(Settings(arms="random,contrast"))] == ["contrast", "random"]


def test_the_budget_of_contrast_is_that_of_two_encoders_and_a_decoder() -> None:
    mae, both = (pocketvit.budget(recipe="digits", size=8, channels=1, arms=arms) for arms in ("all", "contrast"))
    assert mae["macs"] == both["macs"]
    assert 1.3 < both["pretrain_macs"] / mae["pretrain_macs"] < 2
    assert both["pretrain_params"] - mae["pretrain_params"] == 96 * 256 + 2 * 256 + 256 * 64 + 64


def test_a_fit_with_contrast_compares_it_and_its_weights_serve_as_maes_do(tmp_path: Path) -> None:
    short = {
        **{name: value for name, value in SIZES.items() if name != "model.patch"}, "finetune.epochs": 1,
        "finetune.min_steps": 2, "labels_per_class": 5, "seeds": 1, "device": "cpu", "precision": "float32",
    }  # fmt: skip
    run = pocketvit.fit("digits", recipe="digits", out=tmp_path / "run", arms="mae,contrast,random", **short)
    (table,) = run.summary["finetune"]
    assert list(table["arms"]) == ["mae", "contrast", "random"]
    assert set(run.summary["pretrain"]) == {"mae", "contrast"}
    assert set(run.summary["probe"]) == {"mae", "contrast", "random"}
    assert [(gain["arm"], gain["over"]) for gain in table["gains"]] == [("mae", "random"), ("contrast", "random")]
    assert "MAE + contrast, fine-tuned" in (run.path / "report.html").read_text().replace("\u00a0", " ")
    file = run.path / "contrast.safetensors"
    network, meta = weights.load(file)
    assert isinstance(network, MaskedAutoencoder)
    assert meta.kind == "mae"
    (run.path / "mae.safetensors").unlink()
    assert pocketvit.reconstruct("digits", model=run, out=tmp_path / "shown.png", count=2)
    assert 0 < pocketvit.probe("digits", model=file)["model"]["knn"] < 1
    more = {"arms": "contrast", "out": tmp_path / "tuned", **short}
    tuned = pocketvit.finetune("digits", init=file, recipe="digits", **more)
    assert list(tuned.summary["finetune"][0]["arms"]) == ["contrast"]
    with pytest.raises(UserError, match="init stands for one pre-training: name one of mae, contrast in "):
        pocketvit.fit("digits", init=file, recipe="digits", **{**more, "arms": "mae,contrast"})
    # Trained alone, it is the same.
    alone = pocketvit.pretrain("digits", recipe="digits", **{**more, "out": tmp_path / "alone"})
    assert set(alone.summary["pretrain"]) == {"contrast"}
    assert (alone.path / "model.safetensors").read_bytes() == file.read_bytes()
    with pytest.raises(UserError, match="arms random: pretrain trains one arm: expected one that is pre-trained"):
        pocketvit.pretrain("digits", recipe="digits", arms="random", out=tmp_path / "none", **short)
