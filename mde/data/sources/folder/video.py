"""Frames of a video file by their time: the same frame from wherever reading starts."""

import io
import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mde.data.codecs import MAX_PIXELS, CodecError

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
# A playlist that calls itself .mp4 must not make the reader open other files.
FORMATS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}
REENCODE = "encode it anew, such as with: ffmpeg -i <video> -c:v libx264 -crf 12 <new>.mp4"
# The second: a damaged file makes the reader jump to where there is no file.
ERRORS = (FFmpegError, OSError)
JUMP_S = 0.5
"""A jump to a keyframe that is no more than this ahead gains nothing over decoding on, s."""


class Place(NamedTuple):
    """Where a frame is, in the units of the video stream.

    pts: when it is shown. key: when the keyframe before it is shown. seek: the time to jump to, so
    that everything that it is built upon gets decoded.
    """

    pts: int
    key: int
    seek: int


class _Packet(NamedTuple):
    """What the index needs of a stored frame, without its bytes. seek: when to find it."""

    pts: int | None
    seek: int | None
    is_key: bool
    is_shown: bool
    is_corrupt: bool


def index_video(path: Path) -> list[Place]:
    """Places of all frames in the order in which they are shown; nothing is decoded.

    Raises CodecError when the video is damaged, truncated, or does not tell its frames' times.
    """
    with open_video(path) as (container, stream):
        is_avi = container.format.name == "avi"
        codec = stream.codec_context
        if is_avi and codec.name in ("h264", "hevc") and codec.has_b_frames:
            detail = f"an AVI file does not tell the order of {codec.name} frames; {REENCODE}"
            raise CodecError(detail, "unreadable video")
        # An AVI file has its list at the end, where truncation takes it; the header has a count.
        expected = stream.frames if is_avi else len(stream.index_entries)
        packets = [
            # AVI is the one of these formats that is searched by decoding time. What was cut off
            # by an editor is marked to be discarded: decoded for the rest, but not shown.
            _Packet(
                p.pts, p.dts if is_avi else p.pts, p.is_keyframe, not p.is_discard, p.is_corrupt
            )
            for p in _packets(container, stream)
        ]
    damaged = any(packet.is_corrupt for packet in packets)
    if len(packets) < expected or damaged or not _matroska_is_whole(path):
        detail = f"truncated, {len(packets)} frames are left; copy it again"
        raise CodecError(detail, "truncated video")
    times = [packet.pts for packet in packets if packet.is_shown and packet.seek is not None]
    shown = sorted({pts for pts in times if pts is not None})
    if not shown or len(shown) < sum(packet.is_shown for packet in packets):
        detail = f"{len(packets)} frames with {len(shown)} different times; {REENCODE}"
        raise CodecError(detail, "unreadable video")
    return _find_places(shown, packets)


def _find_places(shown: list[int], packets: list[_Packet]) -> list[Place]:
    """shown: times, sorted. packets: as they are stored."""
    keys: list[Place] = []
    before = last = 0
    for pts, seek, is_key, *_ in packets:
        if pts is None or seek is None:
            continue
        if is_key:
            before, last = last, seek
            keys.append(Place(pts, pts, seek))
        elif keys and pts < keys[-1].pts:
            # An open group: frames around this keyframe are built upon the group before it, too.
            keys[-1] = keys[-1]._replace(seek=before)
    keys.sort()
    places: list[Place] = []
    key, rest = Place(shown[0], shown[0], keys[0].seek if keys else shown[0]), deque(keys)
    for pts in shown:
        while rest and rest[0].pts <= pts:
            key = rest.popleft()
        places.append(key._replace(pts=pts))
    return places


def read_video(path: Path, places: Sequence[Place]) -> Iterator[NDArray[np.uint8] | CodecError]:
    """One result for each place, in order: an upright RGB image (H,W,3), or why there is none.

    places: of `index_video`, sorted. No frame is decoded twice.
    """
    done = 0
    try:
        with open_video(path) as (container, stream):
            reader = _Reader(container, stream)
            for place in places:
                result: NDArray[np.uint8] | CodecError
                try:
                    result = reader.image(place)
                except CodecError as error:
                    result = error
                done += 1
                yield result
    except CodecError as error:
        yield from [error] * (len(places) - done)


