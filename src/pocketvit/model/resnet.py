"""The small CNN that a ViT has to beat: the residual network for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2).

Three groups of blocks with 16, 32 and 64 channels, on the image's own resolution, a half and a quarter of it; shortcuts
without parameters (option A); mean over what is left of the image. ResNet-20 has 0.27M parameters and, on images of
32 px, 41M multiply-accumulates.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pocketvit.config import ResNetConfig
from pocketvit.model.network import Network

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, (B, C, H, W) to (B, `out`, H / stride, W / stride), rounded up."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, out - channels
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        changed = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.added:
            # Every second pixel, and zeros for the channels that it does not have.
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(changed + x)


class ResNet(Network):
    """ResNet-`depth`, with a linear head when `classes` is above 0.

    Args:
        depth: layers with weights, 6 n + 2 for n blocks in each group.
        channels: of the images.
        classes: outputs of the head; 0 builds the encoder alone.
    """

    title, colour = "ResNet", "#5b8c3e"

    def __init__(self, depth: int, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.classes, width = classes, WIDTHS[0]
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList()
        for group, out in enumerate(WIDTHS):
            for number in range((depth - 2) // 6):
                self.blocks.append(BasicBlock(width, out, stride=2 if group and not number else 1))
                width = out
        self.width = width
        self.head = nn.Linear(width, classes) if classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. 2015 (arXiv 1502.01852), as for networks of ReLUs.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def build(
        cls, config: ResNetConfig, shape: tuple[int, int, int], classes: int = 0, drop_path: float = 0.0
    ) -> ResNet:
        """Of the depth of `config`; it has no stochastic depth."""
        return cls(config.depth, shape[2], classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, 64), the mean over pixels, of normalised (B, C, H, W) images."""
        x = F.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=(2, 3))

    def no_weight_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay spares the parameter: biases and norms."""
        return parameter.ndim <= 1

    def layer_of(self, name: str) -> int:
        """Depth of a parameter: 0 the stem, then the blocks, then the head."""
        if name.startswith(("stem", "norm")):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else len(self.blocks) + 1

    def matrices(self) -> list[nn.Parameter]:
        """None: Muon is for matrices, and these are kernels of convolutions."""
        return []
