"""Light on the floor, ceiling and walls of a room, baked once into small grey patches."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LIGHT_PX = 64


@dataclass(frozen=True)
class Footprint:
    """Floor area taken by a piece: x0, y0, x1, y1 in m, and its height."""

    x0: float
    y0: float
    x1: float
    y1: float
    height: float

    def overlaps(self, other: Footprint, gap: float) -> bool:
        """Whether two footprints come closer than `gap` metres."""
        return (
            self.x0 < other.x1 + gap and other.x0 < self.x1 + gap
            and self.y0 < other.y1 + gap and other.y0 < self.y1 + gap
        )  # fmt: skip


def irradiance(
    origin: NDArray, e1: NDArray, e2: NDArray, lamp: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Lamp light, ambient light and darker edges over one surface, (64, 64)."""
    t, s = np.mgrid[:LIGHT_PX, :LIGHT_PX] / (LIGHT_PX - 1)
    points = origin + s[..., None] * e1 + t[..., None] * e2
    normal = np.cross(e2, e1) / np.linalg.norm(np.cross(e2, e1))
    toward = lamp - points
    distance = np.linalg.norm(toward, axis=2)
    cosine = np.maximum(toward @ normal, 0.1) / distance
    lamp_light = 0.7 * cosine / (0.55 + 0.16 * distance**2)
    edges = [s * np.linalg.norm(e1), (1 - s) * np.linalg.norm(e1)]
    edges += [t * np.linalg.norm(e2), (1 - t) * np.linalg.norm(e2)]
    corner = np.prod([1 - 0.3 * np.exp(-edge / 0.22) for edge in edges], axis=0)
    return ((0.52 + lamp_light) * corner).astype(np.float32)


def contact_shadows(footprints: list[Footprint], width: float, depth: float) -> NDArray[np.float32]:
    """Soft darkening of the floor under and around furniture, (64, 64)."""
    scale = np.array([width, depth]) / (LIGHT_PX - 1)
    shade = np.zeros((LIGHT_PX, LIGHT_PX), np.float32)
    for spot in footprints:
        c0, c1 = (int(np.clip(round(x / scale[0]), 0, 63)) for x in (spot.x0, spot.x1))
        r0, r1 = (int(np.clip(round((depth - y) / scale[1]), 0, 63)) for y in (spot.y1, spot.y0))
        shade[r0 : r1 + 1, c0 : c1 + 1] = 1
    return 1 - 0.45 * cv2.GaussianBlur(shade, (0, 0), 1.8)
