"""densedepth: a U-Net of inverse depth with bilinear upsampling.

Source: Alhashim and Wonka 2018, "High quality monocular depth estimation via transfer learning",
arXiv:1812.11941. As its released weights have it: full decoder width, and one LeakyReLU a block.
Parts of the decoder are named as in the PyTorch port of the paper's code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.models.depth_model import DepthModel
from mde.models.encoders import NO_NORM, Encoder, Weights

SMALLEST = 32


class DenseDepth(DepthModel):
    """Native map: (B,1,H/2,W/2), linear; max_depth / depth, or depth in m when not `inverse`.

    width: multiplies the decoder's channels; 1 is the published network.
    downsample: max-pooling of the image before the encoder. At 4 it is the quarter network, whose
    native map is (B,1,H/8,W/8).
    """

    def __init__(
        self,
        encoder: str,
        weights: Weights,
        min_depth: float,
        max_depth: float,
        width: float = 1.0,
        downsample: int = 1,
        inverse: bool = True,
    ) -> None:
        super().__init__(min_depth, max_depth)
        self.stride = self.downsample = downsample
        self.inverse = inverse
        self.encoder = Encoder(encoder, weights, NO_NORM, pooled=True)
        self.decoder = DenseDepthDecoder(self.encoder.channels, width, pad=downsample > 1)
        # Training starts at the middle of the depth range.
        middle = (min_depth + max_depth) / 2
        assert self.decoder.conv3.bias is not None
        nn.init.constant_(self.decoder.conv3.bias, max_depth / middle if inverse else middle)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (B,3,H,W) in [0,1] → [the native map]."""
        self.check_size(image)
        if self.downsample > 1:
            image = F.max_pool2d(image, self.downsample)
        return [self.decoder(self.encoder(image))]

    def native_to_depth(self, native: Tensor) -> Tensor:
        """Native map (B,1,h,w) → depth in m.

        Inverse: depth = max_depth / y. Below y = 1, which is max_depth, the hyperbola goes on as
        its tangent, max_depth · (2 - y): an untrained network may say y <= 0, where 1 / y jumps
        from +inf to -inf, and a clamp would take its gradient. `predict_depth` is not touched by
        this, as it clamps to max_depth.
        """
        if not self.inverse:
            return native
        # Clamped in the branch that is not taken too: inf times zero is NaN in the gradient.
        hyperbola = self.max_depth / native.clamp(min=1)
        return torch.where(native <= 1, self.max_depth * (2 - native), hyperbola)

    def check_size(self, image: Tensor) -> None:
        """Raises ValueError for a size that max-pooling would crop, or that is too small."""
        super().check_size(image)
        height, width = image.shape[-2:]
        smallest = SMALLEST * self.downsample
        if min(height, width) < smallest:
            raise ValueError(
                f"DenseDepth takes heights and widths of at least {smallest} at "
                f"downsample {self.downsample}, found {height}x{width}"
            )


class DenseDepthDecoder(nn.Module):
    """A 1x1 convolution, four up-blocks and a 3x3 head; channels halve from block to block."""

    def __init__(self, encoder_channels: list[int], width: float, pad: bool) -> None:
        super().__init__()
        *skips, last = encoder_channels
        channels = [int(last * width) >> i for i in range(5)]
        if not channels[-1]:
            raise ValueError(f"width {width} leaves no channels of {last} after four halvings")
        self.conv2 = nn.Conv2d(last, channels[0], 1)
        self.up1 = UpBlock(channels[0] + skips[3], channels[1], pad)
        self.up2 = UpBlock(channels[1] + skips[2], channels[2], pad)
        self.up3 = UpBlock(channels[2] + skips[1], channels[3], pad)
        self.up4 = UpBlock(channels[3] + skips[0], channels[4], pad)
        self.conv3 = nn.Conv2d(channels[4], 1, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Five feature maps, finest first → (B,1,h,w) of the finest map's size."""
        *skips, last = features
        x = self.up1(self.conv2(last), skips[3])
        x = self.up2(x, skips[2])
        x = self.up3(x, skips[1])
        return self.conv3(self.up4(x, skips[0]))


class UpBlock(nn.Module):
    """Upsampling to the skip's size, concatenation, two 3x3 convolutions, one LeakyReLU.

    The published network stretches to the skip's size. With `pad` (the quarter network) the map is
    doubled, and where the encoder rounded an odd size down, a row or column of zeros is put before
    the first one; where it rounded up, the first one is cut off.
    """

    def __init__(self, in_channels: int, out_channels: int, pad: bool) -> None:
        super().__init__()
        self.pad = pad
        self.convA = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.convB = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B,C,h,w), skip (B,C_skip,H,W), H about 2h → (B,C_out,H,W)."""
        x = torch.cat([self.upsample(x, skip.shape[-2:]), skip], 1)
        return F.leaky_relu(self.convB(self.convA(x)), 0.2)

    def upsample(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """(B,C,h,w) → (B,C,*size)."""
        doubled = (2 * x.shape[-2], 2 * x.shape[-1]) if self.pad else tuple(size)
        x = F.interpolate(x, size=doubled, mode="bilinear", align_corners=True)
        return F.pad(x, (size[1] - doubled[1], 0, size[0] - doubled[0], 0))
