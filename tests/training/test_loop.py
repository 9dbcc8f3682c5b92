"""The loop: an interrupted run ends where the uninterrupted one does, and a failing one can be replayed."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import Small
from torch import Tensor, nn

from pocketvit.config import ModelConfig, OptimConfig
from pocketvit.errors import UserError
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.training import checkpoint, loop
from pocketvit.training.batches import Batches
from pocketvit.training.checkpoint import BEFORE, NEWEST, REPLAY, WRITTEN, capture, read, save_state
from pocketvit.training.device import make_accelerator
from pocketvit.training.log import RunLog
from pocketvit.training.loop import train
from pocketvit.training.optimizer import learning_rate, make_optimizer
from pocketvit.training.pretrain import verdict
from pocketvit.training.schedule import Deadlines
from pocketvit.training.stage import TrainResult
from pocketvit.training.step import GradientStep
from pocketvit.training.stops import Interrupted, NonFiniteLoss, Paused

CONFIG = OptimConfig(epochs=3, batch_size=8, lr=1e-2, clip=1.0, ema=0.9, layer_decay=0.8)
STEPS = 15  # of CONFIG on 40 images
CONFIGS = {
    "adamw": CONFIG,
    "muon": replace(CONFIG, optimizer="muon"),
    "lion": replace(CONFIG, optimizer="lion"),
    "schedule-free": replace(CONFIG, optimizer="schedule-free", ema=0.0),
}


pytestmark = pytest.mark.usefixtures("checkpoint_after_every_step")


class Killed(BaseException):
    """Stands for a death that nothing in the loop may catch."""


def classifier(seed: int = 0, depth: int = 2, drop_path: float = 0.1) -> ViT:
    torch.manual_seed(seed)
    return ViT(ViTShape((4, 4, 1), patch=2, width=8, depth=depth, heads=2, mlp_ratio=2.0), 3, drop_path)


def ordinary_loss(model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """Draws from the global generator, as augmentation does."""
    return nn.functional.cross_entropy(model(images + 0.1 * torch.randn_like(images)), labels)


def fails_at(step: int, action: Callable[[], None]) -> Callable[[nn.Module, Tensor, Tensor | None], Tensor]:
    """An ordinary loss that does `action` when it is called for the `step`-th time (counted from 0)."""
    calls = iter(range(1000))

    def loss(model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        if next(calls) == step:
            action()
        return ordinary_loss(model, images, labels)

    return loss


def run(
    folder: Path | None,
    loss: Callable[[nn.Module, Tensor, Tensor | None], Tensor] = ordinary_loss,
    config: OptimConfig = CONFIG,
    model_seed: int = 0,
    images: np.ndarray | None = None,
    deadlines: Deadlines = Deadlines(),  # noqa: B008
    compilation: str = "never",
) -> TrainResult:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8) if images is None else images
    labels = rng.integers(0, 3, 40)
    batches = Batches(images, labels, [0.5], [0.3], batch_size=config.batch_size, seed=5, device="cpu")
    read = lambda model: {"weight": next(model.parameters()).sum().item()}  # noqa: E731
    objective = Small(classifier(model_seed), batches, loss, read)
    step = GradientStep(objective, config, make_accelerator("cpu", "float32"), seed=5)
    return train(step, RunLog(folder), {"stage": "test"}, folder=folder, deadlines=deadlines, compilation=compilation)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("optimizer", CONFIGS)
@pytest.mark.parametrize("step", [1, 7, STEPS - 1])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, step: int, optimizer: str) -> None:
    config = CONFIGS[optimizer]
    whole = run(None, config=config)
    with pytest.raises(Killed):
        run(tmp_path, fails_at(step, kill), config)
    # Another initial seed, so that nothing but the checkpoint can bring the weights back.
    resumed = run(tmp_path, config=config, model_seed=99)
    assert same_weights(resumed.model, whole.model)
    assert [r["weight"] for r in resumed.history] == [r["weight"] for r in whole.history]
    assert resumed.steps == whole.steps == STEPS


def test_every_optimizer_ends_elsewhere() -> None:
    ends = [run(None, config=replace(config, ema=0.0)).model for config in CONFIGS.values()]
    assert not any(same_weights(a, b) for a, b in itertools.combinations(ends, 2))


def test_without_the_checkpoint_the_same_start_would_differ(tmp_path: Path) -> None:
    assert not same_weights(run(None).model, run(None, model_seed=99).model)


def test_a_resumed_run_keeps_the_readings_and_the_time_of_the_first_part(tmp_path: Path) -> None:
    whole = run(None)
    with pytest.raises(Killed):
        run(tmp_path, fails_at(11, kill))
    before, cpu_before = (read(tmp_path / NEWEST).notes[name] for name in ("seconds", "cpu_seconds"))
    resumed = run(tmp_path)
    assert [r["step"] for r in resumed.history] == [5, 10, 15]
    assert [r["weight"] for r in resumed.history] == [r["weight"] for r in whole.history]
    assert resumed.seconds > before > 0
    assert resumed.cpu_seconds > cpu_before > 0


@pytest.mark.parametrize("optimizer", CONFIGS)
def test_resuming_after_the_last_step_trains_no_more_and_still_has_readings(tmp_path: Path, optimizer: str) -> None:
    first = run(tmp_path, config=CONFIGS[optimizer])
    again = run(tmp_path, fails_at(0, kill), CONFIGS[optimizer], model_seed=99)
    assert same_weights(first.model, again.model)
    assert again.history == first.history


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_says_which(tmp_path: Path, number: signal.Signals) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"{number.name}.*--resume") as stopped:
        run(tmp_path, fails_at(6, lambda: os.kill(os.getpid(), number)))
    assert stopped.value.signum == number
    assert signal.getsignal(number) is handler
    assert read(tmp_path / NEWEST).step == 7
    assert same_weights(run(tmp_path, model_seed=99).model, run(None).model)


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert capfd.readouterr().err.count("Ctrl-C once more") == 1
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fails_at(6, twice))


def test_a_loss_that_is_not_finite_names_the_step_and_can_be_replayed(tmp_path: Path) -> None:
    images = np.full((40, 4, 4, 1), 100, dtype=np.uint8)
    images[17] = 255  # one image breaks the loss: the step at which its batch comes, and no other

    def loss(model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        return ordinary_loss(model, images, labels) * (math.nan if images.max() == 1 else 1.0)

    order = Batches(images, None, [0.5], [0.3], batch_size=8, seed=5, device="cpu")
    step = next(s for s in range(5) if 17 in order.at(s)[2])
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(NonFiniteLoss, match=f"not finite at step {step}:") as failed:
        run(first, loss, images=images)
    assert str(first / "replay.safetensors") in str(failed.value)
    second.mkdir()
    shutil.copyfile(first / "replay.safetensors", second / "checkpoint.safetensors")
    with pytest.raises(NonFiniteLoss, match=f"not finite at step {step}:"):
        run(second, loss, images=images, model_seed=99)
    replays = [load_file(folder / "replay.safetensors") for folder in (first, second)]
    assert replays[0].keys() == replays[1].keys()
    assert all(torch.equal(replays[0][key], replays[1][key]) for key in replays[0])


def test_an_infinite_loss_without_a_folder_still_names_the_step() -> None:
    with pytest.raises(NonFiniteLoss, match="not finite at step 0: lower --lr"):
        run(None, lambda model, images, labels: ordinary_loss(model, images, labels) * math.inf)


def flipped(content: bytes) -> bytes:
    """One bit of the last number is another: nothing but a checksum can tell."""
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES = [lambda content: b"", lambda content: b"not safetensors at all", lambda content: content[:-40], flipped]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, fails_at(11, kill))
    file = tmp_path / NEWEST
    assert (read(file).step, read(tmp_path / BEFORE).step) == (11, 10)
    file.write_bytes(damage(file.read_bytes()))
    assert same_weights(run(tmp_path, model_seed=99).model, run(None).model)
    assert "going on from the one before it, of step 10" in capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES)
def test_two_damaged_checkpoints_are_the_users_to_mend(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run(tmp_path)
    for file in (tmp_path / NEWEST, tmp_path / BEFORE):
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: not a checkpoint of this run .*start afresh"):
        run(tmp_path)


def test_killed_between_two_files_the_one_before_is_there(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, fails_at(11, kill))
    (tmp_path / NEWEST).unlink()
    assert same_weights(run(tmp_path, model_seed=99).model, run(None).model)


def test_a_checkpoint_that_cannot_be_written_costs_neither_of_those_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest is damaged, and the one before all that there is to go on from."""
    with pytest.raises(Killed):
        run(tmp_path, fails_at(11, kill))
    (tmp_path / NEWEST).write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", lambda *_: kill())
        with pytest.raises(Killed):
            run(tmp_path, model_seed=99)
    assert same_weights(run(tmp_path, model_seed=99).model, run(None).model)


