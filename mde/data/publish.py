"""A converted dataset on storage that all nodes see, copied there once for each of its versions.

`data/shards/NAME` is DVC's, and says which version is meant. What all nodes read is
`<cluster.data>/<SHA-256 of the manifest>/NAME`: a version is never changed, so that a conversion
does not take the data from under a training that runs, and nobody's branch replaces another's.
"""

import functools
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from mde.data.place import Place, join, read_bytes, resolve, show
from mde.data.shards import Manifest, Shard, find_fault, read_manifest
from mde.errors import InputError
from mde.storage import Storage, join_uri, open_storage

MANIFEST = "manifest.json"
DIGITS = 16
AT_ONCE = 4


def published(shards: Path, shared: str | None) -> Place:
    """Where the stages read a dataset: at `shared`, which gets what it lacks.

    shards: the folder that the conversion writes. shared: `cluster.data`; None: `shards` it is.
    Without `shards`, and where somebody has copied it there, it is read at `<shared>/NAME`. Raises
    InputError for a damaged shard, when not all has arrived, and for a server that fails.
    """
    if shared is None:
        return shards
    try:
        return _published(shards, shared)
    except OSError as error:
        raise InputError(
            f"cluster.data: {show(shared)} cannot be used: {error}; mde doctor says more; start "
            "again to go on from the shards that are there"
        ) from error


def _published(shards: Path, shared: str) -> Place:
    flat = join_uri(shared, shards.name)
    if not (shards / MANIFEST).is_file():
        return flat
    content = (shards / MANIFEST).read_bytes()
    if _content(join(resolve(flat), MANIFEST)) == content:
        return flat
    version = hashlib.sha256(content).hexdigest()[:DIGITS]
    place = join_uri(join_uri(shared, version), shards.name)
    _bring(shards, read_manifest(shards), open_storage(place))
    return place


def _content(place: Place) -> bytes | None:
    try:
        return read_bytes(place)
    except FileNotFoundError:
        return None


def _bring(shards: Path, manifest: Manifest, storage: Storage) -> None:
    """Copy what is missing, the manifest last: a folder with a manifest is whole."""
    there = storage.sizes()
    missing = [shard for shard in manifest.shards if there.get(shard.file) != shard.bytes]
    if MANIFEST in there and not missing:
        return
    where = show(storage.uri)
    total = sum(shard.bytes for shard in missing)
    print(
        f"{shards.name}: {len(missing)} of {len(manifest.shards)} shards ({total / 1e6:.0f} MB) go "
        f"to {where}",
        file=sys.stderr,
        flush=True,
    )
    storage.delete(MANIFEST)
    with ThreadPoolExecutor(AT_ONCE) as pool, Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        transient=True, console=Console(stderr=True),
    ) as bar:  # fmt: skip
        task = bar.add_task("publishing", total=total)
        done = pool.map(functools.partial(_put, shards, manifest, storage), missing)
        try:
            for shard, _ in zip(missing, done, strict=True):
                bar.advance(task, shard.bytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    there = storage.sizes()
    if lost := [shard.file for shard in manifest.shards if there.get(shard.file) != shard.bytes]:
        raise InputError(f"{where}: {', '.join(lost[:3])} did not arrive whole; start again")
    storage.put_file(MANIFEST, shards / MANIFEST)


def _put(shards: Path, manifest: Manifest, storage: Storage, shard: Shard) -> None:
    if fault := find_fault(shards, manifest, shard):
        raise InputError(fault)
    storage.put_file(shard.file, shards / shard.file)
