"""Parquet shards: written atomically, verified by SHA-256, read with page checksums.

A dataset is a folder of `<split>-NNNNN.parquet` and `manifest.json`, which is written last: a
folder with a manifest is whole.
"""

import functools
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from mde.data.frames import Rejected
from mde.data.place import (
    Place,
    join,
    names_in,
    open_input,
    read_bytes,
    resolve,
    sha256_of,
    show,
    size_of,
)
from mde.data.sizes import WHOLE_UP_TO, check_sizes
from mde.errors import InputError
from mde.files import file_sha256, without_collector, write_json
from mde.schema import SCHEMA_VERSION, SPLITS, Row

ROWS_PER_GROUP = 16
"""Small enough to shuffle by row groups; reading still costs nothing beside decoding."""

VERIFY_AT_ONCE = 4
"""Shards that are hashed side by side."""
QUIET_S = 3
"""After so long a bar shows how far verifying is."""

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
    invalid: dict[str, int] = field(default_factory=dict)
    """Depth pixels that were NaN, infinite or negative, and are stored as 0."""


@dataclass(frozen=True)
class Manifest:
    """What a dataset holds.

    rejected: every input frame that is not in a shard, with its reason. duplicates: groups of
    samples with the same image. statistics: rows and depth by split. precision: what storing has
    changed, see `mde.data.convert.precision`. raw: `mde.data.raw.fingerprint.RawState` of the raw
    files that it was made from.
    """

    source: str
    config: dict[str, Any]
    shards: list[Shard]
    rejected: list[Rejected]
    statistics: dict[str, dict[str, Any]]
    duplicates: list[list[str]] = field(default_factory=list)
    precision: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each split."""
        return {split: sum(shard.rows for shard in self.of_split(split)) for split in SPLITS}

    def of_split(self, split: str) -> list[Shard]:
        """The shards of a split, in order."""
        return [shard for shard in self.shards if shard.split == split]


def write_shard(
    folder: Path, split: str, index: int, rows: list[Row], invalid: dict[str, int] | None = None
) -> Shard:
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
        digest = file_sha256(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    row_groups = -(-len(rows) // ROWS_PER_GROUP)
    return Shard(
        path.name, split, len(rows), row_groups, path.stat().st_size, digest, invalid or {}
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; from then on the folder counts as a dataset."""
    shards, rejected = ([vars(part) for part in of] for of in (manifest.shards, manifest.rejected))
    content = {**vars(manifest), "shards": shards, "rejected": rejected, "counts": manifest.counts}
    with without_collector():
        write_json(folder / "manifest.json", content)


def read_manifest(folder: Place) -> Manifest:
    """Read a dataset's manifest. Raises InputError when there is none or of another version."""
    place = join(resolve(folder), "manifest.json")
    with without_collector():
        return _parse(folder, place)


def _parse(folder: Place, place: Place) -> Manifest:
    path = show(place)
    try:
        content = json.loads(read_bytes(place))
    except FileNotFoundError:
        raise InputError(
            f"{show(folder)}: no dataset here: manifest.json is missing; convert it first"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}; convert the data again") from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: not of schema version {SCHEMA_VERSION}; convert the data again")
    content.pop("counts", None)
    try:
        shards = [Shard(**shard) for shard in content.pop("shards")]
        rejected = [Rejected(**frame) for frame in content.pop("rejected")]
        return Manifest(shards=shards, rejected=rejected, **content)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest ({error}); convert the data again") from error


def image_digest(data: bytes) -> str:
    """Short name of a stored image; the same pixels, stored alike, have the same."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def find_duplicates(
    images: Iterable[tuple[str, str, str]], allow_across: bool = False
) -> list[list[str]]:
    """Groups of samples with the same image, of (split, sample_id, digest).

    Raises InputError when such samples are in two splits, unless `allow_across`.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for split, sample_id, digest in images:
        groups.setdefault(digest, []).append((split, sample_id))
    same = [group for group in groups.values() if len(group) > 1]
    leaks = [group for group in same if len({split for split, _ in group}) > 1]
    if leaks and not allow_across:
        examples = "; ".join(
            " = ".join(f"{split} {sample_id}" for split, sample_id in group) for group in leaks[:5]
        )
        raise InputError(
            f"{len(leaks)} images are in more than one split: {examples}; take them out of one, "
            "or set allow_duplicates: true"
        )
    return [[sample_id for _, sample_id in group] for group in same]


