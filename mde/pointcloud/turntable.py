"""A short film that swings around a cloud and ends where it began."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mde.film import write_mp4
from mde.pointcloud.cloud import PointCloud
from mde.pointcloud.view import View, thin

FRAMES, FPS = 60, 20
LONG_SIDE = 640
"""Of a frame, px."""
YAW, PITCH = math.radians(10), math.radians(4)
"""How far the camera swings to the sides, and up and down."""
BACKGROUND = (17, 19, 24)
MOST_POINTS = 400_000
GAPLESS = 1.7
"""How much larger a point is drawn than it is, as those on slanted surfaces are farther apart."""
MOST_SPLAT = 4
"""Side of the square that a point fills in a frame, px, at most."""
EMPTY = np.uint64(2**64 - 1)


def write_turntable(path: Path, cloud: PointCloud, long_side: int = LONG_SIDE) -> None:
    """Write 3 s of H.264 that loop; long_side: of a frame, px."""
    shown = thin(cloud, MOST_POINTS)
    turns = [2 * math.pi * i / FRAMES for i in range(FRAMES)]
    frames = [draw_view(shown, YAW * math.sin(t), PITCH * math.cos(t), long_side) for t in turns]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, frames, FPS)


def draw_view(
    cloud: PointCloud, yaw: float, pitch: float, long_side: int = LONG_SIDE
) -> NDArray[np.uint8]:
    """A cloud (H,W,3) from a camera that was moved around its middle, by angles in rad.

    yaw: to the right. pitch: upwards. H and W are even.
    """
    view = View.of(cloud)
    reach = np.array(view.reach)
    focal = np.float32(long_side / 2 / reach.max())
    width, height = (2 * max(1, round(focal * side)) for side in reach)
    middle = np.array([0, 0, view.distance], np.float32)
    seen = (cloud.points - middle) @ _turn(yaw, pitch).T + middle
    # What came too near fills the frame, or is behind the camera.
    ahead = np.maximum(seen[:, 2], np.float32(0.05 * view.distance))
    # A point at z filled pitch * z before the camera moved, and fills the same now.
    sizes = GAPLESS * cloud.pitch * focal * cloud.points[:, 2] / ahead
    sides = np.where(ahead == seen[:, 2], np.clip(np.rint(sizes), 1, MOST_SPLAT), 0)
    x = seen[:, 0] / ahead * focal + (width - sides) / 2
    y = seen[:, 1] / ahead * focal + (height - sides) / 2
    nearest = _splat((height, width), np.rint(x), np.rint(y), sides, ahead)
    return np.concatenate([cloud.colors, np.array([BACKGROUND], np.uint8)])[nearest]


def _splat(
    size: tuple[int, int],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    sides: NDArray[np.float32],
    z: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Which of N squares is the nearest in each pixel (H,W); -1: none.

    x, y: (N,) of the top left pixel. sides: (N,) px. z: (N,), > 0.
    """
    # With a border, so that a square that begins within it ends within it.
    height, width = (side + 2 * MOST_SPLAT for side in size)
    buffer = np.full(height * width, EMPTY)
    within = (x >= -MOST_SPLAT) & (x < size[1]) & (y >= -MOST_SPLAT) & (y < size[0])
    # Bits of floats > 0 are in the order of the floats, so one minimum finds the depth and whose.
    keys = (z.view(np.uint32).astype(np.uint64) << np.uint64(32)) | np.arange(len(z), dtype="u8")
    for ring in range(MOST_SPLAT):
        found = np.flatnonzero(within & (sides > ring))
        rows, columns = (axis[found].astype(np.int64) + MOST_SPLAT for axis in (y, x))
        places, nearest = rows * width + columns, keys[found]
        for step in range(ring + 1):
            for dy, dx in {(ring, step), (step, ring)}:
                np.minimum.at(buffer, places + (dy * width + dx), nearest)
    which = np.where(buffer == EMPTY, -1, (buffer & np.uint64(2**32 - 1)).astype(np.int64))
    inner = slice(MOST_SPLAT, -MOST_SPLAT)
    return which.reshape(height, width)[inner, inner]


def _turn(yaw: float, pitch: float) -> NDArray[np.float32]:
    """(3,3): rotates what a camera sees when that camera goes to the right and upwards."""
    (sy, cy), (sp, cp) = ((math.sin(angle), math.cos(angle)) for angle in (yaw, pitch))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], np.float32)
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]], np.float32)
    return about_x @ about_y
