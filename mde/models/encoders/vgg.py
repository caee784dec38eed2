"""VGG-16 without its classifier, with torchvision's parameter names (`features.0.weight`).

Source: Simonyan and Zisserman 2015, arXiv:1409.1556, table 1, column D.
"""

from torch import Tensor, nn

from mde.models.encoders.backbone import Backbone, init_for_relu

# Output channels and number of the 3x3 convolutions before each max pooling.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class Vgg16(Backbone):
    """Maps: the five max poolings."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for width, depth in STAGES:
            for _ in range(depth):
                self.features.append(nn.Conv2d(in_channels, width, 3, padding=1))
                self.features.append(nn.ReLU(inplace=True))
                in_channels = width
            self.features.append(nn.MaxPool2d(2))
        self.channels = [width for width, _ in STAGES]
        init_for_relu(self, "fan_out")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B,C,H,W) → five maps, finest first."""
        x, maps = image, []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return maps
