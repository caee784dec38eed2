"""A spinning 64-beam LiDAR over a mesh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.mesh import Mesh
from mde.data.scenes.raycast import surface_colors
from mde.data.scenes.vehicle import BEAM_ELEVATIONS, LIDAR_MAX_RANGE_M
from mde.data.scenes.visibility import trace

_AZIMUTHS = 2080
_SECTORS = 4
_MIN_RANGE_M = 1.5


def cast_lidar(
    mesh: Mesh, T_velo_world: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """One scan: (N,4) float32 of x, y, z in m and reflectance 0..1, beam by beam from the top.

    Ranges carry 2 cm of noise; dark and grazing surfaces, the sky and chance drop points.
    The scan is taken at one instant, without the motion of a real turn.
    """
    step = 2 * np.pi / _AZIMUTHS
    # Counter-clockwise from straight ahead, as the real sensor's files are ordered.
    azimuth = (np.arange(_AZIMUTHS) + 0.5) * step
    ranges = np.zeros((len(BEAM_ELEVATIONS), _AZIMUTHS), np.float32)
    reflectance = np.zeros_like(ranges)
    per_sector = _AZIMUTHS // _SECTORS
    for sector in range(_SECTORS):
        columns = (np.arange(per_sector) + sector * per_sector)[::-1]
        sector_ranges, sector_reflectance = _cast_sector(mesh, T_velo_world, azimuth[columns])
        ranges[:, columns] = sector_ranges
        reflectance[:, columns] = sector_reflectance
    weak = rng.uniform(size=ranges.shape) < 0.015 + 0.5 * (ranges / 150) ** 2
    # Dark paint and glass swallow part of the beams.
    weak |= rng.uniform(size=ranges.shape) < 0.5 * (reflectance < 0.07)
    keep = (ranges > _MIN_RANGE_M) & (ranges < LIDAR_MAX_RANGE_M) & ~weak
    ranges = ranges + rng.normal(0, 0.02, ranges.shape).astype(np.float32)
    direction = np.stack(
        [
            np.cos(BEAM_ELEVATIONS)[:, None] * np.cos(azimuth),
            np.cos(BEAM_ELEVATIONS)[:, None] * np.sin(azimuth),
            np.broadcast_to(np.sin(BEAM_ELEVATIONS)[:, None], ranges.shape),
        ],
        2,
    )
    points = (direction * ranges[..., None])[keep]
    return np.column_stack([points.round(3), reflectance[keep].round(2)]).astype("<f4")


def _cast_sector(
    mesh: Mesh, T_velo_world: NDArray[np.float64], azimuth: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ranges (0 = none) and reflectance of all beams over descending azimuths, (beams, n)."""
    middle = azimuth.mean()
    forward = np.array([np.cos(middle), np.sin(middle), 0.0])
    T_sector_velo = np.eye(4)
    right = (forward[1], -forward[0], 0.0)
    T_sector_velo[:3, :3] = np.array([right, (0.0, 0.0, -1.0), forward])
    angle = middle - azimuth
    xs = np.tan(angle).astype(np.float32)
    ys = (-np.tan(BEAM_ELEVATIONS)[:, None] / np.cos(angle)).astype(np.float32)
    hits = trace(mesh, T_sector_velo @ T_velo_world, xs, ys)
    index = hits.index.ravel()
    hit = index >= 0
    x, y = np.broadcast_to(xs, ys.shape).ravel()[hit], ys.ravel()[hit]
    ranges, reflectance = np.zeros(index.shape, np.float32), np.zeros(index.shape, np.float32)
    ranges[hit] = np.sqrt(x * x + y * y + 1) / hits.inverse_depth.ravel()[hit]
    colors = surface_colors(hits, mesh, None, index[hit], x, y, 0.003)
    reflectance[hit] = np.clip(0.55 * colors.mean(1), 0, 0.99)
    return ranges.reshape(ys.shape), reflectance.reshape(ys.shape)
