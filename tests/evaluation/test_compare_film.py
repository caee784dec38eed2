"""The film of a comparison: which frames, in which order, in which rows and colours."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mde.compare.film import (
    GIF_BYTES,
    Film,
    draw_frames,
    row_size,
    write_gif,
)
from mde.compare.sequence import longest_run, pick_sequence
from mde.data.shards import Manifest, write_manifest, write_shard
from mde.errors import InputError
from mde.film import SCALE_HEIGHT, write_mp4
from tests.evaluation.compare_data import make_row

SIZE = 64, 96
RED, NEAR, FAR = (200, 20, 20), 2.0, 40.0


def a_film(count: int = 7) -> Film:
    """A red image over a model that sees all near, over one that sees all far."""
    images = [np.full((*SIZE, 3), RED, np.uint8) for _ in range(count)]
    depths = {
        "near": [np.full(SIZE, NEAR, np.float32)] * count,
        "far": [np.full(SIZE, FAR, np.float32)] * count,
    }
    return Film("street", [f"frame_{i}" for i in range(count)], images, depths, 80.0)


def rows_of(frame: np.ndarray) -> list[np.ndarray]:
    """Mean colours of the three rows, left of the right border, where no label is."""
    height = (frame.shape[0] - SCALE_HEIGHT) // 3
    right = frame[:, -frame.shape[1] // 8 :].astype(float)
    return [right[i * height + 4 : (i + 1) * height - 4].mean((0, 1)) for i in range(3)]


def check_rows(frame: np.ndarray) -> None:
    image, near, far = rows_of(frame)
    np.testing.assert_allclose(image, RED, atol=12)
    # Of viridis_r: near is yellow, far is dark violet.
    assert near[0] > 200
    assert near[1] > 200
    assert far.max() < 110


def test_an_mp4_has_all_frames_with_the_image_on_top_and_the_models_in_their_order(
    tmp_path: Path,
) -> None:
    write_mp4(tmp_path / "film.mp4", draw_frames(a_film()), fps=5)
    with av.open(str(tmp_path / "film.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 5
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == 7
    for frame in frames:
        check_rows(frame)


def test_a_gif_has_all_frames_for_as_long_as_they_should_be_seen(tmp_path: Path) -> None:
    frames = draw_frames(a_film())
    # What never changes, a GIF would keep as one frame.
    for i, frame in enumerate(frames):
        frame[:4, -4:] = 30 * i
    write_gif(tmp_path / "film.gif", frames, fps=5, rows=3)
    with Image.open(tmp_path / "film.gif") as file:
        assert file.n_frames == 7
        for i in range(7):
            file.seek(i)
            assert file.info["duration"] == 200
            check_rows(np.asarray(file.convert("RGB")))


def test_a_gif_becomes_narrower_rather_than_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 300, 640, 3), dtype=np.uint8)
    write_gif(tmp_path / "large.gif", list(noise), fps=5, rows=3)
    assert Image.open(tmp_path / "large.gif").width == 640
    whole = (tmp_path / "large.gif").stat().st_size
    assert whole < GIF_BYTES
    monkeypatch.setattr("mde.compare.film.GIF_BYTES", whole // 2)
    write_gif(tmp_path / "small.gif", list(noise), fps=5, rows=3)
    assert (tmp_path / "small.gif").stat().st_size <= whole // 2


def test_a_depth_has_one_colour_in_the_whole_film() -> None:
    film = a_film(3)
    film.depths["far"][1] = np.full(SIZE, 79.0, np.float32)
    frames = draw_frames(film)
    np.testing.assert_array_equal(rows_of(frames[0])[2], rows_of(frames[2])[2])
    assert rows_of(frames[1])[2].sum() < rows_of(frames[0])[2].sum()


def test_frames_have_even_sizes_and_many_rows_make_them_narrower() -> None:
    assert row_size((375, 1242), 3) == (194, 640)
    for rows in (2, 5, 9):
        height, width = row_size((480, 640), rows)
        assert (height % 2, width % 2) == (0, 0)
        assert rows * height <= 1440 + rows
        assert height / width == pytest.approx(0.75, abs=0.02)


def write_split(folder: Path, names: list[tuple[str, str]]) -> Path:
    folder.mkdir()
    rows = [make_row(i, sample_id=name, scene=scene) for i, (scene, name) in enumerate(names)]
    write_manifest(folder, Manifest("folder", {}, [write_shard(folder, "test", 0, rows)], [], {}))
    return folder


def test_the_longest_film_is_found_among_scenes_and_cameras(tmp_path: Path) -> None:
    """Twenty frames far apart are a worse film than six in a row of the left camera."""
    frames = [("a", f"a_{n:010d}_l") for n in np.cumsum(np.arange(1, 21))]
    frames += [("b", f"b_{n:010d}_{side}") for n in (3, 7, 5, 9, 11, 13) for side in "lr"]
    data = write_split(tmp_path / "data", frames)
    scene, ids = pick_sequence(data, "test")
    assert (scene, ids) == ("b", [f"b_{n:010d}_l" for n in (3, 5, 7, 9, 11, 13)])
    assert pick_sequence(data, "test", "a")[1] == [name for _, name in frames[:20]]
    with pytest.raises(InputError, match=r"no scene 'c' in the test split; there are: a, b$"):
        pick_sequence(data, "test", "c")


def test_of_a_long_scene_the_part_with_the_longest_run_is_shown(tmp_path: Path) -> None:
    numbers = [*range(0, 150, 3), *range(200, 290), 500]
    data = write_split(tmp_path / "data", [("a", f"a_{n:04d}") for n in numbers])
    assert pick_sequence(data, "test")[1] == [f"a_{n:04d}" for n in range(200, 260)]


def test_runs_have_equal_gaps() -> None:
    def run(*numbers: int) -> tuple[int, int]:
        return longest_run([(number, str(number)) for number in numbers])

    assert run(5) == (0, 1)
    assert run(1, 2, 3, 10, 20) == (0, 3)
    assert run(1, 4, 10, 12, 14, 16) == (2, 4)
