"""fastdepth: MobileNet, depthwise 5x5 convolutions, nearest upsampling and additive skips.

Source: Wofk et al. 2019, "FastDepth: fast monocular depth estimation on embedded systems",
arXiv:1903.03273, the network before pruning (MobileNet-NNConv5, depthwise, skip-add).
"""

from itertools import pairwise
from math import sqrt

from torch import Tensor, nn
from torch.nn import functional as F

from mde.models.depth_model import DepthModel, SkipAddition
from mde.models.encoders import NO_NORM, Encoder, Weights

DECODER_CHANNELS = (512, 256, 128, 64, 32)


class FastDepth(DepthModel):
    """Native map: (B,1,H,W) depth in m, not negative; it can be 0 before the clamp."""

    def __init__(self, encoder: str, weights: Weights, min_depth: float, max_depth: float) -> None:
        super().__init__(min_depth, max_depth)
        self.encoder = Encoder(encoder, weights, NO_NORM)
        self.decoder = FastDepthDecoder(self.encoder.channels)
        # Behind the norm of one channel depth is N(bias, 1): from the middle of the range the
        # ReLU passes nearly every pixel, from 0 it would stop half of them.
        norm = self.decoder.head[1]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.constant_(norm.bias, (min_depth + max_depth) / 2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (B,3,H,W) in [0,1] → [depth (B,1,H,W) in m]."""
        self.check_size(image)
        return [self.decoder(self.encoder(image))]

    def native_to_depth(self, native: Tensor) -> Tensor:
        """The native map is depth in m."""
        return native


class FastDepthDecoder(nn.Module):
    """Five blocks, each doubled in size; the encoder's maps are added behind blocks 2, 3 and 4."""

    def __init__(self, encoder_channels: list[int]) -> None:
        super().__init__()
        sizes = pairwise([encoder_channels[-1], *DECODER_CHANNELS])
        self.blocks = nn.ModuleList(
            nn.Sequential(depthwise5x5(inputs), pointwise(inputs, outputs))
            for inputs, outputs in sizes
        )
        self.skips = nn.ModuleList(
            SkipAddition(encoder_channels[i], DECODER_CHANNELS[3 - i]) for i in (2, 1, 0)
        )
        self.head = pointwise(DECODER_CHANNELS[-1], 1)
        self.apply(init_conv)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Five feature maps, finest first → (B,1,H,W), twice the finest map's size."""
        x = features[-1]
        for i, block in enumerate(self.blocks):
            x = F.interpolate(block(x), scale_factor=2, mode="nearest")
            if 1 <= i <= 3:
                x = self.skips[i - 1](x, features[3 - i])
        return self.head(x)


def depthwise5x5(channels: int) -> nn.Sequential:
    """A 5x5 convolution of each channel for itself, batch norm, ReLU."""
    conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution, batch norm, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def init_conv(module: nn.Module) -> None:
    """FastDepth's start of a k x k convolution: N(0, 2 / (k² · C_out)), bias 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(
            module.weight, 0, sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
        )
        if module.bias is not None:
            nn.init.zeros_(module.bias)
