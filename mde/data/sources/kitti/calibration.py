"""KITTI calibration files: of a recording date, an odometry sequence, a benchmark image."""

from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.data.raw.files import RawFiles
from mde.errors import InputError

CAMERAS = (2, 3)
"""The colour cameras: left, right."""
OF_SEQUENCE = "calib.txt"
"""Name of a sequence's file, which has the LiDAR too; a date has a file for each."""


@dataclass(frozen=True)
class Calibration:
    """The rectified colour cameras, by number.

    P: (3,4) projections of rectified camera-0 points, px. sizes: (H, W) of the images, px; empty
    for an odometry sequence, whose file does not say. T_rect_velo: (4,4), LiDAR points →
    rectified camera 0, or None when it was not asked for.
    """

    P: dict[int, NDArray[np.float64]]
    sizes: dict[int, tuple[int, int]]
    T_rect_velo: NDArray[np.float64] | None

    def K(self, camera: int) -> NDArray[np.float64]:
        """(3,3) intrinsics of the rectified image, px."""
        return self.P[camera][:, :3]

    def P_velo(self, camera: int) -> NDArray[np.float64]:
        """(3,4) projection of LiDAR points, px."""
        assert self.T_rect_velo is not None
        return self.P[camera] @ self.T_rect_velo

    def baseline_m(self, camera: int, other: int) -> float:
        """X of camera `other` in the frame of `camera`, m: positive when it is on the right."""
        offsets = {c: self.P[c][0, 3] / self.P[c][0, 0] for c in (camera, other)}
        return float(offsets[camera] - offsets[other])


def read_calibration(raw: Path, cameras: str, lidar: str) -> Calibration:
    """Read `calib_cam_to_cam.txt` of a date or `calib.txt` of an odometry sequence.

    cameras, lidar: names below raw. lidar: `calib_velo_to_cam.txt` of the date or again the
    `calib.txt`; empty when no scan is to be projected.
    Raises InputError that names file and line when one is missing or malformed.
    """
    lines = _Lines(raw / cameras)
    of_sequence = PurePath(cameras).name == OF_SEQUENCE
    key = "P{}" if of_sequence else "P_rect_0{}"
    T_rect_velo = None
    if lidar and of_sequence:
        # It goes straight to the rectified camera 0.
        T_rect_velo = _transform(lines.rotation("Tr", 12), lines.take("Tr", 12)[3::4])
    elif lidar:
        velo = _Lines(raw / lidar)
        T_rect_velo = _transform(lines.rotation("R_rect_00", 9), np.zeros(3)) @ _transform(
            velo.rotation("R", 9), velo.take("T", 3)
        )
    return Calibration(
        P={camera: lines.projection(key.format(camera)) for camera in CAMERAS},
        sizes={} if of_sequence else {c: lines.size(f"S_rect_0{c}") for c in CAMERAS},
        T_rect_velo=T_rect_velo,
    )


def read_intrinsics(raw: RawFiles, name: str) -> NDArray[np.float64]:
    """K (3,3), px, of a benchmark image: 9 numbers. Raises CodecError that names the file."""
    try:
        text = raw.read(name).decode("utf-8", "replace")
    except CodecError as error:
        raise error.about(name) from error
    try:
        K = np.array(text.split(), np.float64)
    except ValueError:
        K = np.empty(0)
    if K.size != 9 or not _is_K(K.reshape(3, 3)):
        detail = f"{name}: expected the 9 numbers of fx 0 cx, 0 fy cy, 0 0 1, found '{text[:60]}'"
        raise CodecError(detail, "malformed calibration")
    return K.reshape(3, 3)


class _Lines:
    """The `key: numbers` lines of a file; everything raises InputError that names the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, tuple[int, str]] = {}
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: no such file; it comes with KITTI's calibration archive, of each date "
                "(raw data) or of all sequences (odometry)"
            ) from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            # calib_time holds colons itself.
            key, colon, value = line.partition(":")
            if colon:
                self.lines[key.strip()] = (number, value.strip())

    def take(self, key: str, length: int) -> NDArray[np.float64]:
        """`length` finite numbers."""
        if key not in self.lines:
            raise InputError(f"{self.path}: no line '{key}:', which must have {length} numbers")
        try:
            numbers = np.array(self.lines[key][1].split(), np.float64)
        except ValueError as error:
            raise self._bad(key, f"not a number: {error}") from error
        if len(numbers) != length or not np.isfinite(numbers).all():
            raise self._bad(key, f"expected {length} finite numbers")
        return numbers

    def projection(self, key: str) -> NDArray[np.float64]:
        """(3,4), px."""
        P = self.take(key, 12).reshape(3, 4)
        if not _is_K(P[:, :3]):
            raise self._bad(key, "expected fx 0 cx tx, 0 fy cy ty, 0 0 1 tz, with positive focals")
        return P

    def rotation(self, key: str, length: int) -> NDArray[np.float64]:
        """(3,3), the left part of 3x3 or 3x4 numbers."""
        R = self.take(key, length).reshape(3, -1)[:, :3]
        if not np.allclose(R @ R.T, np.eye(3), atol=1e-3) or np.linalg.det(R) < 0:
            raise self._bad(key, "not a rotation")
        return R

    def size(self, key: str) -> tuple[int, int]:
        """(H, W) px, of a line with the width first."""
        width, height = self.take(key, 2)
        if min(width, height) < 1:
            raise self._bad(key, "expected a width and a height")
        return int(height), int(width)

    def _bad(self, key: str, problem: str) -> InputError:
        number, text = self.lines[key]
        return InputError(f"{self.path}, line {number}: {key}: {problem}; found '{text[:200]}'")


def _is_K(K: NDArray[np.float64]) -> bool:
    pattern = np.array([[K[0, 0], 0, K[0, 2]], [0, K[1, 1], K[1, 2]], [0, 0, 1]])
    return bool(np.isfinite(K).all() and min(K[0, 0], K[1, 1]) > 0 and np.allclose(K, pattern))


def _transform(R: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T
