"""Listing KITTI at its full size: every missing file is told, and it takes seconds."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from mde.data.frames import Frame, Rejected
from mde.data.sources import kitti

LINES = 39_810
"""Of the training list that most papers use; 32 drives, both cameras."""
DRIVES = [f"2011_09_26/2011_09_26_drive_{number:04d}_sync" for number in range(1, 33)]
FRAMES = 640


def lines() -> Iterator[str]:
    """All frames but those at the ends, of all drives in turn."""
    for frame in range(1, FRAMES - 1):
        for drive in DRIVES:
            yield f"{drive} {frame} l\n"
            yield f"{drive} {frame} r\n"


@pytest.fixture
def raw(tmp_path: Path, write_kitti_drive: Callable[..., None]) -> Path:
    """Empty images. The first drive has its own files, all others have theirs in common."""
    write_kitti_drive(tmp_path, 1, frames=1)
    for drive in DRIVES[:2]:
        for camera in (2, 3):
            folder = tmp_path / drive / f"image_0{camera}/data"
            folder.mkdir(parents=True, exist_ok=True)
            for frame in range(FRAMES):
                (folder / f"{frame:010d}.png").touch()
    for drive in DRIVES[2:]:
        (tmp_path / drive).symlink_to(tmp_path / DRIVES[1])
    (tmp_path / "train.txt").write_text("".join(islice(lines(), LINES)))
    return tmp_path


def test_the_official_number_of_frames_is_listed_in_seconds_with_all_that_is_missing(raw: Path):
    for name in ("image_02/data/0000000010.png", "image_03/data/0000000200.png"):
        (raw / DRIVES[0] / name).unlink()
    config = kitti.Config(source="kitti", raw=str(raw), height=192, width=640, train="train.txt")
    start = time.process_time()
    listed = kitti.list_frames(config, raw, raw)
    # Measured: below 1 s.
    assert time.process_time() - start < 5
    assert len(listed) == LINES
    assert len({frame.sample_id for frame in listed}) == LINES
    rejected = [frame for frame in listed if isinstance(frame, Rejected)]
    assert Counter(frame.reason for frame in rejected) == {
        "missing image": 2, "missing neighbour": 4, "missing stereo image": 2,
    }  # fmt: skip
    assert {frame.sample_id[17:] for frame in rejected} == {
        *(f"0001_sync_{frame:010d}_l" for frame in (9, 10, 11, 200)),
        *(f"0001_sync_{frame:010d}_r" for frame in (10, 199, 200, 201)),
    }
    assert all(len(frame.files) == 5 for frame in listed if isinstance(frame, Frame))
