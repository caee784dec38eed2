"""Trajectories of a camera: from relative motions, to and from files, and their errors.

A trajectory is (N,4,4) float64, T_world_cam of N frames: points of the camera's frame → world.
`evo` reads the files; `ate` is its absolute pose error (`evo_ape`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mde.errors import InputError

Poses = NDArray[np.floating]
Align = Literal["none", "scale", "se3", "sim3"]
ALIGNMENTS: tuple[Align, ...] = get_args(Align)
SNIPPET = 5
"""Frames of a snippet of the published odometry error."""
# Files have six digits or so, far from this; a transposed or scaled matrix is farther off.
ROTATION_TOLERANCE = 1e-2


def accumulate(motions: Poses) -> Poses:
    """Motions T_next_this (N-1,4,4) of consecutive frames → trajectory (N,4,4).

    T_next_this maps points of a frame to the next one, as the pose network gives it. The world is
    the first camera's frame.
    """
    poses = [np.eye(4)]
    for motion in motions:
        poses.append(poses[-1] @ np.linalg.inv(motion))
    return np.stack(poses)


def relative_motions(poses: Poses) -> Poses:
    """The inverse of `accumulate`, for a trajectory in any world: T_next_this (N-1,4,4)."""
    return np.linalg.inv(poses[1:]) @ poses[:-1]


def from_first(poses: Poses) -> Poses:
    """The same trajectory (N,4,4) in the frame of its first camera."""
    return np.linalg.inv(poses[0]) @ poses


@dataclass(frozen=True)
class Similarity:
    """x → scale · R x + t, with R (3,3) and t (3,) in m."""

    scale: float
    R: NDArray[np.floating]
    t: NDArray[np.floating]

    def apply(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Points (N,3) → (N,3)."""
        return self.scale * points @ self.R.T + self.t


def align(pred: Poses, truth: Poses, how: Align) -> Similarity:
    """The map of the predicted path that brings it nearest to the true one, by least squares.

    pred, truth: (N,4,4). how: `none`; `scale`: about the origin of the world, which must be the
    start of both; `se3`: rotation and translation; `sim3`: and scale (Umeyama 1991, eq. 40-42).
    Raises ValueError when the lengths differ.
    """
    if len(pred) != len(truth):
        raise ValueError(f"{len(pred)} predicted poses and {len(truth)} true ones")
    source, target = pred[:, :3, 3], truth[:, :3, 3]
    if how == "none":
        return Similarity(1.0, np.eye(3), np.zeros(3))
    if how == "scale":
        return Similarity(_scale(source, target), np.eye(3), np.zeros(3))
    return _umeyama(source, target, with_scale=how == "sim3")


def _umeyama(
    source: NDArray[np.floating], target: NDArray[np.floating], with_scale: bool
) -> Similarity:
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred = source - source_mean
    covariance = (target - target_mean).T @ centred / len(source)
    U, singular, Vt = np.linalg.svd(covariance)
    # A reflection would fit better, but no camera moves like that.
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    R = (U * signs) @ Vt
    variance = (centred**2).sum(1).mean()
    # A camera that stands still has no scale; any gives the same error.
    scale = float(singular @ signs / variance) if with_scale and variance > 0 else 1.0
    return Similarity(scale, R, target_mean - scale * R @ source_mean)


def _scale(source: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    squares = (source**2).sum()
    return float((target * source).sum() / squares) if squares > 0 else 1.0


def ate(pred: Poses, truth: Poses, how: Align = "sim3") -> float:
    """Absolute trajectory error, m: RMSE of the positions (N,4,4) of a whole path, aligned.

    how: see `align`. Raises ValueError when the lengths differ.
    """
    moved = align(pred, truth, how).apply(pred[:, :3, 3])
    return float(np.sqrt(((moved - truth[:, :3, 3]) ** 2).sum(1).mean()))


def ate_snippets(pred: Poses, truth: Poses, length: int = SNIPPET) -> tuple[float, float]:
    """Mean and standard deviation, m, of the error of all runs of `length` consecutive frames.

    The odometry error of Zhou et al. 2017 (arXiv:1704.07813, sec. 4.3), from (N,4,4) each: every
    snippet starts at its own first camera, its one scale is Σ(truth·pred)/Σpred², its error
    sqrt(Σ‖scale·pred − truth‖²)/length. There are N - length + 1 snippets, which overlap.
    Raises ValueError when the lengths differ or there is no snippet.
    """
    _check_snippets(pred, truth, length)
    starts = range(len(pred) - length + 1)
    return _mean_and_std(
        _snippet_error(*(from_first(path[start : start + length]) for path in (pred, truth)))
        for start in starts
    )


def ate_snippets_monodepth2(pred: Poses, truth: Poses) -> tuple[float, float]:
    """`ate_snippets` as monodepth2's evaluation has it, to compare with published numbers.

    Two differences (arXiv:1806.01260, table 6), which make some percent of the number. It
    multiplies the motions T_next_this themselves in the order of time, which is neither the
    camera's path nor its inverse; and snippets start at all frames but the last one, so three are
    shorter: N - 1 in all. Raises ValueError as `ate_snippets` does.
    """
    _check_snippets(pred, truth, SNIPPET)
    # Inverted once more, because `accumulate` inverts what it is given.
    inverted = [np.linalg.inv(relative_motions(path)) for path in (pred, truth)]
    return _mean_and_std(
        _snippet_error(*(accumulate(steps[start : start + SNIPPET - 1]) for steps in inverted))
        for start in range(len(pred) - 1)
    )


def _check_snippets(pred: Poses, truth: Poses, length: int) -> None:
    if len(pred) != len(truth):
        raise ValueError(f"{len(pred)} predicted poses and {len(truth)} true ones")
    if not 2 <= length <= len(pred):
        raise ValueError(f"snippets of {length} frames, in a path of {len(pred)}")


def _snippet_error(pred: Poses, truth: Poses) -> float:
    source, target = pred[:, :3, 3], truth[:, :3, 3]
    error = _scale(source, target) * source - target
    return float(np.sqrt((error**2).sum()) / len(error))


def _mean_and_std(errors: Iterable[float]) -> tuple[float, float]:
    values = np.fromiter(errors, np.float64)
    return float(values.mean()), float(values.std())


def path_length(poses: Poses) -> float:
    """Length of the way through all positions, m."""
    return float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum())


