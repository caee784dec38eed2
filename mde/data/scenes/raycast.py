"""Images with exact depth: meshes seen by pinhole cameras.

Four rays a pixel decide visibility; colour is looked up once in a pixel that shows one surface
and per ray on edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.atlas import TEXTURE_IDS, TEXTURE_SIZE, load_atlas, remap_flat
from mde.data.scenes.mesh import LIGHT_PLAIN, LIGHT_TOP, Mesh
from mde.data.scenes.visibility import Hits, trace

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: K (3,3) px with pixel centres at whole numbers, T_cam_world (4,4)."""

    K: NDArray[np.float64]
    T_cam_world: NDArray[np.float64]
    width: int
    height: int


@dataclass(frozen=True)
class Frame:
    """A rendered frame: image (H,W,3) uint8 RGB, depth (H,W) float32 m (inf = sky), camera."""

    image: NDArray[np.uint8]
    depth: Floats
    camera: Camera

    @property
    def K(self) -> NDArray[np.float64]:
        """Intrinsics (3,3) in px."""
        return self.camera.K

    @property
    def T_cam_world(self) -> NDArray[np.float64]:
        """World to camera (4,4)."""
        return self.camera.T_cam_world


def start_light_map(width: int, height: int) -> Floats:
    """A (LIGHT_TOP + height, width) light map of ones whose head holds the shared patches."""
    light = np.ones((LIGHT_TOP + height, max(width, 64)), np.float32)
    edge = np.minimum(np.arange(64), np.arange(64)[::-1]) / 63
    falloff = 1 - 0.32 * np.exp(-edge / 0.07)
    light[4:68, :64] = falloff[:, None] * falloff[None]
    light[72:136] = (1 - 0.45 * np.exp(-np.arange(64)[::-1] / 63 / 0.12))[:, None]
    return light


def render(mesh: Mesh, light_map: Floats, camera: Camera) -> Frame:
    """Render a lit mesh. Deterministic; see `Frame` for what comes back."""
    K, width, height = camera.K, camera.width, camera.height
    xs = ((np.arange(2 * width) / 2 - 0.25 - K[0, 2]) / K[0, 0]).astype(np.float32)
    ys = ((np.arange(2 * height) / 2 - 0.25 - K[1, 2]) / K[1, 1]).astype(np.float32)
    hits = trace(mesh, camera.T_cam_world, xs, ys[:, None])
    corners = [(v, u) for v in (0, 1) for u in (0, 1)]
    first = np.ascontiguousarray(hits.index[0::2, 0::2])
    whole = np.ones((height, width), bool)
    inverse = hits.inverse_depth[0::2, 0::2].copy()
    for v, u in corners[1:]:
        whole &= hits.index[v::2, u::2] == first
        np.maximum(inverse, hits.inverse_depth[v::2, u::2], out=inverse)
    shader = _Shader(hits, mesh, light_map, camera)
    image = np.empty((height * width, 3), np.float32)
    pixel = np.flatnonzero(whole)
    x = np.tile((xs[0::2] + xs[1::2]) / 2, height)[pixel]
    y = np.repeat((ys[0::2] + ys[1::2]) / 2, width)[pixel]
    index = first.ravel()[pixel]
    image[pixel] = shader.colors(index, x, y)
    inverse.ravel()[pixel] = _inverse_depth(hits, index, x, y)
    rows, columns = np.nonzero(~whole)
    image[rows * width + columns] = sum(
        shader.colors(hits.index[v::2, u::2][rows, columns], xs[2 * columns + u], ys[2 * rows + v])
        for v, u in corners
    ) / np.float32(4)
    with np.errstate(divide="ignore"):
        depth = np.reciprocal(inverse)
    # Scales, rounds and saturates.
    pixels = cv2.convertScaleAbs(image.reshape(height, width, 3), alpha=255)
    return Frame(np.asarray(pixels, np.uint8), depth, camera)


def _inverse_depth(hits: Hits, index: NDArray[np.int32], x: Floats, y: Floats) -> Floats:
    """1/z (N,) of rays (x, y, 1) that meet parallelogram `index`; 0 where it is -1."""
    # The last row, all zero, is the one that index -1 picks.
    a, b, c = np.vstack([hits.rows[:, 2], np.zeros(3)]).T.astype(np.float32)
    return a[index] * x + (b[index] * y + c[index])


def measure_depth(mesh: Mesh, camera: Camera) -> Floats:
    """Camera z (H,W) m at pixel centres (inf: nothing there), without the cost of an image."""
    K = camera.K
    xs = ((np.arange(camera.width) - K[0, 2]) / K[0, 0]).astype(np.float32)
    ys = ((np.arange(camera.height) - K[1, 2]) / K[1, 1]).astype(np.float32)
    with np.errstate(divide="ignore"):
        return np.reciprocal(trace(mesh, camera.T_cam_world, xs, ys[:, None]).inverse_depth)


