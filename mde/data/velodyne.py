"""KITTI calibration files, and LiDAR scans projected into a camera."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.errors import InputError

LidarDepth = Literal["camera_z", "velodyne_x"]


@dataclass(frozen=True)
class Calibration:
    """Rectified cameras of one recording date.

    P: camera (2 or 3) → (3,4) projection of rectified camera-0 points, px. size: camera →
    (height, width), px. T_rect_velo: (4,4), LiDAR points → rectified camera 0.
    """

    P: dict[int, NDArray[np.float64]]
    size: dict[int, tuple[int, int]]
    T_rect_velo: NDArray[np.float64]

    def K(self, camera: int) -> NDArray[np.float64]:
        """(3,3) intrinsics of the rectified image, px."""
        return self.P[camera][:, :3]

    def baseline_m(self, camera: int, other: int) -> float:
        """X of camera `other` in the frame of `camera`, m: positive when it is on the right."""
        offsets = {c: self.P[c][0, 3] / self.P[c][0, 0] for c in (camera, other)}
        return float(offsets[camera] - offsets[other])


def read_calibration(date_folder: Path) -> Calibration:
    """Read `calib_cam_to_cam.txt` and `calib_velo_to_cam.txt` of a date folder.

    Raises InputError that names file and line when one is missing or malformed.
    """
    cameras = _read_values(date_folder / "calib_cam_to_cam.txt")
    velo = _read_values(date_folder / "calib_velo_to_cam.txt")
    T_rect_velo = np.eye(4)
    T_rect_velo[:3, :3] = _take(velo, "R", 9).reshape(3, 3)
    T_rect_velo[:3, 3] = _take(velo, "T", 3)
    R_rect = np.eye(4)
    R_rect[:3, :3] = _take(cameras, "R_rect_00", 9).reshape(3, 3)
    sizes = {c: _take(cameras, f"S_rect_0{c}", 2) for c in (2, 3)}
    return Calibration(
        P={c: _take(cameras, f"P_rect_0{c}", 12).reshape(3, 4) for c in (2, 3)},
        size={c: (int(height), int(width)) for c, (width, height) in sizes.items()},
        T_rect_velo=R_rect @ T_rect_velo,
    )


def read_scan(path: Path) -> NDArray[np.float32]:
    """A Velodyne scan (N,4) float32: x forward, y left, z up (m), reflectance.

    Raises CodecError when the file is missing, empty, or not whole points.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror}") from error
    if not data or len(data) % 16:
        raise CodecError(f"{path}: {len(data)} bytes are not whole points of 16 bytes")
    return np.frombuffer(data, "<f4").reshape(-1, 4)


def project_scan(
    scan: NDArray[np.float32], calibration: Calibration, camera: int, kind: LidarDepth
) -> NDArray[np.float32]:
    """LiDAR scan (N,4) → sparse depth (H,W) float32 m; 0 = no return; the nearest point wins.

    kind: `camera_z` is depth. `velodyne_x` repeats what published numbers were computed with:
    the LiDAR's forward distance, and pixels rounded as for 1-based images.
    """
    height, width = calibration.size[camera]
    points = scan[scan[:, 0] >= 0].astype(np.float64)
    points[:, 3] = 1
    image = points @ (calibration.P[camera] @ calibration.T_rect_velo).T
    z = image[:, 2]
    ahead = z > 0
    pixels = np.rint(image[ahead, :2] / z[ahead, None]).astype(np.int64)
    distance = z[ahead] if kind == "camera_z" else points[ahead, 0]
    u, v = pixels.T - (kind == "velodyne_x")
    seen = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    # Written from far to near, so that the nearest of several points on a pixel stays.
    order = np.flatnonzero(seen)[np.argsort(-distance[seen], kind="stable")]
    depth = np.zeros((height, width), np.float32)
    depth[v[order], u[order]] = distance[order]
    return depth


_Values = dict[str, tuple[Path, int, str]]


def _read_values(path: Path) -> _Values:
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; KITTI's calibration archive of that date unpacks to it"
        )
    values = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        # calib_time holds colons itself.
        key, colon, value = line.partition(":")
        if colon:
            values[key.strip()] = (path, number, value)
    return values | {"": (path, 0, "")}


def _take(values: _Values, key: str, length: int) -> NDArray[np.float64]:
    if key not in values:
        raise InputError(f"{values[''][0]}: no line '{key}:', which must have {length} numbers")
    path, number, text = values[key]
    try:
        numbers = np.array(text.split(), np.float64)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {key}: not a number: {error}") from error
    if len(numbers) != length or not np.isfinite(numbers).all():
        raise InputError(
            f"{path}, line {number}: {key}: expected {length} finite numbers, "
            f"found '{text.strip()}'"
        )
    return numbers
