"""What all NYU Depth v2 sources share."""

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import MAX_PIXELS, CodecError
from mde.intrinsics import resize_K

SIZE = (480, 640)
"""(H, W) of the images, px."""
K_NYU = np.array([[518.8579, 0, 325.5824], [0, 519.4696, 253.7362], [0, 0, 1]])
"""Intrinsics of the RGB camera at SIZE, px, from the official toolbox."""
DEPTH_SCALE = 1e-3
"""Metres per code of stored depth."""


def scale_K(size: tuple[int, int]) -> NDArray[np.float64]:
    """K_NYU of whole images that were resized to `size` (H, W), px.

    Raises CodecError when the aspect is another one, so that the images were cropped.
    """
    height, width = size
    if height * SIZE[1] != width * SIZE[0] or not 0 < height * width <= MAX_PIXELS:
        raise CodecError(
            f"{height}x{width} px; NYUv2 images have {SIZE[0]}x{SIZE[1]} px (height x width), or "
            "are whole images resized at the same aspect: other intrinsics are not known",
            "wrong size",
        )
    return resize_K(K_NYU, SIZE, size)
