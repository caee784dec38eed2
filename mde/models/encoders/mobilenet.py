"""MobileNet v1 without its classifier, with FastDepth's parameter names (`conv0.0.weight`).

Source: Howard et al. 2017, arXiv:1704.04861, table 1, with ReLU6 as in FastDepth (Wofk et al.
2019, arXiv:1903.03273).
"""

import re

from torch import Tensor, nn

from mde.models.encoders.backbone import Backbone, init_for_relu

# Output channels and stride of conv1 to conv13, depthwise-separable each.
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
# The last block at each stride.
TAPS = (1, 3, 5, 11, 13)
# timm counts the blocks anew in each of its stages: which of ours are their first.
STAGE_STARTS = (1, 2, 4, 6, 12)
TIMM_LAYERS = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}


class MobileNet(Backbone):
    """Maps: the last block at each stride."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(*build_conv(in_channels, 32, kernel=3, stride=2))
        channels = 32
        for i, (width, stride) in enumerate(BLOCKS, start=1):
            depthwise = build_conv(channels, channels, kernel=3, stride=stride, groups=channels)
            pointwise = build_conv(channels, width, kernel=1)
            self.add_module(f"conv{i}", nn.Sequential(*depthwise, *pointwise))
            channels = width
        self.channels = [BLOCKS[i - 1][0] for i in TAPS]
        init_for_relu(self, "fan_out")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B,C,H,W) → five maps, finest first."""
        x, maps = image, []
        for i, block in enumerate(self.children()):
            x = block(x)
            if i in TAPS:
                maps.append(x)
        return maps


def build_conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution, batch norm and ReLU6."""
    return [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    ]


def timm_to_own_name(name: str) -> str:
    """The name here of a parameter of timm's `mobilenetv1_100`; others come back unchanged."""
    if match := re.fullmatch(r"blocks\.(\d)\.(\d)\.(conv_dw|bn1|conv_pw|bn2)\.(\w+)", name):
        stage, block, layer, parameter = match.groups()
        number = STAGE_STARTS[int(stage)] + int(block)
        return f"conv{number}.{TIMM_LAYERS[layer]}.{parameter}"
    return re.sub(r"^bn1\.", "conv0.1.", re.sub(r"^conv_stem\.", "conv0.0.", name))
