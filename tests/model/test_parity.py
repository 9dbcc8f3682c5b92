"""Parity with Hugging Face's ViTMAE and ViT: the same weights, masks and images give the same numbers to 1e-5."""

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

from pocketvit.config import ModelConfig
from pocketvit.model import MaskedAutoencoder, ViT, ViTShape
from pocketvit.model.patches import random_mask

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
COMMON = {**SIZES, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "patch_size": 3}
MODEL = ModelConfig(
    patch=3, width=48, depth=3, heads=4, mlp_ratio=2.0, decoder_width=24, decoder_depth=2, decoder_heads=3
)
BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
TIGHT = {"atol": 1e-6, "rtol": 1e-4}  # gradients are small


def stirred(module: nn.Module) -> nn.Module:
    """The module with no parameter left at a special value: zeros would hide what is not copied."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def linear(state: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    return {f"{ours}.{part}": state[f"{theirs}.{part}"] for part in ("weight", "bias")}


def blocks(state: dict[str, Tensor], theirs: str, ours: str, depth: int) -> dict[str, Tensor]:
    """Transformer layers under our names; theirs keep query, key and value apart."""
    found: dict[str, Tensor] = {}
    for i in range(depth):
        for name, their_name in BLOCK.items():
            found |= linear(state, f"{theirs}.{i}.{their_name}", f"{ours}.{i}.{name}")
        for part in ("weight", "bias"):
            qkv = [state[f"{theirs}.{i}.attention.{name}_proj.{part}"] for name in "qkv"]
            found[f"{ours}.{i}.attn.qkv.{part}"] = torch.cat(qkv)
    return found


def encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their encoder under our names; their class token moves into the first position."""
    kernel = state["vit.embeddings.patch_embeddings.projection.weight"]
    bias = state["vit.embeddings.patch_embeddings.projection.bias"]
    positions = state["vit.embeddings.position_embeddings"].clone()
    positions[:, 0] += state["vit.embeddings.cls_token"][:, 0] - bias
    return {
        "patch_embed.weight": kernel.permute(0, 2, 3, 1).flatten(1),
        "patch_embed.bias": bias,
        "pos_embed": positions,
        **blocks(state, "vit.layers", "blocks", MODEL.depth or 0),
        **linear(state, "vit.layernorm", "norm"),
    }


def autoencoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their masked autoencoder under our names."""
    found = {f"encoder.{name}": tensor for name, tensor in encoder(state).items()}
    found |= {name: state[f"decoder.{name}"] for name in ("mask_token", "decoder_pos_embed")}
    for name in ("decoder_embed", "decoder_norm", "decoder_pred"):
        found |= linear(state, f"decoder.{name}", name)
    return found | blocks(state, "decoder.decoder_layers", "decoder_blocks", MODEL.decoder_depth or 0)


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalise_targets", [False, True])
def test_masked_autoencoder(normalise_targets: bool, channels: int) -> None:
    torch.manual_seed(0)
    config = ViTMAEConfig(
        **COMMON,
        image_size=12,
        num_channels=channels,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=48,
        mask_ratio=0.75,
        norm_pix_loss=normalise_targets,
    )
    theirs = stirred(ViTMAEForPreTraining(config))
    ours = MaskedAutoencoder(MODEL, (12, 12, channels), visible_discount=0.0, normalise_targets=normalise_targets)
    ours.load_state_dict(autoencoder(theirs.state_dict()))
    images, noise = torch.randn(5, channels, 12, 12), torch.rand(5, 16)
    expected, found = theirs(images, noise=noise), ours.eval()(images, 0.75, noise)

    assert torch.equal(found.mask, expected.mask.bool())
    # They leave the visible patches in the order of their noise, we in that of the image.
    tokens = theirs.vit(images, noise=noise).last_hidden_state
    visible, _ = random_mask(noise, 0.75)
    order = noise.argsort(dim=1)[:, :4].argsort(dim=1)
    tokens = torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, order[..., None].expand(-1, -1, 48))], dim=1)
    torch.testing.assert_close(ours.encoder.encode(images, visible), tokens, **CLOSE)
    torch.testing.assert_close(found.prediction, expected.logits, **CLOSE)
    torch.testing.assert_close(found.loss, expected.loss, **CLOSE)
    torch.testing.assert_close(found.masked_loss, expected.loss, **CLOSE)


def test_gradients_of_the_masked_autoencoder() -> None:
    torch.manual_seed(0)
    config = ViTMAEConfig(
        **COMMON,
        image_size=12,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=48,
    )
    theirs = stirred(ViTMAEForPreTraining(config))
    ours = MaskedAutoencoder(MODEL, (12, 12, 3))
    ours.load_state_dict(autoencoder(theirs.state_dict()))
    images, noise = torch.randn(5, 3, 12, 12), torch.rand(5, 16)
    theirs(images, noise=noise).loss.backward()
    ours(images, 0.75, noise).loss.backward()
    kernel = theirs.vit.embeddings.patch_embeddings.projection.weight.grad
    torch.testing.assert_close(ours.encoder.patch_embed.weight.grad, kernel.permute(0, 2, 3, 1).flatten(1), **TIGHT)
    for name in ("decoder_embed", "decoder_pred"):
        grad = getattr(theirs.decoder, name).weight.grad
        torch.testing.assert_close(getattr(ours, name).weight.grad, grad, **TIGHT)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(12, 12, 3), (6, 15, 4)])
def test_classifier(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    config = ViTConfig(**COMMON, image_size=shape[:2], num_channels=shape[2], num_labels=7)  # type: ignore[call-arg]
    theirs = stirred(ViTForImageClassification(config))
    ours = ViT(ViTShape.of(MODEL, shape), classes=7).eval()
    state = theirs.state_dict()
    ours.load_state_dict(encoder(state) | linear(state, "classifier", "head"))
    images = torch.randn(5, shape[2], *shape[:2])
    torch.testing.assert_close(ours(images), theirs(images).logits, **CLOSE)
    torch.testing.assert_close(ours.encode(images), theirs.vit(images).last_hidden_state, **CLOSE)
