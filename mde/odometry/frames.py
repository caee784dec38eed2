"""Consecutive frames in a folder, and when they were taken: KITTI raw, KITTI odometry, one's own.

KITTI numbers its frames by name, so what belongs to a frame is found by number there.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mde.data.sources.folder.image_folders import IMAGE_SUFFIXES
from mde.errors import InputError

# Of a sequence and of a raw drive: the left colour camera, then what a drive may have instead.
CAMERA_FOLDERS = ("image_2", "image_3", "image_02/data", "image_03/data")


@dataclass(frozen=True)
class Frames:
    """Images of one camera in the order of time.

    folder: where they lie. numbers: frame numbers by name; None when the names are not numbers.
    times: (N,) s, since the first frame of the recording. times_from: file of the times, or
    `frame numbers` when there is none: then a frame counts as a second.
    """

    folder: Path
    images: tuple[Path, ...]
    numbers: tuple[int, ...] | None
    times: NDArray[np.float64]
    times_from: str

    @property
    def gaps(self) -> int:
        """How often the number of a frame is not the one before plus 1."""
        return 0 if self.numbers is None else int((np.diff(self.numbers) != 1).sum())


def find_frames(data: Path) -> Frames:
    """The images of a folder in natural order of their names.

    data: the folder itself, or a KITTI odometry sequence or raw drive, of which the left colour
    camera is taken. Raises InputError when there are fewer than two images, or two of one number.
    """
    folder = _image_folder(data)
    images = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if len(images) < 2:
        raise InputError(
            f"{folder}: {len(images)} images, a motion needs two; allowed are a folder of images, "
            "a KITTI sequence (with image_2) and a KITTI raw drive (with image_02/data)"
        )
    images.sort(key=_natural)
    numbers = _numbers(folder, images)
    times, times_from = _read_times(folder, numbers)
    if times is None:
        times = np.array(numbers or range(len(images)), np.float64)
    return Frames(folder, tuple(images), numbers, times, times_from)


def _image_folder(data: Path) -> Path:
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; give a folder of consecutive frames")
    return next((data / name for name in CAMERA_FOLDERS if (data / name).is_dir()), data)


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split("([0-9]+)", path.stem)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _numbers(folder: Path, images: list[Path]) -> tuple[int, ...] | None:
    if not all(path.stem.isascii() and path.stem.isdecimal() for path in images):
        return None
    numbers = tuple(int(path.stem) for path in images)
    for i in range(1, len(numbers)):
        if numbers[i] == numbers[i - 1]:
            raise InputError(
                f"{folder}: {images[i - 1].name} and {images[i].name} are both frame {numbers[i]}; "
                "remove one"
            )
    return numbers


def _read_times(
    folder: Path, numbers: tuple[int, ...] | None
) -> tuple[NDArray[np.float64] | None, str]:
    # A raw drive has timestamps.txt above data/, a sequence times.txt above image_2/.
    paths = (folder.parent / "timestamps.txt", folder.parent / "times.txt")
    path = next((path for path in paths if path.is_file()), None)
    if path is None or numbers is None:
        return None, "frame numbers"
    lines = path.read_text("utf-8", "replace").splitlines()
    if numbers[-1] >= len(lines):
        raise InputError(f"{path}: {len(lines)} lines, none for frame {numbers[-1]}; remove it")
    times = np.array([_seconds(path, i, lines[i]) for i in (0, *numbers)])
    if not (np.diff(times[1:]) > 0).all():
        raise InputError(f"{path}: times must grow from line to line; remove the file")
    return times[1:] - times[0], str(path)


def _seconds(path: Path, index: int, text: str) -> float:
    """`2011-09-26 12:20:04.103509301`, or s."""
    try:
        if path.name == "times.txt":
            return float(text)
        moment = np.datetime64(text.strip(), "ns")
        if np.isnat(moment):
            raise ValueError("empty")
        return float(moment.astype(np.int64)) / 1e9
    except ValueError as error:
        raise InputError(f"{path}, line {index + 1}: not a time: '{text[:60]}'") from error
