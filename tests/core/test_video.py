"""Videos: the right frame, upright, from wherever reading starts; damage is an error."""

import struct
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from mde.data.codecs import CodecError
from mde.data.sources.folder.video import Place, index_video, read_video

NUM_FRAMES, HEIGHT, WIDTH = 30, 48, 64
OPEN_GROUPS = {"x264-params": "open-gop=1:log-level=none"}
REFRESH = {"x264-params": "intra-refresh=1:bframes=0:log-level=none"}


TEXTURE = np.random.default_rng(0).integers(-30, 31, (24, WIDTH + NUM_FRAMES, 1))


def frame_image(i: int) -> np.ndarray:
    """(48,64,3): below, grey 8 i; above, a white mark on the left and a texture that moves."""
    image = np.full((HEIGHT, WIDTH, 3), 8 * i, np.uint8)
    image[:24] = 128 + TEXTURE[:, i : i + WIDTH]
    image[:16, :16] = 255
    return image


def level(image: np.ndarray) -> float:
    """8 i → i."""
    return float(image[32:, 20:].mean()) / 8


def write_video(path: Path, codec: str = "libx264", options: dict[str, str] | None = None) -> Path:
    """Thirty frames, a keyframe every eight, and with frames between that need later ones."""
    # MP4 as for the web: its list is at the front, where truncation leaves it.
    layout = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", container_options=layout) as container:
        stream = container.add_stream(codec, rate=30, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size = 8
        stream.codec_context.thread_count = 1
        if codec in ("libx264", "mpeg4"):
            stream.codec_context.max_b_frames = 2
        for i in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(frame_image(i), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4").read_bytes()


def images(path: Path, places: list[Place]) -> list[np.ndarray]:
    results = list(read_video(path, places))
    assert not [result for result in results if isinstance(result, CodecError)]
    return results


CASES = [
    ("a.mp4", "libx264", None),
    ("a.mp4", "libx264", OPEN_GROUPS),
    ("a.mkv", "libx264", OPEN_GROUPS),
    ("a.mkv", "libx264", REFRESH),
    ("a.avi", "mpeg4", None),
    ("a.webm", "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), CASES)
def test_a_frame_is_the_same_wherever_reading_starts(tmp_path: Path, name, codec, options):
    path = write_video(tmp_path / name, codec, options)
    places = index_video(path)
    together = images(path, places)
    assert len(together) == NUM_FRAMES
    for i, place in enumerate(places):
        # In the order in which they are shown, which is not that of the file.
        assert together[i].shape == (HEIGHT, WIDTH, 3)
        assert level(together[i]) == pytest.approx(i, abs=0.4)
        assert np.array_equal(images(path, [place])[0], together[i])
    assert all(map(np.array_equal, images(path, places[3::11]), together[3::11]))


def test_a_jump_starts_at_the_keyframe_before(tmp_path: Path, mp4: bytes):
    path = tmp_path / "a.mp4"
    path.write_bytes(mp4)
    places = index_video(path)
    assert places == sorted(places)
    keys = sorted({place.key for place in places})
    assert len(keys) >= 3
    assert all(place.key == max(key for key in keys if key <= place.pts) for place in places)


# Display matrices of MP4: (a, b, c, d); a point (x, y) is shown at (a x + c y, b x + d y).
@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    ],
    ids=["upright", "clockwise", "upside down", "counterclockwise", "mirrored"],
)
def test_a_turned_video_is_shown_upright(tmp_path: Path, mp4: bytes, matrix, shown):
    (tmp_path / "a.mp4").write_bytes(mp4)
    plain = images(tmp_path / "a.mp4", index_video(tmp_path / "a.mp4"))[5]
    path = tmp_path / "turned.mp4"
    path.write_bytes(set_matrix(mp4, matrix))
    assert np.array_equal(images(path, index_video(path))[5], shown(plain))


def test_a_video_turned_by_an_odd_angle_is_refused(tmp_path: Path, mp4: bytes):
    path = tmp_path / "a.mp4"
    path.write_bytes(set_matrix(mp4, (1, 1, -1, 1)))
    (result,) = read_video(path, index_video(path)[:1])
    assert isinstance(result, CodecError)
    assert result.reason == "turned image"


def set_matrix(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    a, b, c, d = (value << 16 for value in matrix)
    data = bytearray(mp4)
    start = data.find(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return bytes(data)


def test_frames_that_an_editor_cut_off_are_not_shown(tmp_path: Path, mp4: bytes):
    # The edit list: duration, first time (512 units a frame), rate.
    data = bytearray(mp4)
    start = data.find(b"elst") + 12
    duration, first = struct.unpack(">Ii", data[start : start + 8])
    data[start : start + 8] = struct.pack(">Ii", duration * 20 // 30, first + 10 * 512)
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    found = images(path, index_video(path))
    assert [round(level(image)) for image in found] == list(range(10, 30))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")]
)
def test_a_truncated_video_is_no_shorter_video(tmp_path: Path, name: str, codec: str):
    path = write_video(tmp_path / name, codec)
    data = path.read_bytes()
    with av.open(str(path)) as container:
        between_frames = sorted(packet.pos for packet in container.demux() if packet.size)[20]
    for keep in (0, 100, len(data) // 2, between_frames):
        path.write_bytes(data[:keep])
        with pytest.raises(CodecError) as caught:
            index_video(path)
        assert caught.value.reason in ("truncated video", "unreadable video")


def test_h264_in_avi_is_refused_as_its_order_is_not_known(tmp_path: Path):
    with pytest.raises(CodecError, match=r"does not tell the order of h264 frames; .* ffmpeg"):
        index_video(write_video(tmp_path / "a.avi"))


def test_damage_is_an_error_up_to_the_next_keyframe(tmp_path: Path, mp4: bytes):
    path = tmp_path / "a.mp4"
    path.write_bytes(mp4)
    places = index_video(path)
    whole = images(path, places)
    hit = next(place for place in places if places[0].key < place.key < place.pts)
    spoil_frame(path, hit)
    damaged = set()
    for place, image, result in zip(places, whole, read_video(path, places), strict=True):
        if isinstance(result, CodecError):
            assert result.reason == "unreadable frame"
            damaged.add(place)
        else:
            assert np.array_equal(result, image)
    assert hit in damaged
    assert {place.key for place in damaged} == {hit.key}


def spoil_frame(path: Path, place: Place) -> None:
    """Overwrite what is stored of a frame, but for its first bytes, with zeros."""
    with av.open(str(path)) as container:
        packets = {packet.pts: packet for packet in container.demux() if packet.size}
    start, size = packets[place.pts].pos + 8, packets[place.pts].size - 8
    data = path.read_bytes()
    path.write_bytes(data[:start] + bytes(size) + data[start + size :])


def test_a_frame_that_is_not_there_is_no_other_frame(tmp_path: Path, mp4: bytes):
    path = tmp_path / "a.mp4"
    path.write_bytes(mp4)
    places = index_video(path)
    missing = places[4]._replace(pts=places[4].pts + 1)
    before, none, after = read_video(path, [places[4], missing, places[5]])
    assert isinstance(none, CodecError)
    assert (round(level(before)), round(level(after))) == (4, 5)


def test_other_formats_are_refused_whatever_their_name(tmp_path: Path):
    path = tmp_path / "a.mp4"
    pages = [PIL.Image.fromarray(frame_image(i)) for i in range(3)]
    pages[0].save(path, format="GIF", save_all=True, append_images=pages[1:])
    with pytest.raises(CodecError, match="not a readable video"):
        index_video(path)


def test_a_playlist_does_not_open_other_files(tmp_path: Path, mp4: bytes):
    (tmp_path / "secret.mp4").write_bytes(mp4)
    path = tmp_path / "a.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n")
    with pytest.raises(CodecError, match="not a readable video"):
        index_video(path)


def test_a_video_that_vanished_gives_one_error_for_each_frame(tmp_path: Path):
    results = list(read_video(tmp_path / "a.mp4", [Place(0, 0, 0), Place(512, 0, 0)]))
    assert [result.reason for result in results] == ["missing file", "missing file"]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264")])
def test_damaged_videos_give_frames_or_errors_and_nothing_else(
    tmp_path: Path, name: str, codec: str
):
    path = write_video(tmp_path / name, codec)
    data = path.read_bytes()
    frames = errors = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        path.write_bytes(damage(data, rng))
        try:
            places = index_video(path)
        except CodecError:
            errors += 1
            continue
        results = list(read_video(path, places))
        assert len(results) == len(places)
        errors += any(isinstance(result, CodecError) for result in results)
        frames += sum(not isinstance(result, CodecError) for result in results)
    assert errors > 40
    assert frames > 500


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut it off, or flip some bits."""
    if rng.random() < 0.3:
        return data[: rng.integers(len(data))]
    damaged = bytearray(data)
    for position in rng.integers(len(data), size=rng.integers(1, 4)):
        damaged[position] ^= 1 << rng.integers(8)
    return bytes(damaged)
