"""The sensor car: the calibration of the KITTI recording day 2011_09_26 and poses that follow it.

The rectified cameras 2 and 3 and the LiDAR keep the day's published numbers. What no rectified
image depends on (raw lenses, the grey cameras) is filled with an ideal rig that agrees with them.
World axes: x east, y north, z up. IMU and LiDAR axes: x forward, y left, z up.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]

CAMERAS = ("image_02", "image_03")
IMAGE_WIDTH, IMAGE_HEIGHT = 1242, 375
IMU_HEIGHT_M = 0.94
LIDAR_MAX_RANGE_M = 80.0
# 32 beams a third of a degree apart and, below them, 32 half a degree apart.
BEAM_ELEVATIONS = np.radians(np.concatenate([2.0 - np.arange(32) / 3, -8.83 - np.arange(32) / 2]))

_FOCAL_PX, _CX, _CY = 721.5377, 609.5593, 172.8540
_R_RECT_00 = (
    9.999239e-01, 9.837760e-03, -7.445048e-03, -9.869795e-03, 9.999421e-01, -4.278459e-03,
    7.402527e-03, 4.351614e-03, 9.999631e-01,
)  # fmt: skip
_P_RECT_LAST_COLUMN = (
    (0.0, 0.0, 0.0),
    (-389.6304, 0.0, 0.0),
    (44.85728, 0.2163791, 2.745884e-03),
    (-339.5242, 2.199936, 2.729905e-03),
)
VELO_TO_CAM: Mapping[str, tuple[float, ...]] = {
    "R": (
        7.533745e-03, -9.999714e-01, -6.166020e-04, 1.480249e-02, 7.280733e-04, -9.998902e-01,
        9.998621e-01, 7.523790e-03, 1.480755e-02,
    ),
    "T": (-4.069766e-03, -7.631618e-02, -2.717806e-01),
    "delta_f": (0.0, 0.0),
    "delta_c": (0.0, 0.0),
}  # fmt: skip
# A pitch of 0.7 degrees: the camera looks level when the car stands level.
IMU_TO_VELO: Mapping[str, tuple[float, ...]] = {
    "R": (9.999254e-01, 0.0, -1.221700e-02, 0.0, 1.0, 0.0, 1.221700e-02, 0.0, 9.999254e-01),
    "T": (-8.086759e-01, 3.195559e-01, -7.997231e-01),
}


def cam_to_cam() -> dict[str, tuple[float, ...]]:
    """Entries of calib_cam_to_cam.txt, in its order: raw and rectified geometry of four cameras."""
    entries: dict[str, tuple[float, ...]] = {"corner_dist": (9.95e-02,)}
    R_rect = np.reshape(_R_RECT_00, (3, 3))
    for index, (px, py, pz) in enumerate(_P_RECT_LAST_COLUMN):
        offset = R_rect.T @ _offset(px, py, pz)
        lens = (959.791, 0.0, 696.0217, 0.0, 956.9251, 224.1806, 0.0, 0.0, 1.0)
        entries |= {
            f"S_{index:02d}": (1392.0, 512.0),
            f"K_{index:02d}": lens,
            f"D_{index:02d}": (0.0,) * 5,
            f"R_{index:02d}": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
            f"T_{index:02d}": tuple(offset.tolist()),
            f"S_rect_{index:02d}": (float(IMAGE_WIDTH), float(IMAGE_HEIGHT)),
            f"R_rect_{index:02d}": _R_RECT_00,
            f"P_rect_{index:02d}": (
                _FOCAL_PX, 0.0, _CX, px, 0.0, _FOCAL_PX, _CY, py, 0.0, 0.0, 1.0, pz,
            ),
        }  # fmt: skip
    return entries


def calibration_text(calib_time: str, entries: Mapping[str, tuple[float, ...]]) -> str:
    """A KITTI calibration file: its time, then one `key: values` line an entry."""
    lines = [f"calib_time: {calib_time}"]
    lines += [f"{key}: " + " ".join(f"{v:e}" for v in values) for key, values in entries.items()]
    return "\n".join(lines) + "\n"


def intrinsics() -> Matrix:
    """K (3,3) px of both rectified colour cameras."""
    return np.array([[_FOCAL_PX, 0, _CX], [0, _FOCAL_PX, _CY], [0, 0, 1]])


def world_from_imu(position: ArrayLike, yaw: float) -> Matrix:
    """T_world_imu (4,4) of a level car; position: the IMU's, in m."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return rigid([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], position)


def lidar_from_world(T_world_imu: Matrix) -> Matrix:
    """T_velo_world (4,4)."""
    return rigid(IMU_TO_VELO["R"], IMU_TO_VELO["T"]) @ np.linalg.inv(T_world_imu)


def camera_from_world(T_world_imu: Matrix, camera: str) -> Matrix:
    """T_cam_world (4,4) of a rectified camera, "image_02" (left) or "image_03" (right)."""
    T_cam_rect = rigid(np.eye(3), _offset(*_P_RECT_LAST_COLUMN[int(camera[-2:])]))
    T_rect_velo = rigid(_R_RECT_00, (0, 0, 0)) @ rigid(VELO_TO_CAM["R"], VELO_TO_CAM["T"])
    return T_cam_rect @ T_rect_velo @ lidar_from_world(T_world_imu)


def rigid(R: ArrayLike, t: ArrayLike) -> Matrix:
    """The 4x4 matrix of a rotation (9 values or 3x3, made exactly orthogonal) and a shift."""
    u, _, v = np.linalg.svd(np.reshape(R, (3, 3)))
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = u @ v, t
    return T


def _offset(px: float, py: float, pz: float) -> Matrix:
    """inv(K) times the last column of P_rect: the camera's shift from rectified camera 0 in m."""
    return np.linalg.inv(intrinsics()) @ (px, py, pz)
