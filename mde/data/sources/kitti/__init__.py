"""KITTI: raw drives or odometry sequences, with LiDAR or annotated depth, by split files or dealt.

A row is an image of one colour camera with, as far as asked for, the frames before and after, the
other camera's image, and sparse depth. `mde.data.sources.kitti.drives` says what lies where,
`mde.data.sources.kitti.lists` what a split file may look like.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.data.encode import Encoder, StoredImage
from mde.data.frames import Frame, Rejected, check_ratios, split_by_ratio
from mde.data.raw.files import Folder, RawFiles
from mde.data.sources import SourceConfig, cached_images
from mde.data.sources.kitti.calibration import Calibration, read_calibration, read_intrinsics
from mde.data.sources.kitti.drives import Drive, check_drives, find_drives, index_drive
from mde.data.sources.kitti.lists import SELECTION, Entry, read_list
from mde.data.sources.kitti.velodyne import DEPTH_SCALE, DepthKind, read_depth
from mde.errors import InputError
from mde.schema import SPLITS, Row

SIDES = {"l": (2, 3), "r": (3, 2)}
"""Side → its camera and the other one."""
NEVER_SCANNED = {"2011_09_26/2011_09_26_drive_0009_sync": range(177, 181)}
"""Frames whose scans the official archives lack."""


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    """What to take from KITTI.

    train, val, test: split files, inside raw or absolute; a split without one is empty. When none
    is given, all drives in raw are dealt by `ratios` and `seed`, whole, with `cameras` (test: the
    left one alone).
    images: the neighbours that a row holds; a train or val row must have them all, a test row
    keeps those that there are.
    ground_truth: of test rows, which must have it, and of val rows, where it is there: the LiDAR
    scan (see `velodyne.project_scan`), or the depth benchmark's annotated depth.
    depth: to train on; train and val rows must have it. annotated: the folder that holds the
    annotated depth's `train` and `val`, when it is not in raw; inside raw or absolute.
    """

    train: str | None = None
    val: str | None = None
    test: str | None = None
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    cameras: tuple[Literal["l", "r"], ...] = ("l", "r")
    images: tuple[Literal["image_prev", "image_next", "image_stereo"], ...] = (
        "image_prev", "image_next", "image_stereo",
    )  # fmt: skip
    ground_truth: DepthKind = "camera_z"
    depth: Literal["none", "camera_z", "annotated"] = "none"
    annotated: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratios(self.ratios)
        for name in ("cameras", "images"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names one twice: {list(getattr(self, name))}")
        if not self.cameras:
            raise ValueError("cameras are l, r or both, found none")

    @property
    def lists(self) -> dict[str, str]:
        """Split → its split file, as far as given."""
        return {split: name for split in SPLITS if (name := getattr(self, split)) is not None}


def list_frames(config: Config, raw: Path, work: Path) -> list[Frame | Rejected]:
    """The images of the split files, by split, drive, frame and side.

    Those that lack a file are Rejected; expected is a lack that all copies of KITTI share.
    Raises InputError for a split file, a drive, or a calibration that is missing or malformed.
    """
    if not raw.is_dir():
        raise InputError(
            f"{raw}: no such folder; set datasets.<name>.raw to the folder that holds KITTI's "
            "dates or its sequences, unpacked"
        )
    if config.annotated and not (raw / config.annotated).is_dir():
        raise InputError(
            f"{raw / config.annotated}: no such folder; set datasets.<name>.annotated to the one "
            "that holds the annotated depth's train and val"
        )
    entries = {split: read_list(raw / name) for split, name in config.lists.items()}
    scenes = {entry.scene for of_split in entries.values() for entry in of_split}
    for split in ("train", "val"):
        if any(entry.scene == SELECTION for entry in entries.get(split, [])):
            raise InputError(
                f"{raw / config.lists[split]}: the benchmark's test images ('image <number>') have "
                f"neither neighbours nor depth; they cannot be in {split}"
            )
    if config.lists:
        check_drives(raw, scenes)
    else:
        scenes = _drives_to_deal(raw)
    drives = {scene: index_drive(raw, scene, config.annotated) for scene in sorted(scenes)}
    if not config.lists:
        entries = _deal(config, raw, drives)
    frames = [
        _find_frame(config, split, entry, drives[entry.scene])
        for split in SPLITS
        for entry in entries.get(split, [])
    ]
    for cameras, lidar in sorted({_calibrations(f.files) for f in frames if isinstance(f, Frame)}):
        if cameras:
            read_calibration(raw, cameras, lidar)
    return frames


def _calibrations(files: dict[str, str]) -> tuple[str, str]:
    return files.get("calibration", ""), files.get("calibration_lidar", "")


def _drives_to_deal(raw: Path) -> set[str]:
    drives = find_drives(raw)
    sequences = {drive for drive in drives if drive.startswith("sequences/")}
    synced = {drive for drive in drives if drive.endswith("_sync")}
    if not synced | sequences:
        raise InputError(
            f"{raw}: no drive is there; expected folders like "
            "2011_09_26/2011_09_26_drive_0001_sync, or sequences/00"
        )
    if synced and sequences:
        raise InputError(
            f"{raw}: {len(synced)} drives and {len(sequences)} odometry sequences, which show the "
            "same streets; give split files, or set raw to a folder with one kind"
        )
    return synced | sequences


def _deal(config: Config, raw: Path, drives: dict[str, Drive]) -> dict[str, list[Entry]]:
    """All images of whole drives, by ratio."""
    entries: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    splits = split_by_ratio(list(drives), config.ratios, config.seed)
    for (scene, drive), split in zip(drives.items(), splits, strict=True):
        dealt = [
            Entry(scene, frame, side)
            for side in (config.cameras if split != "test" else ("l",))
            for frame in drive.images[SIDES[side][0]]
        ]
        if not dealt:
            raise InputError(f"{raw / scene}: no image for the {split} split; remove or mend it")
        entries[split] += sorted(dealt)
    return entries


def _find_frame(config: Config, split: str, entry: Entry, drive: Drive) -> Frame | Rejected:
    name = entry.scene.rpartition("/")[2]
    sample_id = f"{name}_{entry.frame:010d}_{entry.side}"
    if entry.scene.startswith("sequences/"):
        sample_id = f"sequence_{name}_{entry.frame:06d}_{entry.side}"
    try:
        files = _find_files(config, split, entry, drive)
    except CodecError as error:
        expected = _is_by_nature(config, entry, drive, error.reason)
        return Rejected(sample_id, split, error.reason, str(error), expected)
    return Frame(sample_id, split, entry.scene, files, SIDES[entry.side])


def _is_by_nature(config: Config, entry: Entry, drive: Drive, reason: str) -> bool:
    """Whether nobody has the file, so that nothing is wrong with these raw data."""
    camera = SIDES[entry.side][0]
    images, annotated = drive.images[camera], drive.annotated[camera]
    if reason == "missing neighbour":
        return entry.frame in (min(images), max(images))
    if reason == "missing scan":
        return entry.frame in NEVER_SCANNED.get(entry.scene, ())
    if reason == "missing ground truth" and annotated and not config.lists:
        # The first and last five frames of a drive; that a list names them is an error.
        return not min(annotated) <= entry.frame <= max(annotated)
    return reason == "no ground truth"


def _find_files(config: Config, split: str, entry: Entry, drive: Drive) -> dict[str, str]:
    """Role → name of the file. Raises CodecError for the first one that is missing."""
    (camera, other), frame = SIDES[entry.side], entry.frame
    trains = split != "test"
    files = {"image": drive.find_image(camera, frame)}
    if entry.scene == SELECTION:
        # Its images are of no order.
        return files | {"intrinsics": drive.find_intrinsics(frame)}
    places = {
        "image_prev": (camera, frame - 1, "neighbour"),
        "image_next": (camera, frame + 1, "neighbour"),
        "image_stereo": (other, frame, "stereo image"),
    }
    # What a row can do without may be missing.
    optional, needed = contextlib.suppress(CodecError), contextlib.nullcontext()
    for role in config.images:
        with needed if trains else optional:
            files[role] = drive.find_image(*places[role])
    files["calibration"] = drive.calibration
    if trains and config.depth != "none":
        files |= _find_depth("depth", config.depth, entry, drive)
    if split != "train":
        with optional if trains else needed:
            files |= _find_depth("ground_truth", config.ground_truth, entry, drive)
    return files


def _find_depth(role: str, kind: DepthKind, entry: Entry, drive: Drive) -> dict[str, str]:
    if kind != "annotated":
        scan = drive.find_scan(entry.frame)
        return {role: scan, "calibration_lidar": drive.calibration_lidar}
    if not entry.has_truth:
        raise CodecError("the list has None for its annotated depth", "no ground truth")
    return {role: drive.find_annotated(SIDES[entry.side][0], entry.frame)}


def read_frames(
    config: Config, raw: Path, work: Path, frames: list[Frame], encoder: Encoder
) -> Iterator[Row | Rejected]:
    """Read frames; `gt_depth` has the size of the image as it is on disk."""
    files = Folder(raw)
    load = cached_images(files, encoder)
    calibrate = functools.cache(functools.partial(read_calibration, raw))
    for frame in frames:
        try:
            yield _read(config, files, frame, load, calibrate, encoder)
        except CodecError as error:
            yield Rejected(frame.sample_id, frame.split, error.reason, str(error))


def _read(
    config: Config,
    raw: RawFiles,
    frame: Frame,
    load: Callable[[str], StoredImage],
    calibrate: Callable[..., Calibration],
    encoder: Encoder,
) -> Row:
    files, (camera, other) = frame.files, frame.locator
    image = load(files["image"])
    if "intrinsics" in files:
        K = read_intrinsics(raw, files["intrinsics"])
        return encoder.row(frame, image, K, depth_scale=DEPTH_SCALE)
    calibration = calibrate(*_calibrations(files))
    neighbours: dict[str, StoredImage] = {
        role: load(files[role]) for role in config.images if role in files
    }
    for role, stored in {"image": image, **neighbours}.items():
        size = calibration.sizes.get(other if role == "image_stereo" else camera, stored.native)
        if stored.native != size:
            detail = f"{files[role]}: {stored.native} px, the calibration says {size}"
            raise CodecError(detail, "wrong size")

    def depth(role: str, kind: Literal["none"] | DepthKind) -> NDArray[np.float32] | None:
        if role not in files or kind == "none":
            return None
        return read_depth(raw, files[role], kind, calibration, camera, image.native)

    return encoder.row(
        frame,
        image,
        calibration.K(camera),
        depth_scale=DEPTH_SCALE,
        depth=depth("depth", config.depth),
        sparse=True,
        gt=depth("ground_truth", config.ground_truth),
        neighbours=neighbours,
        baseline_m=calibration.baseline_m(camera, other) if "image_stereo" in files else None,
    )
