"""A depth map as a surface with the image on it, and the GLB file that 3D viewers read."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from mde.data.codecs import encode_image
from mde.errors import InputError
from mde.files import write_bytes
from mde.pointcloud.cloud import MAX_JUMP, backproject, known

Y_UP = np.array([1, -1, -1], np.float32)
"""From the camera's axes to those of glTF: y up, and the camera looks along -z."""


@dataclass(frozen=True)
class Mesh:
    """Triangles in the camera's frame, as of PointCloud.

    points: (N,3) float32. faces: (M,3), counter-clockwise as seen from the camera. places: (N,2)
    in the image, from 0 at the left and the top to 1. image: (H,W,3) uint8 RGB.
    """

    points: NDArray[np.float32]
    faces: NDArray[np.int64]
    places: NDArray[np.float64]
    image: NDArray[np.uint8]


def to_mesh(
    depth: NDArray[np.floating],
    image: NDArray[np.uint8],
    K: NDArray[np.floating],
    *,
    max_depth: float | None = None,
    max_jump: float = MAX_JUMP,
    stride: int = 1,
) -> Mesh:
    """Depth (H,W), seen with K (3,3), as a surface that is cut where depth jumps.

    Two triangles between four neighbours, unless one of them is unknown, or the farthest of them is
    more than max_jump, as a share, beyond the nearest. Raises InputError when no triangle is left.
    """
    height, width = depth.shape
    small = depth[::stride, ::stride]
    small = np.where(known(small, max_depth), small, 0)
    index = np.arange(small.size).reshape(small.shape)

    def corners(of: NDArray) -> NDArray:
        return np.stack([of[:-1, :-1], of[1:, :-1], of[:-1, 1:], of[1:, 1:]])

    near, far = corners(small).min(0), corners(small).max(0)
    whole = (near > 0) & (far <= near * (1 + max_jump))
    if not whole.any():
        raise InputError(f"no surface is left of the depth map of {width}x{height} px")
    top_left, bottom_left, top_right, bottom_right = corners(index)[:, whole]
    faces = np.concatenate(
        [
            np.stack([top_left, bottom_left, top_right], -1),
            np.stack([top_right, bottom_left, bottom_right], -1),
        ]
    )
    v, u = np.indices(small.shape) * stride
    places = np.stack([(u + 0.5) / width, (v + 0.5) / height], -1).reshape(-1, 2)
    used, faces = np.unique(faces, return_inverse=True)
    points = backproject(small, K, stride).reshape(-1, 3)[used]
    return Mesh(points, faces.reshape(-1, 3), places[used], image)


def write_glb(path: Path, mesh: Mesh) -> None:
    """Write a surface as binary glTF, y up; in m when the depth is."""
    # A photograph has its light already: it shines by itself, and reflects nothing.
    material = PBRMaterial(
        baseColorFactor=[0, 0, 0, 255],
        emissiveTexture=Image.open(io.BytesIO(encode_image(mesh.image))),
        emissiveFactor=[1, 1, 1],
        roughnessFactor=1,
        metallicFactor=0,
        doubleSided=True,
    )
    # trimesh counts v from the bottom.
    texture = TextureVisuals(uv=mesh.places * [1, -1] + [0, 1], material=material)
    shape = trimesh.Trimesh(mesh.points * Y_UP, mesh.faces, visual=texture, process=False)
    write_bytes(path, trimesh.Scene(shape).export(file_type="glb"))
