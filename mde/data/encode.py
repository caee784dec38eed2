"""Arrays of a source → the bytes of a row, at the stored size; counts what the codecs change."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import (
    LOSSLESS,
    CodecError,
    decode_depth,
    decode_image,
    encode_depth,
    encode_image,
    resize_depth,
    resize_image,
    shrink_sparse_depth,
)
from mde.data.frames import Frame
from mde.intrinsics import resize_K
from mde.schema import Row

CHECK_EVERY = 16
"""One stored image in so many is decoded again, to state what the codec does to colours."""


@dataclass
class Statistics:
    """What was stored, and how far it is from what was given; sums and extremes, so they merge.

    depth_*: over the valid pixels of what training or evaluation reads. nan, infinite, negative:
    pixels of given depth maps that were stored as 0, invalid. depth_error: largest, in m.
    source_step: metres between two values of the raw depth, where they are coarse.
    image_mse: squared error in grey levels, summed over images_checked; image_mse_max: the worst.
    """

    rows: int = 0
    depth_pixels: int = 0
    depth_sum: float = 0.0
    depth_min: float = float("inf")
    depth_max: float = 0.0
    depth_error: float = 0.0
    source_step: float = 0.0
    nan: int = 0
    infinite: int = 0
    negative: int = 0
    images: int = 0
    images_checked: int = 0
    image_mse: float = 0.0
    image_mse_max: float = 0.0

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both."""
        merge: dict[str, Callable[[Any, Any], Any]] = {
            "depth_min": min,
            **dict.fromkeys(("depth_max", "depth_error", "source_step", "image_mse_max"), max),
        }
        return Statistics(
            **{
                name: merge.get(name, lambda a, b: a + b)(value, getattr(other, name))
                for name, value in vars(self).items()
            }
        )

    @property
    def invalid(self) -> dict[str, int]:
        """Pixels of given depth maps that no depth can have, by what they were."""
        counts = {"nan": self.nan, "infinite": self.infinite, "negative": self.negative}
        return {name: count for name, count in counts.items() if count}

    def summary(self) -> dict[str, Any]:
        """Rows, invalid pixels, and of the valid depth: count, mean, min and max (m), if any."""
        depth = {
            "depth_pixels": self.depth_pixels,
            "depth_mean": self.depth_sum / max(1, self.depth_pixels),
            "depth_min": self.depth_min,
            "depth_max": self.depth_max,
        }
        found = {"rows": self.rows, "invalid": self.invalid}
        return found | (depth if self.depth_pixels else {})


@dataclass(frozen=True)
class StoredImage:
    """An encoded image; native: (H, W) before it was resized, px."""

    data: bytes
    native: tuple[int, int]


