"""The CNN beside the ViT: the sizes that its paper gives, what it computes, and its statistics wherever it goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pocketvit.config import FinetuneConfig, ResNetConfig
from pocketvit.errors import UserError
from pocketvit.model import ViT, ViTShape, WeightsMeta, load_encoder, weights
from pocketvit.model.costs import classifier_costs
from pocketvit.model.resnet import BasicBlock, ResNet
from pocketvit.training.finetune import form_of
from pocketvit.training.optimizer import Average, make_optimizer


@pytest.mark.parametrize(
    ("depth", "params", "macs"), [(20, 0.27, 41), (32, 0.46, 69), (44, 0.66, 97), (56, 0.85, 126), (110, 1.73, 253)]
)
def test_parameters_and_macs_are_the_published_ones(depth: int, params: float, macs: float) -> None:
    """Parameters of Table 6 of He et al.; MACs on images of 32 px as chenyaofo/pytorch-cifar-models gives them."""
    cost = classifier_costs("resnet", ResNetConfig(depth), (32, 32, 3), 10)
    assert cost.params / 1e6 == pytest.approx(params, abs=0.006)
    assert cost.macs / 1e6 == pytest.approx(macs, abs=1)
    assert cost.macs == cost.macs_computed == cost.macs_without_attention


@pytest.mark.parametrize("depth", [2, 7, 18, 21])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(UserError, match=r"--resnet.depth: \d+ is out of range: expected 6 n \+ 2"):
        ResNetConfig(depth)


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 3), (4, 4, 1), (32, 32, 3)])
def test_features_of_any_shape_of_image(shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    network = ResNet(8, channels, 5).eval()
    images = torch.randn(3, channels, height, width)
    assert network.features(images).shape == (3, network.width) == (3, 64)
    assert torch.equal(network(images), network.head(network.features(images)))


def test_a_block_adds_what_it_was_given() -> None:
    """With kernels of zeros, a block halves the resolution, keeps the channels and adds empty ones."""
    block = BasicBlock(2, 4, stride=2).eval()
    for kernel in (block.conv1, block.conv2):
        torch.nn.init.zeros_(kernel.weight)
    x = torch.randn(1, 2, 5, 6)
    expected = F.relu(torch.cat([x[:, :, ::2, ::2], torch.zeros(1, 2, 3, 3)], dim=1))
    assert torch.equal(block(x), expected)


def test_every_parameter_is_trained_once_and_norms_do_not_decay() -> None:
    network = ResNet(14, 3, 4)
    layers = [network.layer_of(name) for name, _ in network.named_parameters()]
    assert layers == sorted(layers)
    assert (layers[0], layers[-1]) == (0, 7)
    groups = make_optimizer(network, FinetuneConfig(weight_decay=0.1, layer_decay=1.0)).param_groups
    assert sum(len(group["params"]) for group in groups) == len(layers)
    kept = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in groups}
    assert kept == {0.1: {2, 4}, 0.0: {1}}


def test_running_statistics_are_averaged_with_the_weights_and_saved(tmp_path: Path) -> None:
    network = ResNet(8, 3, 2)
    average = Average(network, 0.5)
    average.update(0)
    network(torch.randn(16, 3, 8, 8) + 3)  # moves the statistics
    before, after = average.model.norm.running_mean.clone(), network.norm.running_mean
    average.update(1)
    decay = min(0.5, 2 / 11)
    torch.testing.assert_close(average.model.norm.running_mean, decay * before + (1 - decay) * after)
    assert average.model.norm.num_batches_tracked == 1

    meta = WeightsMeta("classifier", ResNetConfig(8), (8, 8, 3), (0.5,) * 3, (0.2,) * 3, ("a", "b"), network="resnet")
    weights.save(tmp_path / "cnn.safetensors", network, meta)
    loaded, told = weights.load(tmp_path / "cnn.safetensors")
    assert isinstance(loaded, ResNet)
    assert told == meta
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.eval()(images), network.eval()(images))
    weights.save(tmp_path / "half.safetensors", network, meta, torch.float16)
    assert weights.load(tmp_path / "half.safetensors")[0].norm.num_batches_tracked == 1

    vit = ViT(ViTShape((8, 8, 3), 2, 16, 1, 2, 2.0), 2)
    with pytest.raises(UserError, match=r"weights of a resnet-8: only a ViT's can be started from"):
        load_encoder(vit, tmp_path / "cnn.safetensors")


def test_it_is_trained_in_its_own_form() -> None:
    asked = FinetuneConfig(
        lr=1e-3, min_lr=1e-5, layer_decay=0.8, resnet_rate=4.0, scratch_rate=2.0, patch_share="0.5:0.5,0.5:1",
        reconstruction=1.0, freeze_encoder=False,
    )  # fmt: skip
    form = form_of(asked, "resnet", pretrained=False)
    assert (form.lr, form.min_lr, form.layer_decay) == (4e-3, 4e-5, 1.0)
    assert (form.patch_share, form.reconstruction, form.freeze_encoder) == (1.0, 0.0, False)
    assert form_of(asked, pretrained=True) == asked
    assert form_of(asked, pretrained=False).lr == 2e-3
