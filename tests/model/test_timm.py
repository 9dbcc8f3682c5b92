"""timm's names: both directions give the same function, against timm's forward pass written out here."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pocketvit.errors import UserError
from pocketvit.model import ViT, ViTShape, from_timm, to_timm

SHAPE = ViTShape((12, 8, 5), patch=4, width=24, depth=2, heads=3, mlp_ratio=2.0)
CLASSES = 7


def noisy(shape: ViTShape = SHAPE, classes: int = CLASSES, pool: str = "token") -> ViT:
    """A network with no parameter left at a special value."""
    torch.manual_seed(0)
    vit = ViT(shape, classes, pool=pool)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vit.eval()


def timm_logits(state: dict[str, Tensor], images: Tensor, shape: ViTShape, pool: str = "token") -> Tensor:
    """What timm's VisionTransformer (global_pool "token", or "avg" with fc_norm=False) computes from its weights."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (shape.width,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def attention(x: Tensor, name: str) -> Tensor:
        b, n, d = x.shape
        qkv = linear(x, f"{name}.qkv").reshape(b, n, 3, shape.heads, d // shape.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d), f"{name}.proj")

    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x = F.conv2d(images, kernel, bias, stride=shape.patch).flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state["pos_embed"]
    for i in range(shape.depth):
        x = x + attention(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn")
        hidden = F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2")
    x = norm(x, "norm")
    return linear(x[:, 0] if pool == "token" else x[:, 1:].mean(dim=1), "head")


@pytest.fixture
def images() -> Tensor:
    height, width, channels = SHAPE.image
    return torch.randn(3, channels, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_timm_computes_our_logits(images: Tensor, pool: str) -> None:
    vit = noisy(pool=pool)
    theirs = timm_logits(to_timm(vit.state_dict(), SHAPE), images, SHAPE, pool)
    torch.testing.assert_close(theirs, vit(images), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_we_compute_timms_logits(images: Tensor) -> None:
    state = to_timm(noisy().state_dict(), SHAPE)
    generator = torch.Generator().manual_seed(2)
    state = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    vit = ViT(SHAPE, CLASSES)
    vit.load_state_dict(from_timm(state, SHAPE))
    assert not torch.allclose(state["cls_token"].flatten(), state["patch_embed.proj.bias"], atol=0.01)
    torch.testing.assert_close(vit(images), timm_logits(state, images, SHAPE), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [CLASSES, 0])
def test_the_round_trip_keeps_every_bit(classes: int) -> None:
    state = noisy(classes=classes).state_dict()
    again = from_timm(to_timm(state, SHAPE), SHAPE)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_timms_sizes() -> None:
    state = to_timm(noisy().state_dict(), SHAPE)
    assert state["patch_embed.proj.weight"].shape == (24, 5, 4, 4)
    assert state["patch_embed.proj.weight"].is_contiguous()
    assert state["cls_token"].shape == (1, 1, 24)
    assert state["pos_embed"].shape == (1, 7, 24)
    assert state["head.weight"].shape == (CLASSES, 24)


def test_keys_that_do_not_fit_are_named() -> None:
    state = to_timm(noisy().state_dict(), SHAPE)
    with pytest.raises(UserError, match=r"cls_token is missing$"):
        from_timm({k: v for k, v in state.items() if k != "cls_token"}, SHAPE)
    with pytest.raises(UserError, match=r"head\.bias is missing$"):
        from_timm({k: v for k, v in state.items() if k != "head.bias"}, SHAPE)
    with pytest.raises(UserError, match=r"fc_norm\.weight does not belong there$"):
        from_timm(state | {"fc_norm.weight": torch.ones(24)}, SHAPE)
    with pytest.raises(UserError, match=r"pos_embed is \(1, 5, 24\) and should be \(1, 7, 24\)$"):
        from_timm(state | {"pos_embed": torch.ones(1, 5, 24)}, SHAPE)
    with pytest.raises(UserError, match=r"^PocketViT weights of another network: .* \(and \d+ more\)$"):
        to_timm(state, SHAPE)
