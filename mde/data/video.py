"""Frames of a video file by their time: the same frame from wherever reading starts."""

import io
import math
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
JUMP_S = 0.5
"""A jump to a keyframe that is no more than this ahead gains nothing over decoding on, s."""


class Place(NamedTuple):
    """Where a frame is. pts: when it is shown. seek: the keyframe to start from.

    Both in the units of the video stream.
    """

    pts: int
    seek: int


def index_video(path: Path) -> list[Place]:
    """Places of all frames in the order in which they are shown; nothing is decoded.

    Raises CodecError when the video is damaged, truncated, or does not tell its frames' times.
    """
    with _open(path) as (container, stream):
        is_avi = container.format.name == "avi"
        codec = stream.codec_context
        if is_avi and codec.name in ("h264", "hevc") and codec.has_b_frames:
            detail = f"an AVI file does not tell the order of {codec.name} frames; {REENCODE}"
            raise CodecError(detail, "unreadable video")
        # An AVI file has its list at the end, where truncation takes it; the header has a count.
        expected = stream.frames if is_avi else len(stream.index_entries)
        count, corrupt = 0, False
        shown: list[int] = []
        keys: list[Place] = []
        for packet in _packets(container, stream):
            count += 1
            corrupt |= packet.is_corrupt
            if packet.is_discard:
                continue
            seek = _seek_time(container, packet)
            if packet.pts is None or seek is None:
                raise CodecError(f"frames without a time; {REENCODE}", "unreadable video")
            shown.append(packet.pts)
            if packet.is_keyframe:
                keys.append(Place(packet.pts, seek))
    if count < expected or corrupt or not _matroska_is_whole(path):
        raise CodecError(f"truncated, {count} frames are left; copy it again", "truncated video")
    if not shown or len(set(shown)) < len(shown):
        detail = f"{len(shown)} frames at {len(set(shown))} different times; {REENCODE}"
        raise CodecError(detail, "unreadable video")
    return _add_keyframes(sorted(shown), sorted(keys))


def _add_keyframes(shown: list[int], keys: list[Place]) -> list[Place]:
    places: list[Place] = []
    number, seek = 0, keys[0].seek if keys else shown[0]
    for pts in shown:
        while number < len(keys) and keys[number].pts <= pts:
            seek = keys[number].seek
            number += 1
        places.append(Place(pts, seek))
    return places


def read_video(path: Path, places: Sequence[Place]) -> Iterator[NDArray[np.uint8] | CodecError]:
    """One result for each place, in order: an upright RGB image (H,W,3), or why there is none.

    places: of `index_video`, sorted. No frame is decoded twice.
    """
    done = 0
    try:
        with _open(path) as (container, stream):
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
        if frame.is_corrupt or place.seek in self._damaged:
            raise CodecError(f"the frame at time {place.pts} is damaged", "unreadable frame")
        return _upright(frame)

    def _start(self, seek: int) -> None:
        try:
            self._container.seek(seek, stream=self._stream)
        except FFmpegError as error:
            raise _unreadable(error) from error
        self._frames, self._frame, self._position = self._decode(), None, seek

    def _next(self) -> VideoFrame | None:
        self._frame = next(self._frames, None)
        if self._frame is not None:
            if self._frame.pts is None:
                raise CodecError(f"a frame without a time; {REENCODE}", "unreadable frame")
            self._position = self._frame.pts
        return self._frame

    def _decode(self) -> Iterator[VideoFrame]:
        keys: list[Place] = []
        packets = self._container.demux(self._stream)
        while True:
            pts = None
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                pts = packet.pts
                if packet.is_keyframe and pts is not None:
                    keys.append(Place(pts, _seek_time(self._container, packet) or 0))
                frames = packet.decode()
            except FFmpegError:
                # What follows up to the next keyframe is built upon what is lost. Frames that
                # are shown before a keyframe and stored after it belong to the one before.
                lost = [key.seek for key in keys if pts is None or key.pts <= pts]
                self._damaged.update(lost[-1:])
                continue
            yield from frames


def _seek_time(container: InputContainer, packet: Packet) -> int | None:
    # AVI is the one of these formats that is searched by decoding time.
    return packet.dts if container.format.name == "avi" else packet.pts


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
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
        except FFmpegError as error:
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
    except FFmpegError as error:
        raise _unreadable(error) from error


def _unreadable(error: FFmpegError) -> CodecError:
    return CodecError(f"not a readable video: {error.strerror}", "unreadable video")


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """The image as it is to be shown: phones turn it by a note beside it, not in its pixels."""
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
