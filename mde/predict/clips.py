"""Frames of video files and of cameras, one at a time, with the time at which each is shown."""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.data.sources.folder.video import (
    ERRORS,
    Place,
    index_video,
    open_video,
    read_video,
    upright_image,
)
from mde.errors import InputError
from mde.predict.inputs import WEBCAM, Input

SAMPLED_FRAMES = 16
"""Of a clip, for its range of colours."""
USUAL_FPS = 25.0


@dataclass(frozen=True)
class Frame:
    """image: (H,W,3) uint8 RGB, upright. time: s since the first frame."""

    image: NDArray[np.uint8]
    time: float


@dataclass
class Clip(ABC):
    """A video or a camera. problems: what was wrong with it, as far as it has been read."""

    source: str
    problems: list[str] = field(default_factory=list)

    @property
    def count(self) -> int | None:
        """How many frames there are, if that is known beforehand."""
        return None

    @property
    def is_live(self) -> bool:
        """Whether frames come at their own pace."""
        return False

    def spread(self, most: int | None) -> list[NDArray[np.uint8]]:
        """Images from all over the first `most` frames; none where only reading on is possible."""
        return []

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """All frames in order. Raises CodecError when there is none."""


class VideoClip(Clip):
    """A video file. What of a damaged one decodes is read, and the rest reported."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._places: list[Place] = []
        try:
            self._places = index_video(path)
        except CodecError as error:
            # The times that others of its complaints are about are not needed here.
            if error.reason == "truncated video":
                self.problems.append(str(error))

    @property
    def count(self) -> int | None:
        """As of `Clip`."""
        return len(self._places) or None

    def spread(self, most: int | None) -> list[NDArray[np.uint8]]:
        """As of `Clip`."""
        places = self._places[:most]
        if not places:
            return []
        number = min(SAMPLED_FRAMES, len(places))
        chosen = np.linspace(0, len(places) - 1, number).round().astype(int)
        images = read_video(self._path, [places[i] for i in chosen])
        return [image for image in images if not isinstance(image, CodecError)]

    def frames(self) -> Iterator[Frame]:
        """As of `Clip`."""
        first, last, read, damaged = None, -1.0, 0, 0
        with open_video(self._path) as (container, stream):
            stream.thread_type = "AUTO"
            packets = container.demux(stream)
            for _ in itertools.count():
                try:
                    packet = next(packets, None)
                    if packet is None:
                        break
                    decoded = packet.decode()
                except ERRORS:
                    damaged += 1
                    continue
                for frame in decoded:
                    # What an editor has cut off has a time before the first frame that is shown.
                    if self._places and frame.pts is not None and frame.pts < self._places[0].pts:
                        continue
                    at = frame.time if frame.time is not None else last + 1 / USUAL_FPS
                    first = at if first is None else first
                    last = at
                    read += 1
                    yield Frame(upright_image(frame), at - first)
        if damaged:
            self.problems.append(f"{damaged} damaged pieces could not be decoded, {read} frames")
        if not read:
            raise CodecError("no frame can be decoded", "unreadable video")


class StreamClip(Clip):
    """A camera or a URL that OpenCV opens; it ends when no more frames come.

    Raises InputError when it cannot be opened.
    """

    def __init__(self, item: Input) -> None:
        super().__init__(item.source)
        webcam = WEBCAM.fullmatch(item.source)
        # OpenCV says the same in words of its own, for each of its ways to open a camera.
        before = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self._capture = cv2.VideoCapture(int(webcam[1] or 0) if webcam else item.source)
        finally:
            cv2.utils.logging.setLogLevel(before)
        if not self._capture.isOpened():
            raise InputError(
                f"{item.label}: no camera or stream is there, or another program has it; cameras "
                f"are webcam, webcam:1, ... (here: {_cameras()})"
            )

    @property
    def is_live(self) -> bool:
        """As of `Clip`."""
        return True

    def frames(self) -> Iterator[Frame]:
        """As of `Clip`; the time is the camera's, or else that of arrival."""
        start, first, last = time.monotonic(), None, -1.0
        try:
            while True:
                ok, image = self._capture.read()
                if not ok:
                    break
                stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                first = stamp if first is None else first
                at = stamp - first if stamp - first > last else time.monotonic() - start
                last = max(at, last + 0.001)
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), last)  # type: ignore[arg-type]
        finally:
            self._capture.release()
        if last < 0:
            raise CodecError("opened, but no frame comes", "no frames")


def _cameras() -> str:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return ", ".join(found) or "no /dev/video*"
