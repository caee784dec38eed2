"""Meshes of textured parallelograms: the one primitive everything in the sample is made of.

World axes are x forward, y left, z up, metres. A parallelogram is `origin + s e1 + t e2` with
s, t in [0, 1]; seen from its front, e1 points right and e2 down, as the texture's u and v.
Round things (trunks, poles) are prisms; outlines (cars, leaves, signs) come from texture alpha.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mde.data.scenes.atlas import TEXTURE_IDS

Color = Sequence[float] | NDArray[np.float64]
# Affine maps (2,3) from (s, t, 1) to light-map pixels. Every light map starts with these patches.
LIGHT_PLAIN = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
LIGHT_FRAME = np.array([[63.0, 0.0, 0.0], [0.0, 63.0, 4.0]])
LIGHT_FOOT = np.array([[0.0, 0.0, 1.0], [0.0, 63.0, 72.0]])
LIGHT_TOP = 140


@dataclass(frozen=True)
class Mesh:
    """N parallelograms with texture, tint and light-map coordinates."""

    origin: NDArray[np.float64]
    e1: NDArray[np.float64]
    e2: NDArray[np.float64]
    texture: NDArray[np.int32]
    color: NDArray[np.float64]
    """(N,3) factor on the texture's colour."""
    uv: NDArray[np.float64]
    """(N,2,3) affine map from (s, t, 1) to texture repeats."""
    light: NDArray[np.float64]
    """(N,2,3) affine map from (s, t, 1) to light-map pixels."""
    two_sided: NDArray[np.bool_]

    def placed(self, x: float, y: float, z: float = 0.0, heading: float = 0.0) -> Mesh:
        """A copy turned by `heading` (radians, left positive) about z, then moved."""
        cos, sin = np.cos(heading), np.sin(heading)
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).T
        return replace(
            self, origin=self.origin @ turn + (x, y, z), e1=self.e1 @ turn, e2=self.e2 @ turn
        )

    def tinted(self, color: Color) -> Mesh:
        """A copy with all colours multiplied by `color`."""
        return replace(self, color=self.color * np.asarray(color))

    def lit(self, to_light: ArrayLike, ambient: float, direct: float) -> Mesh:
        """A copy shaded by one distant light: colour times (ambient + direct * cosine).

        to_light: direction towards the light. Surfaces seen from both sides take the mean light.
        """
        toward = np.asarray(to_light, float) / np.linalg.norm(to_light)
        normal = np.cross(self.e2, self.e1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        cosine = normal @ toward
        cosine = np.where(self.two_sided, 0.35 + 0.3 * np.abs(cosine), np.maximum(cosine, 0))
        # A little sky light from above keeps faces in the shade distinct.
        shade = ambient * (0.85 + 0.15 * normal[:, 2]) + direct * cosine
        return replace(self, color=self.color * shade[:, None])


def join(meshes: Iterable[Mesh]) -> Mesh:
    """All parallelograms of several meshes as one mesh."""
    parts = list(meshes)
    names = Mesh.__dataclass_fields__
    return Mesh(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def panel(
    origin: ArrayLike,
    e1: ArrayLike,
    e2: ArrayLike,
    texture: str,
    color: Color = (1.0, 1.0, 1.0),
    tile_m: float | None = None,
    light: NDArray[np.float64] = LIGHT_PLAIN,
    two_sided: bool = False,
    shift: Sequence[float] = (0.0, 0.0),
) -> Mesh:
    """One parallelogram.

    tile_m: metres one texture repeat covers; None stretches one repeat over the whole panel.
    shift: texture offset in repeats.
    """
    origin, e1, e2 = (np.asarray(vector, float) for vector in (origin, e1, e2))
    repeats = np.ones(2)
    if tile_m is not None:
        repeats = np.array([np.linalg.norm(e1), np.linalg.norm(e2)]) / tile_m
    uv = np.array([[repeats[0], 0, shift[0]], [0, repeats[1], shift[1]]])
    return Mesh(
        origin[None], e1[None], e2[None],
        np.array([TEXTURE_IDS[texture]], np.int32), np.asarray(color, float)[None],
        uv[None], np.asarray(light)[None], np.array([two_sided]),
    )  # fmt: skip


def ground_panel(
    origin: ArrayLike, e1: ArrayLike, e2: ArrayLike, texture: str, color: Color, tile_m: float,
    light_of_world: NDArray[np.float64],
) -> Mesh:  # fmt: skip
    """A level panel whose texture and light follow world x, y, so overlaps do not show.

    light_of_world: (2,3) affine map from (x, y, 1) to light-map pixels.
    """
    mesh = panel(origin, e1, e2, texture, color)
    columns = np.stack([mesh.e1[0], mesh.e2[0], mesh.origin[0]], 1)[:2]
    light = light_of_world[:, :2] @ columns
    light[:, 2] += light_of_world[:, 2]
    return replace(mesh, uv=(columns / tile_m)[None], light=light[None])


def box(
    size: Sequence[float] | NDArray[np.float64],
    base: Sequence[float] = (0.0, 0.0, 0.0),
    texture: str = "white",
    color: Color = (1.0, 1.0, 1.0),
    tile_m: float | None = None,
    faces: dict[str, str] | None = None,
    light: NDArray[np.float64] = LIGHT_PLAIN,
) -> Mesh:
    """An upright box; `base` is the centre of its bottom.

    faces: texture by face ("+x", "-x", "+y", "-y", "top", "bottom"), stretched once over the
    face; the other faces take `texture`.
    """
    sx, sy, sz = size
    low = np.array([base[0] - sx / 2, base[1] - sy / 2, base[2]])
    corner = {
        "+x": ((1, 0, 1), (0, sy, 0), (0, 0, -sz)),
        "-x": ((0, 1, 1), (0, -sy, 0), (0, 0, -sz)),
        "+y": ((1, 1, 1), (-sx, 0, 0), (0, 0, -sz)),
        "-y": ((0, 0, 1), (sx, 0, 0), (0, 0, -sz)),
        "top": ((0, 1, 1), (sx, 0, 0), (0, -sy, 0)),
        "bottom": ((0, 0, 0), (sx, 0, 0), (0, sy, 0)),
    }
    parts = []
    for face, (steps, e1, e2) in corner.items():
        special = (faces or {}).get(face)
        name, tile = (special, None) if special else (texture, tile_m)
        parts.append(panel(low + np.array(steps) * (sx, sy, sz), e1, e2, name, color, tile, light))
    return join(parts)


def prism(
    radius_m: float,
    height_m: float,
    base: Sequence[float] = (0.0, 0.0, 0.0),
    sides: int = 8,
    texture: str = "white",
    color: Color = (1.0, 1.0, 1.0),
    tile_m: float | None = None,
    lean: Sequence[float] = (0.0, 0.0),
) -> Mesh:
    """An upright prism without caps, standing on `base`; lean: sideways shift of its top in m."""
    angles = np.arange(sides + 1) * (2 * np.pi / sides)
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1) * radius_m + np.asarray(base)
    rise = np.array([lean[0], lean[1], height_m])
    around = 2 * np.pi * radius_m / sides
    shift = np.arange(sides) * (around / tile_m if tile_m else 1 / sides)
    return join(
        panel(ring[i] + rise, ring[i + 1] - ring[i], -rise, texture, color, tile_m,
              shift=(float(shift[i]), 0.0))
        for i in range(sides)
    )  # fmt: skip
