"""Renders the built-in sample: indoor rooms and street drives in the official raw layouts.

Rooms are written as NYU Depth v2's labeled file, drives as KITTI raw data, so that the importers
of the real data sets read them unchanged. The same configuration gives the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import cv2
import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from mde.data.scenes import kinect, kitti_text, rooms, vehicle, viewpoints
from mde.data.scenes.atlas import load_atlas
from mde.data.scenes.streets import Drive

DATE = "2011_09_26"
# Not worth starting processes for.
_FEW_TASKS = 16
_Result = TypeVar("_Result")
_MATLAB_HEADER = (
    b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Sep 26 12:00:00 2011 "
    b"HDF5 schema 1.00 ."
)


@dataclass(frozen=True)
class SampleConfig:
    """Scale of the built-in sample. The defaults are what the shipped pipeline trains on.

    seed: everything random follows from it. rooms, frames_per_room: indoor scenes and the views
    of each. drives, frames_per_drive: street drives; the last one is the test drive.
    Raises ValueError for a scale that leaves a split empty.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    seed: int = 0
    rooms: int = 24
    frames_per_room: int = 6
    drives: int = 4
    frames_per_drive: int = 40

    def __post_init__(self) -> None:
        """Refuse senseless values."""
        least = {"seed": 0, "rooms": 2, "frames_per_room": 1, "drives": 2, "frames_per_drive": 6}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")


def write_nyu_labeled(root: Path, config: SampleConfig) -> None:
    """Write `nyu_depth_v2_labeled.mat` and `splits.mat` into the folder `root`.

    About a quarter of the rooms, whole, are the test split.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / "nyu_depth_v2_labeled.mat"
    tasks = [(config.seed, room, config.frames_per_room) for room in range(config.rooms)]
    num_images = config.rooms * config.frames_per_room
    names: list[str] = []
    with h5py.File(path, "w", userblock_size=512) as file:
        datasets = _create_datasets(file, num_images)
        for name, views in _in_parallel("Rooms (NYU Depth v2)", _photograph_room, tasks):
            for view in views:
                for dataset, chunk in zip(datasets, view, strict=True):
                    dataset.id.write_direct_chunk((len(names),) + (0,) * (dataset.ndim - 1), chunk)
                names.append(name)
        _write_cells(file, "scenes", names)
        _write_cells(file, "sceneTypes", [name.rsplit("_", 1)[0] for name in names])
    with path.open("r+b") as raw:
        # The MATLAB signature in front of the HDF5 data: text, version, byte order mark.
        raw.write(_MATLAB_HEADER.ljust(116) + bytes(8) + b"\x00\x02IM")
    is_test = np.repeat([_is_test_room(room, config.rooms) for room in range(config.rooms)],
                        config.frames_per_room)  # fmt: skip
    _write_splits(root / "splits.mat", is_test)


def write_kitti(root: Path, config: SampleConfig) -> None:
    """Write the folder `2011_09_26` (calibration and drives 9001, 9002, …) and `splits`.

    The last drive is the test split; the last frames of the others are the validation split.
    """
    (root / DATE).mkdir(parents=True, exist_ok=True)
    for name, text in kitti_text.calibration_files().items():
        (root / DATE / name).write_text(text)
    drives = [root / DATE / drive_name(index) for index in range(config.drives)]
    for index, folder in enumerate(drives):
        for sensor in (*vehicle.CAMERAS, "velodyne_points", "oxts"):
            (folder / sensor / "data").mkdir(parents=True, exist_ok=True)
        stamps = kitti_text.timestamp_files(config.seed, index, config.frames_per_drive)
        for name, text in {**stamps, "oxts/dataformat.txt": kitti_text.OXTS_FORMAT}.items():
            (folder / name).write_text(text)
    tasks = [
        (folder, config.seed, index, config.frames_per_drive, frame)
        for index, folder in enumerate(drives)
        for frame in range(config.frames_per_drive)
    ]
    for _ in _in_parallel("Drives (KITTI raw)", _record_frame, tasks):
        pass
    (root / "splits").mkdir(exist_ok=True)
    for split, lines in split_lines(config).items():
        (root / "splits" / f"{split}_files.txt").write_text("\n".join(lines) + "\n")


def drive_name(index: int) -> str:
    """Folder name of a drive; numbers from 9001 on are no real drive's."""
    return f"{DATE}_drive_{9001 + index:04d}_sync"


