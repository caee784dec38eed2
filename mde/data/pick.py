"""A few rows of a dataset: spread over its splits, or by name."""

import difflib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mde.data.shards import ROWS_PER_GROUP, Manifest, Shard, read_row_group
from mde.errors import InputError
from mde.schema import SPLITS, Row


def pick_rows(
    folder: Path, manifest: Manifest, count: int, split: str | None = None, seed: int = 0
) -> list[tuple[str, Row]]:
    """At most `count` rows with their split, as many of each split as there are.

    In stored order, each from another stretch of its split, so that they show many scenes.
    Raises InputError when the split is unknown or has no row, or a row group is damaged.
    """
    names = SPLITS if split is None else (split,)
    available = {name: sum(s.rows for s in manifest.of_split(name)) for name in names}
    if not any(available.values()):
        known = ", ".join(name for name, rows in manifest.counts.items() if rows)
        raise InputError(f"{folder}: no rows of split '{split}'; there are: {known or 'none'}")
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


def find_rows(folder: Path, manifest: Manifest, ids: Sequence[str]) -> list[tuple[str, Row]]:
    """The rows of these names with their split, in this order.

    Raises InputError that tells the nearest name when one is not there.
    """
    where = {
        name: (shard.split, shard, number, n)
        for shard, number in _row_groups(manifest)
        for n, name in enumerate(
            read_row_group(folder / shard.file, number, ["sample_id"])["sample_id"].to_pylist()
        )
    }
    rows = []
    for name in ids:
        if name not in where:
            near = difflib.get_close_matches(name, where, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"{folder}: no sample '{name}'{hint}")
        split, shard, number, n = where[name]
        rows.append((split, read_row_group(folder / shard.file, number).slice(n, 1).to_pylist()[0]))
    return rows


def _row_groups(manifest: Manifest) -> Iterator[tuple[Shard, int]]:
    for shard in manifest.shards:
        for number in range(shard.row_groups):
            yield shard, number


def _read_at(folder: Path, shards: list[Shard], position: int) -> Row:
    for shard in shards:
        if position < shard.rows:
            number, n = divmod(position, ROWS_PER_GROUP)
            row: Row = read_row_group(folder / shard.file, number).slice(n, 1).to_pylist()[0]
            return row
        position -= shard.rows
    raise IndexError(position)