class _Reader:
    """Decodes forward, and jumps to a keyframe where that is quicker."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        stream.codec_context.thread_count = 1
        # Damage is to be an error, not to be painted over.
        stream.codec_context.options = {"err_detect": "explode"}
        self._jump = JUMP_S / float(stream.time_base or 1)
        self._can_jump = True
        self._frames: Iterator[VideoFrame] = iter(())
        self._frame: VideoFrame | None = None
        self._position = -math.inf
        self._damaged: set[int] = set()

    def image(self, place: Place) -> NDArray[np.uint8]:
        """Raises CodecError when the frame cannot be decoded without damage."""
        if self._can_jump and place.seek - self._position > self._jump:
            self._start(place.seek)
            first = self._next()
            if first is None or first.pict_type != PictureType.I or self._position > place.pts:
                # The jump went too far, or to a frame that is only by and by refreshed.
                self._can_jump = False
                self._start(min(0, self._stream.start_time or 0))
        while self._frame is None or self._position < place.pts:
            if self._next() is None:
                break
        frame = self._frame
        if frame is None or frame.pts != place.pts:
            raise CodecError(f"no frame at time {place.pts} can be decoded", "unreadable frame")
        if frame.is_corrupt or place.key in self._damaged:
            raise CodecError(f"the frame at time {place.pts} is damaged", "unreadable frame")
        return upright_image(frame)

    def _start(self, seek: int) -> None:
        try:
            self._container.seek(seek, stream=self._stream)
        except ERRORS as error:
            raise _unreadable(error) from error
        self._frames, self._frame, self._position = self._decode(), None, seek
        self._damaged.clear()

    def _next(self) -> VideoFrame | None:
        self._frame = next(self._frames, None)
        if self._frame is not None:
            if self._frame.pts is None:
                raise CodecError(f"a frame without a time; {REENCODE}", "unreadable frame")
            self._position = self._frame.pts
        return self._frame

    def _decode(self) -> Iterator[VideoFrame]:
        keys: list[int] = []
        packets = self._container.demux(self._stream)
        while True:
            pts = None
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                pts = packet.pts
                if packet.is_keyframe and pts is not None:
                    keys.append(pts)
                frames = packet.decode()
            except ERRORS:
                # What follows up to the next keyframe is built upon what is lost.
                self._damaged.update([key for key in keys if pts is None or key <= pts][-1:])
                continue
            yield from frames


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its video stream. Raises CodecError when it is not one, or too large."""
    try:
        file = path.open("rb")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CodecError(
            str(error.strerror), "missing file" if missing else "unreadable file"
        ) from error
    with file:
        try:
            container = cast(
                InputContainer, av.open(file, container_options=FORMATS, metadata_errors="replace")
            )
        except ERRORS as error:
            raise _unreadable(error) from error
        with container:
            stream = container.streams.best("video")
            codec = getattr(stream, "codec_context", None)
            if not isinstance(stream, VideoStream) or codec is None:
                raise CodecError("no video that can be decoded in it", "unreadable video")
            if codec.width * codec.height > MAX_PIXELS:
                detail = f"{codec.width}x{codec.height} px is more than {MAX_PIXELS} px"
                raise CodecError(detail, "too large an image")
            yield container, stream


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    try:
        # The empty packet at the end is a mark for decoders.
        yield from (packet for packet in container.demux(stream) if packet.size)
    except ERRORS as error:
        raise _unreadable(error) from error


def _unreadable(error: FFmpegError | OSError) -> CodecError:
    return CodecError(f"not a readable video: {error.strerror}", "unreadable video")


def upright_image(frame: VideoFrame) -> NDArray[np.uint8]:
    """RGB (H,W,3) as it is to be shown: phones turn it by a note beside it, not in its pixels."""
    if frame.width * frame.height > MAX_PIXELS:
        raise CodecError(f"{frame.width}x{frame.height} px", "too large an image")
    image = cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24", threads=1))
    note = frame.side_data.get("DISPLAYMATRIX")
    if note is None:
        return image
    # (x, y) is shown at (a x + c y, b x + d y); 16 bits after the point.
    a, b, _, c, d = np.rint(np.frombuffer(bytes(cast(SideData, note)), "=i4")[:5] / 2**16)
    if (a or d) and (b or c):
        raise CodecError("turned by an angle that is no right angle", "turned image")
    if b or c:
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _matroska_is_whole(path: Path) -> bool:
    """Whether a Matroska file has the bytes that it claims; True for other files.

    The reader takes a truncated one for a shorter one.
    """
    with path.open("rb") as file:
        if file.read(4) != b"\x1a\x45\xdf\xa3":
            return True
        file.seek(_read_size(file) or 0, io.SEEK_CUR)
        if file.read(4) != b"\x18\x53\x80\x67":
            return True
        size = _read_size(file)
        return size is None or file.tell() + size <= path.stat().st_size


def _read_size(file: BinaryIO) -> int | None:
    """An EBML size: as many zero bits, then a one, as bytes follow the first; None: not known."""
    first = file.read(1)
    length = 9 - first[0].bit_length() if first else 9
    if length > 8:
        return None
    value = int.from_bytes(first + file.read(length - 1), "big") - (1 << 7 * length)
    return None if value == (1 << 7 * length) - 1 else value
