"""Raw files in an object store: fetched once into a folder that is kept equal to them.

Readers of HDF5, archives and frames jump within their files, as only a disk lets them. What is
there already, by size, ETag and time, is not fetched again.
"""

import contextlib
import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from mde.bucket import bucket_errors, open_bucket, parse_bucket
from mde.data.place import open_reader, resolve, show
from mde.errors import InputError
from mde.layout import Layout

JOURNAL = ".fetched.jsonl"
"""Beside the files: one line for each that has been fetched; later ones count."""
AT_ONCE = 16
BLOCK = 2**22


@dataclass(frozen=True)
class RemoteFile:
    """A raw file in a bucket. name: below the raw folder; empty for a raw archive itself."""

    name: str
    size: int
    etag: str
    modified: float


def raw_path(raw: str, root: Path, dataset: str) -> Path:
    """Where the raw files of a dataset are on disk; those of a URI, when they have been fetched.

    raw: `datasets.<dataset>.raw`. Raises InputError for a URI that is none of an object store.
    """
    if not _is_remote(raw):
        return root / resolve(raw)
    # With its own name, whose ending says what an archive is.
    return Layout(root).mirror(dataset) / PurePosixPath(parse_bucket(raw).path).name


def fetch_raw(raw: str, root: Path, dataset: str) -> Path:
    """The raw files of a dataset on disk; those of a URI are brought up to date first.

    A file is there whole or not at all; interrupted, it goes on from the files it has; what is no
    longer in the bucket goes. Raises InputError when there is nothing, for names that do not fit
    into a folder, a full disk, and when the bucket changes meanwhile.
    """
    path = raw_path(raw, root, dataset)
    if not _is_remote(raw):
        return path
    try:
        with bucket_errors():
            _fetch(raw, path)
    except OSError as error:
        raise InputError(
            f"{show(raw)}: cannot be fetched into {path.parent}: {error}; start again to go on "
            "from the files that are there"
        ) from error
    return path


def _is_remote(raw: str) -> bool:
    return "://" in raw and not raw.startswith("file://")


def _fetch(uri: str, path: Path) -> None:
    folder, files = path.parent, _list(uri)
    folder.mkdir(parents=True, exist_ok=True)
    removed = _remove_others(folder, {_local(path, file) for file in files})
    known = _read_journal(folder / JOURNAL)
    missing = [file for file in files if not _is_there(file, _local(path, file), known)]
    total = sum(file.size for file in missing)
    if missing or removed:
        print(
            f"{show(uri)}: {len(missing)} of {len(files)} files ({total / 1e6:.0f} MB) are "
            f"fetched into {folder}; {removed} removed that are not there any more",
            file=sys.stderr,
            flush=True,
        )
    if total > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"{folder}: {total / 1e9:.1f} GB are to be fetched, {free / 1e9:.1f} GB are free: make "
            "room, or let --root lie elsewhere"
        )
    _get_all(uri, path, missing)
    if missing and (changed := set(files) ^ set(_list(uri))):
        names = ", ".join(sorted({file.name for file in changed})[:3])
        raise InputError(f"{show(uri)}: changed while it was fetched ({names}); start again")


def _list(uri: str) -> list[RemoteFile]:
    place = parse_bucket(uri)
    found = open_bucket(place).find(place.path, detail=True)
    files = []
    for key, entry in found.items():
        name = key.removeprefix(place.path).removeprefix("/")
        if name.endswith("/") and not entry["size"]:
            # What some tools put down for a folder.
            continue
        if set(name.split("/")) & {"..", "."} or "//" in name or name.endswith("/"):
            raise InputError(f"{show(uri)}: the name {key!r} does not fit into a folder; rename it")
        time = entry["LastModified"].timestamp()
        files.append(RemoteFile(name, entry["size"], str(entry["ETag"]).strip('"'), time))
    if not files:
        raise InputError(f"{show(uri)}: nothing there; set datasets.<name>.raw to your raw data")
    return files


def _local(path: Path, file: RemoteFile) -> Path:
    return path / file.name if file.name else path


def _is_there(file: RemoteFile, path: Path, known: dict[str, Any]) -> bool:
    if known.get(file.name) != asdict(file) or not path.is_file():
        return False
    found = path.stat()
    # File systems round times.
    return found.st_size == file.size and abs(found.st_mtime - file.modified) < 1


def _remove_others(folder: Path, expected: set[Path]) -> int:
    count = 0
    for place, folders, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in (*names, *folders)):
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()
            elif path not in expected and path != folder / JOURNAL:
                path.unlink()
                count += not path.name.endswith(".partial")
    return count


def _read_journal(path: Path) -> dict[str, Any]:
    known = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        # The last line of a process that was killed may be half.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            content = json.loads(line)
            known[content["name"]] = content
    return known


def _get_all(uri: str, path: Path, files: list[RemoteFile]) -> None:
    if not files:
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        (path.parent / JOURNAL).open("a", encoding="utf-8") as journal,
        ThreadPoolExecutor(AT_ONCE) as pool,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        # A line that a killed process has left half.
        journal.write("\n")
        task = bar.add_task("fetching", total=sum(file.size for file in files))
        getter = _Getter(uri, path, journal)
        try:
            for size in pool.map(getter.get, files):
                bar.advance(task, size)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Getter:
    """Fetches files, from several threads."""

    def __init__(self, uri: str, path: Path, journal: TextIO) -> None:
        self.path, self.journal, self.lock = path, journal, threading.Lock()
        # Four times as many small files in a second as by the client of `mde.bucket`.
        self.system, self.prefix = open_reader(uri)

    def get(self, file: RemoteFile) -> int:
        """Fetch a file; its size. Raises OSError, also when it did not arrive whole."""
        target = _local(self.path, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.partial")
        try:
            key = f"{self.prefix}/{file.name}".rstrip("/")
            # Else it unpacks what is called .gz.
            stream = self.system.open_input_stream(key, compression=None)
            with stream as source, draft.open("wb") as sink:
                shutil.copyfileobj(source, sink, BLOCK)
            if (size := draft.stat().st_size) != file.size:
                raise OSError(f"{key}: {size} of {file.size} bytes arrived")
            os.utime(draft, (file.modified, file.modified))
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        with self.lock:
            self.journal.write(json.dumps(asdict(file)) + "\n")
            self.journal.flush()
        return file.size
