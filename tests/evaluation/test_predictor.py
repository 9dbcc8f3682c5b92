"""What a network says about images is that of the network itself, in any batches, and leaves it as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketvit.config import ModelConfig
from pocketvit.evaluation import predictor
from pocketvit.evaluation.predictor import Eager, Predictor
from pocketvit.model.vit import ViT, ViTShape
from pocketvit.model.weights import WeightsMeta

SHAPE = ViTShape((8, 4, 2), patch=2, width=16, depth=2, heads=2, mlp_ratio=2.0)
NORMALISATION = ((0.4, 0.5), (0.2, 0.3))


def encoder() -> ViT:
    torch.manual_seed(0)
    return ViT(SHAPE, classes=3, drop_path=0.5)


def uint8_images(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 4, 2), dtype=np.uint8)


def ready(vit: ViT) -> Predictor:
    return Predictor(Eager(vit, *NORMALISATION, "cpu"), vit.shape.image)


def test_features_match_the_encoder_whatever_the_batch_and_leave_its_mode_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vit, images = encoder(), uint8_images(7)
    vit.train()
    vit.blocks[0].eval()
    monkeypatch.setattr(predictor, "BATCH_SIZE", 3)
    found = ready(vit).features(images)
    assert found.shape == (7, 16)
    assert found.dtype == np.float32
    assert vit.training
    assert not vit.blocks[0].training
    assert vit.blocks[1].training
    mean, std = (torch.tensor(v).view(2, 1, 1) for v in NORMALISATION)
    vit.eval()
    expected = vit.features((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    np.testing.assert_allclose(found, expected.detach(), atol=1e-5)


def test_probabilities_are_the_softmax_of_the_head() -> None:
    vit, images = encoder(), uint8_images(5)
    probabilities = ready(vit).probabilities(images)
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    logits = torch.from_numpy(ready(vit).features(images)) @ vit.head.weight.T + vit.head.bias
    np.testing.assert_allclose(probabilities, logits.softmax(1).detach(), atol=1e-5)


def test_a_temperature_divides_the_logits_and_nothing_else() -> None:
    images = uint8_images(5)
    plain = ready(encoder())
    warm = Predictor(plain.runtime, plain.shape, temperature=2.5)
    np.testing.assert_array_equal(warm.logits(images), plain.logits(images))
    expected = torch.from_numpy(plain.logits(images) / 2.5).softmax(1)
    np.testing.assert_allclose(warm.probabilities(images), expected, rtol=1e-5)
    np.testing.assert_array_equal(warm.features(images), plain.features(images))


def test_weights_describe_their_predictor() -> None:
    config = ModelConfig(patch=2, width=16, depth=2, heads=2)
    meta = WeightsMeta("classifier", config, (8, 4, 2), *NORMALISATION, ("a", "b", "c"), temperature=2.5)
    found, images = Predictor.of(encoder(), meta, "cpu"), uint8_images(3)
    assert (found.shape, found.classes, found.temperature) == ((8, 4, 2), ("a", "b", "c"), 2.5)
    np.testing.assert_array_equal(found.logits(images), ready(encoder()).logits(images))
