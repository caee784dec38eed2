"""Parquet shards: written atomically, verified by SHA-256, read with page checksums.

A dataset is a folder of `<split>-NNNNN.parquet` and `manifest.json`, which is written last: a
folder with a manifest is whole.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mde.errors import InputError
from mde.files import read_json, write_json
from mde.schema import SCHEMA_VERSION, SPLITS, Row

ROWS_PER_GROUP = 16
"""Small enough to shuffle by row groups; reading still costs nothing beside decoding."""

ROW_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("scene", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("image_prev", pa.binary()),
        pa.field("image_next", pa.binary()),
        pa.field("image_stereo", pa.binary()),
        pa.field("K", pa.list_(pa.float32(), 9), nullable=False),
        pa.field("baseline_m", pa.float32()),
        pa.field("depth", pa.binary()),
        pa.field("depth_scale", pa.float32(), nullable=False),
        pa.field("gt_depth", pa.binary()),
        pa.field("gt_height", pa.int32(), nullable=False),
        pa.field("gt_width", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a dataset, as the manifest knows it."""

    file: str
    split: str
    rows: int
    row_groups: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Rejected:
    """An input frame that did not become a row, and why."""

    sample_id: str
    split: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds. `statistics` has depth mean, min and max (m) by split."""

    source: str
    config: dict[str, Any]
    shards: list[Shard]
    rejected: list[Rejected]
    statistics: dict[str, dict[str, float]]
    schema_version: int = SCHEMA_VERSION

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each split."""
        return {split: sum(shard.rows for shard in self.of_split(split)) for split in SPLITS}

    def of_split(self, split: str) -> list[Shard]:
        """The shards of a split, in order."""
        return [shard for shard in self.shards if shard.split == split]


def write_shard(folder: Path, split: str, index: int, rows: list[Row]) -> Shard:
    """Write rows as shard `index` of a split: temporary name, fsync, rename. Raises OSError."""
    path = folder / f"{split}-{index:05d}.parquet"
    draft = path.with_suffix(".tmp")
    table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
    try:
        # The cells are compressed already: page compression and dictionaries only cost.
        pq.write_table(
            table,
            draft,
            row_group_size=ROWS_PER_GROUP,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    row_groups = -(-len(rows) // ROWS_PER_GROUP)
    return Shard(path.name, split, len(rows), row_groups, path.stat().st_size, digest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; from then on the folder counts as a dataset."""
    write_json(folder / "manifest.json", {**asdict(manifest), "counts": manifest.counts})


def read_manifest(folder: Path) -> Manifest:
    """Read a dataset's manifest. Raises InputError when there is none or of another version."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError(f"{folder}: no dataset here: manifest.json is missing; convert it first")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: not of schema version {SCHEMA_VERSION}; convert the data again")
    content.pop("counts", None)
    try:
        shards = [Shard(**shard) for shard in content.pop("shards")]
        rejected = [Rejected(**frame) for frame in content.pop("rejected")]
        return Manifest(shards=shards, rejected=rejected, **content)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest ({error}); convert the data again") from error


def verified_sha256(folder: Path) -> str:
    """Verify a dataset; returns its identity, the SHA-256 of its manifest.

    Raises InputError as `read_manifest` and `verify_shards` do.
    """
    verify_shards(folder, read_manifest(folder))
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def verify_shards(folder: Path, manifest: Manifest) -> None:
    """Compare every shard with the manifest; raises InputError that names the first bad one."""
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.is_file():
            raise InputError(f"{path}: in the manifest, but not there; convert the data again")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != shard.sha256:
            raise InputError(f"{path}: SHA-256 differs from the manifest; convert the data again")
    extra = {p.name for p in folder.glob("*.parquet")} - {shard.file for shard in manifest.shards}
    if extra:
        raise InputError(
            f"{folder}: shards that are not in the manifest: {', '.join(sorted(extra))}"
        )


def read_row_group(path: Path, row_group: int, columns: list[str] | None = None) -> pa.Table:
    """Read one row group with its page checksums verified.

    Raises InputError that names file and row group when a checksum is wrong.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read_row_group(row_group, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: row group {row_group} is damaged: {error}") from error


def read_rows(folder: Path, split: str) -> Iterator[Row]:
    """All rows of a split, in stored order."""
    for shard in read_manifest(folder).of_split(split):
        for row_group in range(shard.row_groups):
            yield from read_row_group(folder / shard.file, row_group).to_pylist()
