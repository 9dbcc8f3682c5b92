"""Random changes to training images, in batches on the device, drawn from torch's global generators alone.

Nothing here waits for the device: what decides the flow of the program is drawn on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketvit import draws
from pocketvit.config import AugmentConfig
from pocketvit.training import policy

CROP_RATIO = 4 / 3  # of a crop, to the image's own; as torchvision's RandomResizedCrop
ERASE_AREA = (0.02, 0.33)  # Zhong et al. 2017
ERASE_RATIO = 3.3


class Augment:
    """Random changes to (B, C, H, W) float images in [0, 1]; the result has the same shape and range.

    Args:
        config: which changes, and how strong
        channels: C
        fill: what erased pixels become, a value for each channel (the mean, say); None makes them 0
        device: where the images will be
        symmetry: "mirror" turns half of the images left to right; "all" draws one of the eight symmetries of a square,
            or of the four of an oblong; "none"
    """

    def __init__(
        self,
        config: AugmentConfig,
        channels: int,
        fill: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
        symmetry: str = "none",
    ) -> None:
        self.config, self.symmetry = config, symmetry
        self.fill = torch.tensor([0.0] * channels if fill is None else fill, device=device).view(-1, 1, 1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        config = self.config
        resampled = config.crop_scale < 1 or config.shift or config.rotate or config.policy != "none"
        theta = self._affine(images) if resampled else None
        operations = policy.draw(config.policy, images)
        if theta is not None:
            for operation in operations:
                theta = theta @ policy.matrix(operation, *images.shape[-2:])
            # Mirrored at the border: neither bars nor smears for the model to learn from.
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        elif self.symmetry == "mirror":
            images = torch.where(_uniform(images, 1) < 0.5, images.flip(-1), images)
        elif self.symmetry == "all":
            mirrored, upended, swapped = _uniform(images, 3) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
            images = torch.where(upended, images.flip(-2), images)
            if images.shape[-2] == images.shape[-1]:
                images = torch.where(swapped, images.transpose(-2, -1), images)
        for operation in operations:
            images = policy.recolour(images, operation)
        return self._erase(images) if config.erase else images

    def _affine(self, images: Tensor) -> Tensor:
        """(B, 2, 3): where each output pixel is read, in coordinates from -1 to 1.

        Mirror, then scale, then turn, then move: a window, turned about its own centre, with its content mirrored.
        """
        config, (height, width) = self.config, images.shape[-2:]
        area, ratio, x, y, shift_x, shift_y, angle, flip = _uniform(images, 8)[..., 0, 0, 0]
        area = 1 - (1 - config.crop_scale) * area
        # Ratios narrow as the area grows, so that the window fits and keeps exactly the area drawn.
        log_ratio = (2 * ratio - 1) * (-area.log()).clamp(max=math.log(CROP_RATIO))
        scale_x, scale_y = (area * log_ratio.exp()).sqrt(), (area / log_ratio.exp()).sqrt()
        move_x = (2 * x - 1) * (1 - scale_x) + 2 * config.shift * (2 * shift_x - 1)
        move_y = (2 * y - 1) * (1 - scale_y) + 2 * config.shift * (2 * shift_y - 1)
        mirrored = scale_x if self.symmetry == "none" else torch.where(flip < 0.5, -scale_x, scale_x)
        upended, swapped = scale_y, None
        if self.symmetry == "all":
            upend, swap = _uniform(images, 2)[..., 0, 0, 0]
            upended, swapped = torch.where(upend < 0.5, -scale_y, scale_y), swap < 0.5
        angle = (2 * angle - 1) * math.radians(config.rotate)
        # Coordinates run from -1 to 1 along either side, so a turn in pixels is sheared by the sides' ratio.
        row_x = [angle.cos() * mirrored, -angle.sin() * upended * (height / width), move_x]
        row_y = [angle.sin() * mirrored * (width / height), angle.cos() * upended, move_y]
        theta = torch.stack([*row_x, *row_y], dim=1).view(-1, 2, 3)
        if swapped is None or height != width:
            return theta
        return torch.where(swapped.view(-1, 1, 1), theta[..., [1, 0, 2]], theta)

    def _erase(self, images: Tensor) -> Tensor:
        chance, area, ratio, y, x = _uniform(images, 5)
        low, high = ERASE_AREA
        area = low + (high - low) * area
        log_ratio = (2 * ratio - 1) * (-area.log()).clamp(max=math.log(ERASE_RATIO))
        hidden = chance < self.config.erase
        for dim, start, length in ((-2, y, (area * log_ratio.exp()).sqrt()), (-1, x, (area / log_ratio.exp()).sqrt())):
            pixels = images.shape[dim]
            centres = (torch.arange(pixels, device=images.device) + 0.5) / pixels
            offset = (centres.view((-1, 1) if dim == -2 else (1, -1)) - start * (1 - length)) / length
            hidden = hidden & (offset >= 0) & (offset < 1)
        return torch.where(hidden, self.fill, images)


def smoothed(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """(B, classes) float32 targets of (B,) int64 labels, the share `smoothing` of each spread over all classes."""
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def mix(
    images: Tensor,
    targets: Tensor,
    mixup: float,
    cutmix: float,
    share: float = 1.0,
    seen: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Each image, and what it is to be taken for, mixed with its neighbour in the batch by mixup or cutmix.

    As in timm, a batch is mixed by one of the two (by either with equal chance where both are on) and with one
    weight. Call it on normalised images or on raw ones: mixing commutes with normalising.

    Args:
        images: (B, C, H, W) float
        targets: (B, classes) float32, each summing to 1
        mixup: alpha of mixup's Beta distribution; 0 turns it off
        cutmix: alpha of cutmix's Beta distribution; 0 turns it off
        share: share of the batches that are mixed
        seen: (1, 1, H, W) mask to the share of it that is seen of each image, (B, 1), where part of an image is hidden:
            a cut image's label follows what is seen

    Returns:
        Both, of the same shapes.
    """
    if not (mixup or cutmix) or draws.draw() >= share:
        return images, targets
    cut = draws.draw() < 0.5 if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cut else mixup
    keep: float | Tensor = float(torch.distributions.Beta(alpha, alpha).sample())
    if cut:
        images, keep = _paste(images, float(keep), seen)
    else:
        images = keep * images + (1 - keep) * _neighbours(images)
    return images, keep * targets + (1 - keep) * _neighbours(targets)


