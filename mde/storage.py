"""A run's place on storage that all nodes see: a folder (local, NFS) or a bucket, by URI."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from mde.bucket import bucket_errors, check_place, open_bucket, parse_bucket
from mde.errors import InputError
from mde.files import fresh_folder, write_bytes

LAST_FILE = "state.json"
"""Of a folder that is put: one that holds it is whole."""


class Storage(Protocol):
    """Files and folders by name, with `/` between folder and file."""

    uri: str

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all; replaces one of that name."""
        ...

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError when there is none."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Sorted names right below a folder; none when there is no such folder."""
        ...

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Name → bytes of the files right below a folder; none when there is no such folder."""
        ...

    def put_file(self, name: str, file: Path) -> None:
        """Copy a local file, whole or not at all; replaces one of that name."""
        ...

    def put_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """Publish a folder of files, which `write` puts into a local one; `state.json` is last."""
        ...

    def fetch_folder(self, name: str) -> Path:
        """A local folder with the files of a folder; a copy, for reading only, when it is remote.

        Raises FileNotFoundError when there is none.
        """
        ...

    def delete(self, name: str) -> None:
        """Take away a file or a folder; nothing happens when there is none."""
        ...


def open_storage(uri: str | Path) -> Storage:
    """The storage at a path, or at a URI such as `file:///data/runs` or `s3://bucket/runs`.

    S3 takes the address of another server than AWS from `AWS_ENDPOINT_URL`, or as options:
    `?endpoint_override=host:port&scheme=http&region=…`. Credentials come from the environment, as
    all AWS tools take them. Raises InputError for a scheme that is not known, and for a URI with a
    password.
    """
    text = str(uri)
    check_place(text)
    parts = urlsplit(text)
    if "://" not in text:
        return FolderStorage(Path(text))
    if parts.scheme == "file":
        return FolderStorage(Path(parts.path))
    return BucketStorage(text)


def require_storage(uri: str | Path) -> Storage:
    """As `open_storage`; raises InputError when the storage does not answer, or refuses us."""
    storage = open_storage(uri)
    try:
        storage.names()
    except OSError as error:
        raise InputError(
            f"{storage.uri}: cannot be used: {error}; mde doctor says what each node can read and "
            "write"
        ) from error
    return storage


def join_uri(uri: str, name: str) -> str:
    """The path or URI of `name` below another; the options of a URI stay."""
    if "://" not in uri:
        return str(Path(uri) / name)
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


class FolderStorage:
    """A folder of a file system."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.uri = str(self.path)

    def write(self, name: str, data: bytes) -> None:
        """As in Storage."""
        write_bytes(self.path / name, data)

    def read(self, name: str) -> bytes:
        """As in Storage."""
        return (self.path / name).read_bytes()

    def names(self, folder: str = "") -> list[str]:
        """As in Storage; drafts, whose names start with a dot, are left out."""
        try:
            found = [entry.name for entry in (self.path / folder).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """As in Storage."""
        paths = [(name, self.path / folder / name) for name in self.names(folder)]
        return {name: path.stat().st_size for name, path in paths if path.is_file()}

    def put_file(self, name: str, file: Path) -> None:
        """As in Storage: written beside its place, then renamed."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.partial")
        try:
            shutil.copyfile(file, draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def put_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """As in Storage: written beside its place, then renamed."""
        with fresh_folder(self.path / name) as folder:
            write(folder)

    def fetch_folder(self, name: str) -> Path:
        """As in Storage: the folder itself."""
        if not (self.path / name).is_dir():
            raise FileNotFoundError(self.path / name)
        return self.path / name

    def delete(self, name: str) -> None:
        """As in Storage."""
        target = self.path / name
        if target.is_dir():
            # What is deleted is no longer whole before its first file is gone.
            (target / LAST_FILE).unlink(missing_ok=True)
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)


class BucketStorage:
    """A prefix of an object store."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        place = parse_bucket(uri)
        self.prefix, self.system = place.path, open_bucket(place)
        self._copies: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return BucketStorage, (self.uri,)

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}".rstrip("/")

    def write(self, name: str, data: bytes) -> None:
        """As in Storage: an object is there when its upload has ended."""
        with bucket_errors():
            self.system.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes:
        """As in Storage."""
        with bucket_errors():
            content: bytes = self.system.cat_file(self._path(name))
        return content

    def names(self, folder: str = "") -> list[str]:
        """As in Storage."""
        return sorted(name for name, _ in self._list(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """As in Storage."""
        found = self._list(folder)
        return {name: entry["size"] for name, entry in found if entry["type"] == "file"}

    def _list(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        path = self._path(folder)
        try:
            with bucket_errors():
                entries = self.system.ls(path, detail=True)
        except FileNotFoundError:
            return []
        pairs = ((entry["name"].rstrip("/").rpartition("/"), entry) for entry in entries)
        # A file is listed as itself, and a folder may have an object of its name.
        return [(name, entry) for (parent, _, name), entry in pairs if parent == path]

    def put_file(self, name: str, file: Path) -> None:
        """As in Storage: an object is there when its upload has ended."""
        with bucket_errors():
            self.system.put_file(str(file), self._path(name))

    def put_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """As in Storage: whole when its `state.json` is there."""
        with tempfile.TemporaryDirectory(prefix="mde-") as draft:
            write(Path(draft))
            self.delete(name)
            files = sorted(Path(draft).iterdir(), key=lambda file: file.name == LAST_FILE)
            for file in files:
                self.put_file(f"{name}/{file.name}", file)

    def fetch_folder(self, name: str) -> Path:
        """As in Storage: a copy that lives as long as this object."""
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="mde-")
        names = self.names(name)
        if not names:
            raise FileNotFoundError(f"{self.uri}: {name}")
        folder = Path(self._copies.name) / name
        folder.mkdir(parents=True, exist_ok=True)
        with bucket_errors():
            for file in names:
                self.system.get_file(self._path(f"{name}/{file}"), str(folder / file))
        return folder

    def delete(self, name: str) -> None:
        """As in Storage."""
        path = self._path(name)
        with bucket_errors():
            found = self.system.find(path)
            # What is deleted is no longer whole before its first file is gone.
            if f"{path}/{LAST_FILE}" in found:
                self.system.rm_file(f"{path}/{LAST_FILE}")
                found.remove(f"{path}/{LAST_FILE}")
            if found:
                self.system.rm(found)
