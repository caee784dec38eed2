"""resfpn: a ResNet pyramid whose maps are added through one residual convolution each.

Layer table and the seed's quirks: nearest upsampling, no activation, no batch norm in the decoder,
output at a quarter of the input's size. The seed's unused first convolution is left out.
An encoder whose stem differs from its first stage in channels gets a 1x1 convolution between them.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from mde.models.depth_model import DepthModel, SkipAddition
from mde.models.encoders import IMAGENET_NORM, Encoder, Weights


class ResFpn(DepthModel):
    """Native map: (B,1,H/4,W/4) depth in m, linear (it can be negative before the clamp)."""

    def __init__(self, encoder: str, weights: Weights, min_depth: float, max_depth: float) -> None:
        super().__init__(min_depth, max_depth)
        self.encoder = Encoder(encoder, weights, IMAGENET_NORM)
        channels = self.encoder.channels
        self.residual_convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i - 1], 3, padding=1) for i in (2, 3, 4)
        )
        self.stem = SkipAddition(channels[0], channels[1])
        self.final_conv = nn.Conv2d(channels[1], 1, 3, padding=1)
        # Training starts at the middle of the depth range instead of at 0 m.
        assert self.final_conv.bias is not None
        nn.init.constant_(self.final_conv.bias, (min_depth + max_depth) / 2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (B,3,H,W) in [0,1] → [depth (B,1,H/4,W/4) in m]."""
        self.check_size(image)
        stem, *maps = self.encoder(image)
        x = maps[-1]
        for conv, skip in zip(reversed(self.residual_convs), reversed(maps[:-1]), strict=True):
            x = F.interpolate(conv(x), scale_factor=2, mode="nearest") + skip
        if stem.shape[1]:
            # The last addend is the max-pooled stem, at a quarter of the size.
            x = self.stem(x, F.max_pool2d(stem, 3, stride=2, padding=1))
        return [self.final_conv(x)]

    def native_to_depth(self, native: Tensor) -> Tensor:
        """The native map is depth in m."""
        return native
