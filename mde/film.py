"""Films and their colours: frames as H.264, and the strip that says which colour is which depth."""

import os
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import TracebackType

import av
import cv2
import matplotlib
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from matplotlib.colors import LogNorm
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mde.visualize import DEPTH_MAP, colorize, depth_norm

SCALE_HEIGHT = 26
"""Of the scale of colours, px, up to a width of 1040; above that a fortieth of the width."""
TIME_BASE = Fraction(1, 90_000)
"""Of the frames of a film, s."""
SAMPLED_PIXELS = 100_000
"""Of a depth map, for its range of colours."""

Picture = NDArray[np.uint8]


class FilmWriter:
    """Writes frames (H,W,3) RGB, all of one even size, as an H.264 film that browsers play.

    It is written beside `path`, where it stands once the block ends: whole, with all frames, also
    when Ctrl-C ends it. Without a frame, or after an error, there is no file.
    fps: of frames that come without a time. preset: of x264; the faster, the larger the file.
    """

    def __init__(self, path: Path, fps: float, preset: str = "medium") -> None:
        self.path, self.frames = path, 0
        self._fps, self._preset = fps, preset
        self._draft = path.with_name(f".{path.name}.partial")
        self._file: OutputContainer | None = None
        self._stream: VideoStream
        self._last = -1

    def add(self, frame: Picture, time: float | None = None) -> None:
        """Add a frame that is shown from `time` on, in s since the film's begin.

        Frames keep their order: a time that is not later than the last one becomes a little later.
        """
        if self._file is None:
            self._open(*frame.shape[:2])
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.time_base = TIME_BASE
        seconds = self.frames / self._fps if time is None else time
        picture.pts = self._last = max(self._last + 1, round(seconds / TIME_BASE))
        self._mux(picture)
        self.frames += 1

    def _open(self, height: int, width: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = av.open(
            str(self._draft), "w", format="mp4", options={"movflags": "+faststart"}
        )
        rate = Fraction(self._fps).limit_denominator(1001)
        options = {"crf": "18", "preset": self._preset}
        self._stream = self._file.add_stream("libx264", rate=rate, options=options)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = TIME_BASE

    def _mux(self, picture: av.VideoFrame | None) -> None:
        if self._file is not None:
            self._file.mux(self._stream.encode(picture))

    def __enter__(self) -> "FilmWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        try:
            if kind is None or kind is KeyboardInterrupt:
                self._mux(None)
                self._file.close()
                os.replace(self._draft, self.path)
            else:
                self._file.close()
        finally:
            self._draft.unlink(missing_ok=True)


def write_mp4(path: Path, frames: Sequence[Picture], fps: float) -> None:
    """Write frames (H,W,3) of even size as H.264 that browsers play."""
    with FilmWriter(path, fps) as film:
        for frame in frames:
            film.add(frame)


def color_range(depths: Sequence[NDArray[np.float32]]) -> LogNorm:
    """Colours for the depths (H,W) of one scene, as of `depth_norm`, from some of their pixels."""
    seen = []
    for depth in depths:
        step = max(1, round((depth.size / SAMPLED_PIXELS) ** 0.5))
        seen.append(depth[::step, ::step].ravel())
    # Predictions have a largest depth of their own, which the colours are to reach.
    return depth_norm(np.concatenate(seen), np.inf)


def tint(depth: NDArray[np.float32], norm: LogNorm) -> Picture:
    """Predicted depth (H,W), > 0 everywhere → RGB, as `colorize` does, several times as fast."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    shades = cv2.log(np.clip(depth, low, high) / low)
    shades *= 256 / np.log(high / low)
    return _colors()[np.minimum(shades, 255).astype(np.uint8)]


@cache
def _colors() -> Picture:
    colors: Picture = matplotlib.colormaps[DEPTH_MAP](np.arange(256), bytes=True)[:, :3]
    return np.ascontiguousarray(colors)


def scale_height(width: int) -> int:
    """Px, even."""
    return max(SCALE_HEIGHT, 2 * round(width / 80))


def draw_scale(norm: LogNorm, width: int, unit: str = "m") -> Picture:
    """(h,width,3), h of `scale_height`: the colours from the nearest to the farthest depth.

    unit: behind each number; without one it is said that depths are up to scale.
    """
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    height = scale_height(width)
    shades = colorize(np.geomspace(low, high, width)[None], norm)
    image = Image.fromarray(np.repeat(shades, height, 0))
    font, draw = ImageFont.load_default(height / 2), ImageDraw.Draw(image)
    for share in (0, 0.25, 0.5, 0.75, 1) if width >= 280 else (0, 1) if width >= 120 else ():
        text = f"{low * (high / low) ** share:.2g} {unit}".strip()
        if share == 0 and not unit and width >= 400:
            text += " (up to scale)"
        margin = height * 6 / SCALE_HEIGHT
        place = share * (width - 1) + margin * ((share == 0) - (share == 1))
        anchor = "lm" if share == 0 else "rm" if share == 1 else "mm"
        ink = "white" if shades[0, round(share * (width - 1))].mean() < 130 else "black"
        draw.text((place, height / 2), text, ink, font, anchor)
    return np.asarray(image)


def resize_frame(image: Picture, size: tuple[int, int]) -> Picture:
    """Image (h,w,3) → (*size,3)."""
    smaller = size[1] < image.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    resized: Picture = cv2.resize(image, size[::-1], interpolation=how)  # type: ignore[assignment]
    return resized
