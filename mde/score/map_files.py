"""Depth and disparity maps that anyone has saved, read one at a time: stacks, folders, datasets."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mde.data.codecs import CodecError, decode_depth, decode_raw_depth
from mde.data.shards import read_manifest, read_row_group
from mde.errors import InputError
from mde.files import file_sha256, read_json
from mde.predictions import read_prediction_manifest
from mde.score.numpy_files import read_stack

SUFFIXES = (".npy", ".png")
GROUND_TRUTH = ["sample_id", "scene", "depth_scale", "gt_depth", "gt_height", "gt_width"]
SHOWN = 5
"""Names of what is missing that a message lists."""


@dataclass(frozen=True)
class Reading:
    """How files are to be read.

    key: of the array in a `.npz`. scale: codes per unit of 16-bit PNGs; where it is given, also of
    8-bit PNGs and arrays of integers. usual_scale: of 16-bit PNGs when it is not.
    """

    usual_scale: float
    key: str | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Maps:
    """Maps of images, each read when it is asked for.

    names: one for each, unique; `named` is false where they are nothing but numbers. read: index →
    (H,W) float32 or float64, or None where there is no map. how: in words, what was read.
    scenes: of each, if known. is_metric: whether depths are in m, if that is known.
    sha256: of the file, or of the manifest.
    """

    path: Path
    how: str
    names: list[str]
    read: Callable[[int], NDArray[Any] | None]
    named: bool = True
    scenes: list[str] = field(default_factory=list)
    is_metric: bool | None = None
    sha256: str | None = None

    def __len__(self) -> int:
        """How many maps there are."""
        return len(self.names)


def open_maps(path: Path, reading: Reading) -> Maps:
    """Find out what is at a path, and how many maps.

    path: `.npy`, `.npz` or `.png`; a folder of `.npy` and `.png`, with sub-folders; a folder of
    `mde predict-dataset`; or a converted dataset, whose test split's ground truth is meant.
    Raises InputError when it is none of these or damaged.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / "manifest.json").is_file():
            content = read_json(path / "manifest.json")
            is_dataset = isinstance(content, dict) and "schema_version" in content
            return _open_dataset(path) if is_dataset else _open_predictions(path)
        return _open_folder(path, reading)
    if path.suffix not in (*SUFFIXES, ".npz"):
        raise InputError(
            f"{path}: unknown kind of file; known: .npy, .npz, .png, and folders of .npy or .png"
        )
    if path.suffix == ".png":
        maps: Any = [_read_png(path, reading)]
    else:
        maps = read_stack(path, reading.key)
    sizes = Counter(f"{array.shape[0]}x{array.shape[1]}" for array in maps)
    how = f"{len(maps)} maps of {_few(sizes)} px, {maps[0].dtype}"
    names = [f"{index:06d}" for index in range(len(maps))]

    def read(index: int) -> NDArray[Any]:
        return _as_floats(f"{path}, map {index}", maps[index], reading.scale)

    return Maps(path, how, names, read, named=False, sha256=file_sha256(path))


def _open_folder(path: Path, reading: Reading) -> Maps:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{path}: no .npy or .png file in this folder")
    by_name = {file.relative_to(path).with_suffix("").as_posix(): file for file in files}
    if len(by_name) < len(files):
        first = next(f for f in files if f not in by_name.values())
        raise InputError(
            f"{path}: {len(files) - len(by_name)} names are there both as .npy and as .png, such "
            f"as {first.relative_to(path)}; leave one of each"
        )
    names = sorted(by_name)
    kinds = Counter(file.suffix.lower() for file in files)
    how = " and ".join(f"{count} {suffix} files" for suffix, count in sorted(kinds.items()))
    if kinds[".png"]:
        how += f", {reading.scale or reading.usual_scale:g} codes per unit"

    def read(index: int) -> NDArray[Any]:
        file = by_name[names[index]]
        if file.suffix.lower() == ".png":
            return _read_png(file, reading)
        maps = read_stack(file)
        if len(maps) != 1:
            raise InputError(f"{file}: {len(maps)} maps; files of a folder hold one each")
        return _as_floats(str(file), maps[0], reading.scale)

    return Maps(path, how, names, read)


def _read_png(file: Path, reading: Reading) -> NDArray[np.float32]:
    try:
        codes = decode_raw_depth(file.read_bytes())
    except CodecError as error:
        raise InputError(f"{file}: {error}") from error
    if codes.dtype == np.uint8 and reading.scale is None:
        raise InputError(
            f"{file}: 8 bits; too coarse for depth, and perhaps a picture of it. If it is depth, "
            "say how many codes make a metre, with --png-scale"
        )
    return codes.astype(np.float32) / np.float32(reading.scale or reading.usual_scale)


def _as_floats(what: str, array: NDArray[Any], scale: float | None) -> NDArray[Any]:
    if array.dtype.kind == "f":
        # A copy: the file's own pages cannot be written to, which torch does not like.
        return np.array(array, np.float64 if array.dtype.itemsize >= 8 else np.float32)
    if scale is None:
        raise InputError(
            f"{what}: integers ({array.dtype}); say how many make a metre, with --png-scale"
        )
    return array.astype(np.float32) / np.float32(scale)


