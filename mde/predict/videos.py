"""Depth of videos and cameras, frame by frame: files for each frame, and a film of all."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.errors import InputError
from mde.film import FilmWriter, Picture, color_range, draw_scale, resize_frame, tint
from mde.predict.clips import SAMPLED_FRAMES, USUAL_FPS, Clip, Frame
from mde.predict.images import BATCH_PIXELS, ahead, threads
from mde.predict.inputs import Input
from mde.predict.outputs import FILM
from mde.predict.record import Entry, File, Record
from mde.predict.smoothing import Smoother
from mde.predict.writers import MapWriter, colors_of, short_unit
from mde.predictor import DepthMap, Predictor

LONGEST = 1920, 1080
"""Of either half of a film, (W,H) px: players and H.264 have their limits. Maps are not resized."""
FRAME_BATCH = 4


def predict_clip(
    predictor: Predictor,
    item: Input,
    clip: Clip,
    writer: MapWriter,
    record: Record,
    advance: Callable[[], None],
) -> None:
    """Predict all frames of a video or stream and write what is asked for.

    Never more than a few frames are held. Ctrl-C ends the clip: what was predicted until then
    becomes a whole film. advance: called once a frame is done.
    """
    entry = Entry(item.label, (0, 0))
    try:
        _predict(predictor, item, clip, writer, entry, advance)
    except (CodecError, InputError) as error:
        record.fail(item.label, str(error))
    finally:
        for problem in clip.problems:
            record.fail(item.label, f"{problem}; predicted {entry.about.get('frames', 0)} frames")
        if entry.files:
            record.add(entry)


def _predict(
    predictor: Predictor,
    item: Input,
    clip: Clip,
    writer: MapWriter,
    entry: Entry,
    advance: Callable[[], None],
) -> None:
    options = writer.options
    kinds = options.of_clip
    frames: Iterator[Frame] = itertools.islice(clip.frames(), options.max_frames)
    norm = options.norm
    if norm is None and {FILM, "color"} & set(kinds):
        norm, frames = _find_colors(predictor, clip, frames, options.max_frames)
    if norm is not None:
        entry.about["colors"] = colors_of(norm)
    path = writer.path(FILM, item.name, ".mp4")
    smoother = Smoother(options.smooth, not predictor.info.is_metric)
    unit = short_unit(predictor.info)
    try:
        # A thread for all of them, so that frames keep their order.
        with FilmWriter(path, USUAL_FPS, "veryfast") as film, threads(1) as pool:
            sink = _Sink(item.name, writer, film, norm, unit, entry, advance)
            views = _views(predictor, clip, frames, smoother)
            for _ in ahead(pool, sink.write, views, FRAME_BATCH):
                pass
    finally:
        if path.is_file() and FILM in kinds:
            entry.files.insert(0, File.of(FILM, path, writer.out))
        if options.smooth:
            entry.about["smooth"] = {"weight": options.smooth, "cuts": smoother.cuts}


def _find_colors(
    predictor: Predictor, clip: Clip, frames: Iterator[Frame], most: int | None
) -> tuple[LogNorm, Iterator[Frame]]:
    """One range for the whole clip, as others would flicker; and all frames still."""
    images = clip.spread(most)
    if not images:
        # Later frames are not there yet, so the first ones stand for them.
        first = list(itertools.islice(frames, SAMPLED_FRAMES))
        images, frames = [frame.image for frame in first], itertools.chain(first, frames)
    return color_range([predictor.predict_batch(image[None])[0] for image in images]), frames


def _views(
    predictor: Predictor, clip: Clip, frames: Iterator[Frame], smoother: Smoother
) -> Iterator[tuple[Frame, DepthMap]]:
    for batch in _batches(frames, 1 if clip.is_live else FRAME_BATCH):
        depths = predictor.predict_batch(np.stack([frame.image for frame in batch]))
        for frame, depth in zip(batch, depths, strict=True):
            smooth = smoother(frame.image, depth)
            yield frame, DepthMap(smooth, frame.image, predictor.info)


def _batches(frames: Iterator[Frame], most: int) -> Iterator[list[Frame]]:
    """Frames of one size, which may change within a video."""
    for _, run in itertools.groupby(frames, lambda frame: frame.image.shape):
        first = next(run)
        size = max(1, min(most, 3 * BATCH_PIXELS // first.image.size))
        run = itertools.chain([first], run)
        while batch := list(itertools.islice(run, size)):
            yield batch


@dataclass
class _Sink:
    """Where predicted frames go, in their order."""

    name: str
    writer: MapWriter
    film: FilmWriter
    norm: LogNorm | None
    unit: str
    entry: Entry
    advance: Callable[[], None]
    _canvas: "_Canvas | None" = field(default=None)

    def write(self, work: tuple[Frame, DepthMap]) -> None:
        frame, view = work
        kinds = self.writer.options.of_clip
        number = self.entry.about.get("frames", 0)
        maps = tuple(kind for kind in kinds if kind != FILM)
        files, _ = self.writer.write(f"{self.name}/{number:06d}", view, maps, self.norm)
        self.entry.files.extend(files)
        if FILM in kinds and self.norm is not None:
            if self._canvas is None:
                self._canvas = _Canvas.of(view.depth.shape, self.norm, self.unit)
            self.film.add(self._canvas.draw(view), frame.time)
        self.entry.size = (view.depth.shape[0], view.depth.shape[1])
        self.entry.about |= {"frames": number + 1, "seconds": round(frame.time, 3)}
        self.advance()


@dataclass(frozen=True)
class _Canvas:
    """What frames of a film are drawn on: input | depth, and the colours below. size: of a half."""

    size: tuple[int, int]
    norm: LogNorm
    scale: Picture

    @classmethod
    def of(cls, shape: tuple[Any, ...], norm: LogNorm, unit: str) -> "_Canvas":
        """For frames of this shape (H,W); the first ones say how large the film is."""
        height, width = shape[:2]
        share = min(1.0, LONGEST[0] / width, LONGEST[1] / height)
        # H.264 takes even sizes.
        high, wide = (max(2, 2 * round(side * share / 2)) for side in (height, width))
        scale = draw_scale(norm, wide, unit)
        dark = np.zeros_like(scale)
        return cls((high, wide), norm, np.concatenate([dark, scale], 1))

    def draw(self, view: DepthMap) -> Picture:
        """(h,w,3) RGB."""
        halves: list[NDArray[np.uint8]] = [view.image, tint(view.depth, self.norm)]
        halves = [
            half if half.shape[:2] == self.size else resize_frame(half, self.size)
            for half in halves
        ]
        return np.concatenate([np.concatenate(halves, 1), self.scale])
