"""The depth of an image in space: a view that can be turned, and files."""

import html
import math
from dataclasses import dataclass
from pathlib import Path

from mde.demo.results import Result
from mde.errors import InputError
from mde.pointcloud import (
    Intrinsics,
    PointCloud,
    find_intrinsics,
    to_mesh,
    to_points,
    write_glb,
    write_ply,
    write_viewer,
)

DEFAULT_FOV = 65.0
"""Horizontal field of view, degrees, where EXIF tells none: a phone's main camera, landscape."""
MESH_SIDE = 640
"""Points of the surface along the longer side, at most; the point cloud has all pixels."""


@dataclass(frozen=True)
class Scene:
    """A depth in space: files of its points and its surface, and HTML that shows the points.

    fov: horizontal, degrees; origin: where that is from.
    """

    ply: Path
    glb: Path
    view: str
    fov: float
    origin: str


def build_scene(result: Result, photo: Path | None, fov: float | None) -> Scene:
    """Write points and surface of a result into its folder.

    fov: horizontal field of view, degrees; else by the EXIF of `photo`, else DEFAULT_FOV.
    Raises InputError for a field of view that cannot be, and when nothing is left to be shown.
    """
    camera = _camera(result, photo, fov)
    depth, image = result.found.depth, result.found.image
    height, width = depth.shape
    ply = result.folder / f"{result.name}-points.ply"
    glb = result.folder / f"{result.name}-surface.glb"
    cloud = to_points(depth, image, camera.K)
    write_ply(ply, cloud)
    write_glb(
        glb, to_mesh(depth, image, camera.K, stride=math.ceil(max(height, width) / MESH_SIDE))
    )
    seen = math.degrees(2 * math.atan(width / 2 / camera.K[0, 0]))
    return Scene(ply, glb, _view(cloud, result), round(seen, 1), camera.origin)


def _view(cloud: PointCloud, result: Result) -> str:
    """HTML of a page within the page, from which scripts reach nothing around it."""
    path = result.folder / "view.html"
    write_viewer(path, cloud, result.name)
    page = html.escape(path.read_text())
    path.unlink()
    return f'<iframe title="In space" sandbox="allow-scripts" srcdoc="{page}"></iframe>'


def _camera(result: Result, photo: Path | None, fov: float | None) -> Intrinsics:
    height, width = result.found.depth.shape
    if fov is not None:
        return Intrinsics(find_intrinsics(None, (height, width), None, fov).K, "as set here")
    try:
        return find_intrinsics(photo, (height, width), None, None)
    except InputError:
        assumed = find_intrinsics(None, (height, width), None, DEFAULT_FOV)
        return Intrinsics(assumed.K, "assumed, as the file does not tell")