def _open_predictions(path: Path) -> Maps:
    manifest = read_prediction_manifest(path)
    files = [(path / shard.file, shard.row_groups) for shard in manifest.shards]
    rows = _Rows(files, ["sample_id", "height", "width", "depth"])

    def read(index: int) -> NDArray[Any]:
        row = rows[index]
        return _decode(path, row, row["depth"], row["height"], row["width"], manifest.scale)

    return Maps(
        path,
        f"{manifest.rows} depths of {manifest.variant}, split {manifest.split}",
        rows.column("sample_id"),
        read,
        is_metric=manifest.is_metric,
        sha256=file_sha256(path / "manifest.json"),
    )


def _open_dataset(path: Path) -> Maps:
    shards = read_manifest(path).of_split("test")
    if not shards:
        raise InputError(f"{path}: the test split of this dataset is empty; there is no truth")
    rows = _Rows([(path / shard.file, shard.row_groups) for shard in shards], GROUND_TRUTH)

    def read(index: int) -> NDArray[Any] | None:
        row = rows[index]
        if row["gt_depth"] is None:
            return None
        size = row["gt_height"], row["gt_width"]
        return _decode(path, row, row["gt_depth"], *size, row["depth_scale"])

    names = rows.column("sample_id")
    how = f"ground truth of a converted dataset, {len(names)} images of the split test"
    digest = file_sha256(path / "manifest.json")
    return Maps(path, how, names, read, scenes=rows.column("scene"), sha256=digest)


def _decode(
    path: Path, row: Any, data: bytes, height: int, width: int, scale: float
) -> NDArray[np.float32]:
    try:
        return decode_depth(data, height, width, scale)
    except CodecError as error:
        raise InputError(f"{path}: {row['sample_id']}: {error}") from error


class _Rows:
    """Rows of Parquet files by index; the row group that was read last is kept."""

    def __init__(self, files: Iterable[tuple[Path, int]], columns: list[str]) -> None:
        self.groups = [(file, group) for file, number in files for group in range(number)]
        self.columns = columns
        lengths = [len(read_row_group(*group, ["sample_id"])) for group in self.groups]
        self.places = [(group, row) for group, n in enumerate(lengths) for row in range(n)]
        self.group = functools.lru_cache(maxsize=1)(self._read)

    def _read(self, index: int) -> pa.Table:
        return read_row_group(*self.groups[index], self.columns)

    def __getitem__(self, index: int) -> Any:
        group, row = self.places[index]
        return self.group(group).slice(row, 1).to_pylist()[0]

    def column(self, name: str) -> list[str]:
        """All values of a short column."""
        tables = (read_row_group(*group, [name]) for group in self.groups)
        return [value for table in tables for value in table[name].to_pylist()]


@dataclass(frozen=True)
class Pairing:
    """pairs: index of a ground truth and of the prediction for it, in the order of ground truths.

    unused: names of predictions without a ground truth.
    """

    pairs: list[tuple[int, int]]
    unused: list[str]


def pair(preds: Maps, targets: Maps, by_order: bool = False) -> Pairing:
    """Find the prediction of every ground truth.

    Stacks are paired by index; folders by relative path without suffix, or by file name alone where
    that is unique. by_order: also a stack with a folder, in the order of its names.
    Raises InputError when a ground truth has no prediction, or nothing says which is whose.
    """
    if by_order or not (preds.named or targets.named):
        if len(preds) != len(targets):
            raise InputError(
                f"{preds.path} has {len(preds)} maps, {targets.path} has {len(targets)}: they are "
                "paired by their order and have to be as many"
            )
        return Pairing([(index, index) for index in range(len(targets))], [])
    if preds.named != targets.named:
        raise InputError(
            f"{preds.path} and {targets.path}: one has names and the other only an order; give "
            "--by-order if the n-th map belongs to the n-th name"
        )
    return _pair_names(preds, targets)


def _pair_names(preds: Maps, targets: Maps) -> Pairing:
    wanted, known = targets.names, {name: index for index, name in enumerate(preds.names)}
    missing = [name for name in wanted if name not in known]
    if missing:
        stems = [name.rpartition("/")[2] for name in wanted]
        by_stem = {name.rpartition("/")[2]: index for index, name in enumerate(preds.names)}
        unique = len(set(stems)) == len(stems) and len(by_stem) == len(preds)
        if unique and all(stem in by_stem for stem in stems):
            wanted, known = stems, by_stem
        else:
            raise InputError(
                f"{preds.path}: no prediction for {len(missing)} of {len(wanted)} ground truths: "
                f"{_few(missing)}; there are predictions for {_few(preds.names)}"
            )
    pairs = [(index, known[name]) for index, name in enumerate(wanted)]
    used = {index for _, index in pairs}
    return Pairing(pairs, [name for i, name in enumerate(preds.names) if i not in used])


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))
