"""NYU Depth v2 as FastDepth packed it: one .h5 per frame, in a folder or straight from the .tar.gz.

`nyudepthv2/{train,val}/<scene>/<%05d>.h5` with the datasets `rgb` (3,480,640) uint8 and `depth`
(480,640) float m, in-painted. `val` holds the 654 official test frames.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected
from mde.data.nyu import DEPTH_SCALE, scale_K
from mde.data.raw.files import open_raw
from mde.data.raw.hdf5 import HDF5_ERRORS, get_dataset, open_hdf5
from mde.data.sources import SourceConfig
from mde.errors import InputError
from mde.schema import Row

LAYOUT = "[nyudepthv2/]{train,val}/<scene>/<%05d>.h5"
NAME = re.compile(r"(?:nyudepthv2/)?(train|val)/([^/]+)/(\d{5})\.h5")
HELD_OUT = ("00001", "00201")
"""Frames of each training scene that FastDepth validates on."""


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    """subset: use so many of the training and held-out pairs, drawn by `seed`; None: all."""

    subset: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset is not None and self.subset <= 0:
            raise ValueError(f"subset is a number of pairs or null, found {self.subset}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")


def list_frames(config: Config, raw: Path, work: Path) -> list[Frame | Rejected]:
    """All frames by name: `val/` is test, two frames of each training scene are val.

    Raises InputError when there is no .h5 file, or one that is not in the layout.
    """
    names = [name for name in open_raw(raw, work).names() if name.endswith(".h5")]
    strange = [name for name in names if not NAME.fullmatch(name)]
    if strange or not names:
        found = f"{len(strange)} others, such as {strange[0]}" if strange else "no .h5 file"
        raise InputError(
            f"{raw}: found {found}; expected files {LAYOUT}; set datasets.<name>.raw to the folder "
            "that has nyudepthv2 or train in it, or to nyudepthv2.tar.gz"
        )
    return [*_draw(config, raw, [_frame(name) for name in names])]


def _frame(name: str) -> Frame:
    match = NAME.fullmatch(name)
    assert match
    folder, scene, number = match.groups()
    split = "test" if folder == "val" else "val" if number in HELD_OUT else "train"
    return Frame(f"{scene}__{number}", split, scene, {"frame": name})


def _draw(config: Config, raw: Path, frames: list[Frame]) -> list[Frame]:
    if config.subset is None:
        return frames
    pairs = [i for i, frame in enumerate(frames) if frame.split != "test"]
    if config.subset > len(pairs):
        raise InputError(
            f"{raw}: datasets.<name>.subset is {config.subset}, but there are {len(pairs)} pairs"
        )
    drawn = np.random.default_rng(config.seed).choice(len(pairs), config.subset, replace=False)
    kept = {pairs[i] for i in drawn}
    return [frame for i, frame in enumerate(frames) if frame.split == "test" or i in kept]


def read_frames(
    config: Config, raw: Path, work: Path, frames: list[Frame], encoder: Encoder
) -> Iterator[Row | Rejected]:
    """Read frames in the order of the archive; val and test keep their depth at its size as gt."""
    files = open_raw(raw, work)
    for frame in sorted(frames, key=lambda frame: files.position(frame.files["frame"])):
        name = frame.files["frame"]
        try:
            image, depth = read_pair(files.read(name))
            yield encoder.row(
                frame,
                encoder.image(image),
                scale_K(depth.shape),
                depth_scale=DEPTH_SCALE,
                depth=depth,
                gt=None if frame.split == "train" else depth,
            )
        except CodecError as error:
            error = error.about(name)
            yield Rejected(frame.sample_id, frame.split, error.reason, str(error))


def read_pair(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """RGB (H,W,3) and depth (H,W) in m, of the bytes of a file.

    Raises CodecError when they are damaged, or not of the shapes and types of the layout.
    """
    with open_hdf5(data) as file:
        rgb, depth = get_dataset(file, "rgb"), get_dataset(file, "depth")
        if len(rgb.shape) != 3 or rgb.shape[0] != 3 or rgb.dtype != np.uint8:
            raise CodecError(
                f"rgb is {rgb.shape} {rgb.dtype}, expected (3, 480, 640) uint8", "wrong rgb"
            )
        if depth.shape != rgb.shape[1:] or depth.dtype.kind != "f" or depth.dtype.itemsize < 4:
            raise CodecError(
                f"depth is {depth.shape} {depth.dtype}, expected {rgb.shape[1:]} float32 or "
                "float64, as rgb",
                "wrong depth",
            )
        # Before anything is allocated.
        scale_K(depth.shape)
        try:
            image, metres = rgb[()], depth[()]
        except HDF5_ERRORS as error:
            raise CodecError(f"damaged data: {error}", "damaged HDF5") from error
    # What is beyond float32 becomes infinite, which is counted.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(image.transpose(1, 2, 0)), metres.astype(np.float32)
