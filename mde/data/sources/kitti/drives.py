"""Folder layouts of KITTI, and what a drive has on disk: raw data, odometry, depth benchmark.

Names are relative to the raw folder, or absolute when they lie outside it.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mde.data.codecs import CodecError
from mde.data.sources.kitti.calibration import CAMERAS, OF_SEQUENCE
from mde.data.sources.kitti.lists import SELECTION
from mde.errors import InputError

IMAGES = (".png", ".jpg")
"""Users re-encode KITTI as JPEG to save space."""
ANNOTATED = "proj_depth/groundtruth/image_0{camera}/{frame:010d}"
_DATE = re.compile(r"\d{4}_\d\d_\d\d", re.ASCII)
_SEQUENCE = re.compile(r"\d\d", re.ASCII)


@dataclass(frozen=True)
class Layout:
    """Where the files of a drive are, below its folder; without what comes after the number."""

    image: str
    scan: str = ""
    intrinsics: str = ""


RAW = Layout("image_0{camera}/data/{frame:010d}", "velodyne_points/data/{frame:010d}")
ODOMETRY = Layout("image_{camera}/{frame:06d}", "velodyne/{frame:06d}")
BENCHMARK = Layout("image/{frame:010d}", intrinsics="intrinsics/{frame:010d}")


@dataclass(frozen=True)
class Drive:
    """The files of a drive: frame → name, of images and annotated depth by camera.

    calibration, calibration_lidar: names of the files, which need not be there. intrinsics: of
    each frame, for the benchmark's images. searched: folders in which annotated depth was looked
    for.
    """

    folder: str
    layout: Layout
    images: dict[int, dict[int, str]]
    scans: dict[int, str]
    annotated: dict[int, dict[int, str]]
    intrinsics: dict[int, str]
    calibration: str
    calibration_lidar: str
    searched: tuple[str, ...]

    def find_image(self, camera: int, frame: int, what: str = "image") -> str:
        """Name of an image; raises CodecError, "missing <what>", when it is not there."""
        if frame in self.images[camera]:
            return self.images[camera][frame]
        stem = self.layout.image.format(camera=camera, frame=frame)
        raise CodecError(f"no {self.folder}/{stem}{' or '.join(IMAGES)}", f"missing {what}")

    def find_scan(self, frame: int) -> str:
        """Name of a LiDAR scan; raises CodecError when it is not there."""
        if frame in self.scans:
            return self.scans[frame]
        stem = self.layout.scan.format(frame=frame)
        raise CodecError(f"no {self.folder}/{stem}.bin", "missing scan")

    def find_annotated(self, camera: int, frame: int) -> str:
        """Name of an annotated depth map; raises CodecError when it is not there."""
        if frame in self.annotated[camera]:
            return self.annotated[camera][frame]
        stem = ANNOTATED.format(camera=camera, frame=frame)
        detail = f"no {stem}.png in any of {', '.join(self.searched)}"
        if not self.searched:
            detail = f"{self.folder}: KITTI has annotated depth of raw drives alone"
        raise CodecError(detail, "missing ground truth")

    def find_intrinsics(self, frame: int) -> str:
        """Name of a benchmark image's intrinsics; raises CodecError when it is not there."""
        if frame in self.intrinsics:
            return self.intrinsics[frame]
        stem = self.layout.intrinsics.format(frame=frame)
        raise CodecError(f"no {self.folder}/{stem}.txt", "missing calibration")


def find_drives(raw: Path) -> list[str]:
    """Folders of drives, `<date>/<date>_drive_…` and `sequences/NN`, sorted."""
    dates = [name for name in _folders(raw) if _DATE.fullmatch(name)]
    drives = [
        f"{date}/{name}"
        for date in dates
        for name in _folders(raw / date)
        if name.startswith(f"{date}_drive_")
    ]
    sequences = [name for name in _folders(raw / "sequences") if _SEQUENCE.fullmatch(name)]
    return sorted(drives + [f"sequences/{name}" for name in sequences])


def check_drives(raw: Path, scenes: Iterable[str]) -> None:
    """Raises InputError that lists the drives of the lists that are not on disk, and what is."""
    scenes = sorted(set(scenes))
    missing = [scene for scene in scenes if not (raw / _find_folder(raw, scene)).is_dir()]
    if not missing:
        return
    there = find_drives(raw)
    found = f"there are {len(there)}: {_first(there)}" if there else "there is no drive at all"
    raise InputError(
        f"{raw}: {len(missing)} of the {len(scenes)} drives of the lists are not there: "
        f"{_first(missing)}; {found}. Unpack the missing drives there, or take lists without them"
    )


def index_drive(raw: Path, scene: str, annotated: str | None) -> Drive:
    """List the folders of a drive, each once; no file is touched.

    annotated: folder of the depth benchmark's annotated depth, when it is not in raw.
    Raises InputError when a folder cannot be read.
    """
    folder = _find_folder(raw, scene)
    parent, _, name = scene.rpartition("/")
    layout, calibration, lidar = RAW, f"{parent}/calib_cam_to_cam.txt", "calib_velo_to_cam.txt"
    searched: tuple[str, ...] = ()
    if scene == SELECTION:
        layout, calibration = BENCHMARK, ""
    elif parent == "sequences":
        layout, calibration = ODOMETRY, f"{scene}/{OF_SEQUENCE}"
    else:
        home = f"{annotated}/" if annotated else ""
        searched = (scene, *(f"{home}{split}{name}" for split in ("", "train/", "val/")))
    return Drive(
        folder=folder,
        layout=layout,
        images={c: _numbered(raw, [folder], layout.image, c, IMAGES) for c in CAMERAS},
        scans=_numbered(raw, [folder], layout.scan, 0, (".bin",)),
        annotated={c: _numbered(raw, searched, ANNOTATED, c, (".png",)) for c in CAMERAS},
        intrinsics=_numbered(raw, [folder], layout.intrinsics, 0, (".txt",)),
        calibration=calibration,
        calibration_lidar=calibration if layout is ODOMETRY else f"{parent}/{lidar}",
        searched=searched,
    )


def _numbered(
    raw: Path, homes: Iterable[str], pattern: str, camera: int, endings: tuple[str, ...]
) -> dict[int, str]:
    """Frame → name of the files of a pattern; what comes first in homes and endings counts."""
    found: dict[int, str] = {}
    if not pattern:
        return found
    for home in homes:
        folder, _, stem = f"{home}/{pattern.format(camera=camera, frame=0)}".rpartition("/")
        names = _scan(raw / folder)
        for ending in endings:
            for name in names:
                number = name[: len(stem)]
                if name[len(stem) :] == ending and number.isascii() and number.isdecimal():
                    found.setdefault(int(number), f"{folder}/{name}")
    return found


def _scan(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error


def _folders(folder: Path) -> list[str]:
    return [name for name in _scan(folder) if (folder / name).is_dir()]


def _find_folder(raw: Path, scene: str) -> str:
    # The benchmark's archive unpacks to this.
    packed = f"depth_selection/{scene}"
    return packed if scene == SELECTION and (raw / packed).is_dir() else scene


def _first(names: list[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest
