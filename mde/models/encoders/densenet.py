"""DenseNet without its classifier, with torchvision's parameter names, their `features.` included.

Source: Huang et al. 2017, arXiv:1608.06993: growth rate 32, bottlenecks of 128 channels, and
transitions that halve the channels.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.models.encoders.backbone import Backbone, init_for_relu

GROWTH = 32
STEM = 64
TAPS = ("relu0", "denseblock1", "denseblock2", "denseblock3", "denseblock4")
POOLED_TAPS = ("relu0", "pool0", "transition1", "transition2", "norm5")


class DenseNet(Backbone):
    """Maps: relu0 and the four blocks before their transitions (the taps of DDSR2020).

    pooled: DenseDepth's taps instead: relu0, pool0, transitions 1 and 2, and block 4 after norm5
    and ReLU. Without it norm5 is unused: it stays, frozen, so that both read the same weights.
    """

    def __init__(self, depths: Sequence[int], in_channels: int = 3, pooled: bool = False) -> None:
        super().__init__()
        self.pooled = pooled
        self.taps = POOLED_TAPS if pooled else TAPS
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(in_channels, STEM, 7, stride=2, padding=3, bias=False),
                norm0=nn.BatchNorm2d(STEM),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        widths, channels = [], STEM
        for i, depth in enumerate(depths, start=1):
            self.features.add_module(f"denseblock{i}", DenseBlock(channels, depth))
            channels += depth * GROWTH
            widths.append(channels)
            if i < len(depths):
                self.features.add_module(f"transition{i}", build_transition(channels))
                channels //= 2
        norm5 = nn.BatchNorm2d(channels).requires_grad_(pooled)
        self.features.add_module("norm5", norm5)
        self.channels = [STEM, *widths]
        if pooled:
            self.channels = [STEM, STEM, widths[0] // 2, widths[1] // 2, channels]
        init_for_relu(self, "fan_in")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B,C,H,W) → five maps, finest first."""
        x, maps = image, []
        for name, layer in self.features.named_children():
            x = layer(x)
            if name in self.taps:
                maps.append(x)
            if name == self.taps[-1]:
                break
        if self.pooled:
            maps[-1] = F.relu(maps[-1], inplace=True)
        return maps


class DenseBlock(nn.Module):
    """Layers that each add 32 channels to all that came before them."""

    def __init__(self, in_channels: int, depth: int) -> None:
        super().__init__()
        for i in range(depth):
            self.add_module(f"denselayer{i + 1}", DenseLayer(in_channels + i * GROWTH))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) → (B,C+32·depth,H,W)."""
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


class DenseLayer(nn.Sequential):
    """Batch norm, ReLU, 1x1 convolution; again with a 3x3 one: (B,C,H,W) → (B,32,H,W)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            OrderedDict(
                norm1=nn.BatchNorm2d(in_channels),
                relu1=nn.ReLU(inplace=True),
                conv1=nn.Conv2d(in_channels, 4 * GROWTH, 1, bias=False),
                norm2=nn.BatchNorm2d(4 * GROWTH),
                relu2=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False),
            )
        )


def build_transition(channels: int) -> nn.Sequential:
    """(B,C,H,W) → (B,C/2,H/2,W/2)."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )
