"""What every depth model is: an image in, native maps out, and a way to metres."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.schema import Flip


class DepthModel(nn.Module, ABC):
    """Base of all families.

    The parameters of a family's constructor are the settings of `ModelConfig` that it has.

    min_depth, max_depth: range of `predict_depth`, in m (or model units when not `is_metric`).
    is_metric: whether depth is in metres, or only up to an unknown scale.
    stride: H and W of the input must be multiples of it.
    only_encoder: the encoder of a family whose encoder cannot be exchanged.
    """

    only_encoder: ClassVar[str | None] = None
    is_metric: bool = True
    stride: int = 32

    def __init__(self, min_depth: float, max_depth: float) -> None:
        super().__init__()
        self.min_depth = min_depth
        self.max_depth = max_depth

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (B,3,H,W) in [0,1] → native maps, finest first."""

    @abstractmethod
    def native_to_depth(self, native: Tensor) -> Tensor:
        """A native map (B,1,h,w) → depth of the same size.

        Not clamped to the range: training needs a gradient outside of it too.
        """

    def predict_depth(
        self, image: Tensor, size: tuple[int, ...] | None = None, flip: Flip = "none"
    ) -> Tensor:
        """Image (B,3,H,W) in [0,1], of any size → depth (B,1,*size), clamped to the depth range.

        size: (h, w) of the depth; the image's when None. The native map is resized, bilinearly,
        before it becomes depth: published KITTI numbers resize disparity.
        flip: how it is joined with the prediction of the mirrored image, mirrored back: `mean` of
        depths, or `ramp`, see `join_by_ramp`.
        """
        size = tuple(size or image.shape[-2:])
        if flip == "mean":
            mirrored = self.predict_depth(image.flip(-1), size).flip(-1)
            return (self.predict_depth(image, size) + mirrored) / 2
        fitted = self.fit_size(image)
        native = self(fitted)[0].float()
        if flip == "ramp":
            native = join_by_ramp(native, self(fitted.flip(-1))[0].float().flip(-1))
        depth = self.native_to_depth(resize_map(native, size))
        return depth.clamp(self.min_depth, self.max_depth)

    def fit_size(self, image: Tensor) -> Tensor:
        """Resize an image to the nearest size that `forward` takes, with antialiasing."""
        height, width = (
            max(self.stride, round(side / self.stride) * self.stride) for side in image.shape[-2:]
        )
        return resize_image(image, (height, width))

    def check_size(self, image: Tensor) -> None:
        """Raises ValueError when the input's size does not suit the encoder's stride."""
        height, width = image.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"{type(self).__name__} takes heights and widths that are multiples of "
                f"{self.stride}, found {height}x{width}; resize the image first"
            )


class SkipAddition(nn.Module):
    """Adds an encoder's map to a decoder's.

    The published networks add maps of equal channels. With another encoder a 1x1 convolution
    brings its map to the decoder's channels; a map of 0 channels (of an encoder that has none at
    this stride) adds nothing.
    """

    def __init__(self, skip_channels: int, channels: int) -> None:
        super().__init__()
        same = skip_channels in (0, channels)
        self.projection = nn.Identity() if same else nn.Conv2d(skip_channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B,C,h,w), skip (B,C_skip,h,w) → (B,C,h,w)."""
        return x + self.projection(skip) if skip.shape[1] else x


def join_by_ramp(native: Tensor, mirrored: Tensor) -> Tensor:
    """Join native maps (B,C,H,W) of an image and of its mirror image, which is mirrored back.

    Their mean, but for the left twentieth, where objects hide what a left camera's network could
    learn from: there it is the mirror image's map, to the right the other one, with ramps between.
    Source: Godard et al. 2017, arXiv:1609.03677, sec. 3.4.
    """
    x = torch.linspace(0, 1, native.shape[-1], dtype=native.dtype, device=native.device)
    left = 1 - (20 * (x - 0.05)).clamp(0, 1)
    right = left.flip(0)
    return right * native + left * mirrored + (1 - left - right) * (native + mirrored) / 2


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of (B,3,H,W) to `size`; the same tensor when it has that size."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def resize_map(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear resize of (B,C,h,w) to `size`; the same tensor when it has that size."""
    if values.shape[-2:] == tuple(size):
        return values
    return F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)
