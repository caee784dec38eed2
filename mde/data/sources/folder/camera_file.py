"""`camera.yaml`: the intrinsics of one's own camera, beside its images."""

import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mde.config import parse_section
from mde.data.codecs import CodecError
from mde.data.raw.files import RawFiles
from mde.errors import InputError
from mde.intrinsics import resize_K

CAMERA_FILE = "camera.yaml"
EXAMPLE = """\
width: 1280      # px, of the images that the numbers below belong to
height: 720
fx: 905.2        # focal lengths, px
fy: 905.2
cx: 639.5        # principal point, px from the centre of the first pixel;
cy: 359.5        # the middle of the image is (width - 1) / 2, (height - 1) / 2
# baseline_m: 0.12   with stereo/ only: x of the other camera, m, + when it is on the right
"""

Three = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class CameraFile:
    """Keys of a camera file: width, height and one of the three ways to say the rest.

    fx, fy, cx, cy: px. fov_x_deg: horizontal field of view of a camera with square pixels whose
    principal point is the middle of the image. K: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]. Pixel
    centres are integers: the top left pixel is at (0, 0).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    width: int
    height: int
    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    fov_x_deg: float | None = None
    K: tuple[Three, Three, Three] | None = None
    baseline_m: float | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        numbers = {name: getattr(self, name) for name in ("fx", "fy", "cx", "cy")}
        given = [name for name, value in numbers.items() if value is not None]
        ways = [bool(given), self.fov_x_deg is not None, self.K is not None]
        if sum(ways) != 1 or len(given) not in (0, 4):
            found = given + ["fov_x_deg"] * ways[1] + ["K"] * ways[2]
            raise ValueError(
                "give all of fx, fy, cx, cy, or fov_x_deg alone, or K alone; "
                f"found {', '.join(found) or 'none of them'}"
            )
        if self.fov_x_deg is not None and not 0 < self.fov_x_deg < 175:
            raise ValueError(f"fov_x_deg must be above 0 and below 175, found {self.fov_x_deg}")
        if self.baseline_m is not None and not (
            math.isfinite(self.baseline_m) and self.baseline_m != 0
        ):
            raise ValueError(f"baseline_m must be a number but 0, found {self.baseline_m}")
        self._check_matrix()

    def _check_matrix(self) -> None:
        (fx, skew, cx), (zero, fy, cy), last = self.matrix().tolist()
        if (skew, zero, *last) != (0, 0, 0, 0, 1):
            raise ValueError(
                f"K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], found {self.matrix().tolist()}"
            )
        for name, value, size in (("fx", fx, self.width), ("fy", fy, self.height)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, found {value}")
            if value < size / 50:
                raise ValueError(
                    f"{name} must be in px, found {value} for {size} px; a focal length in parts "
                    f"of the image is to be multiplied by {size}"
                )
        for name, value in (("cx", cx), ("cy", cy)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a number, found {value}")

    def matrix(self) -> NDArray[np.float64]:
        """(3,3) intrinsics, px at (height, width)."""
        if self.K is not None:
            return np.array(self.K)
        fx, fy, cx, cy = self.fx, self.fy, self.cx, self.cy
        if self.fov_x_deg is not None:
            fx = fy = self.width / 2 / math.tan(math.radians(self.fov_x_deg) / 2)
            cx, cy = (self.width - 1) / 2, (self.height - 1) / 2
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


@dataclass(frozen=True)
class Camera:
    """A camera. size: (H, W) px that K (3,3) belongs to. baseline_m: of the stereo camera."""

    name: str
    size: tuple[int, int]
    K: NDArray[np.float64]
    baseline_m: float | None

    def K_at(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """K of an image of `size` (H, W): the whole picture, smaller or larger.

        Raises CodecError when its shape is another one, so it was cropped or turned.
        """
        if not same_aspect(size, self.size):
            raise CodecError(
                f"the image has {size[1]}x{size[0]} px, {self.name} is for "
                f"{self.size[1]}x{self.size[0]} px or the same shape at another size; put a "
                f"{CAMERA_FILE} of its own into the folder of these images",
                "wrong size",
            )
        return resize_K(self.K, self.size, size)


def same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one is the other resized; sizes may be rounded by less than a pixel."""
    (height, width), (other_height, other_width) = size, other
    return (
        abs(height - other_height * width / other_width) < 1
        or abs(width - other_width * height / other_height) < 1
    )


def read_camera(raw: Path, files: RawFiles, name: str) -> Camera:
    """Read a camera file. Raises InputError that names it and the key that is wrong."""
    try:
        content = YAML(typ="safe", pure=True).load(files.read(name))
    # ValueError: bytes that are no text, a day that does not exist; RecursionError: [[[[...
    except (CodecError, YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{raw / name}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{raw / name}: expected keys and values, such as\n\n{EXAMPLE}")
    file = parse_section(raw / name, "camera", content, CameraFile)
    return Camera(name, (file.height, file.width), file.matrix(), file.baseline_m)


def find_cameras(
    raw: Path, files: RawFiles, names: list[str], images: list[str], stereo: bool
) -> list[str]:
    """For each of `images` the camera file that is nearest above it, among all `names`.

    stereo: baseline_m is needed. Raises InputError when one is missing or wrong.
    """
    known = set(names)
    found = [_nearest(raw, known, image) for image in images]
    for name in sorted(set(found)):
        if read_camera(raw, files, name).baseline_m is None and stereo:
            raise InputError(
                f"{raw / name}: baseline_m: this key is required with images: [image_stereo]; it "
                "is x of the other camera in m, positive when it is on the right"
            )
    return found


def _nearest(raw: Path, names: Container[str], image: str) -> str:
    for folder in PurePosixPath(image).parents:
        if (name := str(folder / CAMERA_FILE)) in names:
            return name
    raise InputError(
        f"{raw}: no {CAMERA_FILE} for {image}, neither in its folder nor above it. Write "
        f"{raw / CAMERA_FILE} with the numbers of your camera, such as\n\n{EXAMPLE}"
    )