def split_lines(config: SampleConfig) -> dict[str, list[str]]:
    """Lines `folder frame side` of train, val and test. Every listed frame has both neighbours.

    Two frames between train and val stay unlisted, so that no frame is a neighbour in both.
    """
    last = config.frames_per_drive - 2
    num_val = max(1, last // 10)
    frames = {
        "train": range(1, last - num_val - 1),
        "val": range(last - num_val + 1, last + 1),
        "test": range(1, last + 1, 2),
    }
    lines: dict[str, list[str]] = {}
    for split, listed in frames.items():
        test = config.drives - 1
        drives = [test] if split == "test" else range(test)
        sides = "l" if split == "test" else "lr"
        lines[split] = [
            f"{DATE}/{drive_name(drive)} {frame} {side}"
            for drive in drives
            for frame in listed
            for side in sides
        ]
    return lines


def _start_worker() -> None:
    # One thread a process: the pool already fills the machine.
    cv2.setNumThreads(1)
    load_atlas()


def _in_parallel(
    title: str, function: Callable[..., _Result], tasks: Sequence[tuple[Any, ...]]
) -> Iterator[_Result]:
    """Results of `function(*task)` in order, from one process a core, with a progress bar."""
    show = partial(track, description=title, total=len(tasks), console=Console(stderr=True))
    workers = os.cpu_count() or 1
    if workers == 1 or len(tasks) <= _FEW_TASKS:
        yield from show(function(*task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=_start_worker
    ) as pool:
        results = pool.map(function, *zip(*tasks, strict=True))
        yield from show(results)


def _photograph_room(seed: int, room: int, num_views: int) -> tuple[str, list[tuple[bytes, ...]]]:
    """One room's name and, for each view, the packed image, depth and raw depth."""
    rng = np.random.default_rng([seed, 4, room])
    name, frames = rooms.room_views(seed, room, num_views)
    views = []
    for frame in frames:
        depth = frame.depth.clip(viewpoints.MIN_DEPTH_M, viewpoints.MAX_DEPTH_M)
        noise = rng.normal(0, 0.8, frame.image.shape)
        image = (frame.image + noise).round().clip(0, 255).astype(np.uint8)
        # The real images carry a white frame, left by undistorting them.
        image[:7], image[-7:], image[:, :7], image[:, -8:] = 255, 255, 255, 255
        views.append(tuple(_pack(x) for x in (image, depth, kinect.raw_depth(frame, rng))))
    return name, views


def _pack(array: NDArray) -> bytes:
    """A chunk in MATLAB's axis order, through the HDF5 filters shuffle (by byte) and gzip."""
    reverse = np.ascontiguousarray(array.transpose())
    shuffled = reverse.view(np.uint8).reshape(-1, array.itemsize).T
    return zlib.compress(shuffled.tobytes(), level=1)


def _create_datasets(file: h5py.File, num_images: int) -> list[h5py.Dataset]:
    """Empty `images`, `depths`, `rawDepths`, one chunk an image."""
    datasets = []
    size = (viewpoints.WIDTH, viewpoints.HEIGHT)
    for name, kind, dtype, shape in (
        ("images", b"uint8", np.uint8, (3, *size)),
        ("depths", b"single", np.float32, size),
        ("rawDepths", b"single", np.float32, size),
    ):
        dataset = file.create_dataset(
            name, (num_images, *shape), dtype, chunks=(1, *shape), compression="gzip",
            compression_opts=1, shuffle=True, track_times=False,
        )  # fmt: skip
        dataset.attrs["MATLAB_class"] = np.bytes_(kind)
        datasets.append(dataset)
    return datasets


def _write_cells(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """A MATLAB cell array of strings: references to datasets of character codes."""
    cells = file.create_dataset(name, (1, len(texts)), h5py.ref_dtype, track_times=False)
    cells.attrs["MATLAB_class"] = np.bytes_(b"cell")
    group = file.require_group("#refs#")
    for index, text in enumerate(texts):
        codes = np.frombuffer(text.encode("utf-16-le"), np.uint16)[:, None]
        chars = group.create_dataset(f"{name}_{index:05d}", data=codes, track_times=False)
        chars.attrs["MATLAB_class"] = np.bytes_(b"char")
        chars.attrs["MATLAB_int_decode"] = np.int32(2)
        cells[0, index] = chars.ref


def _is_test_room(room: int, num_rooms: int) -> bool:
    return room % 4 == 3 or (num_rooms < 4 and room == num_rooms - 1)


def _write_splits(path: Path, is_test: NDArray[np.bool_]) -> None:
    """The official split file: 1-based image numbers as columns."""
    numbers = {"trainNdxs": np.flatnonzero(~is_test) + 1, "testNdxs": np.flatnonzero(is_test) + 1}
    columns = {name: ndxs.astype(np.uint16)[:, None] for name, ndxs in numbers.items()}
    scipy.io.savemat(path, columns, do_compression=True)
    with path.open("r+b") as raw:
        # SciPy signs with the time of writing.
        raw.write(b"MATLAB 5.0 MAT-file, Created on: Mon Sep 26 12:00:00 2011".ljust(116))


@lru_cache(maxsize=1)
def _drive(seed: int, index: int, num_frames: int) -> Drive:
    return Drive(seed, index, num_frames)


def _record_frame(folder: Path, seed: int, index: int, num_frames: int, frame: int) -> None:
    """Write both images, the scan and the IMU values of one frame."""
    drive, name = _drive(seed, index, num_frames), f"{frame:010d}"
    for camera in vehicle.CAMERAS:
        image = cv2.cvtColor(drive.frame(frame, camera).image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / camera / "data" / f"{name}.png"), image,
                    [cv2.IMWRITE_PNG_COMPRESSION, 1])  # fmt: skip
    drive.scan(frame).tofile(folder / "velodyne_points" / "data" / f"{name}.bin")
    (folder / "oxts" / "data" / f"{name}.txt").write_text(kitti_text.oxts_line(drive.state(frame)))
