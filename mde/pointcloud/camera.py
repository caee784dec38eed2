"""The intrinsics that a depth map was seen with: from a file, from EXIF, or as stated; no guess."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.data.raw.files import Folder
from mde.data.sources.folder.camera_file import CameraFile, read_camera, same_aspect
from mde.data.sources.kitti.calibration import OF_SEQUENCE, read_calibration, read_intrinsics
from mde.errors import InputError
from mde.intrinsics import resize_K
from mde.pointcloud.exif import FocalLengthError, read_focal_length

OF_DATE = "calib_cam_to_cam"
"""How the name of a KITTI date's calibration begins."""
RIGHT = {"image_03", "image_3"}
"""Folders of KITTI's right colour camera."""
FILES = "camera.yaml, calib_cam_to_cam.txt or calib.txt of KITTI, or 3x3 numbers as .txt or .npy"


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera. K: (3,3), px, pixel centres are integers. origin: in words, for people."""

    K: NDArray[np.float64]
    origin: str


def find_intrinsics(
    image: Path | None, size: tuple[int, int], camera: Path | None, fov_x_deg: float | None
) -> Intrinsics:
    """The intrinsics of a depth map of `size` (H,W), from the first that is given.

    camera: a file, one of FILES. fov_x_deg: horizontal field of view. image: the photograph that
    the depth is of, for its EXIF, and for which of KITTI's cameras took it.
    Raises InputError when none of them tells, or a file is wrong or for an image of another shape.
    """
    if camera is not None and fov_x_deg is not None:
        raise InputError(f"both {camera} and a field of view of {fov_x_deg:g}°; give one of them")
    if camera is not None:
        return _from_file(camera, size, image)
    if fov_x_deg is not None:
        return _from_fov(fov_x_deg, size)
    try:
        if image is None:
            raise FocalLengthError("there is no image file, so no EXIF")
        focal, origin = read_focal_length(image, size)
    except FocalLengthError as error:
        name = image or "camera"
        raise InputError(
            f"{name}: unknown intrinsics: {error}. Points need them; give a file (--camera: "
            f"{FILES}), or the horizontal field of view in degrees (--fov; a phone's main camera "
            "has about 65 in landscape), or a photograph as the camera wrote it, with its EXIF"
        ) from error
    return Intrinsics(_centred(focal, size), origin)


def _centred(focal: float, size: tuple[int, int]) -> NDArray[np.float64]:
    """(3,3) with square pixels and the principal point in the middle."""
    height, width = size
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def _from_fov(fov_x_deg: float, size: tuple[int, int]) -> Intrinsics:
    try:
        K = CameraFile(width=size[1], height=size[0], fov_x_deg=fov_x_deg).matrix()
    except ValueError as error:
        raise InputError(
            f"the horizontal field of view must be above 0° and below 175°, found {fov_x_deg:g}°"
        ) from error
    return Intrinsics(K, f"the stated field of view of {fov_x_deg:g}°")


def _from_file(path: Path, size: tuple[int, int], image: Path | None) -> Intrinsics:
    K, of_size, what = _read(path, image)
    height, width = size
    if of_size is None:
        # Some files do not say: then it is taken for the image's own, unless that cannot be.
        if not (0 < K[0, 2] < width - 1 and 0 < K[1, 2] < height - 1):
            raise InputError(
                f"{path}: the principal point ({K[0, 2]:.1f}, {K[1, 2]:.1f}) is not within the "
                f"image of {width}x{height} px; this K belongs to another size: write a "
                "camera.yaml, which says of which"
            )
        return Intrinsics(K, f"{what}, taken to be of {width}x{height} px")
    if not same_aspect(size, of_size):
        raise InputError(
            f"{path}: for images of {of_size[1]}x{of_size[0]} px, found one of {width}x{height} "
            "px: it has another shape, so it was cropped or turned; give the camera of this one"
        )
    return Intrinsics(resize_K(K, of_size, size), f"{what} of {of_size[1]}x{of_size[0]} px")


def _read(
    path: Path, image: Path | None
) -> tuple[NDArray[np.float64], tuple[int, int] | None, str]:
    """K, the (H,W) that it is of if the file says so, and what it is in words."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {FILES}")
    name, suffix = path.name, path.suffix.lower()
    if name == OF_SEQUENCE or name.startswith(OF_DATE):
        number = 3 if image is not None and RIGHT & set(image.absolute().parts) else 2
        found = read_calibration(path.parent, name, "")
        return found.K(number), found.sizes.get(number), f"{name}, KITTI's camera {number}"
    if suffix in (".yaml", ".yml"):
        camera = read_camera(path.parent, Folder(path.parent), name)
        return camera.K, camera.size, name
    if suffix == ".npy":
        return _load_npy(path), None, name
    if suffix == ".txt":
        try:
            return read_intrinsics(Folder(path.parent), name), None, name
        except CodecError as error:
            raise InputError(f"{path.parent / str(error)}") from error
    raise InputError(f"{path}: not a camera; expected {FILES}")


def _load_npy(path: Path) -> NDArray[np.float64]:
    try:
        K = np.asarray(np.load(path, allow_pickle=False), np.float64)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path}: not a readable array: {error}") from error
    shaped = K.shape == (3, 3) and bool(np.isfinite(K).all())
    if not shaped or not np.allclose(K, np.triu(K)) or K[0, 1] != 0 or K[2, 2] != 1:
        raise InputError(f"{path}: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], found {K}")
    if min(K[0, 0], K[1, 1]) <= 0:
        raise InputError(f"{path}: focal lengths must be positive px, found {K[0, 0]}, {K[1, 1]}")
    return K
