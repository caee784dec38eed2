"""What `mde predict` finds at the sources it is given, and how the outputs are called."""

import os
from pathlib import Path

import pytest

from mde.errors import InputError
from mde.predict.inputs import find_inputs

OUT = Path("nowhere")


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(*sources: Path | str, out: Path = OUT) -> list[str]:
    return [item.name for item in find_inputs([str(source) for source in sources], out).found]


def test_a_folder_is_searched_with_all_below_and_paths_are_kept(tmp_path: Path) -> None:
    make(
        tmp_path, "b.JPG", "a/x y.png", "a/ü/字.webp", "a/.hidden.png", ".git/c.png", "a/notes.txt"
    )
    (tmp_path / "album.jpg").mkdir()
    make(tmp_path, "album.jpg/in.v2.png", "clip.mp4")
    found = find_inputs([str(tmp_path)], OUT)
    assert [item.name for item in found.of("image")] == ["b", "a/x y", "a/ü/字", "album.jpg/in.v2"]
    assert [item.name for item in found.of("video")] == ["clip"]
    assert found.ignored == (tmp_path / "a/notes.txt",)


def test_patterns_are_expanded_below_their_first_wildcard(tmp_path: Path) -> None:
    make(tmp_path, "d/1/rgb/a.png", "d/2/rgb/a.png", "d/2/rgb/b.txt", "d/2/deep/down/c.jpg")
    assert names(tmp_path / "d/*/rgb/*") == ["1/rgb/a", "2/rgb/a"]
    assert names(tmp_path / "d/**/*.jpg") == ["2/deep/down/c"]
    assert names(tmp_path / "d/?") == ["1/rgb/a", "2/deep/down/c", "2/rgb/a"]
    make(tmp_path, "[1].png")
    assert names(tmp_path / "[1].png") == ["[1]"]


def test_a_file_that_is_found_twice_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    os.symlink(tmp_path / "a.png", tmp_path / "link.png")
    assert names(tmp_path, tmp_path / "a.png", tmp_path / "*.png") == ["a"]


def test_equal_names_get_their_suffix(tmp_path: Path) -> None:
    make(tmp_path, "room.jpg", "room.PNG", "hall.png", "clip.mp4", "clip/000000.png")
    assert sorted(names(tmp_path)) == [
        "clip/000000_png",
        "clip_mp4",
        "hall",
        "room_jpg",
        "room_png",
    ]


def test_names_that_stay_equal_are_an_error(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", "c/1.mp4", "d/1_mp4/x.png", "d/1.avi", "e/1.mp4")
    with pytest.raises(InputError, match=r"a/1\.png and .*b/1\.png would both be written as 1_png"):
        names(tmp_path / "a", tmp_path / "b")
    with pytest.raises(InputError, match="would both be written"):
        names(tmp_path / "c", tmp_path / "e")
    assert len(names(tmp_path)) == 6


def test_outputs_of_an_earlier_run_are_no_inputs(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "out/color/a.png")
    assert names(tmp_path, out=tmp_path / "out") == ["a"]
    assert names(tmp_path / "**/*.png", out=tmp_path / "out") == ["a"]


def test_cameras_and_urls_are_streams(tmp_path: Path) -> None:
    sources = ["webcam", "webcam:2", "/dev/video7", "rtsp://user:pw@host/live/door?x=1"]
    found = find_inputs(sources, OUT)
    assert [item.name for item in found.of("stream")] == ["webcam0", "webcam2", "video7", "door"]
    with pytest.raises(InputError, match="webcam0"):
        find_inputs(["webcam", "webcam:0"], OUT)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt")
    with pytest.raises(InputError, match=r"no\.jpg: no such file or folder; expected an image"):
        names(tmp_path / "no.jpg")
    with pytest.raises(InputError, match="nothing matches this pattern"):
        names(tmp_path / "*.jpg")
    with pytest.raises(InputError, match=r"no images and no videos in .*, of 1 files"):
        names(tmp_path)
