"""Intrinsics K under resize, crop and flip. NumPy alone: decode tasks import this.

Pixel centres are integers: the left edge of the image is at u = -0.5.
"""

import numpy as np
from numpy.typing import NDArray


def resize_K(K: NDArray, size: tuple[int, int], new_size: tuple[int, int]) -> NDArray:
    """K (3,3) of an image of `size` (H, W), after it is resized to `new_size` (H, W)."""
    scale_y, scale_x = new_size[0] / size[0], new_size[1] / size[1]
    resized = K.astype(np.float64).copy()
    resized[0, :2] *= scale_x
    resized[1, 1] *= scale_y
    # The half pixel keeps edges on edges, as cv2.resize does.
    resized[0, 2] = (K[0, 2] + 0.5) * scale_x - 0.5
    resized[1, 2] = (K[1, 2] + 0.5) * scale_y - 0.5
    return resized


def crop_K(K: NDArray, top: int, left: int) -> NDArray:
    """K (3,3) after the first `top` rows and `left` columns are cut off."""
    cropped = K.astype(np.float64).copy()
    cropped[0, 2] -= left
    cropped[1, 2] -= top
    return cropped


def flip_K(K: NDArray, width: int) -> NDArray:
    """K (3,3) after a horizontal flip of an image that is `width` px wide."""
    # In the mirror x of the camera points the other way too, so the focal length stays positive.
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
    return mirror @ K.astype(np.float64) @ np.diag([-1.0, 1, 1])
