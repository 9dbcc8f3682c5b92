"""Optimisers: each learns, has every parameter in one group, and says so where it is not installed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from pocketvit.cli import main
from pocketvit.config import ModelConfig, OptimConfig
from pocketvit.errors import UserError
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.training.optimizer import (
    Average,
    Joint,
    learning_rate,
    make_optimizer,
    optimizer_class,
    scaled,
    set_mode,
)

OPTIMIZERS = get_args(get_type_hints(OptimConfig)["optimizer"])


def classifier(depth: int = 2) -> ViT:
    torch.manual_seed(0)
    return ViT(ViTShape((4, 4, 1), patch=2, width=8, depth=depth, heads=2, mlp_ratio=2.0), 3)


def autoencoder() -> MaskedAutoencoder:
    sizes = {"patch": 2, "width": 8, "depth": 3, "heads": 2, "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    return MaskedAutoencoder(ModelConfig(**sizes), (4, 4, 1))


def loss_of(model: nn.Module) -> Tensor:
    """On 30 images of noise, always the same, with random labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(30, 1, 4, 4, generator=generator)
    return nn.functional.cross_entropy(model(images), torch.randint(3, (30,), generator=generator))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> float:
    """One step as the loop takes it; returns the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def test_there_are_four_optimizers() -> None:
    assert OPTIMIZERS == ("adamw", "muon", "lion", "schedule-free")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_at_a_rate_of_one_order(name: str) -> None:
    model = classifier()
    optimizer = make_optimizer(model, OptimConfig(optimizer=name))
    set_mode(optimizer, training=True)
    first = step(model, optimizer, 5e-3)
    for _ in range(79):
        step(model, optimizer, 5e-3)
    set_mode(optimizer, training=False)
    assert loss_of(model).item() < 0.6 * first


@pytest.mark.parametrize("kind", [classifier, autoencoder])
def test_muon_gets_the_matrices_inside_the_layers_and_nothing_else(kind: type) -> None:
    model = kind()
    optimizer = make_optimizer(model, OptimConfig(optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    muons = {names[id(p)] for group in optimizer.param_groups if "momentum" in group for p in group["params"]}
    layers = (
        [f"blocks.{i}" for i in range(2)]
        if kind is classifier
        else ["decoder_blocks.0", *(f"encoder.blocks.{i}" for i in range(3))]
    )
    assert muons == {f"{b}.{m}.weight" for b in layers for m in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_groups_of_equal_rate_and_decay_are_one_and_step_as_many_would(layer_decay: float) -> None:
    config = OptimConfig(layer_decay=layer_decay, weight_decay=0.1)
    model = classifier(depth=3)
    other = copy.deepcopy(model)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in other.named_parameters():
        groups.setdefault((other.layer_of(name), other.no_weight_decay(name, parameter)), []).append(parameter)
    many = torch.optim.AdamW(
        [
            {"params": found, "lr_scale": layer_decay ** (4 - layer), "weight_decay": 0.0 if spared else 0.1}
            for (layer, spared), found in groups.items()
        ],
        betas=(0.9, config.beta2), fused=True,
    )  # fmt: skip
    few = make_optimizer(model, config)
    assert len(many.param_groups) == 10
    assert len(few.param_groups) == (2 if layer_decay == 1 else 10)
    for _ in range(5):
        step(model, few, 3e-3)
        step(other, many, 3e-3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_pretraining_has_two_groups() -> None:
    assert len(make_optimizer(autoencoder(), OptimConfig()).param_groups) == 2


def test_muons_steps_on_matrices_are_as_large_as_adamws_and_the_rest_is_adamws() -> None:
    before, after = classifier(), {}
    for name in ("adamw", "muon"):
        after[name] = copy.deepcopy(before)
        step(after[name], make_optimizer(after[name], OptimConfig(optimizer=name, weight_decay=0.0)), 1e-3)
    for (name, old), adamw, muon in zip(
        before.named_parameters(), after["adamw"].parameters(), after["muon"].parameters(), strict=True
    ):
        if old.ndim == 2 and name.startswith("blocks."):
            # 0.2 * sqrt(longer side) times a matrix that five Newton-Schulz steps made nearly orthogonal, whose own
            # root mean square is 1 / sqrt(longer side).
            size = (muon - old).square().mean().sqrt().item() / 1e-3
            assert size == pytest.approx(0.2, rel=0.4), name
            assert not torch.equal(muon, adamw)
        else:
            assert torch.equal(muon, adamw), name


def test_where_no_layer_is_trained_muon_leaves_all_to_adamw() -> None:
    model = classifier()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    optimizer = make_optimizer(model, OptimConfig(optimizer="muon"))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.head.parameters()))


@pytest.mark.parametrize("loaded", [False, True])
def test_the_parts_of_a_joint_optimizer_share_what_it_loads(loaded: bool) -> None:
    """Rates that are set after a state was loaded reach the parts, and their moments are the loaded ones."""
    model = classifier()
    optimizer = make_optimizer(model, OptimConfig(optimizer="muon"))
    assert isinstance(optimizer, Joint)
    step(model, optimizer, 1e-3)
    other = copy.deepcopy(model)
    copied = make_optimizer(other, OptimConfig(optimizer="muon"))
    if loaded:
        copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, 3e-3)
    step(other, copied, 3e-3)
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)]
    assert all(same) if loaded else not any(same)


def test_schedule_free_evaluates_the_mean_of_its_iterates() -> None:
    model = classifier()
    optimizer = make_optimizer(model, OptimConfig(optimizer="schedule-free"))
    set_mode(optimizer, training=True)
    iterates = []
    for _ in range(5):
        step(model, optimizer, 1e-2)
        iterates.append({id(p): optimizer.state[p]["z"].clone() for p in model.parameters()})
    trained = {id(p): p.detach().clone() for p in model.parameters()}
    set_mode(optimizer, training=False)
    for p in model.parameters():
        # At a constant rate all iterates weigh the same (Defazio et al. 2024, equation 5).
        torch.testing.assert_close(p.detach(), torch.stack([z[id(p)] for z in iterates]).mean(dim=0))
        torch.testing.assert_close(trained[id(p)], 0.9 * p.detach() + 0.1 * iterates[-1][id(p)])
    assert not all(torch.allclose(trained[id(p)], p) for p in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_the_others_have_no_modes(name: str) -> None:
    model = classifier()
    optimizer = make_optimizer(model, OptimConfig(optimizer=name))
    step(model, optimizer, 1e-2)
    before = copy.deepcopy(model.state_dict())
    for training in (False, True):
        set_mode(optimizer, training)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_schedule_free_warms_up_and_then_keeps_its_rate() -> None:
    config = OptimConfig(lr=1.0, min_lr=0.2, warmup=0.1, optimizer="schedule-free")
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10:] == [1.0] * 90


def test_the_moving_average_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    values = [1.0, 3.0, -2.0, 5.0]
    with torch.no_grad():
        model.weight.fill_(values[0])
        average = Average(model, decay=0.15)
        average.update(0)  # the first is a copy
        expected = values[0]
        for count, value in enumerate(values[1:], start=1):
            model.weight.fill_(value)
            average.update(count)
            decay = min(0.15, (1 + count) / (10 + count))
            expected = decay * expected + (1 - decay) * value
    assert average.model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_statistics_of_a_norm_are_averaged_and_its_counter_is_copied() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(2)
    average = Average(norm, decay=0.15)
    average.update(0)
    expected = {"running_mean": norm.running_mean.clone(), "running_var": norm.running_var.clone()}
    for count in range(1, 4):
        norm(torch.randn(8, 2) * count + count)
        average.update(count)
        decay = min(0.15, (1 + count) / (10 + count))
        expected = {name: decay * value + (1 - decay) * norm.get_buffer(name) for name, value in expected.items()}
    for name, value in expected.items():
        torch.testing.assert_close(average.model.get_buffer(name), value)
        assert not torch.allclose(value, norm.get_buffer(name))
    assert average.model.num_batches_tracked == norm.num_batches_tracked == 3


def test_rates_scale_with_the_batch() -> None:
    config = OptimConfig(lr=1e-3, min_lr=1e-5, lr_base_size=256)
    small = scaled(config, 64)
    assert (small.lr, small.min_lr) == pytest.approx((2.5e-4, 2.5e-6))
    assert scaled(config, 256).lr == 1e-3
    assert scaled(small, 64) == small
    assert scaled(OptimConfig(lr=1e-3), 64) == OptimConfig(lr=1e-3)


def test_a_missing_optimizer_of_another_stage_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_away("lion", monkeypatch)
    sizes = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
    args = ["pretrain", "digits", *(f"--model.{k}={v}" for k, v in sizes.items()), "--epochs=1", "--device=cpu"]
    assert main([*args, "--finetune.optimizer=lion", "--out", str(tmp_path / "run")]) == 0


def take_away(name: str, patch: pytest.MonkeyPatch) -> str:
    """Make an optimiser one that is not installed; returns what shall bring it."""
    if name == "muon":
        patch.delattr(torch.optim, "Muon")
        return "install PyTorch 2.9 or newer"
    for module in [key for key in sys.modules if key.partition(".")[0] in ("lion_pytorch", "schedulefree")]:
        patch.delitem(sys.modules, module)
    for module in ("lion_pytorch", "schedulefree"):
        patch.setitem(sys.modules, module, None)
    return 'pip install "pocketvit[optim]"'


@pytest.mark.parametrize("name", ["muon", "lion", "schedule-free"])
@pytest.mark.parametrize(("verb", "stage"), [("pretrain", "pretrain"), ("fit", "finetune"), ("finetune", "finetune")])
def test_what_is_not_installed_is_named_before_anything_is_written(
    name: str,
    verb: str,
    stage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    remedy = take_away(name, monkeypatch)
    assert main([verb, "digits", f"--{stage}.optimizer", name, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"pocketvit: --{stage}.optimizer: {name} is not installed here: {remedy}\n"
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="not installed"):
        make_optimizer(classifier(), OptimConfig(optimizer=name))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_installed_is_found(name: str) -> None:
    assert issubclass(optimizer_class(name), torch.optim.Optimizer)
