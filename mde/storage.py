"""A run's place on storage that all nodes see: a folder (local, NFS) or a bucket, by URI."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

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

    S3 takes options as `?endpoint_override=host:port&scheme=http&region=…`, and its credentials
    from the environment as all AWS tools do. Raises InputError for a scheme that is not known.
    """
    text = str(uri)
    parts = urlsplit(text)
    if "://" not in text:
        return FolderStorage(Path(text))
    if parts.scheme == "file":
        return FolderStorage(Path(parts.path))
    return BucketStorage(text)


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
    """A prefix of an object store, through pyarrow."""

    def __init__(self, uri: str) -> None:
        # Training on a box that has torch alone keeps to folders.
        import pyarrow
        from pyarrow.fs import FileSystem

        self.uri = uri
        try:
            self.system, self.prefix = FileSystem.from_uri(uri)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(
                f"storage {uri!r}: {error}; allowed are a path, file://… and s3://bucket/folder"
            ) from error
        self._copies: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return BucketStorage, (self.uri,)

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}".rstrip("/")

    def write(self, name: str, data: bytes) -> None:
        """As in Storage: an object is there when its upload has ended."""
        with self.system.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    def read(self, name: str) -> bytes:
        """As in Storage."""
        with self.system.open_input_stream(self._path(name)) as stream:
            return stream.read()

    def names(self, folder: str = "") -> list[str]:
        """As in Storage."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path(folder), allow_not_found=True)
        return sorted(info.base_name for info in self.system.get_file_info(selector))

    def put_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """As in Storage: whole when its `state.json` is there."""
        with tempfile.TemporaryDirectory(prefix="mde-") as draft:
            write(Path(draft))
            self.delete(name)
            files = sorted(Path(draft).iterdir(), key=lambda file: file.name == LAST_FILE)
            for file in files:
                self._upload(file, f"{name}/{file.name}")

    def _upload(self, file: Path, name: str) -> None:
        with file.open("rb") as source, self.system.open_output_stream(self._path(name)) as sink:
            shutil.copyfileobj(source, sink, 2**22)

    def fetch_folder(self, name: str) -> Path:
        """As in Storage: a copy that lives as long as this object."""
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="mde-")
        names = self.names(name)
        if not names:
            raise FileNotFoundError(f"{self.uri}: {name}")
        folder = Path(self._copies.name) / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in names:
            path = self._path(f"{name}/{file}")
            with self.system.open_input_stream(path) as source, (folder / file).open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**22)
        return folder

    def delete(self, name: str) -> None:
        """As in Storage."""
        from pyarrow.fs import FileType

        path = self._path(name)
        kind = self.system.get_file_info(path).type
        if kind == FileType.Directory:
            # What is deleted is no longer whole before its first file is gone.
            self.delete(f"{name}/{LAST_FILE}".lstrip("/"))
            self.system.delete_dir(path)
        elif kind == FileType.File:
            self.system.delete_file(path)
