"""Small raw datasets in the official layouts and the shipped params file."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
import torch

torch.set_num_threads(1)
cv2.setNumThreads(1)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def params_file() -> Path:
    """The params file that is shipped."""
    return REPOSITORY / "params.yaml"


# --- NYU Depth v2, labeled: what MATLAB v7.3 writes -------------------------------------------

NYU_SCENES = ["kitchen_0001", "office_0002", "bedroom_0003", "bedroom_0004", "study_0005"]


def nyu_depth(i: int) -> np.ndarray:
    """(480,640) m: a plane that starts at 1 m + i/10 and is not symmetric in any axis."""
    v, u = np.mgrid[:480, :640]
    return (1 + i / 10 + u / 640 + 2 * v / 480).astype(np.float32)


@pytest.fixture(scope="session")
def write_nyu_mat() -> Callable[..., None]:
    """Factory: `write(path, count, leave_out=())` writes a labeled .mat of `count` images.

    Image i is grey (20 i), with a white block in rows 100:140 and columns 500:560.
    """

    def write(path: Path, count: int, leave_out: tuple[str, ...] = ()) -> None:
        images = np.empty((count, 480, 640, 3), np.uint8)
        images[:] = 20 * np.arange(count).reshape(-1, 1, 1, 1)
        images[:, 100:140, 500:560] = 255
        depths = np.stack([nyu_depth(i) for i in range(count)])
        raw = depths.copy()
        raw[:, :8] = 0
        with h5py.File(path, "w", userblock_size=512) as mat:
            # MATLAB's axis order is the reverse of HDF5's.
            content = {
                "images": images.transpose(0, 3, 2, 1),
                "depths": depths.transpose(0, 2, 1),
                "rawDepths": raw.transpose(0, 2, 1),
            }
            for key in content.keys() - set(leave_out):
                mat.create_dataset(key, data=content[key], chunks=(1, *content[key].shape[1:]))
            if "scenes" not in leave_out:
                _write_cell(mat, "scenes", [NYU_SCENES[i // 2 % 5] for i in range(count)])
        with path.open("r+b") as file:
            header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64 HDF5 schema 1.00 ."
            file.write(header.ljust(124) + b"\x00\x02IM")

    return write


def _write_cell(mat: h5py.File, key: str, texts: list[str]) -> None:
    cells = np.empty((1, len(texts)), h5py.ref_dtype)
    for i, text in enumerate(texts):
        codes = np.array([[ord(letter)] for letter in text], np.uint16)
        dataset = mat.create_dataset(f"#refs#/{key}_{i}", data=codes)
        dataset.attrs["MATLAB_class"] = np.bytes_("char")
        cells[0, i] = dataset.ref
    mat.create_dataset(key, data=cells).attrs["MATLAB_class"] = np.bytes_("cell")


@pytest.fixture(scope="session")
def nyu_raw(tmp_path_factory: pytest.TempPathFactory, write_nyu_mat: Callable[..., None]) -> Path:
    """Ten images of five scenes; images 1, 2, 9 and 10 (counted from 1) are the test split."""
    folder = tmp_path_factory.mktemp("nyu")
    write_nyu_mat(folder / "nyu_depth_v2_labeled.mat", 10)
    splits = {"trainNdxs": [3, 4, 5, 6, 7, 8], "testNdxs": [1, 2, 9, 10]}
    columns = {key: np.array(ids, np.uint16).reshape(-1, 1) for key, ids in splits.items()}
    scipy.io.savemat(folder / "splits.mat", columns, do_compression=True)
    return folder


# --- KITTI raw --------------------------------------------------------------------------------

KITTI_DATE = "2011_09_26"
CAM_TO_CAM = """\
calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_02: 1.392000e+03 5.120000e+02
K_02: 9.597910e+02 0.000000e+00 6.960217e+02 0.000000e+00 9.569251e+02 2.241806e+02 0.000000e+00 0.000000e+00 1.000000e+00
R_rect_00: 9.999239e-01 9.837760e-03 -7.445048e-03 -9.869795e-03 9.999421e-01 -4.278459e-03 7.402527e-03 4.351614e-03 9.999631e-01
S_rect_02: 1.242000e+03 3.750000e+02
P_rect_02: 7.215377e+02 0.000000e+00 6.095593e+02 4.485728e+01 0.000000e+00 7.215377e+02 1.728540e+02 2.163791e-01 0.000000e+00 0.000000e+00 1.000000e+00 2.745884e-03
S_rect_03: 1.242000e+03 3.750000e+02
P_rect_03: 7.215377e+02 0.000000e+00 6.095593e+02 -3.395242e+02 0.000000e+00 7.215377e+02 1.728540e+02 2.199936e+00 0.000000e+00 0.000000e+00 1.000000e+00 2.729905e-03
"""  # noqa: E501
VELO_TO_CAM = """\
calib_time: 15-Mar-2012 11:37:16
R: 7.533745e-03 -9.999714e-01 -6.166020e-04 1.480249e-02 7.280733e-04 -9.998902e-01 9.998621e-01 7.523790e-03 1.480755e-02
T: -4.069766e-03 -7.631618e-02 -2.717806e-01
delta_f: 0.000000e+00 0.000000e+00
delta_c: 0.000000e+00 0.000000e+00
"""  # noqa: E501
IMU_TO_VELO = """\
calib_time: 25-May-2012 16:47:16
R: 9.999976e-01 7.553071e-04 -2.035826e-03 -7.854027e-04 9.998898e-01 -1.482298e-02 2.024406e-03 1.482454e-02 9.998881e-01
T: -8.086759e-01 3.195559e-01 -7.997231e-01
"""  # noqa: E501


@pytest.fixture(scope="session")
def kitti_points() -> dict[str, np.ndarray]:
    """Hand-placed LiDAR points (x,y,z); names say where camera 2 sees them: u, v, depth."""
    return {
        "u600_v180_z20": point_seen_at(600, 180, 20.0),
        "u600_v180_z10": point_seen_at(600, 180, 10.0),
        "u100_v300_z5": point_seen_at(100, 300, 5.0),
        "outside": point_seen_at(-50, 180, 10.0),
        "behind": np.array([-10.0, 0, 0]),
        # Before the LiDAR and behind the camera.
        "between": point_seen_at(100, 300, -0.1),
    }


def point_seen_at(u: float, v: float, z: float) -> np.ndarray:
    """LiDAR coordinates of the point at pixel (u, v) and depth z of camera 2, by linear algebra."""
    P = kitti_values(CAM_TO_CAM, "P_rect_02", 3, 4)
    in_rectified = np.linalg.solve(P[:, :3], z * np.array([u, v, 1]) - P[:, 3])
    in_camera_0 = np.linalg.solve(kitti_values(CAM_TO_CAM, "R_rect_00", 3, 3), in_rectified)
    R, T = kitti_values(VELO_TO_CAM, "R", 3, 3), kitti_values(VELO_TO_CAM, "T", 3)
    return np.linalg.solve(R, in_camera_0 - T)


def kitti_values(text: str, key: str, *shape: int) -> np.ndarray:
    (line,) = (x for x in text.splitlines() if x.startswith(f"{key}: "))
    return np.array(line.split()[1:], float).reshape(shape)


KITTI_SIZE = (375, 1242)
SMALL = (38, 124)
"""A tenth of KITTI's size, for tests of everything but numbers."""


