"""NYU Depth v2, labeled part: `nyu_depth_v2_labeled.mat` and `splits.mat`.

The .mat is MATLAB v7.3, so HDF5 with the axes reversed: images (N,3,640,480) uint8, depths and
rawDepths (N,640,480) float32 m, scenes (1,N) references to character codes.
"""

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from mde.data.codecs import CodecError
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected, check_ratios, split_by_ratio
from mde.data.nyu import DEPTH_SCALE, K_NYU
from mde.data.raw.hdf5 import HDF5_ERRORS, get_dataset, open_hdf5
from mde.data.sources import SourceConfig
from mde.errors import InputError
from mde.schema import Row

MAT, SPLITS_MAT = "nyu_depth_v2_labeled.mat", "splits.mat"
SHAPES = {"images": (3, 640, 480), "depths": (640, 480), "rawDepths": (640, 480)}
# What a frame of each shape may be; MATLAB stores exactly these.
KINDS = {"images": "u1", "depths": "f4", "rawDepths": "f4"}


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    """gt: the depth to evaluate against.

    split: `official` is splits.mat, with `val_scenes`, a share of the training scenes, held out;
    `scenes` deals whole scenes by `ratios` (train, val, test), `random` single images, which puts
    images of one scene into training and test.
    """

    gt: Literal["filled", "raw"] = "filled"
    split: Literal["official", "scenes", "random"] = "official"
    val_scenes: float = 0.1
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratios(self.ratios)
        if not 0 <= self.val_scenes < 1:
            raise ValueError(f"val_scenes is a share of 1, found {self.val_scenes}")


def list_frames(config: Config, raw: Path, work: Path) -> list[Frame | Rejected]:
    """All images of the .mat that are in a split, in its order."""
    with open_mat(raw / MAT) as mat:
        try:
            scenes = read_cell_strings(mat, "scenes")
        except CodecError as error:
            raise InputError(f"{raw / MAT}: {error}") from error
    files = {"mat": MAT}
    if config.split == "official":
        splits = _official(config, raw, scenes)
        files |= {"splits": SPLITS_MAT}
    else:
        groups = scenes if config.split == "scenes" else [f"{i:06d}" for i in range(len(scenes))]
        splits = dict(enumerate(split_by_ratio(groups, config.ratios, config.seed)))
    return [
        Frame(f"nyu_{i + 1:04d}", split, scenes[i], files, (i,))
        for i, split in sorted(splits.items())
    ]


def _official(config: Config, raw: Path, scenes: list[str]) -> dict[int, str]:
    train, test = read_splits(raw / SPLITS_MAT, len(scenes))
    ratios = (1 - config.val_scenes, config.val_scenes, 0.0)
    of_train = split_by_ratio([scenes[i] for i in train], ratios, config.seed)
    return dict(zip(train, of_train, strict=True)) | dict.fromkeys(test, "test")


