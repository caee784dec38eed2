"""Row → arrays for one training sample: decode, crop, zoom, rotate, flip, colour jitter.

NumPy and OpenCV alone. All geometry is one matrix, so that every pixel is interpolated once.

Random numbers are keyed by (seed, epoch, sample_id), so a sample's augmentation does not depend on
who decodes it. Images leave as uint8; the jitter is a matrix that is applied on the device.
"""

import itertools
import zlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError, decode_depth, decode_image
from mde.errors import InputError
from mde.intrinsics import flip_K
from mde.schema import Row

LUMA = np.array([0.299, 0.587, 0.114])
# RGB → YIQ and back: a turn in the IQ plane changes the hue and leaves the luma.
RGB_TO_YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)
SWAPS = [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)]


@dataclass(frozen=True)
class Augment:
    """Probabilities and ranges; the defaults are monodepth2's.

    height, width: size of the batch, px; None: as stored. crop: share of the stored height and
    width that is kept, around the centre. zoom: the kept part is enlarged by a factor of 1 to
    `zoom`; depth is divided by it, as a network that cannot see the focal length takes a larger
    image for a closer one (FastDepth's recipe). rotate: ± degrees; what comes from outside the
    image is black, without depth. flip, color: probabilities. brightness, contrast, saturation:
    factors of 1 ± value. hue: turn by ± value of a full circle. channel_swap: probability that
    red, green and blue change places, in one of the five other orders (DenseDepth's recipe).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    height: int | None = None
    width: int | None = None
    crop: float = 1.0
    zoom: float = 1.0
    rotate: float = 0.0
    flip: float = 0.5
    color: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.1
    channel_swap: float = 0.0

    def __post_init__(self) -> None:
        size = self.height, self.width
        if (self.height is None) != (self.width is None) or min(self.size or (1,)) < 1:
            raise ValueError(f"height and width must both be positive or absent, found {size}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is a share of 1, found {self.crop}")
        if not self.zoom >= 1:
            raise ValueError(f"zoom is a factor of at least 1, found {self.zoom}")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate is within 0 and 180 degrees, found {self.rotate}")
        for name in ("flip", "color", "channel_swap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, found {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation", "hue"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0 and 1, found {getattr(self, name)}")

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the batch, px; None: as stored."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    def whole_size(self, stored: tuple[int, int] | None) -> tuple[int, int] | None:
        """(H, W) px of a whole image whose middle is as large as the batch shows it in training.

        stored: of the dataset's images; None when they have several sizes.
        """
        size = self.size or stored
        return size and (round(size[0] / self.crop), round(size[1] / self.crop))

    def still(self) -> "Augment":
        """The same size and crop without chance, for validation."""
        return replace(self, zoom=1.0, rotate=0.0, flip=0.0, color=0.0, channel_swap=0.0)


def columns_of(images: tuple[str, ...], with_depth: bool) -> list[str]:
    """The columns that `load_sample` needs; nothing else is read from the shards."""
    stereo = ["baseline_m"] if "image_stereo" in images else []
    depth = ["depth", "depth_scale"] if with_depth else []
    return ["sample_id", "height", "width", "K", *images, *stereo, *depth]


def load_sample(
    row: Row, images: tuple[str, ...], with_depth: bool, augment: Augment | None, key: list[int]
) -> dict[str, Any]:
    """Decode and augment one row; augment None only decodes.

    Returns sample_id, each of `images` (H,W,3) uint8, color_matrix (3,4), K (3,3), baseline_m, and
    depth (H,W) float32 m when `with_depth`. key: seed and epoch.
    Raises InputError that names the sample when something that is needed is absent or damaged.
    """
    try:
        sample: dict[str, NDArray] = {name: decode_image(_present(row, name)) for name in images}
        if with_depth:
            sample["depth"] = decode_depth(
                _present(row, "depth"), row["height"], row["width"], row["depth_scale"]
            )
    except CodecError as error:
        raise InputError(f"sample {row['sample_id']}: {error}") from error
    K = np.array(row["K"], np.float64).reshape(3, 3)
    baseline_m = row["baseline_m"] if "image_stereo" in images else 0.0
    if baseline_m is None:
        raise InputError(f"sample {row['sample_id']}: a stereo image without baseline_m")
    matrix = np.eye(3, 4)
    if augment:
        rng = np.random.default_rng([*key, zlib.crc32(row["sample_id"].encode())])
        K = _move(sample, K, (row["height"], row["width"]), augment, rng)
        if rng.random() < augment.flip:
            sample = {name: cv2.flip(array, 1) for name, array in sample.items()}
            # In the mirror the other camera is on the other side.
            K, baseline_m = flip_K(K, sample[images[0]].shape[1]), -baseline_m
        if rng.random() < augment.color:
            matrix = color_matrix(augment, rng)
        # The last draw, so that it does not change what the others draw.
        if rng.random() < augment.channel_swap:
            matrix = matrix[list(SWAPS[rng.integers(len(SWAPS))])]
    return {
        "sample_id": row["sample_id"],
        **sample,
        "K": K.astype(np.float32),
        "baseline_m": np.float32(baseline_m),
        "color_matrix": matrix.astype(np.float32),
    }


def _move(
    sample: dict[str, NDArray],
    K: NDArray[np.float64],
    size: tuple[int, int],
    augment: Augment,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    # Drawn in any case, so that one setting does not change what the others draw.
    zoom, angle = rng.uniform(1, augment.zoom), rng.uniform(-augment.rotate, augment.rotate)
    new_size = augment.size or size
    A = placement(size, new_size, augment.crop / zoom, np.deg2rad(angle))
    if np.array_equal(A, np.eye(3)):
        return K
    for name, array in sample.items():
        mode = cv2.INTER_NEAREST if name == "depth" else cv2.INTER_LINEAR
        sample[name] = cv2.warpAffine(array, A[:2], new_size[::-1], flags=mode)
    if "depth" in sample:
        sample["depth"] /= np.float32(zoom)
    return A @ K


def placement(
    size: tuple[int, int], new_size: tuple[int, int], share: float, angle: float
) -> NDArray[np.float64]:
    """Where a pixel of an image of `size` (H, W) comes to lie in one of `new_size`: (3,3), px.

    The central `share` of height and width fills the new image, after a turn by `angle` (rad)
    about the centre. Pixel centres are integers.
    """
    height, width = size
    scale = np.diag([new_size[1] / (share * width), new_size[0] / (share * height)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    A = np.eye(3)
    A[:2, :2] = scale @ turn
    centre, new_centre = (np.array([w - 1, h - 1]) / 2 for h, w in (size, new_size))
    A[:2, 2] = new_centre - A[:2, :2] @ centre
    return A


def color_matrix(augment: Augment, rng: np.random.Generator) -> NDArray[np.float64]:
    """Brightness, contrast, saturation and hue as one affine map of RGB in [0,1]: (3,4).

    Contrast turns about mid grey, not about the image's mean as PIL does: that keeps it linear.
    """
    brightness, contrast, saturation = (
        rng.uniform(1 - spread, 1 + spread)
        for spread in (augment.brightness, augment.contrast, augment.saturation)
    )
    angle = 2 * np.pi * rng.uniform(-augment.hue, augment.hue)
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    saturate = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA)
    mix = contrast * brightness * (YIQ_TO_RGB @ turn @ RGB_TO_YIQ @ saturate)
    return np.concatenate([mix, np.full((3, 1), 0.5 * (1 - contrast))], 1)


def _present(row: Row, name: str) -> bytes:
    data: bytes | None = row[name]  # type: ignore[literal-required]
    if data is None:
        raise CodecError(f"the row has no {name}; this training mode needs it")
    return data