def kitti_cam_to_cam(size: tuple[int, int]) -> str:
    """`calib_cam_to_cam.txt` for images of `size` (H, W): focal and centre follow the width."""
    lines = []
    for line in CAM_TO_CAM.splitlines():
        key, _, numbers = line.partition(": ")
        if key.startswith("S_rect"):
            line = f"{key}: {size[1]:e} {size[0]:e}"
        if key.startswith("P_rect"):
            P = np.array(numbers.split(), float).reshape(3, 4)
            P[:2] *= round(size[1] / KITTI_SIZE[1], 2)
            line = f"{key}: " + " ".join(f"{value:e}" for value in P.ravel())
        lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def write_kitti_drive(kitti_points: dict[str, np.ndarray]) -> Callable[..., None]:
    """Factory: `write(raw, drive, frames, size)` writes a drive and the calibration of its date.

    drive: its number, of 2011_09_26, or `<date>/<drive>` or `sequences/NN`. Every image has one
    colour: red is 40 times the frame, green 100 (left) or 200 (right), blue 100 times the drive's
    number. Every scan has the points of `kitti_points`; annotated depth is a quarter of the image
    at 7 m. All files of a camera have the size (H, W).
    """

    def write(raw: Path, drive: int | str, frames: int = 5, size: tuple[int, int] = SMALL) -> None:
        if isinstance(drive, int):
            drive = f"{KITTI_DATE}/{KITTI_DATE}_drive_{drive:04d}_sync"
        number = int(drive.removesuffix("_sync").split("_")[-1].split("/")[-1])
        raw_data = "_drive_" in drive
        image, scan = "image_{}/{:06d}.png", "velodyne/{:06d}.bin"
        if raw_data:
            image, scan = "image_0{}/data/{:010d}.png", "velodyne_points/data/{:010d}.bin"
        points = np.array([[*point, 0.5] for point in kitti_points.values()], "<f4")
        truth = np.zeros(size, np.uint16)
        truth[: size[0] // 2, : size[1] // 2] = 7 * 256
        for frame in range(frames):
            for camera in (2, 3):
                rgb = (40 * frame, 100 * (camera - 1), 100 * number % 256)
                pixels = np.full((*size, 3), rgb[::-1], np.uint8)
                write_image(raw / drive / image.format(camera, frame), pixels)
                if raw_data:
                    name = f"proj_depth/groundtruth/image_0{camera}/{frame:010d}.png"
                    write_image(raw / drive / name, truth)
            path = raw / drive / scan.format(frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            points.tofile(path)
        if raw_data:
            write_kitti_date(raw / drive.split("/")[0], size)
        else:
            (raw / drive / "calib.txt").write_text(kitti_sequence_calibration(size))

    return write


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def write_kitti_date(date: Path, size: tuple[int, int]) -> None:
    date.mkdir(parents=True, exist_ok=True)
    (date / "calib_cam_to_cam.txt").write_text(kitti_cam_to_cam(size))
    (date / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM)
    (date / "calib_imu_to_velo.txt").write_text(IMU_TO_VELO)


def kitti_sequence_calibration(size: tuple[int, int]) -> str:
    """`calib.txt` of an odometry sequence that is recorded like the raw drives."""
    text = kitti_cam_to_cam(size)
    R_rect = kitti_values(text, "R_rect_00", 3, 3)
    R, T = kitti_values(VELO_TO_CAM, "R", 3, 3), kitti_values(VELO_TO_CAM, "T", 3, 1)
    P = {f"P{camera}": kitti_values(text, f"P_rect_0{camera}", 12) for camera in (2, 3)}
    lines = {"P0": P["P2"], "P1": P["P3"], **P, "Tr": R_rect @ np.hstack([R, T])}
    return "".join(
        f"{key}: {' '.join(f'{value:.12e}' for value in numbers.ravel())}\n"
        for key, numbers in lines.items()
    )


@pytest.fixture(scope="session")
def kitti_raw(
    tmp_path_factory: pytest.TempPathFactory, write_kitti_drive: Callable[..., None]
) -> Path:
    """One date, two drives of five frames, at KITTI's own size, with lists of them."""
    folder = tmp_path_factory.mktemp("kitti")
    for drive in (1, 2):
        write_kitti_drive(folder, drive, size=KITTI_SIZE)
    splits = folder / "splits"
    splits.mkdir()
    one, two = (f"{KITTI_DATE}/{KITTI_DATE}_drive_000{n}_sync" for n in (1, 2))
    (splits / "train_files.txt").write_text(f"{one} 3 l\n{one} 1 l\n{one} 2 l\n{one} 2 r\n")
    (splits / "val_files.txt").write_text(f"{two} 2 l\n")
    (splits / "test_files.txt").write_text(f"{two} 0000000000 l\n{two} 0000000004 l\n")
    return folder


@pytest.fixture
def kitti_copy(kitti_raw: Path, tmp_path: Path) -> Path:
    """A copy of `kitti_raw` to damage. Files are hard links: remove before writing."""
    return shutil.copytree(kitti_raw, tmp_path / "kitti", copy_function=os.link)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    """A shell that puts the tests into the background lets them ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
