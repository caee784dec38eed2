"""A depth map as coloured points, and the PLY file that programs for points read."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.errors import InputError
from mde.files import write_bytes

MAX_JUMP = 0.06
"""How much farther than its neighbours, as a share, a pixel may be to lie on their surface."""


@dataclass(frozen=True)
class PointCloud:
    """Points as a camera sees them: x to the right, y down, z forward (OpenCV).

    points: (N,3) float32, N >= 1, in m or up to scale. colors: (N,3) uint8 RGB. pitch: angle
    between the rays of neighbouring points, rad; a point at z fills a square of pitch * z.
    """

    points: NDArray[np.float32]
    colors: NDArray[np.uint8]
    pitch: float


def to_points(
    depth: NDArray[np.floating],
    image: NDArray[np.uint8],
    K: NDArray[np.floating],
    *,
    max_depth: float | None = None,
    drop_edges: bool = True,
    max_jump: float = MAX_JUMP,
    stride: int = 1,
) -> PointCloud:
    """Depth (H,W) and image (H,W,3) seen with K (3,3) → a point for each pixel with a depth.

    Depths that are not > 0 and finite are unknown; those beyond max_depth are left out.
    drop_edges: as of `edges`. stride: every n-th pixel of every n-th row.
    Raises InputError when no point is left.
    """
    if image.shape != (*depth.shape, 3):
        raise ValueError(f"depth {depth.shape} and image {image.shape} are not of the same size")
    keep = known(depth, max_depth)
    if drop_edges:
        keep &= ~edges(depth, max_jump)
    keep = keep[::stride, ::stride]
    if not keep.any():
        raise InputError(
            f"no point is left of the depth map of {depth.shape[1]}x{depth.shape[0]} px: all of it "
            f"is unknown, beyond {max_depth} or an edge"
        )
    # Zeros in place of what is unknown, as infinity times 0 is no number.
    points = backproject(np.where(keep, depth[::stride, ::stride], 0), K, stride)[keep]
    colors = image[::stride, ::stride][keep]
    return PointCloud(points, colors, stride / float(min(K[0, 0], K[1, 1])))


def known(depth: NDArray[np.floating], max_depth: float | None) -> NDArray[np.bool_]:
    """Which of depth (H,W) are > 0, finite, and at most max_depth."""
    far = np.inf if max_depth is None else max_depth
    return np.isfinite(depth) & (depth > 0) & (depth <= far)


def edges(depth: NDArray[np.floating], max_jump: float = MAX_JUMP) -> NDArray[np.bool_]:
    """Where depth (H,W) jumps: in 3x3 px the farthest is more than max_jump beyond the nearest.

    Networks smear a jump over some pixels, whose points fly between the two surfaces. A share and
    not a distance, so that the scale does not matter. Unknown neighbours do not count.
    """
    sure = known(depth, None)
    window = np.ones((3, 3), np.uint8)
    nearest = cv2.erode(np.where(sure, depth, np.inf).astype(np.float32), window)
    farthest = cv2.dilate(np.where(sure, depth, 0).astype(np.float32), window)
    jumps: NDArray[np.bool_] = farthest > np.where(sure, nearest, np.inf) * (1 + max_jump)
    return jumps


def backproject(
    depth: NDArray[np.floating], K: NDArray[np.floating], stride: int = 1
) -> NDArray[np.float32]:
    """Depth (h,w) → points (h,w,3); it has every stride-th pixel of what K (3,3) is of."""
    height, width = depth.shape
    u, v = np.meshgrid(np.arange(width) * stride, np.arange(height) * stride)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T
    return (rays * depth[..., None]).astype(np.float32)


def write_ply(path: Path, cloud: PointCloud) -> None:
    """Write binary PLY: float32 x y z, uchar red green blue, in the camera's frame."""
    # By hand, as trimesh adds an alpha to each point and takes three times as long.
    places = np.ascontiguousarray(cloud.points, "<f4").view(np.uint8)
    rows = np.concatenate([places, cloud.colors], 1)
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {color}" for color in ("red", "green", "blue")]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment camera frame: x right, y down, z forward",
        f"element vertex {len(rows)}",
        *properties,
        "end_header\n",
    ]
    write_bytes(path, "\n".join(header).encode() + rows.tobytes())
