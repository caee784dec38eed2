"""Two sheets of a training: what its objective looks at, and a few frames as they are predicted.

Colours can be compared between epochs and between runs: depth has the range of the frame's truth,
and errors have one range. Where there is no truth a map has a range of its own, and its tag says
so.
"""

import io
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from PIL import Image

from mde.picture_grid import Cell, Legend, Strip, cell_size, draw_grid
from mde.visualize import DEPTH_MAP, ERROR_MAP, colorize, depth_norm, overlay_depth

DISPARITY_MAP, PHOTOMETRIC_MAP = "magma", "cividis"
PERCENTILE = 95
"""Of a disparity, that has the brightest colour; monodepth2's."""
ERRORS = Normalize(0, 0.5)
"""Colours of relative and of photometric errors."""
LEGENDS = {
    "disparity": Legend("disparity", "far", "near", DISPARITY_MAP),
    "depth": Legend("depth", "near", "far", DEPTH_MAP),
    "error": Legend("relative error", "0", "0.5", ERROR_MAP),
    "photometric": Legend("photometric error", "0", "0.5", PHOTOMETRIC_MAP),
}
TITLES = {
    "image": "image",
    "warped_prev": "from previous frame",
    "warped_next": "from next frame",
    "warped_stereo": "from stereo image",
}
Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """A frame that is watched. image: (H,W,3) RGB. truth: (h,w) depth in m, 0 = unknown."""

    name: str
    image: Pixels
    truth: Map | None = None

    @cached_property
    def norm(self) -> Normalize | None:
        """The colours of its depth, which depend on the truth alone; None without truth."""
        if self.truth is None or not (self.truth > 0).any():
            return None
        return depth_norm(self.truth)


@dataclass(frozen=True)
class Prediction:
    """What a model says of a frame.

    depth: (h,w) in m, or up to scale when not `is_metric`. disparity: (h,w) of any scale, of a
    model that works with it; it is drawn where there is no truth.
    """

    depth: Map
    disparity: Map | None = None
    is_metric: bool = True


def draw_training(title: str, names: Sequence[str], maps: Mapping[str, NDArray]) -> Image.Image:
    """What an objective explains of a batch: a strip for each sample, a cell for each map.

    names: sample_ids. maps: (B,3,H,W) in [0,1], or (B,1,H,W), by the names that
    `mde.train.objectives` give them, `image` first.
    """
    images = [_to_pixels(image) for image in maps["image"]]
    size = cell_size([image.shape for image in images])
    strips = []
    for number, (name, image) in enumerate(zip(names, images, strict=True)):
        truth = maps["target"][number][0] if "target" in maps else None
        cells = _Cells(Frame(name, image, truth), size)
        strips.append(Strip(name, [cells.of(key, maps[key][number]) for key in maps]))
    return draw_grid(title, _legends(maps), strips, size)


def draw_frames(
    title: str, frames: Sequence[Frame], predictions: Sequence[Prediction]
) -> Image.Image:
    """Watched frames: image | prediction and, where there is truth, | truth | relative error."""
    size = cell_size([frame.image.shape for frame in frames])
    strips: list[Strip] = []
    drawn: set[str] = set()
    for frame, prediction in zip(frames, predictions, strict=True):
        found = _Cells(frame, size).of_prediction(prediction)
        strips.append(Strip(frame.name, list(found.values())))
        drawn |= found.keys()
    return draw_grid(title, _legends(drawn), strips, size)


def to_png(picture: Image.Image) -> bytes:
    """A sheet as a PNG file; six bits of each colour, which takes two thirds of the bytes."""
    high = np.asarray(picture) >> 2
    buffer = io.BytesIO()
    Image.fromarray(high << 2 | high >> 4).save(buffer, "PNG")
    return buffer.getvalue()


