"""Image encoders: a name → five feature maps at strides 2, 4, 8, 16, 32.

To add one, add a line to ENCODERS. Those need torch alone; `timm:<name>` is any model of timm with
a feature pyramid, and timm is imported when one is built.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mde.models.encoders.backbone import Backbone
from mde.models.encoders.densenet import DenseNet
from mde.models.encoders.imagenet import ImageNetFile, load_imagenet, torchvision_file
from mde.models.encoders.mobilenet import MobileNet, timm_to_own_name
from mde.models.encoders.resnet import BasicBlock, Bottleneck, ResNet
from mde.models.encoders.timm_pyramid import TimmPyramid
from mde.models.encoders.vgg import Vgg16

__all__ = [
    "ENCODERS", "IMAGENET_NORM", "MONODEPTH2_NORM", "NO_NORM", "Encoder", "EncoderEntry", "Norm",
    "Weights", "check_encoder",
]  # fmt: skip

Weights = Literal["imagenet", "scratch"]

# Mean and std of an image in [0,1], by channel.
Norm = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET_NORM: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MONODEPTH2_NORM: Norm = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
NO_NORM: Norm = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

TIMM_PREFIX = "timm:"


class EncoderEntry(NamedTuple):
    """How to build a backbone, from its input channels and `pooled`, and its ImageNet weights."""

    build: Callable[[int, bool], Backbone]
    imagenet: ImageNetFile


# FastDepth's own server is gone. These were trained on (image - 0.5) / 0.5.
MOBILENET_V1 = ImageNetFile(
    "mobilenetv1_100.ra4_e3600_r224_in1k.safetensors",
    "https://huggingface.co/timm/mobilenetv1_100.ra4_e3600_r224_in1k/resolve/main/model.safetensors",
    sha256="",
    rename=timm_to_own_name,
)


def resnet(
    block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], file: str
) -> EncoderEntry:
    """A ResNet with torchvision's weights."""
    return EncoderEntry(lambda c, _: ResNet(block, depths, c), torchvision_file(file))


def densenet(depths: tuple[int, ...], file: str) -> EncoderEntry:
    """A DenseNet with torchvision's weights."""
    return EncoderEntry(lambda c, pooled: DenseNet(depths, c, pooled), torchvision_file(file))


ENCODERS: dict[str, EncoderEntry] = {
    "resnet18": resnet(BasicBlock, (2, 2, 2, 2), "resnet18-f37072fd.pth"),
    "resnet34": resnet(BasicBlock, (3, 4, 6, 3), "resnet34-b627a593.pth"),
    "resnet50": resnet(Bottleneck, (3, 4, 6, 3), "resnet50-0676ba61.pth"),
    "densenet121": densenet((6, 12, 24, 16), "densenet121-a639ec97.pth"),
    "densenet169": densenet((6, 12, 32, 32), "densenet169-b2777c0a.pth"),
    "densenet201": densenet((6, 12, 48, 32), "densenet201-c1103571.pth"),
    "mobilenet_v1": EncoderEntry(lambda c, _: MobileNet(c), MOBILENET_V1),
    "vgg16": EncoderEntry(lambda c, _: Vgg16(c), torchvision_file("vgg16-397923af.pth")),
}


def check_encoder(name: str) -> None:
    """Raises ValueError when `name` is no encoder. Says nothing yet of what timm has."""
    if name in ENCODERS or (name.startswith(TIMM_PREFIX) and name != TIMM_PREFIX):
        return
    raise ValueError(
        f"unknown encoder '{name}'; known: {', '.join(sorted(ENCODERS))}, and timm:<name> for any "
        "model of timm with a feature pyramid"
    )


class Encoder(nn.Module):
    """A backbone that normalises its input itself.

    channels: of the five maps; channels[0] may be 0, and the first map is then (B,0,H/2,W/2).
    backbone: the network itself, named as torchvision names it (`mobilenet_v1`: as FastDepth does).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, weights: Weights, norm: Norm, num_images: int = 1, pooled: bool = False
    ) -> None:
        """Build `name` for `num_images` RGB images stacked along the channels.

        pooled: a DenseNet gives DenseDepth's taps; the others have one set and ignore it.
        Raises ValueError for an unknown name, InputError when its ImageNet weights cannot be had.
        """
        super().__init__()
        check_encoder(name)
        for key, values in zip(("mean", "std"), norm, strict=True):
            stacked = torch.tensor(values * num_images).view(1, -1, 1, 1)
            self.register_buffer(key, stacked, persistent=False)
        self.backbone = build_backbone(name, weights, 3 * num_images, pooled)
        self.channels = self.backbone.channels

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B,C,H,W) in [0,1] → five feature maps at strides 2, 4, 8, 16, 32."""
        return self.backbone((image - self.mean) / self.std)


def build_backbone(name: str, weights: Weights, in_channels: int, pooled: bool) -> Backbone:
    """The network of `Encoder`, for a name that `check_encoder` has let through."""
    if name.startswith(TIMM_PREFIX):
        return TimmPyramid(name.removeprefix(TIMM_PREFIX), in_channels, weights == "imagenet")
    entry = ENCODERS[name]
    backbone = entry.build(in_channels, pooled)
    if weights == "imagenet":
        load_imagenet(backbone, name, entry.imagenet)
    return backbone
