"""Damaged KITTI files: an error that names file and line, a rejected frame, or a sound row."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mde.data.codecs import decode_depth
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected
from mde.data.sources import kitti
from mde.errors import InputError
from mde.schema import Row

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"


@pytest.fixture
def raw(tmp_path: Path, write_kitti_drive: Callable[..., None]) -> Path:
    """A small drive with a train, a val and a test frame."""
    write_kitti_drive(tmp_path, 1, frames=3)
    for split, line in {"train": "1 l", "val": "1 r", "test": "0 l"}.items():
        (tmp_path / f"{split}.txt").write_text(f"{DRIVE} {line}\n")
    return tmp_path


def convert(raw: Path) -> list[Row | Rejected]:
    """List and read everything, with annotated depth to train on and LiDAR to test on."""
    lists = {split: f"{split}.txt" for split in ("train", "val", "test")}
    config = kitti.Config(
        source="kitti", raw=str(raw), height=19, width=62, depth="annotated", **lists
    )
    listed = kitti.list_frames(config, raw, raw)
    frames = [frame for frame in listed if isinstance(frame, Frame)]
    rows = kitti.read_frames(config, raw, raw, frames, Encoder(config.size))
    return [frame for frame in listed if isinstance(frame, Rejected)] + list(rows)


# --- Calibration ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calib_cam_to_cam.txt", "calib_velo_to_cam.txt"])
def test_a_missing_calibration_is_named(raw: Path, name: str):
    (raw / "2011_09_26" / name).unlink()
    with pytest.raises(InputError, match=rf"2011_09_26/{name}: no such file"):
        convert(raw)


@pytest.mark.parametrize(
    ("line", "broken", "message"),
    [
        ("P_rect_02: 7.215377e+01", "P_rect_02: seven", "line 7: P_rect_02: not a number"),
        ("P_rect_02: 7.215377e+01", "P_rect_02: 7,215377e+01", "line 7: P_rect_02: not a number"),
        ("P_rect_02:", "P_rect_09:", "no line 'P_rect_02:', which must have 12 numbers"),
        ("S_rect_03: 1.240000e+02", "S_rect_03:", "line 8: S_rect_03: expected 2 finite numbers"),
        ("S_rect_03: 1.240000e+02", "S_rect_03: 0", "line 8: S_rect_03: expected a width"),
        ("P_rect_03: 7.215377e+01", "P_rect_03: nan", "line 9: P_rect_03: expected 12 finite"),
        ("P_rect_03: 7.215377e+01", "P_rect_03: inf", "line 9: P_rect_03: expected 12 finite"),
        ("P_rect_03: 7.215377e+01", "P_rect_03: 1 7e1", "line 9: P_rect_03: expected 12 finite"),
        ("P_rect_03: 7.215377e+01", "P_rect_03: -70", "line 9: P_rect_03: .* positive focals"),
        ("R_rect_00:", "R_rect_09:", "no line 'R_rect_00:', which must have 9 numbers"),
        ("R_rect_00: 9.999239e-01", "R_rect_00: 9.9e-02", "line 5: R_rect_00: not a rotation"),
    ],
)
def test_a_malformed_calibration_is_named_with_its_line(
    raw: Path, line: str, broken: str, message: str
):
    path = raw / "2011_09_26/calib_cam_to_cam.txt"
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, broken))
    with pytest.raises(InputError, match=rf"2011_09_26/calib_cam_to_cam\.txt.*{message}"):
        convert(raw)


def test_a_malformed_lidar_calibration_is_named_with_its_line(raw: Path):
    path = raw / "2011_09_26/calib_velo_to_cam.txt"
    path.write_text(path.read_text().replace("T: -4.069766e-03", "T: -4.069766e-03 1"))
    with pytest.raises(InputError, match=r"calib_velo_to_cam\.txt, line 3: T: expected 3 finite"):
        convert(raw)


# --- Everything -------------------------------------------------------------------------------

FILES = [
    "image_02/data/0000000001.png",
    "image_03/data/0000000001.png",
    "velodyne_points/data/0000000000.bin",
    "velodyne_points/data/0000000001.bin",
    "proj_depth/groundtruth/image_02/0000000001.png",
    "proj_depth/groundtruth/image_03/0000000001.png",
    "../calib_cam_to_cam.txt",
    "../calib_velo_to_cam.txt",
    "../../train.txt",
]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, or with some flipped bits."""
    if rng.random() < 0.4:
        return content[: rng.integers(len(content))]
    flipped = np.frombuffer(content, np.uint8).copy()
    places = rng.integers(len(content), size=rng.integers(1, 4))
    flipped[places] ^= (1 << rng.integers(8, size=len(places))).astype(np.uint8)
    return flipped.tobytes()


def check(row: Row) -> None:
    assert np.isfinite(row["K"]).all()
    assert row["baseline_m"] is not None
    assert np.isfinite(row["baseline_m"])
    for key, size in (("depth", (19, 62)), ("gt_depth", (row["gt_height"], row["gt_width"]))):
        if row[key] is not None:  # type: ignore[literal-required]
            depth = decode_depth(row[key], *size, row["depth_scale"])  # type: ignore[literal-required]
            assert 0 <= depth.min() < depth.max() < 256


def test_damage_ends_in_an_error_for_people_a_rejection_or_a_sound_row(raw: Path):
    messages: list[str] = []
    outcomes = {"rejected": 0, "row": 0}
    rng = np.random.default_rng(0)
    for trial in range(120):
        name = FILES[trial % len(FILES)]
        path = raw / DRIVE / name
        content = path.read_bytes()
        path.write_bytes(damaged(content, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                results = convert(raw)
        except InputError as error:
            messages.append(str(error))
            results = []
        for result in results:
            if isinstance(result, Rejected):
                assert result.reason
                assert result.detail
                outcomes["rejected"] += 1
            else:
                check(result)
                outcomes["row"] += 1
        path.write_bytes(content)
    assert min(len(messages), *outcomes.values()) >= 10
    assert all(re.search(r"calib_\w+\.txt|train\.txt|_sync", message) for message in messages)
    assert all(not isinstance(result, Rejected) for result in convert(raw))
