"""What every depth model is: an image in, native maps out, and a way to metres."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F


class DepthModel(nn.Module, ABC):
    """Base of all families.

    min_depth, max_depth: range of `predict_depth`, in m (or model units when not `is_metric`).
    is_metric: whether depth is in metres, or only up to an unknown scale.
    stride: H and W of the input must be multiples of it.
    """

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
        """A native map (B,1,h,w) → depth of the same size."""

    def predict_depth(self, image: Tensor) -> Tensor:
        """Image (B,3,H,W) in [0,1] → depth (B,1,H,W), clamped to [min_depth, max_depth]."""
        native = resize_map(self(image)[0], image.shape[-2:])
        return self.native_to_depth(native.float()).clamp(self.min_depth, self.max_depth)

    def check_size(self, image: Tensor) -> None:
        """Raises ValueError when the input's size does not suit the encoder's stride."""
        height, width = image.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"{type(self).__name__} takes heights and widths that are multiples of "
                f"{self.stride}, found {height}x{width}; resize the image first"
            )


def resize_map(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear resize of (B,C,h,w) to `size`; the same tensor when it has that size."""
    if values.shape[-2:] == tuple(size):
        return values
    return F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)