def read_frames(
    config: Config, raw: Path, work: Path, frames: list[Frame], encoder: Encoder
) -> Iterator[Row | Rejected]:
    """Read frames; rows of val and test keep the ground truth at 480x640."""
    with open_mat(raw / MAT) as mat:
        # Decompression is most of the work: nothing is read in vain.
        needs_raw = config.gt == "raw" and any(frame.split != "train" for frame in frames)
        datasets = {key: mat[key] for key in SHAPES if key != "rawDepths" or needs_raw}
        window = max(dataset.chunks[0] if dataset.chunks else 1 for dataset in datasets.values())
        for _, group in itertools.groupby(frames, key=lambda frame: frame.locator[0] // window):
            of_window = list(group)
            indices = [frame.locator[0] for frame in of_window]
            images = {key: _read_images(dataset, indices) for key, dataset in datasets.items()}
            for n, frame in enumerate(of_window):
                try:
                    yield _row(config, frame, encoder, {key: images[key][n] for key in images})
                except CodecError as error:
                    yield Rejected(frame.sample_id, frame.split, error.reason, str(error))


def _row(config: Config, frame: Frame, encoder: Encoder, arrays: dict[str, Any]) -> Row:
    damaged = [f"'{key}': {value}" for key, value in arrays.items() if isinstance(value, str)]
    if damaged:
        raise CodecError("; ".join(damaged), "damaged HDF5")
    image = np.ascontiguousarray(arrays["images"].transpose(2, 1, 0))
    gt = {"filled": "depths", "raw": "rawDepths"}[config.gt]
    return encoder.row(
        frame,
        encoder.image(image),
        K_NYU,
        depth_scale=DEPTH_SCALE,
        depth=np.ascontiguousarray(arrays["depths"].T),
        gt=None if frame.split == "train" else np.ascontiguousarray(arrays[gt].T),
    )


def _read_images(dataset: h5py.Dataset, indices: list[int]) -> list[NDArray | str]:
    """Images of a dataset, each or the reason why it cannot be read."""
    if dataset.chunks and dataset.chunks[0] > 1:
        try:
            return list(_read_slab(dataset, indices))
        except HDF5_ERRORS:
            # One image after the other tells which of them are damaged.
            pass
    return [_read_image(dataset, i) for i in indices]


def _read_slab(dataset: h5py.Dataset, indices: list[int]) -> NDArray:
    """Images whose chunks span several of them: every chunk is decompressed once.

    In strips of whole chunks, so that memory holds the images that are asked for and no others.
    """
    first, last, strip = min(indices), max(indices) + 1, dataset.chunks[-2]
    slab = np.empty((len(indices), *dataset.shape[1:]), dataset.dtype)
    for row in range(0, dataset.shape[-2], strip):
        block = dataset[first:last, ..., row : row + strip, :]
        slab[..., row : row + strip, :] = block[np.array(indices) - first]
    return slab


def _read_image(dataset: h5py.Dataset, i: int) -> NDArray | str:
    try:
        return dataset[i]
    except HDF5_ERRORS as error:
        return str(error)


def open_mat(path: Path) -> h5py.File:
    """Open the labeled .mat and check what is in it.

    Raises InputError when it is missing, truncated, not HDF5, lacks a key, has wrong shapes or
    types, or points outside itself (external or virtual datasets, links).
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; download it from the NYU Depth v2 page")
    try:
        mat = open_hdf5(path)
    except CodecError as error:
        raise InputError(
            f"{path}: not a whole MATLAB v7.3 (HDF5) file; {path.stat().st_size} bytes found, the "
            f"official file has about 2.8 GB; download it again ({error})"
        ) from error
    try:
        _check_mat(mat)
    except (CodecError, *HDF5_ERRORS) as error:
        mat.close()
        raise InputError(f"{path}: {error}") from error
    return mat


def _check_mat(mat: h5py.File) -> None:
    datasets = {key: get_dataset(mat, key) for key in (*SHAPES, "scenes")}
    count = len(datasets["images"])
    for key, shape in SHAPES.items():
        dataset, kind = datasets[key], KINDS[key]
        if dataset.shape != (count, *shape) or dataset.dtype.str[1:] != kind:
            raise CodecError(
                f"'{key}' is {dataset.shape} {dataset.dtype}, expected {(count, *shape)} "
                f"{np.dtype(kind)}; in MATLAB's order that is {(count, *shape)[::-1]}"
            )
    if datasets["scenes"].size != count:
        raise CodecError(f"{datasets['scenes'].size} scenes for {count} images")


def read_cell_strings(mat: h5py.File, key: str) -> list[str]:
    """A MATLAB cell array of strings: references to (n,1) character codes.

    Raises CodecError when it is something else.
    """
    try:
        return ["".join(map(chr, mat[ref][()].ravel())) for ref in mat[key][()].ravel()]
    except (AttributeError, *HDF5_ERRORS) as error:
        raise CodecError(f"'{key}' is not a cell array of strings: {error}") from error


def read_splits(path: Path, count: int) -> tuple[list[int], list[int]]:
    """Train and test indices, 0-based, of `splits.mat`, which is 1-based.

    Raises InputError when the file is missing or damaged, an index is out of 1..count, or one is
    there twice or in both.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; the official split comes with the labeled data")
    try:
        splits = scipy.io.loadmat(path)
        train, test = (
            [int(i) - 1 for i in splits[key].ravel()] for key in ("trainNdxs", "testNdxs")
        )
    except (ValueError, KeyError, OSError, TypeError, MatReadError, zlib.error) as error:
        raise InputError(f"{path}: not the official splits file: {error}") from error
    both = len(train) + len(test) - len(set(train) | set(test))
    if both or not set(train) | set(test) <= set(range(count)):
        raise InputError(
            f"{path}: indices must be disjoint and within 1..{count} (the images of the .mat); "
            f"{both} are there twice, the largest is {max(train + test) + 1}"
        )
    return train, test