@dataclass(frozen=True)
class _Shader:
    """Everything that colours a camera's rays."""

    hits: Hits
    mesh: Mesh
    light_map: Floats
    camera: Camera

    def colors(self, index: NDArray[np.int32], x: Floats, y: Floats) -> Floats:
        """Colours (N,3) in [0,1] of rays (x, y, 1) meeting parallelogram `index` (-1: sky)."""
        color = np.empty((len(index), 3), np.float32)
        hit, sky = index >= 0, index < 0
        if sky.any():
            color[sky] = _sky_colors(self.camera, x[sky], y[sky])
        color[hit] = surface_colors(
            self.hits, self.mesh, self.light_map, index[hit], x[hit], y[hit],
            1 / self.camera.K[0, 0],
        )  # fmt: skip
        return color


def surface_colors(
    hits: Hits, mesh: Mesh, light_map: Floats | None,
    index: NDArray[np.int32], x: Floats, y: Floats, pixel: float,
) -> Floats:  # fmt: skip
    """Texture times tint times light (N,3) at hit rays; pixel: ray spacing for the mip level."""
    quads = hits.quads
    # Texture and depth as linear functions of the ray; one contiguous row a coefficient.
    table = np.concatenate([mesh.uv[quads] @ hits.rows, hits.rows[:, 2:]], 1).reshape(-1, 9)
    g = np.take(np.ascontiguousarray(table.T.astype(np.float32)), index, axis=1)
    depth = 1 / (g[6] * x + (g[7] * y + g[8]))
    u = (g[0] * x + (g[1] * y + g[2])) * depth
    v = (g[3] * x + (g[4] * y + g[5])) * depth
    # Screen derivatives of u and v; their area and longest side pick the mip level.
    depth *= np.float32(pixel * TEXTURE_SIZE)
    ux, uy = (g[0] - u * g[6]) * depth, (g[1] - u * g[7]) * depth
    vx, vy = (g[3] - v * g[6]) * depth, (g[4] - v * g[7]) * depth
    longest = np.maximum(ux * ux + vx * vx, uy * uy + vy * vy)
    area = np.abs(ux * vy - uy * vx)
    # Between isotropic (sharp, may shimmer) and trilinear (blurred at grazing angles).
    level = np.float32(0.25) * np.log2(longest * area + np.float32(1e-20))
    color = load_atlas().colors(mesh.texture[quads][index], u, v, level)
    color *= np.take(mesh.color[quads].astype(np.float32), index, axis=0)
    if light_map is not None:
        _apply_light(color, hits, mesh, light_map, index, x, y)
    return color


def _apply_light(
    color: Floats, hits: Hits, mesh: Mesh, light_map: Floats,
    index: NDArray[np.int32], x: Floats, y: Floats,
) -> None:  # fmt: skip
    """Multiply colours by the light map, where a panel has a place in it."""
    light = mesh.light[hits.quads]
    special = (light != LIGHT_PLAIN).any(axis=(1, 2))
    where = np.flatnonzero(special[index])
    index, x, y = index[where], x[where], y[where]
    table = np.concatenate([light @ hits.rows, hits.rows[:, 2:]], 1).reshape(-1, 9)
    g = np.take(np.ascontiguousarray(table.T.astype(np.float32)), index, axis=1)
    depth = 1 / (g[6] * x + (g[7] * y + g[8]))
    u = (g[0] * x + (g[1] * y + g[2])) * depth
    v = (g[3] * x + (g[4] * y + g[5])) * depth
    color[where] *= remap_flat(light_map, u, v)[:, None]


def _sky_colors(camera: Camera, x: Floats, y: Floats) -> Floats:
    """Sky colours (N,3): bright haze at the horizon, clouds above, by world direction."""
    R = camera.T_cam_world[:3, :3]
    direction = np.stack([x, y, np.ones_like(x)], 1) @ R.astype(np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    height = np.clip(direction[:, 2], 0.02, 1)
    u, v = 0.09 * direction[:, 0] / (height + 0.12), 0.09 * direction[:, 1] / (height + 0.12)
    clouds = np.full(len(x), TEXTURE_IDS["clouds"], np.int32)
    sky = load_atlas().colors(clouds, u, v, np.full(len(x), 2.0, np.float32))
    haze = np.exp(-height / 0.12)[:, None]
    return sky * (1 - haze) + np.array([0.93, 0.95, 0.97], np.float32) * haze
