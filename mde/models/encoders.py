"""Image encoders: a name → five feature maps at strides 2, 4, 8, 16, 32.

To add one, add a line to ENCODERS. timm builds them; it is imported when one is built.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mde.errors import InputError

ENCODERS = {
    "resnet18": "resnet18.tv_in1k",
}

Weights = Literal["imagenet", "scratch"]

# Input normalisations (mean, std) of an image in [0,1].
IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MONODEPTH2_NORM = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


class Encoder(nn.Module):
    """A timm backbone that normalises its input itself.

    channels: of the five maps. forward: (B,C,H,W) in [0,1] → list of five maps, finest first.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        weights: Weights,
        norm: tuple[tuple[float, ...], tuple[float, ...]],
        num_images: int = 1,
    ) -> None:
        """Build `name` for `num_images` RGB images stacked along the channels.

        Raises KeyError for a name that is not in ENCODERS, InputError when its ImageNet weights
        cannot be had.
        """
        super().__init__()
        import timm

        for key, values in zip(("mean", "std"), norm, strict=True):
            stacked = torch.tensor(values * num_images).view(1, -1, 1, 1)
            self.register_buffer(key, stacked, persistent=False)
        self.backbone: Any
        try:
            self.backbone = timm.create_model(
                ENCODERS[name],
                pretrained=weights == "imagenet",
                features_only=True,
                in_chans=3 * num_images,
            )
        except Exception as error:
            if weights != "imagenet":
                raise
            raise InputError(
                f"the ImageNet weights of '{name}' ({ENCODERS[name]}) could not be loaded: {error}."
                " Go online once so that they are cached, or set `weights: scratch`."
            ) from error
        self.channels: list[int] = self.backbone.feature_info.channels()

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B,C,H,W) in [0,1] → five feature maps at strides 2, 4, 8, 16, 32."""
        return self.backbone((image - self.mean) / self.std)
