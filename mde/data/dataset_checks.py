"""A dataset as a whole: do its files and the rows found in them agree with its manifest?"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq

from mde.data.row_checks import Expected, RowCheck
from mde.data.shards import ROW_SCHEMA, Manifest, Shard, find_duplicates, find_fault
from mde.errors import InputError
from mde.schema import SPLITS

EXAMPLES = 5
"""So many samples are named in one message; the others are counted."""


class Sample(NamedTuple):
    """A row in short. digest: of its image; empty when that was not read. file: its shard."""

    sample_id: str
    scene: str
    digest: str
    file: str


@dataclass
class SplitFound:
    """What was found of a split. unread: shards and row groups that could not be read."""

    shards: int = 0
    bytes: int = 0
    unread: int = 0
    samples: list[Sample] = field(default_factory=list)
    check: RowCheck = field(default_factory=RowCheck)

    @property
    def scenes(self) -> set[str]:
        """Names of its scenes."""
        return {sample.scene for sample in self.samples}


def is_named_right(shard: Shard) -> bool:
    """Whether the name is `<split>-NNNNN.parquet`, so that it lies in the dataset's folder."""
    name = re.fullmatch(r"(\w+)-\d{5,}\.parquet", shard.file)
    return shard.split in SPLITS and name is not None and name[1] == shard.split


def check_names(manifest: Manifest) -> Iterator[str]:
    """Shards that the manifest gives a wrong name or lists twice."""
    names = [shard.file for shard in manifest.shards]
    if not names:
        yield "manifest.json: no shard in it"
    for shard in manifest.shards:
        if not is_named_right(shard):
            yield (
                f"manifest.json: shard '{shard.file}' of split '{shard.split}': a shard is named "
                f"<split>-NNNNN.parquet and split is one of {', '.join(SPLITS)}"
            )
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"manifest.json: shard {name} is listed {names.count(name)} times"


def check_file(folder: Path, manifest: Manifest, shard: Shard) -> tuple[list[str], list[int]]:
    """Faults of a shard as a file, and the rows of each row group that can be read."""
    path = folder / shard.file
    fault = find_fault(folder, manifest, shard)
    faults = [fault] if fault else []
    if not path.is_file():
        return faults, []
    if (size := path.stat().st_size) != shard.bytes:
        faults.append(f"{path}: {size} bytes, the manifest says {shard.bytes}")
    try:
        with pq.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
            groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        return [*faults, f"{path}: not a whole Parquet file: {error}"], []
    counts = {
        "rows": (metadata.num_rows, shard.rows),
        "row groups": (len(groups), shard.row_groups),
    }
    for what, (found, stated) in counts.items():
        if found != stated:
            faults.append(f"{path}: {found} {what}, the manifest says {stated}")
    columns = [f"{path}: {fault}" for fault in _check_schema(schema)]
    return faults + columns, [] if columns else groups


def _check_schema(schema: pa.Schema) -> Iterator[str]:
    for field_ in ROW_SCHEMA:
        if field_.name not in schema.names:
            yield f"column {field_.name} is missing"
        elif not schema.field(field_.name).equals(field_):
            yield f"column '{schema.field(field_.name)}' must be '{field_}'"
    for name in schema.names:
        if name not in ROW_SCHEMA.names:
            yield f"column {name} is not part of a row"


def expected_rows(manifest: Manifest, split: str) -> Expected:
    """What the manifest says of each row of a split."""
    size = manifest.config.get("height"), manifest.config.get("width")
    stated = manifest.statistics.get(split, {})
    low, high = stated.get("depth_min"), stated.get("depth_max")
    return Expected(
        size=size if isinstance(size[0], int) and isinstance(size[1], int) else None,  # type: ignore[arg-type]
        depth=(low, high) if _is_number(low) and _is_number(high) else None,
    )


def check_samples(
    manifest: Manifest, splits: dict[str, SplitFound], decoded: bool
) -> Iterator[str]:
    """Names that are there twice, scenes of test in other splits, images that are there twice."""
    files: dict[str, list[str]] = defaultdict(list)
    for split in splits.values():
        for sample in split.samples:
            files[sample.sample_id].append(sample.file)
    twice = [f"{name} ({', '.join(where)})" for name, where in files.items() if len(where) > 1]
    if twice:
        yield f"{len(twice)} sample_ids are there more than once: {some(twice)}"
    back = [frame.sample_id for frame in manifest.rejected if frame.sample_id in files]
    if back:
        yield f"{len(back)} samples are there and, by the manifest, rejected: {some(back)}"
    shared = splits["test"].scenes & (splits["train"].scenes | splits["val"].scenes)
    if shared and not manifest.config.get("allow_shared_scenes", False):
        yield f"{len(shared)} scenes of test are in train or val too: {some(sorted(shared))}"
    if decoded:
        yield from _check_duplicates(manifest, splits)


def _check_duplicates(manifest: Manifest, splits: dict[str, SplitFound]) -> Iterator[str]:
    images = [
        (name, sample.sample_id, sample.digest)
        for name, split in splits.items()
        for sample in split.samples
    ]
    try:
        allowed = bool(manifest.config.get("allow_duplicates", False))
        found = {tuple(sorted(names)) for names in find_duplicates(images, allowed)}
    except InputError as error:
        yield str(error)
        return
    stated = {tuple(sorted(names)) for names in manifest.duplicates}
    for names in sorted(found - stated):
        yield f"the same image, and not in the manifest's duplicates: {some(names)}"
    for names in sorted(stated - found):
        yield f"in the manifest's duplicates, and not the same image: {some(names)}"


def check_counts(
    manifest: Manifest, counts: Any, splits: dict[str, SplitFound], decoded: bool
) -> tuple[list[str], list[str]]:
    """Counts and statistics of the manifest that differ from the rows, and what was not compared.

    counts: what the manifest's file says, which `Manifest` does not keep.
    """
    faults, skipped = [], []
    for name, split in splits.items():
        if split.unread:
            skipped.append(f"counts and statistics of {name}")
            continue
        said = counts.get(name) if isinstance(counts, dict) else counts
        if said != len(split.samples):
            faults.append(f"manifest.json: counts.{name} is {said}, found {len(split.samples)}")
        stated = manifest.statistics.get(name, {})
        if stated.get("rows") != len(split.samples):
            faults.append(
                f"manifest.json: statistics.{name}.rows is {stated.get('rows')}, "
                f"found {len(split.samples)}"
            )
        if decoded and split.check.uncounted:
            skipped.append(f"statistics of {name}")
        elif decoded:
            faults += _check_depth(name, stated, split.check)
    return faults, skipped


def _check_depth(name: str, stated: dict[str, Any], check: RowCheck) -> Iterator[str]:
    found = check.statistics.summary()
    for key in ("depth_pixels", "depth_mean", "depth_min", "depth_max"):
        tolerance = 0 if key == "depth_pixels" else check.tolerance_m
        said, real = stated.get(key), found.get(key)
        if said is None and real is None:
            continue
        if not (_is_number(said) and _is_number(real) and abs(said - real) <= tolerance):
            yield f"manifest.json: statistics.{name}.{key} is {said}, found {real}"


def some(items: Collection[str]) -> str:
    """The first few, and how many more."""
    more = f", and {len(items) - EXAMPLES} more" if len(items) > EXAMPLES else ""
    return ", ".join(list(items)[:EXAMPLES]) + more


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
