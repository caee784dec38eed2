"""Depth of consecutive frames that flickers less."""

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL = (48, 27)
"""(W,H) px of what frames are compared by."""
CUT = 30.0
"""Mean difference of two frames' thumbnails, of 255, from which on there is a cut between them."""


class Smoother:
    """An exponential moving average of depth over time, which starts anew at each cut.

    The average is one of log depth, so that errors count by their share, near and far alike. Where
    depth is right up to one factor an image (`aligned`), each frame first gets the factor that
    makes the median of its ratio to the average 1: factors that differ by frame would flicker.
    Source of the alignment: the median scaling of Zhou et al. 2017, arXiv:1704.07813, sec. 4.1.
    """

    def __init__(self, weight: float, aligned: bool) -> None:
        """Weight, in [0,1): of what was, the larger the smoother; 0 changes nothing."""
        if not 0 <= weight < 1:
            raise ValueError(f"the weight of what was must be in [0,1), found {weight:g}")
        self._weight, self._aligned = weight, aligned
        self._average: NDArray[np.float32] | None = None
        self._thumbnail: NDArray[np.int16] | None = None
        self.cuts = 0

    def __call__(self, image: NDArray[np.uint8], depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next frame (H,W,3) and its depth (H,W), > 0 → smoothed depth (H,W)."""
        if self._weight == 0:
            return depth
        values = np.log(depth)
        before, self._average = self._average, values
        if self._is_cut(image) or before is None or before.shape != values.shape:
            return depth
        if self._aligned:
            values += np.median((before - values)[::4, ::4])
        smooth: NDArray[np.float32] = before * np.float32(self._weight)
        smooth += values * np.float32(1 - self._weight)
        self._average = smooth
        return np.exp(smooth)

    def _is_cut(self, image: NDArray[np.uint8]) -> bool:
        small = cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.int16)
        before, self._thumbnail = self._thumbnail, small
        is_cut = before is not None and float(np.abs(small - before).mean()) > CUT
        self.cuts += is_cut
        return is_cut
