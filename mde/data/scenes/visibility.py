"""Which surface each ray of a camera or LiDAR meets first, and where, in closed form.

For a ray r = (x, y, 1) and a parallelogram with columns M = [e1 e2 origin] in camera axes,
inv(M) r = (s, t, 1) / z: three linear functions of the ray give inverse depth and surface
coordinates. Depth is therefore exact, and cheap enough to evaluate per ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.atlas import NUM_LEVELS, TEXTURE_SIZE, load_atlas
from mde.data.scenes.mesh import Mesh

Floats = NDArray[np.float32]
_NEAR_M = 0.05


@dataclass(frozen=True)
class Hits:
    """What each ray meets: index into `rows` (-1: nothing) and inverse depth."""

    index: NDArray[np.int32]
    inverse_depth: Floats
    rows: NDArray[np.floating]
    """(n,3,3) inv(M) of the parallelograms in view."""
    quads: NDArray[np.int64]
    """(n,) their index in the mesh."""


def trace(mesh: Mesh, T_cam_world: NDArray[np.float64], xs: Floats, ys: Floats) -> Hits:
    """First hits of the rays (x, y, 1), by z-buffer inside each parallelogram's bounds.

    xs: (W,) ascending. ys: (H,1), or (H,W) where rows bend, ascending along rows' index.
    """
    R, t = T_cam_world[:3, :3], T_cam_world[:3, 3]
    M = np.stack([mesh.e1 @ R.T, mesh.e2 @ R.T, mesh.origin @ R.T + t], axis=2)
    bounds = _bounds(M, xs, ys)
    # (e1 x e2) . origin is positive when the front looks at the camera.
    facing = np.linalg.det(M)
    seen = (np.abs(facing) > 1e-9) & (mesh.two_sided | (facing > 0))
    quads = np.flatnonzero(seen & (bounds[:, 0] < bounds[:, 1]) & (bounds[:, 2] < bounds[:, 3]))
    # Near surfaces first, so that hidden ones fail the depth test before anything else is done.
    middle_z = M[quads, 2, 2] + M[quads, 2, :2].sum(1) / 2
    order = np.argsort(middle_z, kind="stable")
    quads, middle_z = quads[order], middle_z[order]
    rows = np.linalg.inv(M[quads])
    shape = np.broadcast_shapes(ys.shape, (1, len(xs)))
    hits = Hits(np.full(shape, -1, np.int32), np.zeros(shape, np.float32), rows, quads)
    cutout = load_atlas().cutout[mesh.texture[quads]]
    texels = _texels_per_m(mesh, quads) * middle_z * (xs[1] - xs[0])
    slack = (3e-7 * np.abs(rows).sum((1, 2))).astype(np.float32)
    rows32 = rows.astype(np.float32)
    for index, (c0, c1, r0, r1) in enumerate(bounds[quads].tolist()):
        clip = (mesh, quads[index], float(texels[index])) if cutout[index] else None
        block = slice(r0, r1), slice(c0, c1)
        y = ys[r0:r1] if ys.shape[1] == 1 else ys[block]
        _draw(hits, index, block, xs[c0:c1], y, rows32[index], slack[index], clip)
    return hits


def _draw(
    hits: Hits, index: int, block: tuple[slice, slice], x: Floats, y: Floats,
    rows: Floats, slack: np.float32, clip: tuple[Mesh, int, float] | None,
) -> None:  # fmt: skip
    """Enter one parallelogram into its block of the z-buffer; clip: last arguments of `_cut`."""
    z_buffer = hits.inverse_depth[block]
    w = _linear(rows[2], x, y)
    visible = w > z_buffer
    if not visible.any():
        return
    s, t = _linear(rows[0], x, y), _linear(rows[1], x, y)
    inside = np.minimum(s, t)
    np.minimum(inside, w - np.maximum(s, t), out=inside)
    visible &= inside >= -slack
    if clip:
        _cut(visible, s, t, w, *clip)
    np.copyto(z_buffer, w, where=visible)
    np.copyto(hits.index[block], index, where=visible)


def _linear(row: Floats, x: Floats, y: Floats) -> Floats:
    return row[0] * x + (row[1] * y + row[2])


def _texels_per_m(mesh: Mesh, quads: NDArray[np.int64]) -> NDArray[np.float64]:
    """Texels a metre (n,) along the denser axis of each panel."""
    along = [mesh.uv[quads, i, i] / np.linalg.norm(e[quads], axis=1)
             for i, e in enumerate((mesh.e1, mesh.e2))]  # fmt: skip
    return TEXTURE_SIZE * np.maximum(*along)


def _cut(
    visible: NDArray[np.bool_], s: Floats, t: Floats, w: Floats,
    mesh: Mesh, quad: int, texels_per_ray: float,
) -> None:  # fmt: skip
    """Clear `visible` where the texture is transparent, at one mip level for the whole panel."""
    where = np.flatnonzero(visible)
    scale = 1 / w.ravel()[where]
    (us, _, u0), (_, vt, v0) = mesh.uv[quad].astype(np.float32)
    u, v = us * s.ravel()[where] * scale + u0, vt * t.ravel()[where] * scale + v0
    level = min(int(np.log2(max(texels_per_ray, 1))), NUM_LEVELS - 1)
    texture = int(mesh.texture[quad])
    opaque = load_atlas().is_opaque(texture, u, v, level)
    visible.ravel()[where[~opaque]] = False


def _bounds(M: NDArray[np.float64], xs: Floats, ys: Floats) -> NDArray[np.int64]:
    """Column and row ranges (N,4) c0, c1, r0, r1 that the projected panels can touch."""
    e1, e2, p = M[..., 0], M[..., 1], M[..., 2]
    corners = np.stack([p, p + e1, p + e1 + e2, p + e2], 1)
    following = np.roll(corners, -1, axis=1)
    z0, z1 = corners[..., 2], following[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        at_near = corners + ((_NEAR_M - z0) / (z1 - z0))[..., None] * (following - corners)
    crosses = (z0 < _NEAR_M) != (z1 < _NEAR_M)
    points = np.concatenate([corners, at_near], 1)
    valid = np.concatenate([z0 >= _NEAR_M, crosses], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = points[..., 0] / points[..., 2], points[..., 1] / points[..., 2]
    low_x, high_x = np.where(valid, x, np.inf).min(1), np.where(valid, x, -np.inf).max(1)
    low_y, high_y = np.where(valid, y, np.inf).min(1), np.where(valid, y, -np.inf).max(1)
    return np.stack(
        [
            np.searchsorted(xs, low_x - 1e-6, "left"), np.searchsorted(xs, high_x + 1e-6, "right"),
            np.searchsorted(ys.max(1), low_y - 1e-6, "left"),
            np.searchsorted(ys.min(1), high_y + 1e-6, "right"),
        ],
        1,
    )  # fmt: skip
