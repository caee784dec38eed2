"""How a cloud is looked at: from its camera, turned about its middle."""

from dataclasses import dataclass

import numpy as np

from mde.pointcloud.cloud import PointCloud


@dataclass(frozen=True)
class View:
    """What the camera of a cloud sees.

    distance: to the point that views turn about, straight ahead. reach: (x, y), tangents of the
    angles from the axis to the outermost points, either side.
    """

    distance: float
    reach: tuple[float, float]

    @classmethod
    def of(cls, cloud: PointCloud) -> "View":
        """Of a cloud's own camera."""
        slopes = np.abs(cloud.points[:, :2] / cloud.points[:, 2:]).max(0)
        x, y = np.maximum(slopes, cloud.pitch)
        # The harmonic mean: what is near moves most, so it is to be near the middle.
        distance = 1 / np.mean(1 / cloud.points[:, 2], dtype=np.float64)
        return cls(float(distance), (float(x), float(y)))


def thin(cloud: PointCloud, most: int) -> PointCloud:
    """A cloud of at most `most` points, drawn evenly and always the same, each larger to suit."""
    count = len(cloud.points)
    if count <= most:
        return cloud
    kept = np.sort(np.random.default_rng(0).choice(count, most, replace=False))
    return PointCloud(
        cloud.points[kept], cloud.colors[kept], cloud.pitch * float(np.sqrt(count / most))
    )
