"""Where to stand in a room to photograph it, and with which camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.mesh import Mesh
from mde.data.scenes.raycast import Camera, measure_depth

WIDTH, HEIGHT = 640, 480
# The colour camera of NYU Depth v2.
K_NYU = np.array([[518.8579, 0, 325.5824], [0, 519.4696, 253.7362], [0, 0, 1]])
MIN_DEPTH_M, MAX_DEPTH_M = 0.7, 10.0


def choose_cameras(
    mesh: Mesh, width: float, depth: float, rng: np.random.Generator, num_views: int
) -> list[Camera]:
    """Cameras near the walls, looking in and slightly down, nothing nearer than the sensor sees.

    mesh: a room over x in [0, width], y in [0, depth] m. Raises RuntimeError when the room is so
    full that too few clear views are found.
    """
    cameras: list[Camera] = []
    for attempt in range(60 * num_views):
        camera = _random_camera(np.array([width, depth]), rng)
        z = measure_depth(mesh, _shrunk(camera))
        clear = z.min() >= MIN_DEPTH_M + 0.05 and z.max() <= MAX_DEPTH_M - 0.05
        roomy = np.median(z) > 1.7 and np.percentile(z, 12) > 1.0
        # Late in the search any unobstructed view will do.
        if clear and (roomy or attempt > 40 * num_views):
            cameras.append(camera)
        if len(cameras) == num_views:
            return cameras
    raise RuntimeError(f"found only {len(cameras)} of {num_views} clear views of a room")


def _random_camera(extent: NDArray[np.float64], rng: np.random.Generator) -> Camera:
    angle = rng.uniform(0, 2 * np.pi)
    middle = extent / 2
    reach = rng.uniform(0.55, 0.9) * (middle - 0.2)
    position = np.array(
        [*(middle + reach * (np.cos(angle), np.sin(angle))), rng.uniform(1.25, 1.55)]
    )
    toward = middle - position[:2]
    yaw = np.arctan2(toward[1], toward[0]) + rng.uniform(-0.55, 0.55)
    pitch, roll = rng.uniform(np.radians(4), np.radians(20)), rng.normal(0, np.radians(1.2))
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    T = np.eye(4)
    T[:3, :3] = np.vstack([turn @ np.stack([right, down]), forward])
    T[:3, 3] = -T[:3, :3] @ position
    return Camera(K_NYU, T, WIDTH, HEIGHT)


def _shrunk(camera: Camera) -> Camera:
    """The same view at an eighth of the size, to judge it cheaply."""
    K = np.diag([0.125, 0.125, 1.0]) @ camera.K
    return Camera(K, camera.T_cam_world, WIDTH // 8, HEIGHT // 8)
