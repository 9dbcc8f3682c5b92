"""State dicts to and from the names of timm's VisionTransformer, so that weights can travel. timm is not needed.

Names agree but for the patch embedding, a convolution there, and the class token, a free vector there. Layer norms
(epsilon 1e-6), GELU and the layout of qkv are the same. A model that pools the mean needs `global_pool="avg"` and
`fc_norm=False` in timm; timm weights with an `fc_norm` normalise after pooling and cannot be converted.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pocketvit.errors import UserError
from pocketvit.model.vit import ViT, ViTShape


def to_timm(state: Mapping[str, Tensor], shape: ViTShape) -> dict[str, Tensor]:
    """Our encoder, with or without its head, under timm's names; the tensors share memory with `state` where they can.

    Raises:
        UserError: a tensor of an encoder of `shape` is missing, one does not belong to it, or one has another size.
    """
    _check(state, _blank(state, shape), "PocketViT weights")
    return _to_timm(state, shape)


def from_timm(state: Mapping[str, Tensor], shape: ViTShape) -> dict[str, Tensor]:
    """A timm VisionTransformer, with or without its head, as our encoder: the same function of the image.

    Raises:
        UserError: as `to_timm`.
    """
    _check(state, _to_timm(_blank(state, shape), shape), "timm weights")
    ours = dict(state)
    kernel, bias = ours.pop("patch_embed.proj.weight"), ours.pop("patch_embed.proj.bias")
    # Our class token is the embedding of a patch of zeros, which is the bias: its position makes up the difference.
    first = state["pos_embed"][:, :1] + (ours.pop("cls_token") - bias)
    return ours | {
        "patch_embed.weight": kernel.permute(0, 2, 3, 1).reshape(shape.width, shape.patch_dim),
        "patch_embed.bias": bias,
        "pos_embed": torch.cat([first, state["pos_embed"][:, 1:]], dim=1),
    }


def _to_timm(state: Mapping[str, Tensor], shape: ViTShape) -> dict[str, Tensor]:
    theirs = dict(state)
    weight, bias = theirs.pop("patch_embed.weight"), theirs.pop("patch_embed.bias")
    kernel = weight.reshape(shape.width, shape.patch, shape.patch, shape.image[2]).permute(0, 3, 1, 2).contiguous()
    embedding = {"patch_embed.proj.weight": kernel, "patch_embed.proj.bias": bias}
    return theirs | embedding | {"cls_token": bias.reshape(1, 1, -1).clone()}


def _blank(state: Mapping[str, Tensor], shape: ViTShape) -> dict[str, Tensor]:
    """Our encoder's tensors without their values, with a head where `state` has one."""
    heads = [len(state[name]) for name in ("head.weight", "head.bias") if name in state]
    with torch.device("meta"):
        return ViT(shape, classes=heads[0] if heads else 0).state_dict()


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} does not belong there" for name in state if name not in expected]
    problems += [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(f"{what} of another network: {'; '.join(problems[:3])}{more}")
