"""Where KITTI's files lie: odometry, benchmark, annotated depth; drives that lack, drives dealt."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data.codecs import decode_depth
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected
from mde.data.sources import kitti
from mde.data.sources.kitti.drives import index_drive
from mde.errors import InputError
from mde.schema import Row

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
WriteDrive = Callable[..., None]


def list_frames(raw: Path, **settings) -> list[Frame | Rejected]:
    return kitti.list_frames(config_of(raw, **settings), raw, raw)


def config_of(raw: Path, **settings) -> kitti.Config:
    size = {"height": "native", "width": "native"}
    return kitti.Config(source="kitti", raw=str(raw), **size | settings)  # type: ignore[arg-type]


def read(raw: Path, **settings) -> list[Row | Rejected]:
    config = config_of(raw, **settings)
    frames = kitti.list_frames(config, raw, raw)
    good = [frame for frame in frames if isinstance(frame, Frame)]
    bad = [frame for frame in frames if isinstance(frame, Rejected)]
    return bad + list(kitti.read_frames(config, raw, raw, good, Encoder(config.size)))


def write_list(raw: Path, text: str, name: str = "list.txt") -> str:
    (raw / name).write_text(text)
    return name


# --- Odometry ---------------------------------------------------------------------------------


@pytest.fixture
def odometry(tmp_path: Path, write_kitti_drive: WriteDrive) -> Path:
    for sequence in ("sequences/03", "sequences/09"):
        write_kitti_drive(tmp_path, sequence)
    write_list(tmp_path, "3 2 l\n3 2 r\n", "train.txt")
    write_list(tmp_path, "9 0 l\n", "test.txt")
    return tmp_path


def test_an_odometry_row_has_its_neighbours_intrinsics_and_baseline(odometry: Path):
    left, right, _ = read(odometry, train="train.txt", test="test.txt")
    assert not isinstance(left, Rejected)
    assert not isinstance(right, Rejected)
    assert (left["sample_id"], left["scene"]) == ("sequence_03_000002_l", "sequences/03")
    np.testing.assert_allclose(
        np.reshape(left["K"], (3, 3)),
        [[72.15377, 0, 60.95593], [0, 72.15377, 17.2854], [0, 0, 1]],
        rtol=1e-5,
    )
    assert left["baseline_m"] == pytest.approx(0.5327, abs=1e-4)
    assert right["baseline_m"] == pytest.approx(-0.5327, abs=1e-4)
    assert left["image_stereo"] == right["image"]
    assert left["image_prev"] != left["image_next"]


def test_odometry_scans_are_projected_with_the_sequences_own_transform(odometry: Path):
    *_, test = read(odometry, train="train.txt", test="test.txt")
    assert not isinstance(test, Rejected)
    assert test["gt_depth"] is not None
    depth = decode_depth(test["gt_depth"], 38, 124, test["depth_scale"])
    # The points of the raw drives, in an image a tenth as large.
    assert {tuple(map(int, place)) for place in np.argwhere(depth)} == {(18, 60), (30, 10)}
    assert depth[18, 60] == pytest.approx(10, abs=1 / 256)


def test_a_calibration_without_lidar_will_do_when_no_scan_is_read(odometry: Path):
    path = odometry / "sequences/03/calib.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    assert len(list_frames(odometry, train="train.txt")) == 2
    with pytest.raises(InputError, match=r"03/calib\.txt: no line 'Tr:', .* 12 numbers"):
        list_frames(odometry, train="train.txt", depth="camera_z")


def test_odometry_has_no_annotated_depth(odometry: Path):
    (frame,) = list_frames(odometry, test="test.txt", ground_truth="annotated")
    assert isinstance(frame, Rejected)
    assert frame.reason == "missing ground truth"
    assert "raw drives alone" in frame.detail


# --- Annotated depth --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("home", "annotated"),
    [
        ("2011_09_26/2011_09_26_drive_0001_sync", None),
        ("train/2011_09_26_drive_0001_sync", None),
        ("val/2011_09_26_drive_0001_sync", None),
        ("data_depth_annotated/train/2011_09_26_drive_0001_sync", "data_depth_annotated"),
        ("data_depth_annotated/2011_09_26_drive_0001_sync", "data_depth_annotated"),
        ("../elsewhere/val/2011_09_26_drive_0001_sync", "{raw}/../elsewhere"),
    ],
)
def test_annotated_depth_is_found_where_people_have_it(
    tmp_path: Path, write_kitti_drive: WriteDrive, home: str, annotated: str | None
):
    raw = tmp_path / "kitti"
    write_kitti_drive(raw, 1)
    place = raw / home / "proj_depth"
    if place != raw / DRIVE / "proj_depth":
        place.parent.mkdir(parents=True)
        shutil.move(raw / DRIVE / "proj_depth", place)
    settings = {
        "test": write_list(raw, f"{DRIVE} 3 l\n{DRIVE} 3 r\n"),
        "annotated": annotated.format(raw=raw) if annotated else None,
        "ground_truth": "annotated",
    }
    frames = list_frames(raw, **settings)
    assert [Path(raw, f.files["ground_truth"]).resolve() for f in frames] == [  # type: ignore[union-attr]
        (place / f"groundtruth/image_0{camera}/0000000003.png").resolve() for camera in (2, 3)
    ]
    for row in read(raw, **settings):
        assert not isinstance(row, Rejected), row
        assert row["gt_depth"] is not None


def test_annotated_depth_that_is_missing_is_told_with_the_places_searched(
    tmp_path: Path, write_kitti_drive: WriteDrive
):
    write_kitti_drive(tmp_path, 1)
    shutil.rmtree(tmp_path / DRIVE / "proj_depth")
    test = write_list(tmp_path, f"{DRIVE} 3 l\n")
    (frame,) = list_frames(tmp_path, test=test, ground_truth="annotated")
    assert isinstance(frame, Rejected)
    assert frame.reason == "missing ground truth"
    assert "proj_depth/groundtruth/image_02/0000000003.png in any of " in frame.detail
    assert f"{DRIVE}, 2011_09_26_drive_0001_sync, train/2011_09" in frame.detail


def test_an_image_that_the_list_gives_no_truth_for_is_rejected_if_truth_is_annotated(
    tmp_path: Path, write_kitti_drive: WriteDrive
):
    write_kitti_drive(tmp_path, 1)
    test = write_list(tmp_path, f"{DRIVE}/image_02/data/0000000003.png None 721.5377\n")
    (frame,) = list_frames(tmp_path, test=test, ground_truth="annotated")
    assert isinstance(frame, Rejected)
    assert (frame.reason, frame.expected) == ("no ground truth", True)
    (frame,) = list_frames(tmp_path, test=test, ground_truth="camera_z")
    assert isinstance(frame, Frame)
    (frame,) = list_frames(tmp_path, val=test, ground_truth="annotated")
    assert isinstance(frame, Frame)


# --- The benchmark's test images --------------------------------------------------------------


@pytest.fixture(params=["", "depth_selection/"])
def benchmark(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / request.param / "test_depth_prediction_anonymous"
    for kind in ("image", "intrinsics"):
        (folder / kind).mkdir(parents=True)
    for number in range(3):
        image = np.full((352, 1216, 3), 50 * number, np.uint8)
        cv2.imwrite(str(folder / f"image/{number:010d}.png"), image)
        text = f"72{number}.5377 0.0 596.5593 0.0 721.5377 149.854 0.0 0.0 1.0"
        (folder / f"intrinsics/{number:010d}.txt").write_text(text)
    write_list(tmp_path, "image 0\nimage 1\nimage 2\n")
    return tmp_path


def test_benchmark_images_are_test_rows_without_truth_and_with_their_own_intrinsics(
    benchmark: Path,
):
    for frame in list_frames(benchmark, test="list.txt"):
        assert isinstance(frame, Frame)
        assert set(frame.files) == {"image", "intrinsics"}
    rows = read(benchmark, test="list.txt")
    for number, row in enumerate(rows):
        assert not isinstance(row, Rejected), row
        assert row["K"][0] == pytest.approx(720.5377 + number)
        assert (row["height"], row["width"]) == (352, 1216)
        assert row["gt_depth"] is row["image_stereo"] is row["baseline_m"] is None
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "missing calibration"),
        ("", "malformed calibration"),
        ("1 2 3", "malformed calibration"),
        ("721,5 0 596 0 721 149 0 0 1", "malformed calibration"),
        ("nan 0 596 0 721 149 0 0 1", "malformed calibration"),
        ("0 0 596 0 721 149 0 0 1", "malformed calibration"),
        ("721 0 596 0 721 149 0 0 2", "malformed calibration"),
    ],
)
def test_a_benchmark_image_with_bad_intrinsics_is_rejected(
    benchmark: Path, text: str | None, reason: str
):
    (path,) = benchmark.rglob("intrinsics/0000000001.txt")
    path.unlink()
    if text is not None:
        path.write_text(text)
    (rejected,) = (r for r in read(benchmark, test="list.txt") if isinstance(r, Rejected))
    assert rejected.reason == reason
    assert "test_depth_prediction_anonymous/intrinsics/0000000001.txt" in rejected.detail


def test_benchmark_images_cannot_be_trained_on(benchmark: Path):
    with pytest.raises(InputError, match=r"list\.txt: .* cannot be in train"):
        list_frames(benchmark, train="list.txt", images=())


# --- Drives -----------------------------------------------------------------------------------


def test_drives_that_are_missing_are_counted_and_those_that_are_there_shown(
    tmp_path: Path, write_kitti_drive: WriteDrive
):
    write_kitti_drive(tmp_path, 1)
    lines = [f"2011_09_26/2011_09_26_drive_{n:04d}_sync 2 l\n" for n in range(1, 9)]
    with pytest.raises(InputError) as error:
        list_frames(tmp_path, train=write_list(tmp_path, "".join(lines)))
    assert "7 of the 8 drives of the lists are not there: 2011_09_26/" in str(error.value)
    assert "drive_0006_sync and 2 more; there are 1: " + DRIVE in str(error.value)


def test_a_raw_folder_without_any_drive_says_so(tmp_path: Path):
    with pytest.raises(InputError, match=r"2 of the 2 .* there is no drive at all"):
        list_frames(tmp_path, train=write_list(tmp_path, f"{DRIVE} 2 l\n4 2 l\n"))
    with pytest.raises(InputError, match="no drive is there; expected folders like 2011_09_26/"):
        list_frames(tmp_path)


def test_only_files_with_kittis_own_names_are_found(tmp_path: Path, write_kitti_drive: WriteDrive):
    write_kitti_drive(tmp_path, 1, frames=2)
    folder = tmp_path / DRIVE / "image_02/data"
    for name in (
        "7.png",
        "._0000000008.png",
        "0000000009.PNG.part",
        "00000000٩9.png",
        "0000000010",
    ):
        (folder / name).write_bytes(b"")
    (folder / "0000000001.jpg").write_bytes(b"")
    (folder / "0000000011.jpg").write_bytes(b"")
    found = index_drive(tmp_path, DRIVE, None).images[2]
    assert {number: Path(name).name for number, name in found.items()} == {
        0: "0000000000.png", 1: "0000000001.png", 11: "0000000011.jpg",
    }  # fmt: skip


@pytest.fixture
def ten_drives(tmp_path: Path, write_kitti_drive: WriteDrive) -> Path:
    write_kitti_drive(tmp_path, 1)
    for number in range(2, 11):
        (tmp_path / f"2011_09_26/2011_09_26_drive_{number:04d}_sync").symlink_to(tmp_path / DRIVE)
    return tmp_path


def of_split(frames: list[Frame | Rejected], split: str) -> list[str]:
    return [f.sample_id[17:] for f in frames if f.split == split and isinstance(f, Frame)]


def reasons(frames: list[Frame | Rejected], expected: bool) -> Counter[str]:
    rejected = [frame for frame in frames if isinstance(frame, Rejected)]
    return Counter(frame.reason for frame in rejected if frame.expected == expected)


def test_without_lists_whole_drives_are_dealt(ten_drives: Path):
    frames = list_frames(ten_drives)
    drives = {s: {name[:4] for name in of_split(frames, s)} for s in ("train", "val", "test")}
    assert [len(drives[split]) for split in ("train", "val", "test")] == [8, 1, 1]
    assert len(set.union(*drives.values())) == 10
    assert frames == list_frames(ten_drives)
    others = of_split(list_frames(ten_drives, seed=1), "test")
    assert others[0] != of_split(frames, "test")[0]


def test_of_a_dealt_drive_both_cameras_are_trained_on_and_the_left_one_tested(ten_drives: Path):
    frames = list_frames(ten_drives)
    names = [f"{frame:010d}_{side}" for frame in (1, 2, 3) for side in "lr"]
    assert [name[10:] for name in of_split(frames, "val")] == names
    # A test row can do without neighbours.
    assert [name[10:] for name in of_split(frames, "test")] == [f"{i:010d}_l" for i in range(5)]
    right = list_frames(ten_drives, cameras=("r",), images=("image_next",))
    assert [name[10:] for name in of_split(right, "val")] == [f"{i:010d}_r" for i in range(4)]


def test_that_the_ends_of_a_drive_lack_a_neighbour_is_told_and_expected(ten_drives: Path):
    frames = list_frames(ten_drives)
    assert reasons(frames, expected=True) == {"missing neighbour": 9 * 2 * 2}
    assert not reasons(frames, expected=False)


def test_a_hole_in_a_drive_is_not_expected(ten_drives: Path):
    (ten_drives / DRIVE / "image_02/data/0000000002.png").unlink()
    assert reasons(list_frames(ten_drives), expected=False) == {
        "missing neighbour": 9 * 2, "missing stereo image": 9,
    }  # fmt: skip


def test_that_the_ends_of_a_drive_were_never_annotated_is_expected_but_not_in_a_list(
    ten_drives: Path,
):
    for name in ("0000000000.png", "0000000004.png"):
        (ten_drives / DRIVE / "proj_depth/groundtruth/image_02" / name).unlink()
    frames = list_frames(ten_drives, ground_truth="annotated")
    assert [name[10:] for name in of_split(frames, "test")] == [f"{i:010d}_l" for i in (1, 2, 3)]
    assert reasons(frames, expected=True)["missing ground truth"] == 2
    test = write_list(ten_drives, f"{DRIVE} 4 l\n")
    listed = list_frames(ten_drives, test=test, ground_truth="annotated")
    assert reasons(listed, expected=False) == {"missing ground truth": 1}


def test_scans_that_the_official_data_lack_are_expected(tmp_path: Path):
    drive = "2011_09_26/2011_09_26_drive_0009_sync"
    (tmp_path / drive / "image_02/data").mkdir(parents=True)
    for frame in (176, 177):
        (tmp_path / drive / f"image_02/data/{frame:010d}.png").touch()
    test = write_list(tmp_path, f"{drive} 176 l\n{drive} 177 l\n")
    listed = list_frames(tmp_path, test=test)
    assert [(f.reason, f.expected) for f in listed if isinstance(f, Rejected)] == [
        ("missing scan", False), ("missing scan", True),
    ]  # fmt: skip


def test_drives_and_sequences_are_not_dealt_together(tmp_path: Path, write_kitti_drive: WriteDrive):
    write_kitti_drive(tmp_path, "sequences/00")
    assert len(of_split(list_frames(tmp_path), "train")) == 3 * 2
    write_kitti_drive(tmp_path, 1)
    with pytest.raises(InputError, match="1 drives and 1 odometry sequences"):
        list_frames(tmp_path)


def test_a_drive_without_images_is_named(tmp_path: Path, write_kitti_drive: WriteDrive):
    write_kitti_drive(tmp_path, 1, frames=0)
    (tmp_path / DRIVE).mkdir(parents=True)
    with pytest.raises(InputError, match=f"{DRIVE}: no image for the train split"):
        list_frames(tmp_path)
