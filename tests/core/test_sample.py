"""The built-in sample: official layouts, exact geometry, photometric consistency, determinism."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from mde.data.sample import SampleConfig, _record_frame, split_lines, write_kitti, write_nyu_labeled
from mde.data.scenes.raycast import Frame
from mde.data.scenes.rooms import room_views
from mde.data.scenes.streets import Drive

SEED = 3
TINY = SampleConfig(seed=SEED, rooms=2, frames_per_room=2, drives=2, frames_per_drive=6)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_nyu_labeled(folder / "nyu", TINY)
    write_kitti(folder / "kitti", TINY)
    return folder


@pytest.fixture(scope="module")
def drive() -> Drive:
    return Drive(SEED, 0, TINY.frames_per_drive)


@pytest.fixture(scope="module")
def frames(drive: Drive) -> dict[str, Frame]:
    return {
        "now": drive.frame(2, "image_02"),
        "next": drive.frame(3, "image_02"),
        "stereo": drive.frame(2, "image_03"),
    }


def read_calibration(path: Path) -> dict[str, np.ndarray]:
    entries = {}
    for line in path.read_text().splitlines():
        key, values = line.split(":", 1)
        if key != "calib_time":
            entries[key] = np.array(values.split(), float)
    return entries


def scene_names(file: h5py.File, key: str) -> list[str]:
    return ["".join(map(chr, file[ref][:, 0])) for ref in file[key][0]]


def residual(target: Frame, source: Frame, T_source_target: np.ndarray) -> tuple[float, float]:
    """Mean grey-level error of the source warped into the target, and the share compared."""
    height, width = target.depth.shape
    v, u = np.mgrid[:height, :width]
    valid = np.isfinite(target.depth)
    depth = np.where(valid, target.depth, 1.0)
    points = np.linalg.inv(target.K) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    points = T_source_target[:3, :3] @ (points * depth.ravel()) + T_source_target[:3, 3:]
    x, y, z = (source.K @ points).reshape(3, height, width)
    x, y = (x / z).astype(np.float32), (y / z).astype(np.float32)
    warped = cv2.remap(source.image, x, y, cv2.INTER_LINEAR)
    seen = cv2.remap(source.depth, x, y, cv2.INTER_NEAREST, borderValue=0)
    # What the source sees at another depth is hidden from it, or moves.
    valid &= (z > 0) & (np.abs(seen - z) < 0.02 * z)
    error = np.abs(warped.astype(float) - target.image).mean(axis=2)
    return float(error[valid].mean()), float(valid.mean())


def test_nyu_file_has_the_official_layout(root: Path) -> None:
    path = root / "nyu" / "nyu_depth_v2_labeled.mat"
    head = path.read_bytes()[:520]
    assert head.startswith(b"MATLAB 7.3 MAT-file")
    assert head[124:128] == b"\x00\x02IM"
    assert head[512:520] == b"\x89HDF\r\n\x1a\n"
    with h5py.File(path) as file:
        assert file["images"].shape == (4, 3, 640, 480)
        assert file["images"].dtype == np.uint8
        assert file["images"].chunks == (1, 3, 640, 480)
        for key in ("depths", "rawDepths"):
            assert file[key].shape == (4, 640, 480)
            assert file[key].dtype == np.float32
            assert file[key].attrs["MATLAB_class"] == b"single"
        assert scene_names(file, "scenes") == ["living_room_0000"] * 2 + ["bedroom_0001"] * 2
        assert scene_names(file, "sceneTypes") == ["living_room"] * 2 + ["bedroom"] * 2


def test_nyu_depth_agrees_with_the_scene_and_its_kinect_reading(root: Path) -> None:
    views = room_views(SEED, 1, 2)[1]
    with h5py.File(root / "nyu" / "nyu_depth_v2_labeled.mat") as file:
        depths, raw = file["depths"][:], file["rawDepths"][:]
        image = file["images"][2].transpose(2, 1, 0)
    np.testing.assert_array_equal(depths[2].T, views[0].depth)
    inner = np.abs(image[20:-20, 20:-20].astype(int) - views[0].image[20:-20, 20:-20])
    assert inner.mean() < 1.5
    assert depths.min() >= 0.7
    assert depths.max() <= 10.0
    measured = raw > 0
    assert 0.5 < measured.mean() < 0.92
    assert not measured[:, :20].any()
    error = np.abs(raw - depths)[measured] / depths[measured] ** 2
    assert 1e-4 < np.median(error) < 4e-3


def test_nyu_splits_are_one_based_and_scene_disjoint(root: Path) -> None:
    splits = scipy.io.loadmat(root / "nyu" / "splits.mat")
    train, test = splits["trainNdxs"], splits["testNdxs"]
    assert train.dtype == test.dtype == np.uint16
    assert train[:, 0].tolist() == [1, 2]
    assert test[:, 0].tolist() == [3, 4]


def test_kitti_folder_has_the_official_layout(root: Path) -> None:
    folder = root / "kitti" / "2011_09_26" / "2011_09_26_drive_9002_sync"
    names = [f"{frame:010d}" for frame in range(6)]
    for sensor, ending in (("image_02", "png"), ("image_03", "png"), ("velodyne_points", "bin"),
                           ("oxts", "txt")):  # fmt: skip
        found = sorted(path.name for path in (folder / sensor / "data").iterdir())
        assert found == [f"{name}.{ending}" for name in names]
    assert cv2.imread(str(folder / "image_02/data/0000000000.png")).shape == (375, 1242, 3)
    stamps = (folder / "velodyne_points" / "timestamps_start.txt").read_text().splitlines()
    assert len(stamps) == 6
    assert len(stamps[0]) == len("2011-09-26 13:08:24.967930880")
    assert len((folder / "oxts/data/0000000003.txt").read_text().split()) == 30


def test_oxts_poses_follow_the_drive(root: Path, drive: Drive) -> None:
    folder = root / "kitti/2011_09_26/2011_09_26_drive_9001_sync/oxts/data"
    rows = np.array([np.loadtxt(folder / f"{frame:010d}.txt") for frame in range(6)])
    scale = np.cos(np.radians(rows[0, 0])) * 6378137.0
    x = scale * np.radians(rows[:, 1])
    y = scale * np.log(np.tan(np.radians(90 + rows[:, 0]) / 2))
    truth = np.array([drive.state(frame).T_world_imu[:2, 3] for frame in range(6)])
    np.testing.assert_allclose(np.stack([x - x[0], y - y[0]], 1), truth - truth[0], atol=0.01)
    np.testing.assert_allclose(
        np.hypot(*np.diff(truth, axis=0).T) / 0.1035, rows[:-1, 8], rtol=0.03
    )
    heading = np.arctan2(np.diff(y), np.diff(x))
    np.testing.assert_allclose(heading, rows[:-1, 5], atol=0.03)


def test_lidar_lands_on_the_rendered_depth(root: Path, frames: dict[str, Frame]) -> None:
    date = root / "kitti" / "2011_09_26"
    cam, velo = (read_calibration(date / f"calib_{n}.txt") for n in ("cam_to_cam", "velo_to_cam"))
    T_rect_velo, R_rect = np.eye(4), np.eye(4)
    T_rect_velo[:3, :3], T_rect_velo[:3, 3] = velo["R"].reshape(3, 3), velo["T"]
    R_rect[:3, :3] = cam["R_rect_00"].reshape(3, 3)
    scan = date / "2011_09_26_drive_9001_sync/velodyne_points/data/0000000002.bin"
    points = np.fromfile(scan, "<f4").reshape(-1, 4)
    assert 80_000 < len(points) < 133_120
    assert 0 <= points[:, 3].min() <= points[:, 3].max() <= 1
    for camera, view in (("02", "now"), ("03", "stereo")):
        P = cam[f"P_rect_{camera}"].reshape(3, 4)
        x, y, z = P @ R_rect @ T_rect_velo @ np.c_[points[:, :3], np.ones(len(points))].T
        ahead = z > 1
        u, v = (np.round(axis[ahead] / z[ahead]).astype(int) for axis in (x, y))
        inside = (u >= 0) & (u < 1242) & (v >= 0) & (v < 375)
        error = np.abs(frames[view].depth[v[inside], u[inside]] - z[ahead][inside])
        assert inside.sum() > 12_000
        assert np.median(error) < 0.04


@pytest.mark.parametrize("other", ["next", "stereo"])
def test_neighbours_agree_under_the_true_pose_only(frames: dict[str, Frame], other: str) -> None:
    now, source = frames["now"], frames[other]
    T_true = source.T_cam_world @ np.linalg.inv(now.T_cam_world)
    true, share = residual(now, source, T_true)
    wrong, _ = residual_without_gate(now, source, np.linalg.inv(T_true))
    still, _ = residual_without_gate(now, source, np.eye(4))
    assert share > 0.6
    assert true < 4.0
    assert wrong > 3 * true
    assert still > 2 * true


def residual_without_gate(target: Frame, source: Frame, T: np.ndarray) -> tuple[float, float]:
    """The same where a wrong pose would hide its error behind the occlusion test."""
    everywhere = Frame(source.image, source.depth, source.camera)
    height, width = target.depth.shape
    v, u = np.mgrid[:height, :width]
    valid = np.isfinite(target.depth)
    points = np.linalg.inv(target.K) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    points = T[:3, :3] @ (points * np.where(valid, target.depth, 1).ravel()) + T[:3, 3:]
    x, y, z = (everywhere.K @ points).reshape(3, height, width)
    x, y = (x / z).astype(np.float32), (y / z).astype(np.float32)
    valid &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    warped = cv2.remap(source.image, x, y, cv2.INTER_LINEAR)
    error = np.abs(warped.astype(float) - target.image).mean(axis=2)
    return float(error[valid].mean()), float(valid.mean())


def test_street_views_are_plausible(frames: dict[str, Frame]) -> None:
    depth = frames["now"].depth
    assert depth.min() > 1.0
    assert 0.02 < np.isinf(depth).mean() < 0.4
    road = depth[-20:, 560:660]
    assert 5.0 < np.median(road) < 8.0
    T = frames["stereo"].T_cam_world @ np.linalg.inv(frames["now"].T_cam_world)
    assert T[0, 3] == pytest.approx(-0.5327, abs=1e-3)


def test_splits_list_no_frame_twice_and_keep_neighbours_apart() -> None:
    config = SampleConfig(drives=3, frames_per_drive=20)
    lines = split_lines(config)
    assert lines["test"][0] == "2011_09_26/2011_09_26_drive_9003_sync 1 l"
    assert all(line.split()[0].endswith("9003_sync") for line in lines["test"])
    train, val = (
        {(drive, int(n)) for drive, n, _ in map(str.split, lines[k])} for k in ("train", "val")
    )
    near = {(drive, frame + step) for drive, frame in train for step in (-1, 0, 1)}
    assert not near & val
    assert {frame for _, frame in train | val} <= set(range(1, 19))
    assert {line.split()[2] for line in lines["train"]} == {"l", "r"}


def test_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_nyu_labeled(tmp_path, TINY)
    for name in ("nyu_depth_v2_labeled.mat", "splits.mat"):
        assert (tmp_path / name).read_bytes() == (root / "nyu" / name).read_bytes()
    for folder in ("image_02/data", "image_03/data", "velodyne_points/data", "oxts/data"):
        (tmp_path / folder).mkdir(parents=True)
    _record_frame(tmp_path, SEED, 1, TINY.frames_per_drive, 4)
    written = root / "kitti/2011_09_26/2011_09_26_drive_9002_sync"
    for name in ("image_02/data/0000000004.png", "image_03/data/0000000004.png",
                 "velodyne_points/data/0000000004.bin", "oxts/data/0000000004.txt"):  # fmt: skip
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    other = room_views(SEED + 1, 0, 1)[1][0].image
    assert not np.array_equal(room_views(SEED, 0, 1)[1][0].image, other)


@pytest.mark.parametrize("field", ["rooms", "frames_per_room", "drives", "frames_per_drive"])
def test_senseless_scales_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        SampleConfig(**{field: 0})
