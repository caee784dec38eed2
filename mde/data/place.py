"""Where a dataset lies: a folder, or a prefix of an object store. Both are read the same way."""

import functools
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mde.bucket import parse_bucket
from mde.files import file_sha256
from mde.storage import FolderStorage, join_uri, open_storage

Place = Path | str
"""A path, or a URI as `mde.storage.open_storage` takes it: s3://bucket/folder?region=…"""


def resolve(place: Place) -> Place:
    """A path or file://… → Path; other URIs stay. Raises InputError for an unknown scheme."""
    if isinstance(place, Path) or "://" not in place:
        return Path(place)
    storage = open_storage(place)
    return storage.path if isinstance(storage, FolderStorage) else place


def join(folder: Place, name: str) -> Place:
    """The place of a file in a folder."""
    return folder / name if isinstance(folder, Path) else join_uri(folder, name)


def show(place: Place) -> str:
    """A place for people: a URI without its options and without credentials."""
    if isinstance(place, Path) or "://" not in place:
        return str(place)
    parts = urlsplit(place)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def open_input(place: Place) -> Any:
    """A file to read at any position: a path as it is, else a stream of pyarrow.

    Raises OSError when an object is not there.
    """
    if isinstance(place, Path):
        return place
    system, key = _find(place)
    return system.open_input_file(key)


def read_bytes(place: Place) -> bytes:
    """A file's content. Raises FileNotFoundError when there is none."""
    if isinstance(place, Path):
        return place.read_bytes()
    system, key = _find(place)
    with system.open_input_stream(key, compression=None) as stream:
        content: bytes = stream.read()
    return content


def size_of(place: Place) -> int | None:
    """Bytes of a file; None when there is none."""
    if isinstance(place, Path):
        return place.stat().st_size if place.is_file() else None
    system, key = _find(place)
    info = system.get_file_info(key)
    return info.size if info.is_file else None


def names_in(folder: Place) -> set[str]:
    """Names of the files and folders right below a folder."""
    if isinstance(folder, Path):
        return {path.name for path in folder.iterdir()}
    return set(open_storage(folder).names())


def sha256_of(place: Place) -> str:
    """SHA-256 of a file, in hex; an object is streamed."""
    if isinstance(place, Path):
        return file_sha256(place)
    system, key = _find(place)
    digest = hashlib.sha256()
    with system.open_input_stream(key, compression=None) as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def open_reader(folder: str) -> tuple[Any, str]:
    """Arrow's file system of an s3:// folder, to read from, and the folder in it.

    Faster than the client of `mde.bucket`, as it does its work without Python; but it puts down
    objects for folders when it writes, which not every server takes. Raises InputError as
    `mde.bucket.parse_bucket`.
    """
    return _reader(folder, parse_bucket(folder).endpoint)


@functools.lru_cache(maxsize=8)
def _reader(folder: str, server: str | None) -> tuple[Any, str]:
    # Kept: a client that is made anew signs in anew.
    from pyarrow.fs import FileSystem

    found: tuple[Any, str] = FileSystem.from_uri(folder)
    return found


def _find(place: str) -> tuple[Any, str]:
    parts = urlsplit(place)
    folder, _, name = parts.path.rpartition("/")
    system, prefix = open_reader(urlunsplit(parts._replace(path=folder)))
    return system, f"{prefix}/{name}"