class _Cells:
    """Draws what there is of one frame, at the size (H, W) of a cell."""

    def __init__(self, frame: Frame, size: tuple[int, int]) -> None:
        self.frame, self.size = frame, size

    def of(self, key: str, values: NDArray) -> Cell:
        """A map (C,H,W) of an objective, by its name."""
        if len(values) == 3:
            return Cell(TITLES.get(key, key), _fit(_to_pixels(values), self.size))
        flat = values[0]
        if key == "automask":
            grey = cv2.resize(255 * flat.astype(np.uint8), self.size[::-1], interpolation=0)
            return Cell(f"auto-mask · {flat.mean():.0%} used", np.stack([grey] * 3, -1))
        if key == "photometric":
            # Without any error it would be taken for unknown.
            shown = np.maximum(_fit(flat, self.size), 1e-6)
            colors = colorize(shown, ERRORS, PHOTOMETRIC_MAP)
            return Cell(f"photometric error · mean {flat.mean():.3f}", colors)
        draw = {"disparity": self.disparity, "target": self.truth, "error": self.error}
        return draw.get(key, self.depth)(flat)

    def of_prediction(self, predicted: Prediction) -> dict[str, Cell]:
        """The cells of a watched frame."""
        cells = {"image": Cell("image", _fit(self.frame.image, self.size))}
        truth = self.frame.truth
        if truth is None or self.frame.norm is None:
            if predicted.disparity is None:
                return cells | {"depth": self.depth(predicted.depth)}
            return cells | {"disparity": self.disparity(predicted.disparity)}
        known = truth > 0
        depth = cv2.resize(predicted.depth, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
        factor = 1.0 if predicted.is_metric else np.median(truth[known]) / np.median(depth[known])
        error = np.abs(factor * depth - truth) / np.where(known, truth, 1)
        more = "" if predicted.is_metric else f" · by median x {factor:.3g}"
        return cells | {
            "depth": self.depth(predicted.depth * np.float32(factor), more),
            "truth": self.truth(truth),
            "error": self.error(error),
        }

    def disparity(self, disparity: Map) -> Cell:
        """In colours of its own range."""
        low, high = float(disparity.min()), float(np.percentile(disparity, PERCENTILE))
        norm = Normalize(low, max(high, low + 1e-6))
        colors = colorize(_fit(disparity, self.size), norm, DISPARITY_MAP)
        return Cell(f"disparity · own range, to its percentile {PERCENTILE}", colors)

    def depth(self, depth: Map, more: str = "") -> Cell:
        """In the colours of the truth; without it, in colours of its own range."""
        norm, found = self.frame.norm, np.median(depth)
        if norm is None:
            norm, more = depth_norm(depth), more + " · own range"
        # Depths of 0 and less, of a head without an activation, are not unknown, just too near.
        colors = colorize(np.maximum(_fit(depth, self.size), norm.vmin or 0), norm)
        return Cell(f"depth · median {found:.2f} m{more}", colors)

    def truth(self, truth: Map) -> Cell:
        """Dense, or as dots on the darkened image."""
        norm = self.frame.norm or depth_norm(truth)
        tag = f"truth · colours {norm.vmin:.2g}–{norm.vmax:.2g} m"
        if (truth > 0).mean() > 0.5:
            return Cell(tag, colorize(_nearest(truth, self.size), norm))
        return Cell(tag, overlay_depth(_fit(self.frame.image, self.size), truth, norm))

    def error(self, error: Map) -> Cell:
        """Relative error where the truth is known; of a sparse one dots on the darkened image."""
        truth = self.frame.truth
        known = np.ones_like(error, bool) if truth is None else truth > 0
        tag = f"relative error · mean {error[known].mean() if known.any() else 0:.3f}"
        shown = np.where(known, np.maximum(error, 1e-6), 0).astype(np.float32)
        if known.mean() > 0.5:
            return Cell(tag, colorize(_nearest(shown, self.size), ERRORS, ERROR_MAP))
        dots, dark = _dots(shown, self.size), _fit(self.frame.image, self.size) // 2
        return Cell(tag, np.where(dots[..., None] > 0, colorize(dots, ERRORS, ERROR_MAP), dark))


def _legends(drawn: Container[str]) -> list[Legend]:
    return [legend for key, legend in LEGENDS.items() if key in drawn]


def _to_pixels(image: NDArray) -> Pixels:
    """(3,H,W) in [0,1] → (H,W,3) uint8."""
    return np.ascontiguousarray((image.transpose(1, 2, 0) * 255).round().astype(np.uint8))


def _fit(values: NDArray, size: tuple[int, int]) -> NDArray:
    """An image or a map at another size: means when it shrinks, else smooth."""
    mode = cv2.INTER_AREA if values.shape[0] > size[0] else cv2.INTER_LINEAR
    return cv2.resize(values, size[::-1], interpolation=mode)


def _nearest(values: Map, size: tuple[int, int]) -> Map:
    """A map with unknown places, which must not be mixed with others."""
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]


def _dots(values: Map, size: tuple[int, int]) -> Map:
    """Sparse values (H,W) > 0 → dots of 2x2 px on a map of `size`, 4 px apart: the largest ones."""
    v, u = np.nonzero(values > 0)
    coarse = np.zeros((-(-size[0] // 4), -(-size[1] // 4)), np.float32)
    where = v * coarse.shape[0] // values.shape[0], u * coarse.shape[1] // values.shape[1]
    np.maximum.at(coarse, where, values[v, u])
    dot = np.zeros((4, 4), np.float32)
    dot[:2, :2] = 1
    return np.kron(coarse, dot)[: size[0], : size[1]]
