"""KITTI raw sequences: synced and rectified drives, calibration, LiDAR, official split files.

A row is one image of one colour camera with the frames before and after, the other camera's image,
and the LiDAR scan projected into it. A split file has lines `<date>/<drive> <frame> <l|r>`.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mde.data.codecs import CodecError, encode_depth, encode_image, read_image, resize_image
from mde.data.shards import Rejected
from mde.data.sources import Frame, SourceConfig
from mde.data.velodyne import Calibration, LidarDepth, project_scan, read_calibration, read_scan
from mde.errors import InputError
from mde.intrinsics import resize_K
from mde.schema import SPLITS, Row

DEPTH_SCALE = 1 / 256
"""As in KITTI's own depth images."""
CAMERAS = {"l": 2, "r": 3}


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    """splits: folder with train_files.txt, val_files.txt and test_files.txt; one may be absent.

    lidar_depth: what `gt_depth` holds, see `mde.data.velodyne.project_scan`.
    """

    splits: str
    lidar_depth: LidarDepth = "camera_z"


def list_frames(config: Config, root: Path) -> list[Frame]:
    """The frames of the split files, sorted by drive, frame and side."""
    raw = config.raw_folder(root)
    folder = root / config.splits
    files = {s: folder / f"{s}_files.txt" for s in SPLITS if (folder / f"{s}_files.txt").is_file()}
    if not files:
        raise InputError(
            f"{folder}: none of {', '.join(f'{s}_files.txt' for s in SPLITS)} is there; set "
            "datasets.<name>.splits to a folder with split files"
        )
    frames = [frame for split, path in files.items() for frame in _read_split(split, path)]
    drives = {frame.scene for frame in frames}
    missing = sorted(drive for drive in drives if not (raw / drive).is_dir())
    if missing:
        raise InputError(
            f"{raw}: {len(missing)} of the {len(drives)} drives in {folder} are not there: "
            f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}"
        )
    for date in {drive.split("/")[0] for drive in drives}:
        read_calibration(raw / date)
    return frames


def read_frames(config: Config, root: Path, frames: list[Frame]) -> Iterator[Row | Rejected]:
    """Read frames. Train and val need both neighbours and the stereo image, test needs LiDAR."""
    raw = config.raw_folder(root)
    calibrations = {
        date: read_calibration(raw / date) for date in {f.scene.split("/")[0] for f in frames}
    }
    # Neighbouring rows share images.
    load = functools.lru_cache(maxsize=16)(functools.partial(_load_image, config))
    for frame in frames:
        calibration = calibrations[frame.scene.split("/")[0]]
        try:
            yield _row(config, raw / frame.scene, frame, calibration, load)
        except CodecError as error:
            yield Rejected(frame.sample_id, frame.split, str(error))


def _read_split(split: str, path: Path) -> list[Frame]:
    frames: dict[tuple[str, int, str], Frame] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) != 3 or not parts[1].isdecimal() or parts[2] not in CAMERAS:
            raise InputError(
                f"{path}, line {number}: expected '<date>/<drive> <frame> <l|r>', found '{line}'"
            )
        drive, index, side = parts[0], int(parts[1]), parts[2]
        if (drive, index, side) in frames:
            raise InputError(f"{path}, line {number}: '{line}' is there twice")
        sample_id = f"{drive.split('/')[-1]}_{index:010d}_{side}"
        frames[drive, index, side] = Frame(sample_id, split, drive, (index, side))
    if not frames:
        raise InputError(f"{path}: no frame in it; remove the file or fill it")
    return [frames[key] for key in sorted(frames)]


def _row(
    config: Config,
    drive: Path,
    frame: Frame,
    calibration: Calibration,
    load: "functools._lru_cache_wrapper[bytes]",
) -> Row:
    index, side = frame.locator
    camera, other = CAMERAS[side], CAMERAS["r" if side == "l" else "l"]
    trains = frame.split != "test"

    def image(camera: int, index: int, what: str, needed: bool) -> bytes | None:
        path = find_image(drive, camera, index)
        if path is None:
            if needed:
                raise CodecError(
                    f"no {what}: {drive}/image_0{camera}/data/{index:010d}.png or .jpg"
                )
            return None
        return load(path, calibration.size[camera])

    main = image(camera, index, "image", True)
    assert main is not None
    size, native = (config.height, config.width), calibration.size[camera]
    return {
        "sample_id": frame.sample_id,
        "scene": frame.scene,
        "height": config.height,
        "width": config.width,
        "image": main,
        "image_prev": image(camera, index - 1, "previous frame", trains),
        "image_next": image(camera, index + 1, "next frame", trains),
        "image_stereo": image(other, index, "stereo image", trains),
        "K": resize_K(calibration.K(camera), native, size).ravel().tolist(),
        "baseline_m": calibration.baseline_m(camera, other),
        "depth": None,
        "depth_scale": DEPTH_SCALE,
        "gt_depth": _lidar(config, drive, index, calibration, camera, needed=not trains),
        "gt_height": native[0],
        "gt_width": native[1],
    }


def _lidar(
    config: Config, drive: Path, index: int, calibration: Calibration, camera: int, needed: bool
) -> bytes | None:
    path = drive / "velodyne_points" / "data" / f"{index:010d}.bin"
    # The official data lack some scans; a training row can do without.
    if not needed and not path.is_file():
        return None
    depth = project_scan(read_scan(path), calibration, camera, config.lidar_depth)
    return encode_depth(depth, DEPTH_SCALE)


def _load_image(config: Config, path: Path, native: tuple[int, int]) -> bytes:
    image = read_image(path)
    if image.shape[:2] != native:
        raise CodecError(f"{path}: {image.shape[:2]} px, the calibration says {native}")
    return encode_image(resize_image(image, (config.height, config.width)))


def find_image(drive: Path, camera: int, index: int) -> Path | None:
    """The PNG or JPEG of a frame (users re-encode KITTI to save space), or None."""
    stem = drive / f"image_0{camera}" / "data" / f"{index:010d}"
    return next(
        (p for p in (stem.with_suffix(".png"), stem.with_suffix(".jpg")) if p.is_file()), None
    )
