"""monodepth2: a U-Net of disparities, and the pose network that trains with it.

Source: Godard et al. 2019, arXiv:1806.01260, and its layer tables.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.geometry import sigmoid_to_depth
from mde.models.depth_model import DepthModel
from mde.models.encoders import MONODEPTH2_NORM, Encoder, Weights

DECODER_CHANNELS = (16, 32, 64, 128, 256)
NUM_SCALES = 4


class Monodepth2(DepthModel):
    """Native maps: four (B,1,H/2^s,W/2^s) sigmoids in [0,1], linear in disparity.

    The network works in model units, in which the published range is 0.1 to 100;
    `metres_per_unit` turns them into metres when the training has stereo pairs (`is_metric`).
    """

    def __init__(
        self,
        encoder: str,
        weights: Weights,
        min_depth: float,
        max_depth: float,
        metres_per_unit: float,
        metric: bool,
    ) -> None:
        super().__init__(min_depth * metres_per_unit, max_depth * metres_per_unit)
        self.is_metric = metric
        self.metres_per_unit = metres_per_unit
        self.encoder = Encoder(encoder, weights, MONODEPTH2_NORM)
        self.decoder = DisparityDecoder(self.encoder.channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (B,3,H,W) in [0,1] → four sigmoid disparity maps, full size first."""
        self.check_size(image)
        return self.decoder(self.encoder(image))

    def native_to_depth(self, native: Tensor) -> Tensor:
        """Sigmoid disparity (B,1,h,w) → depth in m (up to scale when not `is_metric`)."""
        return sigmoid_to_depth(native, self.min_depth, self.max_depth)


class DisparityDecoder(nn.Module):
    """Five stages of conv, nearest x2, skip, conv; a sigmoid head on the last four.

    num_outputs: channels of a head: 1 for disparity, the number of sources for the predictive
    mask of Zhou et al. 2017, arXiv:1704.07813, sec. 3.3.
    """

    def __init__(self, encoder_channels: list[int], num_outputs: int = 1) -> None:
        super().__init__()
        inputs = [*DECODER_CHANNELS[1:], encoder_channels[-1]]
        skips = [0, *encoder_channels[:-1]]
        self.before_skip = nn.ModuleList(ConvElu(inputs[i], DECODER_CHANNELS[i]) for i in range(5))
        self.after_skip = nn.ModuleList(
            ConvElu(DECODER_CHANNELS[i] + skips[i], DECODER_CHANNELS[i]) for i in range(5)
        )
        self.heads = nn.ModuleList(
            conv3x3(DECODER_CHANNELS[i], num_outputs) for i in range(NUM_SCALES)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Five feature maps, finest first → four sigmoid maps (B,num_outputs,H/2^s,W/2^s)."""
        x = features[-1]
        outputs = []
        for i in reversed(range(5)):
            x = F.interpolate(self.before_skip[i](x), scale_factor=2, mode="nearest")
            if i:
                x = torch.cat([x, features[i - 1]], 1)
            x = self.after_skip[i](x)
            if i < NUM_SCALES:
                outputs.append(torch.sigmoid(self.heads[i](x)))
        return outputs[::-1]


class PoseNetwork(nn.Module):
    """Relative camera motion of two consecutive frames."""

    def __init__(self, encoder: str, weights: Weights) -> None:
        super().__init__()
        self.encoder = Encoder(encoder, weights, MONODEPTH2_NORM, num_images=2)
        self.decoder = nn.Sequential(
            nn.Conv2d(self.encoder.channels[-1], 256, 1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
            # Two motions, of which the first is used: the published weights have this size.
            nn.Conv2d(256, 12, 1),
        )  # fmt: skip

    def forward(self, earlier: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """Two images (B,3,H,W) in [0,1], in temporal order.

        Returns the rotation vector (B,3) in rad and the translation (B,3) in model units, of the
        transform that maps points of the earlier frame to the later one.
        """
        features = self.encoder(torch.cat([earlier, later], 1))[-1]
        motion = 0.01 * self.decoder(features).mean((2, 3))
        return motion[:, :3], motion[:, 3:6]


class ConvElu(nn.Sequential):
    """Reflection-padded 3x3 convolution and ELU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(conv3x3(in_channels, out_channels), nn.ELU(inplace=True))


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Reflection-padded 3x3 convolution with bias."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")
