"""What all parts share: where things are, how large they are, and the datasets that are read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from benchmarks.made_data import make_drives, make_rooms
from benchmarks.timing import alone
from mde.cluster.session import connect
from mde.data.convert import convert, run_one_by_one
from mde.data.shards import read_manifest, write_manifest
from mde.data.sources import SourceConfig, get_source
from mde.files import fresh_folder
from mde.schema import SPLITS

NYU_STORED, KITTI_STORED = (240, 320), (192, 640)
"""Stored sizes (H, W), px. FastDepth's first step is a resize to 250 high."""


@dataclass(frozen=True)
class Setup:
    """work: folder of raw data and datasets. frames: NYU files. triplets: of KITTI.

    rounds: runs of each side. workers: processes that decode, on both sides.
    """

    work: Path
    frames: int
    triplets: int
    rounds: int
    console: Console
    workers: int = os.cpu_count() or 1


def nyu_config(raw: Path, rows_per_shard: int, **keys: Any) -> SourceConfig:
    """FastDepth's files, to be stored at a size near that of its first step."""
    height, width = NYU_STORED
    return get_source("nyu_h5").Config(
        source="nyu_h5", raw=str(raw), height=height, width=width,
        rows_per_shard=rows_per_shard, **keys,
    )  # fmt: skip


def nyu_dataset(setup: Setup, epoch_rows: int) -> Path:
    """The made NYU files, converted; an epoch has at least so many rows.

    It reads shards several times for that: else it would end before a steady state is reached.
    """
    config = nyu_config(make_rooms(setup.work, setup.frames), 256)
    return repeated(_converted(setup.work, config), -(-epoch_rows // setup.frames))


def kitti_dataset(setup: Setup, epoch_rows: int, stored: tuple[int, int] = KITTI_STORED) -> Path:
    """The made KITTI triplets, converted to (H, W); an epoch has at least so many rows."""
    height, width = stored
    config = get_source("kitti").Config(
        source="kitti", raw=str(make_drives(setup.work, setup.triplets)), height=height,
        width=width, rows_per_shard=64, train="train_files.txt",
        images=("image_prev", "image_next"),  # type: ignore[call-arg]
    )  # fmt: skip
    return repeated(_converted(setup.work, config), -(-epoch_rows // setup.triplets))


def _converted(work: Path, config: SourceConfig) -> Path:
    # The name tells the settings that may change between two runs in one work folder.
    out = work / f"{Path(config.raw).name}-{config.height}x{config.width}-stored"
    if not (out / "manifest.json").is_file():
        alone(convert, config, work, out, run_one_by_one)
    return out


def repeated(folder: Path, times: int, splits: tuple[str, ...] = SPLITS) -> Path:
    """A dataset beside another one that has each of its shards, of some splits, so many times."""
    out = folder.with_name(f"{folder.name}-x{times}")
    if not out.is_dir():
        with fresh_folder(out) as draft:
            manifest = read_manifest(folder)
            shards = [shard for shard in manifest.shards if shard.split in splits]
            for shard in shards:
                (draft / shard.file).symlink_to(folder / shard.file)
            write_manifest(draft, replace(manifest, shards=shards * times))
    return out


def read_once(folder: Path) -> None:
    """Bring all files of a folder into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


@contextmanager
def local_ray() -> Iterator[None]:
    """A Ray cluster of this process's own."""
    connect()
    try:
        yield
    finally:
        ray.shutdown()
