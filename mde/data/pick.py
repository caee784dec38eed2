"""A few rows of a dataset: spread over its splits, or by name."""

import difflib
import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mde.data.place import Place, join, open_input, resolve, show
from mde.data.shards import ROWS_PER_GROUP, Manifest, Shard, read_row_group
from mde.errors import InputError
from mde.schema import SPLITS, Row


def pick_rows(
    folder: Place, manifest: Manifest, count: int, split: str | None = None, seed: int = 0
) -> list[tuple[str, Row]]:
    """At most `count` rows with their split, as many of each split as there are.

    In stored order, each from another stretch of its split, so that they show many scenes.
    Raises InputError when the split is unknown or has no row, or a row group is damaged.
    """
    names = SPLITS if split is None else (split,)
    available = {name: sum(s.rows for s in manifest.of_split(name)) for name in names}
    if not any(available.values()):
        known = ", ".join(name for name, rows in manifest.counts.items() if rows)
        raise InputError(
            f"{show(folder)}: no rows of split '{split}'; there are: {known or 'none'}"
        )
    rng = np.random.default_rng(seed)
    picked = []
    for name, share in share_out(count, available).items():
        bounds = [i * available[name] // share for i in range(share + 1)] if share else []
        for low, high in itertools.pairwise(bounds):
            position = int(rng.integers(low, high))
            picked.append((name, _read_at(folder, manifest.of_split(name), position)))
    return picked


def share_out(count: int, available: dict[str, int]) -> dict[str, int]:
    """Deal `count` one by one to the names in turn, to each at most what is available."""
    shares = dict.fromkeys(available, 0)
    while count > 0 and shares != available:
        for name in available:
            if count > 0 and shares[name] < available[name]:
                shares[name] += 1
                count -= 1
    return shares


def find_rows(folder: Place, manifest: Manifest, ids: Sequence[str]) -> list[tuple[str, Row]]:
    """The rows of these names with their split, in this order.

    Raises InputError that tells the nearest name when one is not there, or when a shard is damaged.
    """
    where: dict[str, tuple[Shard, int]] = {}
    for shard in manifest.shards:
        if where.keys() >= set(ids):
            break
        names = _read_names(join(resolve(folder), shard.file))
        where |= {name: (shard, position) for position, name in enumerate(names)}
    for name in ids:
        if name not in where:
            near = difflib.get_close_matches(name, where, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"{show(folder)}: no sample '{name}'{hint}")
    found = [where[name] for name in ids]
    return [(shard.split, _read_at(folder, [shard], position)) for shard, position in found]


def _read_names(place: Place) -> list[str]:
    """The sample_id of each row of a shard; of a remote one, many row groups at a time."""
    try:
        with pq.ParquetFile(
            open_input(place), page_checksum_verification=True, pre_buffer=isinstance(place, str)
        ) as file:
            names: list[str] = file.read(["sample_id"])["sample_id"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{show(place)}: the names of its rows are damaged: {error}") from error
    return names


def _read_at(folder: Place, shards: list[Shard], position: int) -> Row:
    for shard in shards:
        if position < shard.rows:
            number, n = divmod(position, ROWS_PER_GROUP)
            table = read_row_group(join(resolve(folder), shard.file), number)
            row: Row = table.slice(n, 1).to_pylist()[0]
            return row
        position -= shard.rows
    raise IndexError(position)
