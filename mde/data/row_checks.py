"""One stored row: does everything in it decode, fit together, and lie in range?"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError, decode_depth, decode_image
from mde.data.encode import Statistics
from mde.data.shards import image_digest
from mde.schema import Row

IMAGES = ("image", "image_prev", "image_next", "image_stereo")


class Fault(NamedTuple):
    """What is wrong with a row. kind: a few words to group by. detail: what was found."""

    kind: str
    detail: str


@dataclass
class Expected:
    """What the manifest says of the rows of a split.

    size: (H, W) px, None: any. depth: (min, max) in m, None: not stated.
    """

    size: tuple[int, int] | None = None
    depth: tuple[float, float] | None = None


@dataclass
class RowCheck:
    """What was found in rows; they add up.

    pixels: of the depth maps that `statistics` is about, valid or not. tolerance_m: how far stored
    depth may be from what was given: half a code and the rounding of float32. uncounted: rows whose
    depth could not be read.
    """

    faults: list[tuple[str, Fault]] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)
    pixels: int = 0
    tolerance_m: float = 0.0
    uncounted: int = 0

    def add(self, other: "RowCheck") -> None:
        """Take in what was found in other rows."""
        self.faults += other.faults
        self.statistics = self.statistics.merge(other.statistics)
        self.pixels += other.pixels
        self.tolerance_m = max(self.tolerance_m, other.tolerance_m)
        self.uncounted += other.uncounted


def check_row(row: Row, expected: Expected, decoded: set[str]) -> RowCheck:
    """Decode and check a row.

    decoded: digests of images of the right size that were decoded before; neighbouring rows share
    images. New ones are added.
    """
    found = RowCheck(statistics=Statistics(rows=1))
    size = row["height"], row["width"]
    faults = [*_check_size(size, expected), *_check_K(row), *_check_baseline(row)]
    faults += [fault for name in IMAGES for fault in _check_image(row, name, decoded)]
    depth_faults, depth = _read_depth(row, "depth", size)
    gt_faults, gt = _read_depth(row, "gt_depth", (row["gt_height"], row["gt_width"]))
    faults += depth_faults + gt_faults
    # The manifest's statistics are of the depth to train on where there is one.
    counted = gt if row["depth"] is None else depth
    found.uncounted = int(bool(depth_faults or gt_faults))
    if counted is not None:
        _count(found, counted, row["depth_scale"])
        faults += _check_range(found, expected)
    found.faults = [(row["sample_id"], fault) for fault in faults]
    return found


def _check_size(size: tuple[int, int], expected: Expected) -> list[Fault]:
    if min(size) > 0 and size == (expected.size or size):
        return []
    right = "a positive size" if expected.size is None else _px(expected.size)
    return [Fault("not of the dataset's size", f"{_px(size)}, expected {right}")]


def _check_K(row: Row) -> list[Fault]:
    K = np.asarray(row["K"], np.float64)
    fx, fy, cx, cy = K[[0, 4, 2, 5]]
    if not np.isfinite(K).all() or list(K[[3, 6, 7, 8]]) != [0, 0, 0, 1]:
        return [Fault("K is not a matrix of intrinsics", f"{row['K']}")]
    if min(fx, fy) <= 0:
        return [Fault("K has a focal length that is not positive", f"{fx:g}, {fy:g} px")]
    if not (0 <= cx < row["width"] and 0 <= cy < row["height"]):
        where = f"x {cx:g}, y {cy:g}, the image is {_px((row['height'], row['width']))}"
        return [Fault("K has its principal point outside of the image", where)]
    return []


def _check_baseline(row: Row) -> list[Fault]:
    baseline = row["baseline_m"]
    if baseline is None:
        missing = row["image_stereo"] is not None
        return [Fault("a stereo image without baseline_m", "null")] if missing else []
    right = math.isfinite(baseline) and baseline != 0
    return [] if right else [Fault("baseline_m is no distance", f"{baseline} m")]


def _check_image(row: Row, name: str, decoded: set[str]) -> list[Fault]:
    data: bytes | None = row[name]  # type: ignore[literal-required]
    size = row["height"], row["width"]
    if data is None:
        return []
    key = f"{image_digest(data)} {size}"
    if key in decoded:
        return []
    try:
        found = decode_image(data).shape[:2]
    except CodecError as error:
        return [Fault(f"{name} cannot be decoded", str(error))]
    if found != size:
        return [Fault(f"{name} is of another size", f"{_px(found)}, the row says {_px(size)}")]
    decoded.add(key)
    return []


def _read_depth(
    row: Row, name: str, size: tuple[int, int]
) -> tuple[list[Fault], NDArray[np.float32] | None]:
    data: bytes | None = row[name]  # type: ignore[literal-required]
    scale = row["depth_scale"]
    if data is None:
        return [], None
    if not (math.isfinite(scale) and scale >= 0):
        return [Fault("depth_scale is not in metres per code", f"{scale}")], None
    try:
        depth = decode_depth(data, *size, scale)
    except CodecError as error:
        return [Fault(f"{name} cannot be decoded as {_px(size)}", str(error))], None
    bad = int(np.sum(~np.isfinite(depth) | (depth < 0)))
    if bad:
        return [Fault(f"{name} is NaN, infinite or negative", f"{bad} pixels")], None
    if not depth.any():
        return [Fault(f"{name} has no valid pixel", f"all of {_px(size)} are 0")], None
    return [], depth


def _count(found: RowCheck, depth: NDArray[np.float32], scale: float) -> None:
    values = depth[depth > 0]
    found.pixels = depth.size
    found.statistics.depth_pixels = values.size
    found.statistics.depth_sum = float(values.sum(dtype=np.float64))
    found.statistics.depth_min, found.statistics.depth_max = (
        float(values.min()),
        float(values.max()),
    )
    found.tolerance_m = scale / 2 + 1e-6 * found.statistics.depth_max


def _check_range(found: RowCheck, expected: Expected) -> list[Fault]:
    if expected.depth is None:
        return []
    low, high = found.statistics.depth_min, found.statistics.depth_max
    if (
        expected.depth[0] - found.tolerance_m <= low
        and high <= expected.depth[1] + found.tolerance_m
    ):
        return []
    stated = f"{expected.depth[0]:g} to {expected.depth[1]:g} m"
    return [Fault(f"depth beyond the manifest's {stated}", f"{low:g} to {high:g} m")]


def _px(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]} px"
