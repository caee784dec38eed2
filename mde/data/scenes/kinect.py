"""What a Kinect makes of exact depth: quantised, with shadows, holes and a blind border."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.raycast import Frame

_PROJECTOR_BASELINE_M = 0.075
# Depth steps grow as z^2 / 348: the sensor counts in units of 348 / z.
_UNITS_M = 348.0
_BORDER_PX = (44, 9, 40, 36)


def raw_depth(frame: Frame, rng: np.random.Generator) -> NDArray[np.float32]:
    """Simulate the sensor's depth of a frame: (H,W) float32 m, 0 where it measures nothing.

    Nothing is measured in the projector's shadow left of near things, at depth edges, on dark,
    glaring, grazing or far surfaces, in speckles and along the border.
    """
    exact = frame.depth.astype(np.float64)
    units = _UNITS_M / exact + rng.normal(0, 0.3, exact.shape)
    depth = _UNITS_M / np.maximum(units.round(), 1)
    grey = cv2.GaussianBlur(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), (0, 0), 2.0)
    patches = _patches(rng, exact.shape, 7.0)
    holes = _shadow(exact, frame.K[0, 0]) | _edges(exact, patches)
    # Steepness: metres of depth per metre along the surface's image.
    rows, columns = np.gradient(exact)
    steep = np.hypot(rows, columns) * frame.K[0, 0] / exact
    holes |= steep + patches > 6.0
    holes |= (grey < 34) & (patches > -0.4)
    holes |= (grey > 249) & (patches > -0.6)
    holes |= patches > 3.0
    holes |= exact + 0.7 * patches > 7.5
    holes |= _border(rng, exact.shape)
    return np.where(holes, 0, depth).astype(np.float32)


def _patches(rng: np.random.Generator, shape: tuple[int, ...], radius_px: float) -> NDArray:
    """Smooth noise of unit deviation, so that holes come in patches."""
    step = max(1, int(radius_px / 3))
    coarse = rng.standard_normal([-(-size // step) for size in shape], np.float32)
    noise: NDArray = cv2.GaussianBlur(coarse, (0, 0), radius_px / step)
    noise /= noise.std()
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_LINEAR)


def _shadow(depth: NDArray, focal_px: float) -> NDArray[np.bool_]:
    """Pixels the projector, right of the camera, cannot reach past a nearer surface."""
    column = np.arange(depth.shape[1]) - focal_px * _PROJECTOR_BASELINE_M / depth
    nearest = np.minimum.accumulate(column[:, ::-1], axis=1)[:, ::-1]
    return column > nearest + 0.7


def _edges(depth: NDArray, patches: NDArray) -> NDArray[np.bool_]:
    """Ragged strips along jumps in depth."""
    kernel = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(depth, kernel), cv2.dilate(depth, kernel)
    jump = (high - low > 0.08 * depth).astype(np.uint8)
    wide = cv2.dilate(jump, kernel).astype(bool)
    return jump.astype(bool) | (wide & (patches > 0.3))


def _border(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The blind, wavy frame left by aligning depth with the colour camera."""
    top, bottom, left, right = (px + rng.integers(-3, 4) for px in _BORDER_PX)
    wave = _patches(rng, shape, 20.0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    inset = np.minimum.reduce(
        [y - top, shape[0] - 1 - bottom - y, x - left, shape[1] - 1 - right - x]
    )
    return inset + wave < 0