def _paste(
    images: Tensor, keep: float, seen: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, float | Tensor]:
    """A rectangle of each image replaced by its neighbour's, and the share of the pixels kept, or of those seen."""
    height, width = images.shape[-2:]
    box = []
    for side in (height, width):
        # As in Yun et al. 2019, the centre is anywhere, and what falls outside is cut off.
        centre, half = draws.draw() * side, side * math.sqrt(1 - keep) / 2
        box.append((max(0, round(centre - half)), min(side, round(centre + half))))
    (top, bottom), (left, right) = box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = _neighbours(images)[..., top:bottom, left:right]
    if seen is None:
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)
    pasted = torch.zeros(1, 1, height, width, device=images.device)
    pasted[..., top:bottom, left:right] = 1
    return mixed, 1 - seen(pasted)


def _uniform(images: Tensor, count: int) -> Tensor:
    """(count, B, 1, 1, 1) uniform numbers in [0, 1), or (B, 1, 1, 1) where `count` is 1."""
    numbers = draws.uniform((count, len(images), 1, 1, 1), images.device, images=1)
    return numbers[0] if count == 1 else numbers


def _neighbours(tensor: Tensor) -> Tensor:
    """Rows swapped in pairs, 0 with 1, 2 with 3: a pair is never split between processes. An odd last row stays."""
    rows = torch.arange(len(tensor), device=tensor.device)
    return tensor[(rows ^ 1).clamp(max=len(tensor) - 1)]
