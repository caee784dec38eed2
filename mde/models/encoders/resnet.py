"""ResNet without its classifier, with torchvision's parameter names (`layer1.0.conv1.weight`).

Source: He et al. 2016, arXiv:1512.03385. The bottleneck strides in its 3x3 convolution, as
torchvision's weights do, not in its first one as the paper does.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mde.models.encoders.backbone import Backbone, init_for_relu


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B,in,H,W) → (B,width,H/stride,W/stride)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = build_shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,H,W) → (B,width,H/stride,W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y.add_(self.downsample(x) if self.downsample else x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut: (B,in,H,W) → (B,4·width,H/stride,W/stride)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = build_shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,H,W) → (B,4·width,H/stride,W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y.add_(self.downsample(x) if self.downsample else x), inplace=True)


class ResNet(Backbone):
    """Maps: the stem before its max pooling, then the four layers."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: Sequence[int], in_channels: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.channels = [64]
        channels = 64
        for i, depth in enumerate(depths):
            width = 64 << i
            layer = nn.Sequential()
            for j in range(depth):
                layer.append(block(channels, width, stride=2 if i and not j else 1))
                channels = block.expansion * width
            self.add_module(f"layer{i + 1}", layer)
            self.channels.append(channels)
        init_for_relu(self, "fan_out")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B,C,H,W) → five maps, finest first."""
        stem = F.relu(self.bn1(self.conv1(image)), inplace=True)
        maps = [stem]
        x = F.max_pool2d(stem, 3, stride=2, padding=1)
        for i in range(1, len(self.channels)):
            x = getattr(self, f"layer{i}")(x)
            maps.append(x)
        return maps


def build_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution and batch norm; None when the shapes agree without it."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )
