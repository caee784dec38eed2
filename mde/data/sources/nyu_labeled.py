"""NYU Depth v2, labeled part: `nyu_depth_v2_labeled.mat` and `splits.mat`.

The .mat is MATLAB v7.3, so HDF5 with the axes reversed: images (N,3,640,480) uint8, depths and
rawDepths (N,640,480) float32 m, scenes (1,N) references to character codes.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from mde.data.codecs import CodecError, encode_depth, encode_image, resize_depth, resize_image
from mde.data.shards import Rejected
from mde.data.sources import Frame, SourceConfig
from mde.errors import InputError
from mde.intrinsics import resize_K
from mde.schema import Row

MAT, SPLITS_MAT = "nyu_depth_v2_labeled.mat", "splits.mat"
DEPTH_SCALE = 1e-3
# The RGB camera of the official toolbox.
K_NYU = np.array([[518.8579, 0, 325.5824], [0, 519.4696, 253.7362], [0, 0, 1]])
SHAPES = {"images": (3, 640, 480), "depths": (640, 480), "rawDepths": (640, 480)}


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    """gt: the depth to evaluate against. val_scenes: share of the training scenes held out."""

    gt: Literal["filled", "raw"] = "filled"
    val_scenes: float = 0.1
    seed: int = 0


def list_frames(config: Config, root: Path) -> list[Frame]:
    """Frames in the official train and test split; `val` is whole scenes of the train split."""
    folder = config.raw_folder(root)
    with open_mat(folder / MAT) as mat:
        scenes = read_cell_strings(mat, "scenes")
    train, test = read_splits(folder / SPLITS_MAT, len(scenes))
    names = sorted({scenes[i] for i in train})
    shuffled = np.random.default_rng(config.seed).permutation(names)
    val = set(shuffled[: round(config.val_scenes * len(names))])
    split_of = {i: "val" if scenes[i] in val else "train" for i in train}
    split_of |= {i: "test" for i in test}
    return [
        Frame(f"nyu_{i + 1:04d}", split, scenes[i], (i,)) for i, split in sorted(split_of.items())
    ]


def read_frames(config: Config, root: Path, frames: list[Frame]) -> Iterator[Row | Rejected]:
    """Read frames; rows of val and test keep the ground truth at 480x640."""
    with open_mat(config.raw_folder(root) / MAT) as mat:
        for frame in frames:
            (i,) = frame.locator
            try:
                yield _row(config, frame, *(mat[key][i] for key in SHAPES))
            except (CodecError, OSError) as error:
                yield Rejected(frame.sample_id, frame.split, str(error))


def _row(config: Config, frame: Frame, image: NDArray, filled: NDArray, raw: NDArray) -> Row:
    image = np.ascontiguousarray(image.transpose(2, 1, 0))
    depth = np.ascontiguousarray(filled.T)
    if not np.any(depth > 0):
        raise CodecError("no valid depth")
    size = (config.height, config.width)
    gt = depth if config.gt == "filled" else np.ascontiguousarray(raw.T)
    return {
        "sample_id": frame.sample_id,
        "scene": frame.scene,
        "height": config.height,
        "width": config.width,
        "image": encode_image(resize_image(image, size)),
        "image_prev": None,
        "image_next": None,
        "image_stereo": None,
        "K": resize_K(K_NYU, image.shape[:2], size).ravel().tolist(),
        "baseline_m": None,
        "depth": encode_depth(resize_depth(depth, size), DEPTH_SCALE),
        "depth_scale": DEPTH_SCALE,
        "gt_depth": None if frame.split == "train" else encode_depth(gt, DEPTH_SCALE),
        "gt_height": gt.shape[0],
        "gt_width": gt.shape[1],
    }


def open_mat(path: Path) -> h5py.File:
    """Open the labeled .mat and check what is in it.

    Raises InputError when it is missing, truncated, not HDF5, lacks a key, has wrong shapes, or
    points outside itself (external or virtual datasets).
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; download it from the NYU Depth v2 page")
    try:
        mat = h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path}: not a whole MATLAB v7.3 (HDF5) file; {path.stat().st_size} bytes found, the "
            f"official file has about 2.8 GB; download it again ({error})"
        ) from error
    try:
        _check_mat(path, mat)
    except BaseException:
        mat.close()
        raise
    return mat


def _check_mat(path: Path, mat: h5py.File) -> None:
    for key in (*SHAPES, "scenes"):
        # A link is asked for first: following one may open another file.
        linked = not isinstance(mat.get(key, getlink=True), h5py.HardLink)
        if linked or not isinstance(mat[key], h5py.Dataset):
            raise InputError(f"{path}: no dataset '{key}'; found: {', '.join(sorted(mat))}")
        if mat[key].external or mat[key].is_virtual:
            raise InputError(f"{path}: '{key}' points to other files; refused")
    count = mat["images"].shape[0]
    for key, shape in SHAPES.items():
        if mat[key].shape != (count, *shape):
            raise InputError(f"{path}: '{key}' is {mat[key].shape}, expected {(count, *shape)}")
    if mat["scenes"].size != count:
        raise InputError(f"{path}: {mat['scenes'].size} scenes for {count} images")


def read_cell_strings(mat: h5py.File, key: str) -> list[str]:
    """A MATLAB cell array of strings: references to (n,1) character codes."""
    return ["".join(map(chr, mat[ref][()].ravel())) for ref in mat[key][()].ravel()]


def read_splits(path: Path, count: int) -> tuple[list[int], list[int]]:
    """Train and test indices, 0-based, of `splits.mat`, which is 1-based.

    Raises InputError when the file is missing or damaged, an index is out of 1..count, or one is
    in both.
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
    both = set(train) & set(test)
    if both or not set(train) | set(test) <= set(range(count)):
        raise InputError(
            f"{path}: indices must be disjoint and within 1..{count} (the images of the .mat); "
            f"{len(both)} are in both, the largest is {max(train + test) + 1}"
        )
    return train, test