def write_kitti(path: Path, poses: Poses) -> None:
    """Write KITTI's format: a line a frame, the 12 numbers of the upper 3x4, row by row."""
    _write_rows(path, poses[:, :3].reshape(-1, 12))


def read_kitti(path: Path) -> Poses:
    """Read KITTI's format: (N,4,4).

    Raises InputError that names file and line when it is not 12 finite numbers or no rotation.
    """
    rows = _read_rows(path, 12, "the 12 numbers of a 3x4 pose (KITTI's format)")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    for pose, (line, row) in zip(poses, rows, strict=True):
        pose[:3] = row.reshape(3, 4)
        R = pose[:3, :3]
        off = np.abs(R @ R.T - np.eye(3)).max()
        if off > ROTATION_TOLERANCE or np.linalg.det(R) < 0:
            raise InputError(
                f"{path}, line {line}: columns 1-3, 5-7 and 9-11 must be a rotation, found "
                f"{np.array2string(R, precision=4).replace(chr(10), '')}; KITTI's format is row by "
                "row"
            )
    return poses


def write_tum(path: Path, times: NDArray[np.floating], poses: Poses) -> None:
    """Write TUM's format: a line a frame, time in s, tx ty tz in m, qx qy qz qw."""
    quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat(canonical=True)
    _write_rows(path, np.column_stack([times, poses[:, :3, 3], quaternions]))


def read_tum(path: Path) -> tuple[NDArray[np.floating], Poses]:
    """Read TUM's format: times (N,) in s and (N,4,4).

    Raises InputError that names file and line when it is not 8 finite numbers, the quaternion has
    not length 1, or time does not advance.
    """
    rows = _read_rows(path, 8, "time tx ty tz qx qy qz qw (TUM's format)")
    poses, before = np.tile(np.eye(4), (len(rows), 1, 1)), -np.inf
    for pose, (line, row) in zip(poses, rows, strict=True):
        if row[0] <= before:
            raise InputError(f"{path}, line {line}: times must grow, found {row[0]} after {before}")
        if abs(np.linalg.norm(row[4:]) - 1) > ROTATION_TOLERANCE:
            raise InputError(
                f"{path}, line {line}: qx qy qz qw must have length 1, found {row[4:].tolist()}"
            )
        before = row[0]
        pose[:3, 3] = row[1:4]
        pose[:3, :3] = Rotation.from_quat(row[4:]).as_matrix()
    return np.array([row[0] for _, row in rows]), poses


def _write_rows(path: Path, rows: Iterable[NDArray[np.floating]]) -> None:
    # So many digits that reading gives the same numbers again.
    text = "".join(" ".join(f"{value:.17g}" for value in row) + "\n" for row in rows)
    path.write_text(text, encoding="ascii")


def _read_rows(path: Path, length: int, what: str) -> list[tuple[int, NDArray[np.float64]]]:
    """The rows with the numbers of their lines; empty lines and those with # are left out."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            row = np.array(line.split(), np.float64)
        except ValueError:
            row = np.empty(0)
        if len(row) != length or not np.isfinite(row).all():
            raise InputError(f"{path}, line {number}: expected {what}, found '{line[:100]}'")
        rows.append((number, row))
    if not rows:
        raise InputError(f"{path}: no pose in it; a line must be {what}")
    return rows
