"""RandAugment and TrivialAugment, drawn for each image of a batch: strengths as timm's, no waiting for a device.

Turns, shears and shifts are matrices, to be multiplied into the one by which an image is resampled anyway; all other
operations are one formula, whose numbers are drawn for each image. Shears are about the centre, and pixels beyond the
border mirrored, as in all resampling here. Equalize is left out: alone of all it needs a histogram of each image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pocketvit import draws

GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
# "saturate" is the last, since only colour images have it drawn.
KINDS = (
    *GEOMETRY, "autocontrast", "invert", "posterize", "solarize", "solarize_add", "contrast", "brightness", "sharpness",
    "saturate",
)  # fmt: skip
ROTATE, SHEAR, TRANSLATE = math.radians(30), 0.3, 0.45  # at full strength; shifts are shares of the side
ENHANCE, POSTERIZE_BITS, SOLARIZE_ADD = 0.9, 4, 110 / 255
STRENGTH, DEVIATION, CHANCE = 0.9, 0.05, 0.5  # timm's rand-m9-mstd0.5-inc1, and the chance of each of its operations
OPERATIONS = 2
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow turns colours to grey


class Operation(NamedTuple):
    """An operation for each of B images, all (B,): its number in KINDS or -1, strength in [0, 1], and -1 or 1."""

    kind: Tensor
    strength: Tensor
    sign: Tensor

    def of(self, name: str) -> Tensor:
        """(B,) bool: the images whose operation it is."""
        return self.kind == KINDS.index(name)

    def size(self, name: str) -> Tensor:
        """(B,): the signed strength where the operation is `name`, and 0 elsewhere."""
        return torch.where(self.of(name), self.strength * self.sign, 0.0)


def draw(name: str, images: Tensor) -> list[Operation]:
    """What is done to each of (B, C, H, W) images, in order, by torch's global generator.

    Args:
        name: "randaugment" (Cubuk et al. 2020, arXiv 1909.13719): two operations, each left out half of the time, of
            strengths about 0.9 as timm draws them; "trivialaugment" (Müller & Hutter 2021, arXiv 2103.10158): one or
            none, of any strength; "none".
        images: to know their number, channels and device.
    """
    kinds = len(KINDS) if images.shape[1] == len(LUMA) else len(KINDS) - 1
    if name == "none":
        return []
    if name == "trivialaugment":
        kind, strength, sign = draws.uniform((3, len(images)), images.device, images=1)
        return [Operation((kind * (kinds + 1)).floor() - 1, strength, torch.where(sign < 0.5, -1.0, 1.0))]
    drawn = []
    for kind, chance, normal, sign in draws.uniform((OPERATIONS, 4, len(images)), images.device, images=2):
        strength = (STRENGTH + DEVIATION * math.sqrt(2) * torch.erfinv(2 * normal - 1)).clamp(0, 1)
        kind = torch.where(chance < CHANCE, (kind * kinds).floor(), -1.0)
        drawn.append(Operation(kind, strength, torch.where(sign < 0.5, -1.0, 1.0)))
    return drawn


def matrix(operation: Operation, height: int, width: int) -> Tensor:
    """(B, 3, 3): where an output pixel is read, in homogeneous coordinates from -1 to 1; the identity for other kinds.

    Coordinates are as long on either side, so what mixes them is sheared by the sides' ratio, for angles to be true.
    """
    angle, ratio = ROTATE * operation.size("rotate"), height / width
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [
        *(angle.cos(), ratio * (SHEAR * operation.size("shear_x") - angle.sin())),
        2 * TRANSLATE * operation.size("translate_x"),
        *((SHEAR * operation.size("shear_y") + angle.sin()) / ratio, angle.cos()),
        2 * TRANSLATE * operation.size("translate_y"),
        *(zero, zero, one),
    ]
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def recolour(images: Tensor, operation: Operation) -> Tensor:
    """(B, C, H, W) in [0, 1] with the operations that are no geometry; the same shape and range."""
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        # There nobody waits for the number of rows, and a pass over images that stay as they are is not free.
        rows = (operation.kind >= len(GEOMETRY)).nonzero().squeeze(1)
        chosen = Operation(*(field[rows] for field in operation))
        return images.index_copy(0, rows, _recoloured(images[rows], chosen))
    return _recoloured(images, operation)


def _recoloured(images: Tensor, operation: Operation) -> Tensor:
    """All but three operations are scale * image + grey * its grey + smooth * its blur + offset, cut off at 0 and 1."""
    of = {name: operation.of(name).view(-1, 1, 1, 1) for name in KINDS if name not in GEOMETRY}
    strength = operation.strength.view(-1, 1, 1, 1)
    factor = 1 + ENHANCE * (operation.strength * operation.sign).view(-1, 1, 1, 1)
    grey = _grey(images)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretch = of["autocontrast"] & (high > low)
    reach = torch.where(stretch, high - low, 1.0)
    blends = of["contrast"] | of["brightness"] | of["sharpness"] | of["saturate"]
    scale = torch.where(blends, factor, torch.where(of["invert"], -1.0, 1.0)) / reach
    offset = (
        torch.where(of["invert"], 1.0, 0.0)
        - torch.where(stretch, low / reach, 0.0)
        + torch.where(of["contrast"], (1 - factor) * grey.mean((2, 3), keepdim=True), 0.0)
    )
    changed = scale * images + torch.where(of["saturate"], 1 - factor, 0.0) * grey + offset
    changed = changed + torch.where(of["sharpness"], 1 - factor, 0.0) * _smooth(images)
    changed = torch.where(of["solarize"] & (images >= 1 - strength), 1 - images, changed)
    brighter = of["solarize_add"] & (images < 128 / 255)
    changed = torch.where(brighter, images + SOLARIZE_ADD * strength, changed)
    # At least one bit, or nothing would be left to see; a little is added for what rounding took from whole greys.
    step = 2.0 ** (8 - (POSTERIZE_BITS - (POSTERIZE_BITS * strength).floor()).clamp(min=1))
    changed = torch.where(of["posterize"], ((255 * images + 1e-3) / step).floor() * step / 255, changed)
    return changed.clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    """(B, 1, H, W): luma of colours, or the mean of any other number of channels."""
    if images.shape[1] != len(LUMA):
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def _smooth(images: Tensor) -> Tensor:
    """Pillow's SMOOTH filter: the mean of 3 x 3 pixels, the middle one five times; the border stays."""
    height, width = images.shape[-2:]
    if min(height, width) < 3:
        return images
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    square = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = (square + 4 * images[..., 1:-1, 1:-1]) / 13
    return smooth
