"""Row → arrays for one training sample: decode, flip, colour jitter. NumPy and OpenCV alone.

Random numbers are keyed by (seed, epoch, sample_id), so a sample's augmentation does not depend on
who decodes it. Images leave as uint8; the jitter is a matrix that is applied on the device.
"""

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

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


@dataclass(frozen=True)
class Augment:
    """Probabilities and ranges; the defaults are monodepth2's.

    flip, color: probabilities. brightness, contrast, saturation: factors of 1 ± value.
    hue: turn by ± value of a full circle.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    flip: float = 0.5
    color: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.1

    def __post_init__(self) -> None:
        for name in ("flip", "color"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, found {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation", "hue"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0 and 1, found {getattr(self, name)}")


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
    rng = np.random.default_rng([*key, zlib.crc32(row["sample_id"].encode())])
    sample: dict[str, Any] = {"sample_id": row["sample_id"]}
    try:
        for name in images:
            sample[name] = decode_image(_present(row, name))
        if with_depth:
            sample["depth"] = decode_depth(
                _present(row, "depth"), row["height"], row["width"], row["depth_scale"]
            )
    except CodecError as error:
        raise InputError(f"sample {row['sample_id']}: {error}") from error
    K = np.array(row["K"], np.float32).reshape(3, 3)
    baseline_m = row["baseline_m"] if "image_stereo" in images else 0.0
    if baseline_m is None:
        raise InputError(f"sample {row['sample_id']}: a stereo image without baseline_m")
    if augment and rng.random() < augment.flip:
        for name in {*images, *(("depth",) if with_depth else ())}:
            sample[name] = np.ascontiguousarray(sample[name][:, ::-1])
        # In the mirror the other camera is on the other side.
        K, baseline_m = flip_K(K, row["width"]).astype(np.float32), -baseline_m
    jittered = augment and rng.random() < augment.color
    matrix = color_matrix(augment, rng) if augment and jittered else np.eye(3, 4)
    return {
        **sample,
        "K": K,
        "baseline_m": np.float32(baseline_m),
        "color_matrix": matrix.astype(np.float32),
    }


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
