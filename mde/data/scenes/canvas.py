"""A small drawing board for textures, in unit coordinates (u right, v down)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mde.data.scenes.materials import TEXTURE_SIZE, Color, tileable_noise

Rect = tuple[float, float, float, float]


class Canvas:
    """A square RGBA picture drawn in unit coordinates."""

    def __init__(self, color: Color | None = (1.0, 1.0, 1.0)) -> None:
        """Start from one colour; None starts fully transparent."""
        self.pixels = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 4), np.float32)
        if color is not None:
            self.pixels[:] = (*color, 1.0)

    def polygon(self, points: ArrayLike, color: Color) -> None:
        """Fill a polygon."""
        fixed = (np.asarray(points) * TEXTURE_SIZE * 16).round().astype(np.int32)
        cv2.fillPoly(self.pixels, [fixed], (*color, 1.0), cv2.LINE_AA, shift=4)

    def rect(self, box: Rect, color: Color) -> None:
        """Fill the rectangle (u0, v0, u1, v1)."""
        u0, v0, u1, v1 = box
        self.polygon([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], color)

    def ellipse(self, center: ArrayLike, radii: ArrayLike, color: Color) -> None:
        """Fill an axis-parallel ellipse."""
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        circle = np.stack([np.cos(angle), np.sin(angle)], 1)
        self.polygon(circle * np.asarray(radii) + np.asarray(center), color)

    def finish(self, grain: float = 0.0, rng: np.random.Generator | None = None) -> NDArray:
        """The picture as uint8 RGBA, with a little grain where a generator is given."""
        if rng is not None and grain:
            self.pixels[..., :3] += grain * tileable_noise(rng, 0.7)[..., None]
        return (self.pixels * 255).round().clip(0, 255).astype(np.uint8)
