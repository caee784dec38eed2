"""The true path of a camera: a file in KITTI's or TUM's format, or the GPS/IMU of a KITTI drive."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mde.data.sources.kitti.calibration import read_calibration
from mde.errors import InputError
from mde.odometry.frames import Frames
from mde.trajectory import Poses, from_first, read_kitti, read_tum

EARTH_RADIUS_M = 6378137.0
OXTS_VALUES = 30


def read_truth(frames: Frames, given: Path | None) -> tuple[Poses, Path] | None:
    """The true trajectory T_first_cam (N,4,4), m, of the frames, and where it comes from.

    given: a file of poses (KITTI's or TUM's format, by its number of columns) or a KITTI raw
    drive; None: what belongs to the folder of the frames, which may be nothing. Raises InputError
    when a given one is not there or malformed, or does not have all frames.
    """
    source = given or _find_truth(frames)
    if source is None:
        return None
    if source.is_dir():
        return from_first(_read_drive(frames, source)), source
    if not source.is_file():
        raise InputError(f"{source}: no such file or folder; --truth takes poses or a KITTI drive")
    poses = _read_poses(source)
    if len(poses) != len(frames.images):
        poses = poses[_lines_of(frames, source, len(poses))]
    return from_first(poses), source


def _find_truth(frames: Frames) -> Path | None:
    sequence = frames.folder.parent
    if sequence.parent.name == "sequences":
        poses = sequence.parent.parent / "poses" / f"{sequence.name}.txt"
        return poses if poses.is_file() else None
    # <date>/<drive>/image_02/data
    drive = sequence.parent
    return drive if (drive / "oxts" / "data").is_dir() else None


def _read_poses(path: Path) -> Poses:
    lines = path.read_text("utf-8", "replace").splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    return read_tum(path)[1] if len(first.split()) == 8 else read_kitti(path)


def _lines_of(frames: Frames, path: Path, count: int) -> list[int]:
    """The pose of each frame by its number, when there are poses of more frames."""
    if frames.numbers is None or frames.numbers[-1] >= count:
        raise InputError(
            f"{path}: {count} poses, but {len(frames.images)} images in {frames.folder}; there "
            "must be one for each, or the names of the images must be the numbers of their lines, "
            "from 0"
        )
    return list(frames.numbers)


def _read_drive(frames: Frames, drive: Path) -> Poses:
    """T_world_cam (N,4,4), world: east, north, up, m; Geiger et al. 2013, sec. 4, "Oxts"."""
    if frames.numbers is None:
        raise InputError(
            f"{frames.folder}: the frames of the drive {drive} are found by number, but the names "
            "of these images are not numbers"
        )
    values = [_read_oxts(drive / "oxts" / "data" / f"{i:010d}.txt") for i in frames.numbers]
    T_imu_cam = np.linalg.inv(_cam_from_imu(drive.resolve().parent, _camera(frames)))
    return mercator_poses(np.stack(values)) @ T_imu_cam


def mercator_poses(values: NDArray[np.float64]) -> Poses:
    """Latitude, longitude (degrees), altitude (m), roll, pitch, yaw (rad): (N,6) → T_world_imu.

    World: east, north, up, m, in a Mercator projection that is true to scale at the first latitude.
    """
    lat, lon, alt = values[:, :3].T
    scale = EARTH_RADIUS_M * np.cos(np.radians(lat[0]))
    north = scale * np.log(np.tan(np.radians(90 + lat) / 2))
    poses = np.tile(np.eye(4), (len(values), 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("ZYX", values[:, [5, 4, 3]]).as_matrix()
    poses[:, :3, 3] = np.column_stack([scale * np.radians(lon), north, alt])
    return poses


def _read_oxts(path: Path) -> NDArray[np.float64]:
    try:
        values = np.array(path.read_text("utf-8", "replace").split(), np.float64)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; the drive needs its oxts/ for every image"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not a number: {error}") from error
    if len(values) != OXTS_VALUES or not np.isfinite(values).all():
        raise InputError(f"{path}: expected {OXTS_VALUES} finite numbers, found {len(values)}")
    return values[:6]


def _camera(frames: Frames) -> int:
    """2 for `image_02`, 3 for `image_03`; KITTI's camera 2 for a folder of another name."""
    return 3 if frames.folder.parent.name == "image_03" else 2


def _cam_from_imu(date: Path, camera: int) -> Poses:
    """T_cam_imu (4,4) of a rectified colour camera, from the calibration files of the date."""
    calibration = read_calibration(date, "calib_cam_to_cam.txt", "calib_velo_to_cam.txt")
    assert calibration.T_rect_velo is not None
    T_cam_rect = np.eye(4)
    # P = K [I | t]: the colour cameras stand beside camera 0.
    T_cam_rect[:3, 3] = np.linalg.solve(calibration.K(camera), calibration.P[camera][:, 3])
    return T_cam_rect @ calibration.T_rect_velo @ _velo_from_imu(date / "calib_imu_to_velo.txt")


def _velo_from_imu(path: Path) -> Poses:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    found = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    T = np.eye(4)
    for key, place in (("R", np.s_[:3, :3]), ("T", np.s_[:3, 3])):
        try:
            T[place] = np.array(found.get(key, "").split(), np.float64).reshape(T[place].shape)
        except ValueError as error:
            count = T[place].size
            raise InputError(f"{path}: a line '{key}:' must have {count} numbers") from error
    return T
