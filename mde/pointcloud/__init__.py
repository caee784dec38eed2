"""Depth in space: the camera it was seen with, points or a surface, and files that show them."""

from mde.pointcloud.camera import Intrinsics, find_intrinsics
from mde.pointcloud.cloud import PointCloud, to_points, write_ply
from mde.pointcloud.mesh import Mesh, to_mesh, write_glb
from mde.pointcloud.turntable import write_turntable
from mde.pointcloud.viewer import write_viewer

__all__ = [
    "Intrinsics", "Mesh", "PointCloud", "find_intrinsics", "to_mesh", "to_points", "write_glb",
    "write_ply", "write_turntable", "write_viewer",
]  # fmt: skip
