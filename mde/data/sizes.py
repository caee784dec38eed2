"""The quick check of a dataset that is too large to be read through before each training."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mde.data.place import Place, join, show
from mde.errors import InputError
from mde.storage import open_storage

if TYPE_CHECKING:
    from mde.data.shards import Shard

WHOLE_UP_TO = 2**40
"""Bytes of a dataset that are all read before a training; it takes minutes."""
SAMPLED = 16
"""Shards of a larger one that are read. Were a fifth of them of another conversion, 97 of 100
starts would notice."""


def check_sizes(folder: Place, shards: "Sequence[Shard]") -> "list[Shard]":
    """Compare all sizes, from one listing; gives some shards by chance, to be read as well.

    Says so on stderr. A bit that has flipped since is still found where it is read, by the page's
    checksum. Raises InputError that names the first shard that is not there or of another size.
    """
    found = _sizes_in(folder)
    wrong = next((shard for shard in shards if found.get(shard.file) != shard.bytes), None)
    if wrong is not None:
        path, size = show(join(folder, wrong.file)), found.get(wrong.file)
        what = f"{size} bytes, the manifest says {wrong.bytes}"
        if size is None:
            what = "in the manifest, but not there"
        raise InputError(f"{path}: {what}; convert the data again")
    chosen = random.sample(shards, min(SAMPLED, len(shards)))
    total = sum(shard.bytes for shard in shards)
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"{show(folder)}: {total / 1e12:.1f} TB are too many to read through at each start: sizes "
        f"of all {len(shards)} shards compared, SHA-256 of {len(chosen)}"
    )
    return chosen


def _sizes_in(folder: Place) -> dict[str, int]:
    if not isinstance(folder, Path):
        return open_storage(folder).sizes()
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries}