def verified_sha256(folder: Place) -> str:
    """Verify a dataset; returns its identity, the SHA-256 of its manifest.

    Raises InputError as `read_manifest` and `verify_shards` do.
    """
    verify_shards(folder, read_manifest(folder))
    return hashlib.sha256(read_bytes(join(resolve(folder), "manifest.json"))).hexdigest()


def verify_shards(folder: Place, manifest: Manifest) -> None:
    """Compare every shard with the manifest, several at a time, every byte of them.

    A dataset in an object store is read through once for that: its sizes alone would not tell a
    flipped bit or a shard of another conversion. Of one above 1 TiB the sizes of all shards are
    compared, and the bytes of some. After a few seconds a bar shows how far it is.
    Raises InputError that names the first bad shard.
    """
    folder, shards, started = resolve(folder), manifest.shards, time.monotonic()
    if sum(shard.bytes for shard in shards) > WHOLE_UP_TO:
        shards = check_sizes(folder, shards)
    total = sum(shard.bytes for shard in shards)
    with ThreadPoolExecutor(VERIFY_AT_ONCE) as pool, Progress(
        "[progress.description]{task.description}", BarColumn(), DownloadColumn(),
        TimeRemainingColumn(), transient=True, auto_refresh=False, console=Console(stderr=True),
    ) as bar:  # fmt: skip
        task = bar.add_task("verifying the shards", total=total, visible=False)
        faults = pool.map(functools.partial(find_fault, folder, manifest), shards)
        for shard, fault in zip(shards, faults, strict=True):
            if fault:
                pool.shutdown(wait=False, cancel_futures=True)
                raise InputError(fault)
            late = time.monotonic() - started > QUIET_S
            bar.update(task, advance=shard.bytes, visible=late, refresh=late)
    if fault := find_extra(folder, manifest):
        raise InputError(fault)


def find_fault(folder: Place, manifest: Manifest, shard: Shard) -> str | None:
    """What is wrong with the file of a shard as a whole, if anything."""
    place = join(resolve(folder), shard.file)
    path = show(place)
    try:
        size = size_of(place)
        if size is None:
            return f"{path}: in the manifest, but not there; convert the data again"
        # A remote shard of another size need not be fetched to be known as wrong.
        wrong_size = size != shard.bytes and isinstance(place, str)
        digest = "" if wrong_size else sha256_of(place)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror or error}"
    if wrong_size:
        return f"{path}: {size} bytes, the manifest says {shard.bytes}; convert the data again"
    if digest == shard.sha256:
        return None
    owner = next((f" (it is {s.file}'s)" for s in manifest.shards if s.sha256 == digest), "")
    return f"{path}: SHA-256 differs from the manifest{owner}; convert the data again"


def find_extra(folder: Place, manifest: Manifest) -> str | None:
    """Which shards are in the folder and not in the manifest, if any."""
    shards = {name for name in names_in(resolve(folder)) if name.endswith(".parquet")}
    if extra := shards - {shard.file for shard in manifest.shards}:
        names = ", ".join(sorted(extra))
        return f"{show(folder)}: shards that are not in the manifest: {names}"
    return None


def read_row_group(
    place: Place,
    row_group: int,
    columns: list[str] | None = None,
    footer: pq.FileMetaData | None = None,
) -> pa.Table:
    """Read one row group with its page checksums verified.

    footer: of the file, if it has been read before. Of an object in a store no more than the footer
    and the columns of the row group are fetched.
    Raises InputError that names file and row group when it is not there or a checksum is wrong.
    """
    try:
        with pq.ParquetFile(
            open_input(place),
            metadata=footer,
            page_checksum_verification=True,
            # All columns in one request or few; a disk does not need it.
            pre_buffer=isinstance(place, str),
        ) as file:
            return file.read_row_group(row_group, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{show(place)}: row group {row_group} is damaged: {error}") from error


def read_footer(place: Place) -> pq.FileMetaData:
    """Where everything is in a shard. Raises InputError when it is not there or damaged."""
    try:
        return pq.read_metadata(open_input(place))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{show(place)}: its footer is damaged: {error}") from error


def read_rows(folder: Place, split: str) -> Iterator[Row]:
    """All rows of a split, in stored order."""
    for shard in read_manifest(folder).of_split(split):
        for row_group in range(shard.row_groups):
            yield from read_row_group(join(resolve(folder), shard.file), row_group).to_pylist()
