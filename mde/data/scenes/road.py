"""The line a street follows, and its surface: asphalt, markings, kerbs, pavements, lawns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.mesh import Color, Mesh, ground_panel, panel

CURB_M = 0.12
_SEGMENT_M = 4.0


class Road:
    """The centre line of a road whose bend grows and fades along it."""

    def __init__(self, bend: float, start: float, stop: float) -> None:
        """bend: largest curvature in 1/m (left positive); start, stop: arc length in m."""
        self._s = np.arange(start - 10, stop + 60, 0.5)
        self._bend = bend * np.sin(self._s / 45.0 + 0.6)
        self._heading = _integrate(self._bend, 0.5, self._s)
        x = _integrate(np.cos(self._heading), 0.5, self._s)
        y = _integrate(np.sin(self._heading), 0.5, self._s)
        self.points = np.stack([x, y, self._heading], 1)

    def at(self, s: float, lateral: float) -> tuple[float, float, float]:
        """World x, y and heading at arc length s, `lateral` metres left of the centre line."""
        x, y, heading = (float(np.interp(s, self._s, column)) for column in self.points.T)
        return x - lateral * np.sin(heading), y + lateral * np.cos(heading), heading

    def bend_at(self, s: float) -> float:
        """Curvature in 1/m."""
        return float(np.interp(s, self._s, self._bend))


@dataclass(frozen=True)
class RoadSurface:
    """Builds the ground along a road."""

    road: Road
    half_width_m: float
    span_m: tuple[float, float]
    """First and last arc length."""
    light_of_world: NDArray[np.float64]
    """Affine map (2,3) from world (x, y, 1) to light-map pixels."""

    def ground(self) -> list[Mesh]:
        """The asphalt everywhere; curbs, pavements and lawns on top of it beside the road."""
        low = self.road.points[:, :2].min(0) - 60
        high = self.road.points[:, :2].max(0) + 60
        width, length = high - low
        light = self.light_of_world
        grey = (0.78, 0.78, 0.8)
        parts = [
            ground_panel((low[0], high[1], 0), (width, 0, 0), (0, -length, 0), "asphalt", grey, 3.0,
                         light)
        ]  # fmt: skip
        pavement = self.half_width_m + 2.6
        for s in np.arange(self.span_m[0], self.span_m[1], _SEGMENT_M):
            for side in (-1, 1):
                parts += self._pavement(s, side, self.half_width_m, pavement)
        for s in np.arange(self.span_m[0], self.span_m[1], 2 * _SEGMENT_M):
            for side in (-1, 1):
                parts.append(self._lawn(s, side, pavement))
        return parts

    def _strip(
        self, s: float, side: int, span: tuple[float, float], length: float, z: float,
        look: tuple[str, Color, float],
    ) -> Mesh:  # fmt: skip
        """A level strip along the road at arc length s, from span[0] to span[1] m beside it.

        look: texture, colour, metres a texture repeat.
        """
        x, y, heading = self.road.at(s + length / 2, 0.0)
        along = np.array([np.cos(heading), np.sin(heading), 0.0])
        left = np.array([-along[1], along[0], 0.0])
        # Longer far from the road, so that a bend opens no gaps; overlaps share their texture.
        reach = length * (1.02 + span[1] / 100)
        outer = span[1] if side > 0 else -span[0]
        start = np.array([x, y, z]) - along * reach / 2 + left * outer
        across = -left * (span[1] - span[0])
        return ground_panel(start, along * reach, across, *look, self.light_of_world)

    def _pavement(self, s: float, side: int, near: float, far: float) -> list[Mesh]:
        """One segment of raised pavement with its kerb stones."""
        paved = self._strip(s, side, (near, far), _SEGMENT_M, CURB_M,
                            ("pavers", (0.95, 0.95, 0.95), 1.6))  # fmt: skip
        kerb = self._strip(s, side, (near, near + 0.16), _SEGMENT_M, CURB_M + 0.004,
                           ("concrete", (0.9, 0.9, 0.9), 2.0))  # fmt: skip
        # The kerb's face, seen from the road, below the edge of the kerb that is nearer to it.
        along = kerb.e1[0] * -side
        edge = kerb.origin[0] + (kerb.e2[0] if side > 0 else 0) + (kerb.e1[0] if side > 0 else 0)
        face = panel(edge, along, (0, 0, -CURB_M), "concrete", (0.8, 0.8, 0.8), 2.0)
        return [paved, kerb, face]

    def _lawn(self, s: float, side: int, near: float) -> Mesh:
        """Grass from the pavement to behind the houses."""
        return self._strip(s, side, (near, 31.0), 2 * _SEGMENT_M, CURB_M - 0.004,
                           ("grass", (0.62, 0.64, 0.62), 3.0))  # fmt: skip

    def markings(self) -> list[Mesh]:
        """A dashed centre line and, along the parking lanes, thin solid lines."""
        parts = []
        lane = self.half_width_m - 2.1
        for step, s in enumerate(np.arange(self.span_m[0] + 10, self.span_m[1] - 25, 4.5)):
            strips = [(lane, 4.52, 0.12), (-lane, 4.52, 0.12)]
            strips += [(0.0, 3.0, 0.14)] if step % 2 == 0 else []
            for lateral, length, width in strips:
                x, y, heading = self.road.at(s, lateral)
                e1 = np.array([np.cos(heading), np.sin(heading), 0]) * length
                e2 = np.array([np.sin(heading), -np.cos(heading), 0]) * width
                start = np.array([x, y, 0.006]) - (e1 + e2) / 2
                paint = ("concrete", (1.25, 1.25, 1.25), 2.5)
                parts.append(ground_panel(start, e1, e2, *paint, self.light_of_world))
        return parts


def _integrate(rate: NDArray, step: float, s: NDArray) -> NDArray:
    """Cumulative integral that is zero at s = 0."""
    total = np.cumsum(rate) * step
    return total - np.interp(0.0, s, total)
