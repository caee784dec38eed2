"""Anyone's own images, with or without depth, and their own camera, in plain folders.

    camera.yaml                  or nearer to the images: the nearest one above an image counts
    images/<scene>/<name>.jpg    or png, webp, bmp, tif; scenes may be nested
    images/<scene>.mp4           or mov, avi, mkv, webm: a scene of its frames 000000, 000001, ...
    depth/<scene>/<name>.png     if there is any, every image needs one: 16 bits, or exr, npy in m
    stereo/<scene>/<name>.jpg    the other camera of a rectified pair, for `image_stereo`

Images that lie in `images/` itself are one scene. The images of a folder are a sequence, in natural
order (2 before 10). Where a training row needs its neighbours, the ends of a sequence serve as
neighbours only: they are listed as rejected, which does not count against `max_rejected`.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.data.encode import Encoder, StoredImage
from mde.data.frames import Frame, Rejected, check_ratios, split_by_ratio
from mde.data.raw.files import Folder, RawFiles, open_raw
from mde.data.sources import SourceConfig, cached_images
from mde.data.sources.folder.camera_file import Camera, find_cameras, read_camera, same_aspect
from mde.data.sources.folder.depth_file import read_depth
from mde.data.sources.folder.image_folders import (
    DEPTH,
    IMAGES,
    STEREO,
    SUFFIXES,
    Shot,
    find_by_key,
    find_sequences,
    find_strays,
)
from mde.data.sources.folder.video import Place, index_video
from mde.data.sources.folder.video_images import VideoImages
from mde.errors import InputError
from mde.schema import SPLITS, Row

STEPS = {"image_prev": -1, "image_next": 1}
FOLDERS = {"depth": DEPTH, "image_stereo": STEREO}


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    """What is in the folder, and what is wanted of it.

    ratios: shares of train, val and test. split_by: deal out whole scenes, or single images,
    which lets a model be tested on scenes that it has seen. images: what a row of train or val
    needs besides its image. stride: take every n-th image of a sequence; those between are left
    out. depth_scale: metres per unit of a PNG. depth_step_m: precision of the stored depth, which
    reaches to 65535 times it; left out, it is depth_scale. sparse: depth is single points, as of a
    LiDAR.
    """

    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    split_by: Literal["scene", "image"] = "scene"
    images: tuple[Literal["image_prev", "image_next", "image_stereo"], ...] = ()
    stride: int = 1
    depth_scale: float = 0.001
    depth_step_m: float | None = None
    sparse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratios(self.ratios)
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")
        if self.stride < 1:
            raise ValueError(f"stride must be 1 or more, found {self.stride}")
        for name in ("depth_scale", "depth_step_m"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, found {value}")

    @property
    def step(self) -> float:
        """Metres per code of the stored depth."""
        return self.depth_step_m or self.depth_scale


def list_frames(config: Config, raw: Path, work: Path) -> list[Frame | Rejected]:
    """All frames, scene by scene; videos are indexed, nothing is decoded.

    Raises InputError when there are no images, two files claim one place, a camera file is missing
    or wrong, or a split that has a share stays empty.
    """
    files = open_raw(raw, work)
    names = files.names()
    found, unread = find_sequences(raw, names, lambda name: index_video(_path(raw, files, name)))
    # Files of a wrong type in depth/ are a fault, not the absence of depth.
    has_depth = any(name.startswith(f"{DEPTH}/") for name in names)
    roles = (["depth"] if has_depth else []) + [r for r in config.images if r == "image_stereo"]
    extras = {role: find_by_key(raw, names, FOLDERS[role]) for role in roles}
    folders = [IMAGES, *(FOLDERS[role] for role in extras)]
    keys = {shot.key for sequence in found for shot in sequence}
    strays = find_strays(names, folders, keys, [video.sample_id for video in unread])

    sequences = [sequence[:: config.stride] for sequence in found]
    # The images of a sequence lie in one folder.
    first_images = [sequence[0].file for sequence in sequences]
    cameras = find_cameras(raw, files, names, first_images, "image_stereo" in config.images)
    splits = _deal(config, sequences)
    listed: list[Frame | Rejected] = [
        _frame(config, sequence, i, next(splits), camera, extras)
        for sequence, camera in zip(sequences, cameras, strict=True)
        for i in range(len(sequence))
    ]
    _check_splits(config, raw, listed, {shot.scene for shots in sequences for shot in shots})
    return [*unread, *listed, *strays]


def _path(raw: Path, files: RawFiles, video: str) -> Path:
    if not isinstance(files, Folder):
        raise InputError(f"{raw}: {video}: videos are not read from an archive; unpack it")
    return raw / video


def _deal(config: Config, sequences: list[list[Shot]]) -> Iterator[str]:
    """The split of each image, in order."""
    by_scene = config.split_by == "scene"
    groups = [
        shot.scene if by_scene else shot.sample_id for sequence in sequences for shot in sequence
    ]
    return iter(split_by_ratio(groups, config.ratios, config.seed))


def _frame(
    config: Config,
    sequence: Sequence[Shot],
    i: int,
    split: str,
    camera: str,
    extras: dict[str, dict[str, str]],
) -> Frame | Rejected:
    shot = sequence[i]
    needed = () if split == "test" else config.images
    shots = {"image": shot}
    for role, step in STEPS.items():
        if role not in needed:
            continue
        if not 0 <= i + step < len(sequence):
            detail = f"{shot.file} has no {role}"
            return Rejected(shot.sample_id, split, "sequence end", detail, expected=True)
        shots[role] = sequence[i + step]
    files = {role: other.file for role, other in shots.items()} | {"camera": camera}
    for role, file_of in extras.items():
        if role == "image_stereo" and role not in needed:
            continue
        if shot.key not in file_of:
            folder = FOLDERS[role]
            detail = f"no {folder}/{shot.key} of type {', '.join(SUFFIXES[folder])}"
            return Rejected(shot.sample_id, split, f"missing {folder}", detail)
        files[role] = file_of[shot.key]
    places = tuple((role, *other.place) for role, other in shots.items() if other.place)
    return Frame(shot.sample_id, split, shot.scene, files, places)


def _check_splits(
    config: Config, raw: Path, listed: list[Frame | Rejected], scenes: set[str]
) -> None:
    # Frames that are rejected for a fault count: it is the fault that is to be reported.
    ends = [item for item in listed if isinstance(item, Rejected) and item.expected]
    left = Counter(item.split for item in listed) - Counter(item.split for item in ends)
    for split, share in zip(SPLITS, config.ratios, strict=True):
        if listed and share > 0 and not left[split]:
            raise InputError(
                f"{raw}: ratios {list(config.ratios)} leave the {split} split without a frame: "
                f"there are {len(scenes)} scenes ({', '.join(sorted(scenes)[:5])}) of "
                f"{len(listed)} images, {len(ends)} of them the ends of sequences. A sub-folder "
                "of images/ is a scene, and so is a video. Add scenes, change ratios (one scene "
                f"is a share of {1 / len(scenes):.2f}), or deal out images with split_by: image"
            )


def read_frames(
    config: Config, raw: Path, work: Path, frames: list[Frame], encoder: Encoder
) -> Iterator[Row | Rejected]:
    """Read frames; those of a video in the order in which they are shown."""
    files = open_raw(raw, work)
    from_file = cached_images(files, encoder)
    camera = functools.cache(functools.partial(read_camera, raw, files))
    ordered = sorted(frames, key=lambda frame: (_video(frame), frame.locator[:1]))
    for video, group in itertools.groupby(ordered, key=_video):
        of_video = list(group)
        places = [place for frame in of_video for place in _places(frame).values()]
        shown = VideoImages(_path(raw, files, video), video, places, encoder) if video else None
        for frame in of_video:
            try:
                images = shown.load(_places(frame)) if shown else {}
                images |= {
                    role: from_file(file)
                    for role, file in frame.files.items()
                    if role.startswith("image") and role not in images
                }
                yield _row(config, frame, images, camera(frame.files["camera"]), files, encoder)
            except CodecError as error:
                yield Rejected(frame.sample_id, frame.split, error.reason, str(error))


def _video(frame: Frame) -> str:
    return frame.files["image"] if frame.locator else ""


def _places(frame: Frame) -> dict[str, Place]:
    return {role: Place(*place) for role, *place in frame.locator}


def _row(
    config: Config,
    frame: Frame,
    images: dict[str, StoredImage],
    camera: Camera,
    files: RawFiles,
    encoder: Encoder,
) -> Row:
    size = images["image"].native
    try:
        K = camera.K_at(size)
    except CodecError as error:
        raise error.about(frame.files["image"]) from error
    depth = _depth(config, frame, files, size) if "depth" in frame.files else None
    return encoder.row(
        frame,
        images["image"],
        K,
        depth_scale=config.step,
        depth=depth,
        sparse=config.sparse,
        gt=None if frame.split == "train" else depth,
        neighbours={role: image for role, image in images.items() if role != "image"},
        baseline_m=camera.baseline_m if "image_stereo" in images else None,
    )


def _depth(
    config: Config, frame: Frame, files: RawFiles, size: tuple[int, int]
) -> NDArray[np.float32]:
    """The depth map of an image of `size` (H, W), at its own size."""
    name = frame.files["depth"]
    depth = read_depth(files, name, config.depth_scale)
    height, width = depth.shape
    if not same_aspect((height, width), size):
        detail = f"{name}: {width}x{height} px is another shape than {size[1]}x{size[0]} px, "
        raise CodecError(f"{detail}the image's", "wrong size")
    valid = depth[np.isfinite(depth) & (depth > 0)]
    if not valid.size:
        raise CodecError(f"{name}: no pixel has a finite depth above 0", "no valid depth")
    farthest, limit = float(valid.max()), 65535 * config.step
    if farthest > limit * (1 + 1e-6) and not config.lossless:
        raise CodecError(
            f"{name}: {farthest:.4g} m is beyond {limit:.4g} m, which depth_step_m of "
            f"{config.step:g} reaches; check depth_scale (metres per unit, now "
            f"{config.depth_scale:g}), or set depth_step_m to {1.1 * farthest / 65535:.1g} or more",
            "depth out of range",
        )
    return depth