def test_killed_before_a_checkpoint_has_its_name_it_is_found(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, fails_at(11, kill))
    (tmp_path / NEWEST).rename(tmp_path / WRITTEN)
    (tmp_path / BEFORE).write_bytes(b"damaged")
    assert same_weights(run(tmp_path, model_seed=99).model, run(None).model)


def test_a_pause_saves_and_stops_and_resuming_ends_with_the_same_bits(tmp_path: Path) -> None:
    for part in range(3):
        with pytest.raises(Paused, match="--resume"):
            run(tmp_path, model_seed=99 if part else 0, deadlines=Deadlines(pause=0))
    assert read(tmp_path / NEWEST).step == 3  # at least a step each time, so that slices end
    assert same_weights(run(tmp_path, model_seed=99).model, run(None).model)


@pytest.mark.parametrize("optimizer", CONFIGS)
def test_losses_are_read_late_and_readings_and_weights_are_the_same(
    monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    often = run(None, config=CONFIGS[optimizer])
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 60.0)
    seldom = run(None, config=CONFIGS[optimizer])
    assert same_weights(often.model, seldom.model)
    assert [r["train_loss"] for r in often.history] == [r["train_loss"] for r in seldom.history]


def test_a_failing_step_is_replayed_though_its_loss_was_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "killed", fails_at(8, kill))
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 60.0)
    seed_of_step_8 = 5 * 1_000_003 + 8

    def loss(model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        return ordinary_loss(model, images, labels) * (math.nan if torch.initial_seed() == seed_of_step_8 else 1.0)

    # Steps 6 to 9 are read together; what is kept is the state before step 8.
    with pytest.raises(NonFiniteLoss, match="not finite at step 8:"):
        run(tmp_path, loss)
    kept, expected = read(tmp_path / REPLAY), read(tmp_path / "killed" / NEWEST)
    assert (kept.step, expected.step) == (8, 8)
    assert all(torch.equal(kept.tensors[name], expected.tensors[name]) for name in expected.tensors)


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    model = classifier(depth=1)
    save_state(tmp_path, capture(3, make_optimizer(model, CONFIG), {"model": model}))
    with pytest.raises(UserError, match="not a checkpoint of this run"):
        run(tmp_path)


def test_the_moving_average_is_what_a_stage_gives_back() -> None:
    averaged, plain = run(None), run(None, config=OptimConfig(**{**vars(CONFIG), "ema": 0.0}))
    assert not same_weights(averaged.model, plain.model)
    assert isinstance(averaged.model, ViT)
    assert not averaged.model.training


def test_schedule_free_is_read_and_given_back_with_averaged_weights(tmp_path: Path) -> None:
    result = run(tmp_path, config=CONFIGS["schedule-free"])
    kept = read(tmp_path / NEWEST).tensors  # in training mode
    groups = make_optimizer(result.model, CONFIGS["schedule-free"]).param_groups
    order = [id(p) for group in groups for p in group["params"]]
    for name, parameter in result.model.named_parameters():
        trained, fastest = kept[f"model/{name}"], kept[f"optimizer/{order.index(id(parameter))}/z"]
        # What is trained lies a tenth of the way from the average to the fastest iterate.
        torch.testing.assert_close(parameter.detach(), (trained - 0.1 * fastest) / 0.9)
        assert not torch.equal(parameter, trained)
    first = next(result.model.parameters()).sum().item()
    assert result.history[-1]["weight"] == pytest.approx(first, rel=1e-5)


def test_a_rate_for_another_batch_size_is_scaled_to_this_one_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    scaled = run(None, config=replace(CONFIG, lr=2e-2, min_lr=2e-3, lr_base_size=16))
    assert capsys.readouterr().err.count("training: peak learning rate 0.01, for batches of 8 images\n") == 1
    plain = run(None, config=replace(CONFIG, lr=1e-2, min_lr=1e-3))
    assert "peak learning rate" not in capsys.readouterr().err
    assert same_weights(scaled.model, plain.model)
    assert [r["lr"] for r in scaled.history] == [r["lr"] for r in plain.history]


def test_rates_scale_with_the_batches_that_a_small_set_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    run(None, config=replace(CONFIG, batch_size=100, lr=1e-2, lr_base_size=80))
    assert "peak learning rate 0.005, for batches of 40 images" in capsys.readouterr().err


SPARED = ("bias", "norm.weight", "norm1.weight", "norm2.weight", "pos_embed", "mask_token")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["classifier", "mae"])
def test_every_parameter_is_in_one_group_with_its_layers_rate_and_decay(kind: str, name: str) -> None:
    config = ModelConfig(patch=2, width=8, depth=3, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2)
    model = classifier(depth=3) if kind == "classifier" else MaskedAutoencoder(config, (4, 4, 1))
    optimizer = make_optimizer(model, OptimConfig(layer_decay=0.5, weight_decay=0.3, optimizer=name))
    groups = [(id(p), group) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(i for i, _ in groups) == sorted(id(p) for p in model.parameters())
    of = dict(groups)
    # Embedding, three layers, then the head (or the decoder) with the last norm.
    scales = {"patch_embed": 0.5**4, "pos_embed": 0.5**4, "blocks.0": 0.5**3, "blocks.1": 0.25, "blocks.2": 0.5}
    for name, parameter in model.named_parameters():
        group = of[id(parameter)]
        scale = next((v for k, v in scales.items() if name.removeprefix("encoder.").startswith(k)), 1.0)
        assert (name, group["lr_scale"]) == (name, scale)
        assert (name, group["weight_decay"]) == (name, 0.0 if name.endswith(SPARED) else 0.3)


@pytest.mark.parametrize("optimizer", CONFIGS)
def test_frozen_parameters_are_in_no_group(optimizer: str) -> None:
    model = classifier()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    groups = make_optimizer(model, OptimConfig(optimizer=optimizer)).param_groups
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.head.parameters()}


def test_the_rate_rises_linearly_to_its_peak_and_falls_as_a_cosine() -> None:
    config = OptimConfig(lr=1.0, min_lr=0.2, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0.2 < rates[-1] < 0.202


def test_a_single_step_has_a_rate_above_0() -> None:
    assert learning_rate(0, 1, OptimConfig(lr=1.0)) > 0.5


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        ([1.0, 0.8, 0.6, 0.4, 0.2], "still falling"),
        ([1.0, 0.5, 0.4, 0.4, 0.4, 0.4, 0.399], "flat"),
        ([1.0], "too few readings to tell"),
        ([1.0, 0.8, 0.6, 0.4], "too few readings to tell"),
        ([1.0, 0.6, 0.4, 0.5, 0.6], "overfitting"),
        ([1.0, 0.5, 1.2], "diverged"),
        ([1.0, 0.5, math.nan], "diverged"),
        ([1.0, math.inf], "diverged"),
    ],
)
def test_the_verdict_in_words(losses: list[float], word: str) -> None:
    assert verdict(losses) == word
