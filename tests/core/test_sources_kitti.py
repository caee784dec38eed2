"""KITTI raw → rows: right images, right numbers, depth on its pixels, and clear rejections."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data.codecs import decode_depth, decode_image
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected
from mde.data.sources import kitti
from mde.errors import InputError
from mde.intrinsics import resize_K
from mde.schema import Row

DRIVE_1 = "2011_09_26/2011_09_26_drive_0001_sync"
DRIVE_2 = "2011_09_26/2011_09_26_drive_0002_sync"
TRAIN_L = "2011_09_26_drive_0001_sync_0000000002_l"
TRAIN_R = "2011_09_26_drive_0001_sync_0000000002_r"
VAL_L = "2011_09_26_drive_0002_sync_0000000002_l"
TEST_L = "2011_09_26_drive_0002_sync_0000000000_l"
LISTS = {split: f"splits/{split}_files.txt" for split in ("train", "val", "test")}


def config_of(folder: Path, **changes) -> kitti.Config:
    config = kitti.Config(source="kitti", raw=str(folder), height=96, width=320, **LISTS)
    return replace(config, **changes)


def frames_of(folder: Path, **changes) -> list[Frame | Rejected]:
    return kitti.list_frames(config_of(folder, **changes), folder, folder)


def read(folder: Path, sample_id: str, **changes) -> Row | Rejected:
    """List all frames and read the one of that name alone."""
    frame = next(f for f in frames_of(folder, **changes) if f.sample_id == sample_id)
    if isinstance(frame, Rejected):
        return frame
    assert all((folder / name).is_file() for name in frame.files.values())
    config = config_of(folder, **changes)
    encoder = Encoder(config.size, config.lossless)
    (result,) = kitti.read_frames(config, folder, folder, [frame], encoder)
    return result


def read_row(folder: Path, sample_id: str, **changes) -> Row:
    row = read(folder, sample_id, **changes)
    assert not isinstance(row, Rejected), row
    return row


def expect_rejected(folder: Path, sample_id: str, reason: str, detail: str, **changes) -> None:
    result = read(folder, sample_id, **changes)
    assert isinstance(result, Rejected)
    assert (result.sample_id, result.reason) == (sample_id, reason)
    assert detail in result.detail
    assert str(folder) not in result.detail


def colour(data: bytes | None) -> tuple[int, int, int]:
    """Frame, camera and drive, as the colour of the image says."""
    assert data is not None
    red, green, blue = decode_image(data)[48, 160].astype(float)
    return round(red / 40), round(green / 100) + 1, round(blue / 100)


def test_frames_are_those_of_the_lists(kitti_raw: Path):
    frames = [frame for frame in frames_of(kitti_raw) if isinstance(frame, Frame)]
    assert [(f.split, f.scene, f.sample_id[-12:]) for f in frames] == [
        ("train", DRIVE_1, "0000000001_l"),
        ("train", DRIVE_1, "0000000002_l"),
        ("train", DRIVE_1, "0000000002_r"),
        ("train", DRIVE_1, "0000000003_l"),
        ("val", DRIVE_2, "0000000002_l"),
        ("test", DRIVE_2, "0000000000_l"),
        ("test", DRIVE_2, "0000000004_l"),
    ]
    assert len({frame.sample_id for frame in frames}) == len(frames)


def test_a_frame_names_every_file_that_its_row_is_made_of(kitti_raw: Path):
    files = {f.sample_id: f.files for f in frames_of(kitti_raw) if isinstance(f, Frame)}
    assert files[TRAIN_R] == {
        "image": f"{DRIVE_1}/image_03/data/0000000002.png",
        "image_prev": f"{DRIVE_1}/image_03/data/0000000001.png",
        "image_next": f"{DRIVE_1}/image_03/data/0000000003.png",
        "image_stereo": f"{DRIVE_1}/image_02/data/0000000002.png",
        "calibration": "2011_09_26/calib_cam_to_cam.txt",
    }
    assert files[TEST_L] == {
        "image": f"{DRIVE_2}/image_02/data/0000000000.png",
        "image_next": f"{DRIVE_2}/image_02/data/0000000001.png",
        "image_stereo": f"{DRIVE_2}/image_03/data/0000000000.png",
        "ground_truth": f"{DRIVE_2}/velodyne_points/data/0000000000.bin",
        "calibration": "2011_09_26/calib_cam_to_cam.txt",
        "calibration_lidar": "2011_09_26/calib_velo_to_cam.txt",
    }


def test_a_row_has_its_neighbours_and_the_other_camera(kitti_raw: Path):
    left = read_row(kitti_raw, TRAIN_L)
    assert colour(left["image"]) == (2, 2, 1)
    assert colour(left["image_prev"]) == (1, 2, 1)
    assert colour(left["image_next"]) == (3, 2, 1)
    assert colour(left["image_stereo"]) == (2, 3, 1)
    right = read_row(kitti_raw, TRAIN_R)
    assert colour(right["image"]) == (2, 3, 1)
    assert colour(right["image_prev"]) == (1, 3, 1)
    assert colour(right["image_stereo"]) == (2, 2, 1)


def test_a_row_holds_the_neighbours_that_are_asked_for(kitti_copy: Path):
    (kitti_copy / DRIVE_1 / "image_02/data/0000000001.png").unlink()
    row = read_row(kitti_copy, TRAIN_L, images=("image_stereo",))
    assert colour(row["image_stereo"]) == (2, 3, 1)
    assert row["image_prev"] is row["image_next"] is None
    alone = read_row(kitti_copy, TRAIN_L, images=())
    assert alone["image_stereo"] is alone["baseline_m"] is None


def test_the_baseline_is_positive_for_the_left_camera_and_negative_for_the_right(kitti_raw: Path):
    assert read_row(kitti_raw, TRAIN_L)["baseline_m"] == pytest.approx(0.5327, abs=1e-4)
    assert read_row(kitti_raw, TRAIN_R)["baseline_m"] == pytest.approx(-0.5327, abs=1e-4)


def test_intrinsics_are_the_rectified_ones_at_the_stored_size(kitti_raw: Path):
    rectified = np.array([[721.5377, 0, 609.5593], [0, 721.5377, 172.854], [0, 0, 1]])
    row = read_row(kitti_raw, TRAIN_L)
    expected = resize_K(rectified, (375, 1242), (96, 320))
    np.testing.assert_allclose(np.reshape(row["K"], (3, 3)), expected)
    assert decode_image(row["image"]).shape == (96, 320, 3)


def test_images_may_be_stored_as_they_are(kitti_raw: Path):
    row = read_row(kitti_raw, TRAIN_L, height="native", width="native")
    assert (row["height"], row["width"]) == (375, 1242)
    assert row["K"][0] == pytest.approx(721.5377)


def test_each_date_has_its_own_size_and_intrinsics(
    tmp_path: Path, write_kitti_drive: Callable[..., None]
):
    write_kitti_drive(tmp_path, 1, size=(38, 124))
    write_kitti_drive(tmp_path, "2011_09_28/2011_09_28_drive_0002_sync", size=(45, 150))
    (tmp_path / "list.txt").write_text(
        f"{DRIVE_1} 2 l\n2011_09_28/2011_09_28_drive_0002_sync 2 l\n"
    )
    config = config_of(tmp_path, train="list.txt", val=None, test=None)
    frames = kitti.list_frames(config, tmp_path, tmp_path)
    rows = list(kitti.read_frames(config, tmp_path, tmp_path, frames, Encoder(None)))  # type: ignore[arg-type]
    assert [(row["height"], row["width"]) for row in rows] == [(38, 124), (45, 150)]  # type: ignore[index]
    focals = [row["K"][0] for row in rows]  # type: ignore[index]
    assert focals == pytest.approx([72.15377, 86.584524])


def test_the_ends_of_a_drive_can_be_tested_on_without_neighbours(kitti_raw: Path):
    row = read_row(kitti_raw, TEST_L)
    assert row["image_prev"] is None
    assert colour(row["image_next"]) == (1, 2, 2)


# --- Depth ------------------------------------------------------------------------------------


def ground_truth(folder: Path, kind: str, sample_id: str = TEST_L) -> np.ndarray:
    row = read_row(folder, sample_id, ground_truth=kind)
    assert row["gt_depth"] is not None
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


def test_annotated_depth_is_read_in_metres(kitti_raw: Path):
    depth = ground_truth(kitti_raw, "annotated")
    np.testing.assert_array_equal(depth[:187, :621], 7)
    assert (depth > 0).sum() == 187 * 621


def test_training_rows_have_depth_where_it_is_asked_for_and_no_ground_truth(kitti_raw: Path):
    row = read_row(kitti_raw, TRAIN_R, depth="annotated")
    depth = decode_depth(row["depth"], 96, 320, row["depth_scale"])  # type: ignore[arg-type]
    assert depth[:47, :159].min() == depth.max() == 7
    assert row["gt_depth"] is None
    row = read_row(kitti_raw, TRAIN_L, depth="camera_z")
    sparse = decode_depth(row["depth"], 96, 320, row["depth_scale"])  # type: ignore[arg-type]
    assert {tuple(map(int, place)) for place in np.argwhere(sparse)} == {(46, 154), (76, 25)}
    assert read_row(kitti_raw, TRAIN_L)["depth"] is None


def test_validation_rows_have_ground_truth_where_it_is_there(kitti_copy: Path):
    assert read_row(kitti_copy, VAL_L)["gt_depth"] is not None
    (kitti_copy / DRIVE_2 / "velodyne_points/data/0000000002.bin").unlink()
    assert read_row(kitti_copy, VAL_L)["gt_depth"] is None


@pytest.mark.filterwarnings("error")
def test_points_that_are_not_finite_are_left_out(kitti_copy: Path):
    path = kitti_copy / DRIVE_2 / "velodyne_points/data/0000000000.bin"
    points = np.fromfile(path, "<f4").reshape(-1, 4)
    bad = np.tile(points[:1], (3, 1))
    bad[0, 0], bad[1, 1], bad[2, 2] = np.nan, np.inf, -np.inf
    before = ground_truth(kitti_copy, "camera_z")
    path.unlink()
    np.concatenate([bad, points]).tofile(path)
    np.testing.assert_array_equal(ground_truth(kitti_copy, "camera_z"), before)


# --- What is missing or damaged ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("image_02/data/0000000002.png", "missing image"),
        ("image_02/data/0000000001.png", "missing neighbour"),
        ("image_02/data/0000000003.png", "missing neighbour"),
        ("image_03/data/0000000002.png", "missing stereo image"),
    ],
)
def test_a_training_frame_that_lacks_an_image_is_rejected_with_its_name(
    kitti_copy: Path, lost: str, reason: str
):
    (kitti_copy / DRIVE_1 / lost).unlink()
    expect_rejected(kitti_copy, TRAIN_L, reason, f"no {DRIVE_1}/{lost} or .jpg")


@pytest.mark.parametrize(
    ("kind", "lost", "reason"),
    [
        ("camera_z", "velodyne_points/data/0000000000.bin", "missing scan"),
        ("annotated", "proj_depth/groundtruth/image_02/0000000000.png", "missing ground truth"),
    ],
)
def test_a_test_frame_needs_its_ground_truth(kitti_copy: Path, kind: str, lost: str, reason: str):
    (kitti_copy / DRIVE_2 / lost).unlink()
    expect_rejected(kitti_copy, TEST_L, reason, lost, ground_truth=kind)


@pytest.mark.parametrize(
    ("kind", "lost", "reason"),
    [
        ("camera_z", "velodyne_points/data/0000000002.bin", "missing scan"),
        ("annotated", "proj_depth/groundtruth/image_02/0000000002.png", "missing ground truth"),
    ],
)
def test_a_frame_to_train_on_depth_needs_it(kitti_copy: Path, kind: str, lost: str, reason: str):
    (kitti_copy / DRIVE_1 / lost).unlink()
    assert read_row(kitti_copy, TRAIN_L)["depth"] is None
    expect_rejected(kitti_copy, TRAIN_L, reason, lost, depth=kind)


@pytest.mark.parametrize("size", [0, 17])
def test_a_scan_that_is_not_whole_points_is_rejected(kitti_copy: Path, size: int):
    name = f"{DRIVE_2}/velodyne_points/data/0000000000.bin"
    (kitti_copy / name).unlink()
    (kitti_copy / name).write_bytes(bytes(size))
    detail = f"{name}: {size} bytes are not whole points"
    expect_rejected(kitti_copy, TEST_L, "damaged scan", detail)


def test_a_scan_without_a_point_in_the_image_is_rejected(kitti_copy: Path):
    path = kitti_copy / DRIVE_2 / "velodyne_points/data/0000000000.bin"
    path.unlink()
    np.array([[-5, 0, 0, 1]], "<f4").tofile(path)
    expect_rejected(kitti_copy, TEST_L, "no valid depth", "ground truth without a valid pixel")


def test_an_image_of_another_size_than_the_calibration_says_is_rejected(kitti_copy: Path):
    name = f"{DRIVE_1}/image_03/data/0000000002.png"
    (kitti_copy / name).unlink()
    cv2.imwrite(str(kitti_copy / name), np.zeros((370, 1224, 3), np.uint8))
    detail = f"{name}: (370, 1224) px, the calibration says (375, 1242)"
    expect_rejected(kitti_copy, TRAIN_L, "wrong size", detail)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((352, 1216), 2560, np.uint16), "wrong size"),
        (np.full((375, 1242), 10, np.uint8), "not a depth image"),
        (np.full((375, 1242, 3), 10, np.uint16), "not a depth image"),
    ],
)
def test_annotated_depth_of_another_kind_is_rejected(
    kitti_copy: Path, pixels: np.ndarray, reason: str
):
    name = f"{DRIVE_2}/proj_depth/groundtruth/image_02/0000000000.png"
    (kitti_copy / name).unlink()
    cv2.imwrite(str(kitti_copy / name), pixels)
    expect_rejected(kitti_copy, TEST_L, reason, name, ground_truth="annotated")


def test_images_may_be_jpeg(kitti_copy: Path):
    for path in (kitti_copy / DRIVE_1).glob("image_0*/data/*.png"):
        image = cv2.imread(str(path))
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".jpg")), image)
    row = read_row(kitti_copy, TRAIN_L)
    assert colour(row["image_stereo"]) == (2, 3, 1)


# --- Settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"ratios": (0.5, 0.5, 0.5)},
        {"cameras": ("l", "l")},
        {"cameras": ()},
        {"images": ("image_prev", "image_prev")},
    ],
)
def test_a_senseless_setting_is_refused_by_its_name(kitti_raw: Path, change: dict):
    with pytest.raises(ValueError, match=next(iter(change))):
        config_of(kitti_raw, **change)


def test_a_raw_or_annotated_folder_that_is_not_there_is_named(kitti_raw: Path):
    with pytest.raises(InputError, match=r"nowhere: no such folder; set datasets\.<name>\.raw"):
        kitti.list_frames(config_of(kitti_raw), kitti_raw / "nowhere", kitti_raw)
    with pytest.raises(InputError, match=r"nowhere: no such folder; set .*\.annotated"):
        frames_of(kitti_raw, annotated="nowhere")
