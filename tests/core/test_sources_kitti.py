"""Raw KITTI → rows: right images, right numbers, LiDAR on its pixels, and clear errors."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data.codecs import decode_depth, decode_image
from mde.data.shards import Rejected
from mde.data.sources import Frame, kitti
from mde.errors import InputError
from mde.intrinsics import resize_K
from mde.schema import Row

DRIVE_1 = "2011_09_26/2011_09_26_drive_0001_sync"
DRIVE_2 = "2011_09_26/2011_09_26_drive_0002_sync"
TRAIN_L = "2011_09_26_drive_0001_sync_0000000002_l"
TRAIN_R = "2011_09_26_drive_0001_sync_0000000002_r"
TEST_L = "2011_09_26_drive_0002_sync_0000000000_l"


def config_of(folder: Path, **changes) -> kitti.Config:
    config = kitti.Config(
        source="kitti", raw=str(folder), splits=str(folder / "splits"), height=96, width=320
    )
    return replace(config, **changes)


def frames_of(folder: Path) -> list[Frame]:
    return kitti.list_frames(config_of(folder), Path("/"))


def read(folder: Path, sample_id: str, **changes) -> Row | Rejected:
    """Read the frame of that name alone."""
    frame = next(frame for frame in frames_of(folder) if frame.sample_id == sample_id)
    (result,) = kitti.read_frames(config_of(folder, **changes), Path("/"), [frame])
    return result


def read_row(folder: Path, sample_id: str, **changes) -> Row:
    row = read(folder, sample_id, **changes)
    assert not isinstance(row, Rejected), row
    return row


def colour(data: bytes | None) -> tuple[int, int, int]:
    """Frame, camera and drive, as the colour of the image says."""
    assert data is not None
    red, green, blue = decode_image(data)[48, 160].astype(float)
    return round(red / 40), round(green / 100) + 1, round(blue / 100)


def test_frames_are_those_of_the_split_files(kitti_raw: Path):
    frames = frames_of(kitti_raw)
    assert [(f.split, f.scene, f.locator) for f in frames] == [
        ("train", DRIVE_1, (1, "l")),
        ("train", DRIVE_1, (2, "l")),
        ("train", DRIVE_1, (2, "r")),
        ("train", DRIVE_1, (3, "l")),
        ("val", DRIVE_2, (2, "l")),
        ("test", DRIVE_2, (0, "l")),
        ("test", DRIVE_2, (4, "l")),
    ]
    assert len({frame.sample_id for frame in frames}) == len(frames)


def test_row_has_its_neighbours_and_the_other_camera(kitti_raw: Path):
    left = read_row(kitti_raw, TRAIN_L)
    assert colour(left["image"]) == (2, 2, 1)
    assert colour(left["image_prev"]) == (1, 2, 1)
    assert colour(left["image_next"]) == (3, 2, 1)
    assert colour(left["image_stereo"]) == (2, 3, 1)
    right = read_row(kitti_raw, TRAIN_R)
    assert colour(right["image"]) == (2, 3, 1)
    assert colour(right["image_prev"]) == (1, 3, 1)
    assert colour(right["image_stereo"]) == (2, 2, 1)


def test_baseline_is_positive_for_the_left_camera_and_negative_for_the_right(kitti_raw: Path):
    assert read_row(kitti_raw, TRAIN_L)["baseline_m"] == pytest.approx(0.5327, abs=1e-4)
    assert read_row(kitti_raw, TRAIN_R)["baseline_m"] == pytest.approx(-0.5327, abs=1e-4)


def test_intrinsics_are_the_rectified_ones_at_the_stored_size(kitti_raw: Path):
    rectified = np.array([[721.5377, 0, 609.5593], [0, 721.5377, 172.854], [0, 0, 1]])
    row = read_row(kitti_raw, TRAIN_L)
    expected = resize_K(rectified, (375, 1242), (96, 320))
    np.testing.assert_allclose(np.reshape(row["K"], (3, 3)), expected)
    assert decode_image(row["image"]).shape == (96, 320, 3)


def test_ends_of_a_drive_can_be_tested_on_without_neighbours(kitti_raw: Path):
    row = read_row(kitti_raw, TEST_L)
    assert row["image_prev"] is None
    assert colour(row["image_next"]) == (1, 2, 2)


def ground_truth(folder: Path, kind: str) -> np.ndarray:
    row = read_row(folder, TEST_L, lidar_depth=kind)
    assert (row["gt_height"], row["gt_width"]) == (375, 1242)
    return decode_depth(row["gt_depth"], 375, 1242, row["depth_scale"])


def test_lidar_points_land_on_their_pixels_with_their_depth(kitti_raw: Path):
    depth = ground_truth(kitti_raw, "camera_z")
    # Of two points on (600, 180) the nearer one stays; none is behind or outside.
    expected = {(180, 600): 10.0, (300, 100): 5.0}
    assert {tuple(map(int, place)) for place in np.argwhere(depth)} == set(expected)
    for place, z in expected.items():
        assert depth[place] == pytest.approx(z, abs=1 / 512 + 1e-5)


def test_velodyne_x_is_the_forward_distance_one_pixel_up_and_left(
    kitti_raw: Path, kitti_points: dict[str, np.ndarray]
):
    depth = ground_truth(kitti_raw, "velodyne_x")
    forward = {
        (179, 599): kitti_points["u600_v180_z10"][0],
        (299, 99): kitti_points["u100_v300_z5"][0],
    }
    assert {tuple(map(int, place)) for place in np.argwhere(depth)} == set(forward)
    for place, x in forward.items():
        assert depth[place] == pytest.approx(x, abs=1 / 512 + 1e-5)
    # The LiDAR is behind the camera, so its distances are longer.
    assert depth[179, 599] == pytest.approx(10.27, abs=0.15)


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("image_02/data/0000000002.png", "no image"),
        ("image_02/data/0000000001.png", "no previous frame"),
        ("image_02/data/0000000003.png", "no next frame"),
        ("image_03/data/0000000002.png", "no stereo image"),
    ],
)
def test_training_frame_that_lacks_an_image_is_rejected_with_the_path(
    kitti_copy: Path, lost: str, reason: str
):
    (kitti_copy / DRIVE_1 / lost).unlink()
    result = read(kitti_copy, TRAIN_L)
    assert isinstance(result, Rejected)
    assert (result.sample_id, result.split) == (TRAIN_L, "train")
    assert result.reason.startswith(f"{reason}: ")
    assert lost in result.reason


def test_missing_scan_rejects_a_test_frame_and_not_a_training_frame(kitti_copy: Path):
    scan = "velodyne_points/data/{:010d}.bin"
    (kitti_copy / DRIVE_1 / scan.format(2)).unlink()
    assert read_row(kitti_copy, TRAIN_L)["gt_depth"] is None
    (kitti_copy / DRIVE_2 / scan.format(0)).unlink()
    result = read(kitti_copy, TEST_L)
    assert isinstance(result, Rejected)
    assert "0000000000.bin: No such file" in result.reason


@pytest.mark.parametrize("size", [0, 17])
def test_scan_that_is_not_whole_points_is_rejected(kitti_copy: Path, size: int):
    path = kitti_copy / DRIVE_2 / "velodyne_points/data/0000000000.bin"
    path.unlink()
    path.write_bytes(bytes(size))
    result = read(kitti_copy, TEST_L)
    assert isinstance(result, Rejected)
    assert f"{size} bytes are not whole points" in result.reason


def test_image_of_another_size_than_the_calibration_says_is_rejected(kitti_copy: Path):
    path = kitti_copy / DRIVE_1 / "image_03/data/0000000002.png"
    path.unlink()
    cv2.imwrite(str(path), np.zeros((370, 1224, 3), np.uint8))
    result = read(kitti_copy, TRAIN_L)
    assert isinstance(result, Rejected)
    assert "(370, 1224) px, the calibration says (375, 1242)" in result.reason


def test_images_may_be_jpeg(kitti_copy: Path):
    for path in (kitti_copy / DRIVE_1).glob("image_0*/data/*.png"):
        image = cv2.imread(str(path))
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".jpg")), image)
    row = read_row(kitti_copy, TRAIN_L)
    assert colour(row["image_stereo"]) == (2, 3, 1)


@pytest.mark.parametrize("name", ["calib_cam_to_cam.txt", "calib_velo_to_cam.txt"])
def test_missing_calibration_is_named(kitti_copy: Path, name: str):
    (kitti_copy / "2011_09_26" / name).unlink()
    with pytest.raises(InputError, match=rf"2011_09_26/{name}: no such file"):
        frames_of(kitti_copy)


@pytest.mark.parametrize(
    ("line", "broken", "message"),
    [
        ("P_rect_02: 7.215377e+02", "P_rect_02: seven", "line 7: P_rect_02: not a number"),
        ("S_rect_03: 1.242000e+03", "S_rect_03:", "line 8: S_rect_03: expected 2 finite numbers"),
        ("P_rect_03: 7.215377e+02", "P_rect_03: nan", "line 9: P_rect_03: expected 12 finite"),
        ("R_rect_00:", "R_rect_09:", "no line 'R_rect_00:', which must have 9 numbers"),
    ],
)
def test_malformed_calibration_is_named_with_its_line(
    kitti_copy: Path, line: str, broken: str, message: str
):
    path = kitti_copy / "2011_09_26" / "calib_cam_to_cam.txt"
    text = path.read_text()
    assert line in text
    path.unlink()
    path.write_text(text.replace(line, broken))
    with pytest.raises(InputError, match=rf"calib_cam_to_cam\.txt.*{message}"):
        frames_of(kitti_copy)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{DRIVE_1} 2", "line 3: expected '<date>/<drive> <frame> <l|r>', found"),
        (f"{DRIVE_1} two l", "line 3: expected"),
        (f"{DRIVE_1} -2 l", "line 3: expected"),
        (f"{DRIVE_1} ² l", "line 3: expected"),
        (f"{DRIVE_1} 2 L", "line 3: expected"),
        (f"{DRIVE_1} 0000000001 l", "line 3: .* is there twice"),
        ("2011_09_26/2011_09_26_drive_0099_sync 2 l", "1 of the 3 drives .*_drive_0099_sync"),
    ],
)
def test_bad_split_line_is_named(kitti_copy: Path, line: str, message: str):
    path = kitti_copy / "splits" / "train_files.txt"
    path.unlink()
    path.write_text(f"{DRIVE_1} 1 l\n\n{line}\n")
    with pytest.raises(InputError, match=message):
        frames_of(kitti_copy)


def test_needs_a_split_file_with_a_frame(kitti_copy: Path):
    path = kitti_copy / "splits" / "val_files.txt"
    path.unlink()
    assert {frame.split for frame in frames_of(kitti_copy)} == {"train", "test"}
    path.write_text("\n")
    with pytest.raises(InputError, match=r"val_files\.txt: no frame in it"):
        frames_of(kitti_copy)
    shutil.rmtree(kitti_copy / "splits")
    with pytest.raises(InputError, match=r"none of train_files\.txt, .* is there"):
        frames_of(kitti_copy)
