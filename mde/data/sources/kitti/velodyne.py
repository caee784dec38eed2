"""Sparse depth of KITTI: LiDAR scans projected into a camera, and annotated depth maps."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.data.raw.files import RawFiles
from mde.data.sources.kitti.calibration import Calibration

LidarDepth = Literal["camera_z", "velodyne_x"]
DepthKind = Literal["camera_z", "velodyne_x", "annotated"]

DEPTH_SCALE = 1 / 256
"""Metres per code of KITTI's depth images; 0 is no depth."""


def read_depth(
    raw: RawFiles,
    name: str,
    kind: DepthKind,
    calibration: Calibration,
    camera: int,
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Depth (H,W) m, 0 = none, of the scan or the annotated depth map `name`.

    size: (H, W) of the image, px. Raises CodecError that names the file when it is damaged, of
    another size, or not what it should be.
    """
    if kind != "annotated":
        return project_scan(read_scan(raw, name), calibration, camera, size, kind)
    codes = raw.depth_codes(name)
    if codes.shape != size:
        raise CodecError(f"{name}: {codes.shape} px, the image has {size}", "wrong size")
    if codes.dtype != np.uint16:
        detail = f"{name}: {codes.dtype}, annotated depth is uint16; copy it again, unconverted"
        raise CodecError(detail, "not a depth image")
    return codes.astype(np.float32) * np.float32(DEPTH_SCALE)


def read_scan(raw: RawFiles, name: str) -> NDArray[np.float32]:
    """A Velodyne scan (N,4) float32: x forward, y left, z up (m), reflectance.

    Raises CodecError that names the file when it is missing, empty, or not whole points.
    """
    try:
        data = raw.read(name)
    except CodecError as error:
        raise error.about(name) from error
    if not data or len(data) % 16:
        detail = f"{name}: {len(data)} bytes are not whole points of 16 bytes; copy it again"
        raise CodecError(detail, "damaged scan")
    return np.frombuffer(data, "<f4").reshape(-1, 4)


def project_scan(
    scan: NDArray[np.float32],
    calibration: Calibration,
    camera: int,
    size: tuple[int, int],
    kind: LidarDepth,
) -> NDArray[np.float32]:
    """LiDAR scan (N,4) → sparse depth (H,W) float32 m; 0 = no return; the nearest point wins.

    size: (H, W) of the image, px. kind: `camera_z` is depth. `velodyne_x` repeats what published
    numbers were computed with: the LiDAR's forward distance, and pixels rounded as for 1-based
    images. Points that are not finite are left out.
    """
    height, width = size
    points = scan[np.isfinite(scan[:, :3]).all(1) & (scan[:, 0] >= 0)].astype(np.float64)
    points[:, 3] = 1
    image = points @ calibration.P_velo(camera).T
    ahead = image[:, 2] > 0
    points, image = points[ahead], image[ahead]
    distance = image[:, 2] if kind == "camera_z" else points[:, 0]
    u, v = np.rint(image[:, :2] / image[:, 2:]).T - (kind == "velodyne_x")
    seen = np.flatnonzero((u >= 0) & (u < width) & (v >= 0) & (v < height))
    # Written from far to near, so that the nearest of several points on a pixel stays.
    order = seen[np.argsort(-distance[seen], kind="stable")]
    depth = np.zeros(size, np.float32)
    depth[v[order].astype(np.int64), u[order].astype(np.int64)] = distance[order]
    return depth