class Encoder:
    """Makes rows. size: (H, W) stored, None = as given. lossless: of images and of depth."""

    def __init__(self, size: tuple[int, int] | None, lossless: bool = False) -> None:
        self.size, self.lossless = size, lossless
        self.statistics = Statistics()

    def image(self, image: NDArray[np.uint8]) -> StoredImage:
        """Resize and encode an RGB image (H,W,3) uint8."""
        native = image.shape[:2]
        resized = resize_image(image, self.size or native)
        data = encode_image(resized, self.lossless)
        statistics = self.statistics
        if statistics.images % CHECK_EVERY == 0:
            error = resized.astype(np.float32) - decode_image(data)
            mse = float(np.mean(error**2))
            statistics.images_checked += 1
            statistics.image_mse += mse
            statistics.image_mse_max = max(statistics.image_mse_max, mse)
        statistics.images += 1
        return StoredImage(data, native)

    def row(
        self,
        frame: Frame,
        image: StoredImage,
        K: NDArray[np.floating],
        *,
        depth_scale: float,
        source_step: float = 0.0,
        depth: NDArray[np.float32] | None = None,
        sparse: bool = False,
        gt: NDArray[np.float32] | None = None,
        neighbours: dict[str, StoredImage] | None = None,
        baseline_m: float | None = None,
    ) -> Row:
        """The row of a frame.

        K: (3,3) px at the native size. depth: (H,W) m, to train on; sparse: single points, as of a
        LiDAR. gt: (H,W) m, to evaluate against, kept at its size. depth_scale: metres per code.
        source_step: metres between two values of the raw depth, where that is coarser.
        neighbours: image_prev, image_next, image_stereo, those that there are.
        Raises CodecError when a depth has no valid pixel or is out of range.
        """
        size = self.size or image.native
        neighbours = neighbours or {}
        for name, other in neighbours.items():
            if other.native != image.native:
                detail = f"{name} has {other.native} px, the image has {image.native}"
                raise CodecError(detail, "images of two sizes")
        scale = LOSSLESS if self.lossless else depth_scale
        stored = None
        if depth is not None:
            stored = (shrink_sparse_depth if sparse else resize_depth)(depth, size)
        depth_bytes, kept = self._depth("depth", depth, stored, scale)
        gt_bytes, kept_gt = self._depth("ground truth", gt, gt, scale)
        self._count(kept if kept is not None else kept_gt)
        self._count_invalid(depth)
        if gt is not depth:
            self._count_invalid(gt)
        self.statistics.source_step = max(self.statistics.source_step, source_step)
        self.statistics.rows += 1
        gt_size = size if gt is None else gt.shape
        return {
            "sample_id": frame.sample_id,
            "scene": frame.scene,
            "height": size[0],
            "width": size[1],
            "image": image.data,
            **{
                name: neighbours[name].data if name in neighbours else None
                for name in ("image_prev", "image_next", "image_stereo")
            },  # type: ignore[typeddict-item]
            "K": resize_K(K, image.native, size).ravel().tolist(),
            "baseline_m": baseline_m,
            "depth": depth_bytes,
            "depth_scale": scale,
            "gt_depth": gt_bytes,
            "gt_height": gt_size[0],
            "gt_width": gt_size[1],
        }

    def _depth(
        self,
        name: str,
        given: NDArray[np.float32] | None,
        stored: NDArray[np.float32] | None,
        scale: float,
    ) -> tuple[bytes | None, NDArray[np.float32] | None]:
        """Bytes of a depth map, and what they decode to."""
        if given is None or stored is None:
            return None, None
        data = encode_depth(stored, scale)
        back = decode_depth(data, stored.shape[0], stored.shape[1], scale)
        if not back.any():
            found = {
                "NaN": np.isnan(given).sum(),
                "infinite": np.isinf(given).sum(),
                "negative": (given < 0).sum(),
                "zero": (given == 0).sum(),
            }
            pixels = ", ".join(f"{count} {kind}" for kind, count in found.items() if count)
            raise CodecError(
                f"{name} without a valid pixel: {pixels or 'all below the smallest code'}",
                "no valid depth",
            )
        valid = np.isfinite(stored) & (stored > 0)
        error = float(np.abs(back[valid] - stored[valid]).max(initial=0))
        self.statistics.depth_error = max(self.statistics.depth_error, error)
        return data, back

    def _count(self, depth: NDArray[np.float32] | None) -> None:
        if depth is None:
            return
        values = depth[depth > 0].astype(np.float64)
        statistics = self.statistics
        statistics.depth_pixels += values.size
        statistics.depth_sum += float(values.sum())
        statistics.depth_min = min(statistics.depth_min, float(values.min(initial=np.inf)))
        statistics.depth_max = max(statistics.depth_max, float(values.max(initial=0)))

    def _count_invalid(self, depth: NDArray[np.float32] | None) -> None:
        if depth is None:
            return
        self.statistics.nan += int(np.isnan(depth).sum())
        self.statistics.infinite += int(np.isinf(depth).sum())
        self.statistics.negative += int(np.sum(np.isfinite(depth) & (depth < 0)))
