"""Where the members of a .tar or .tar.gz lie, found in one pass and kept for all tasks.

A .tar.gz also gets an index of rapidgzip, with which decompression can start every CHUNK compressed
bytes. It was chosen over indexed_gzip, which takes a truncated file for a whole one and goes back
to a seek point at each read. The size of the index of 32 GB: 32 GB / 8 MiB = 4000 seek points; each
keeps, compressed, those of the 32 KiB before it that later bytes refer to: at most 125 MiB, and
9 MB at the 2.2 kB a point measured on NYUv2 frames.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import rapidgzip
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mde.data.raw.checks import MAX_RATIO
from mde.data.raw.tar_members import PIECE, Member, TarStream, read_members
from mde.errors import InputError
from mde.files import fresh_folder

CHUNK = 8 * 2**20
FREE_BYTES = 16 * 2**20
"""Expanded bytes that are not held against an archive's ratio: rapidgzip tells how much it has read
with a lag of up to 10 MiB."""
SHOW_FROM = 256 * 2**20
"""Compressed bytes from which the pass takes more than a moment."""
MAX_THREADS = 8
GZIP_ERRORS = (RuntimeError, ValueError, OSError, LookupError, ArithmeticError, MemoryError)
"""What rapidgzip raises on damaged files: C++ exceptions of many kinds."""


class TarIndex(NamedTuple):
    """members: place by name. seek_points: file of rapidgzip; None for a plain tar."""

    members: dict[str, Member]
    seek_points: Path | None


def find_tar_index(archive: Path, work: Path, gzipped: bool) -> TarIndex:
    """The index of an archive, made and stored in `work` if it is not there.

    Raises InputError when the archive is damaged, truncated, or must not be trusted; then nothing
    is stored.
    """
    state = archive.stat()
    # A changed archive has another name here.
    key = hashlib.sha256(f"{archive.name} {state.st_size} {state.st_mtime_ns}".encode())
    folder = work / f"archive-{key.hexdigest()[:16]}"
    if not folder.is_dir():
        with fresh_folder(folder) as draft:
            found = _index_gzip(archive, draft) if gzipped else _index_plain(archive)
            (draft / "members.json").write_text(json.dumps(found))
    try:
        table = json.loads((folder / "members.json").read_text())
        members = {name: Member(*place) for name, place in table.items()}
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"{folder}: damaged index of {archive.name} ({error}); delete this folder and run again"
        ) from error
    return TarIndex(members, folder / "seek_points" if gzipped else None)


def _index_plain(archive: Path) -> dict[str, Member]:
    with archive.open("rb") as file:
        return read_members(TarStream(file, archive))


def _index_gzip(archive: Path, draft: Path) -> dict[str, Member]:
    size = archive.stat().st_size
    threads = min(MAX_THREADS, _num_cores())
    with (
        _explained(archive),
        _progress(archive, size) as show,
        rapidgzip.RapidgzipFile(str(archive), threads, chunk_size=CHUNK) as file,
    ):
        stream = _GzipStream(file, archive, show)
        members = read_members(stream)
        _check_end(archive, size, stream.position)
        show(size)
        file.export_index(str(draft / "seek_points"), rapidgzip.IndexFormat.GZTOOL)
    return members


def _num_cores() -> int:
    # Of this process, where the system can tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def open_gzip(archive: Path, seek_points: Path) -> Any:
    """An expanded archive as a file object, by its index. It must be closed.

    rapidgzip aborts the process when one of its files is still open at its end.
    """
    file = rapidgzip.RapidgzipFile(str(archive), 1, chunk_size=CHUNK)
    try:
        file.import_index(str(seek_points))
    except GZIP_ERRORS as error:
        file.close()
        folder = seek_points.parent
        raise InputError(
            f"{folder}: damaged index of {archive.name} ({error}); delete this folder and run again"
        ) from error
    return file


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except GZIP_ERRORS as error:
        # A full disk is not the archive's fault.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{archive}: damaged gzip data ({error}); download it again") from error


def _check_end(archive: Path, size: int, expanded: int) -> None:
    # rapidgzip checks the CRC at the end of the stream, but may miss that there is no end.
    with archive.open("rb") as file:
        file.seek(max(0, size - 4))
        stated = int.from_bytes(file.read(), "little")
    if stated != expanded % 2**32:
        raise InputError(
            f"{archive}: it expands to {expanded} bytes, its end says {stated} (modulo 2^32): it "
            "is truncated, or consists of several gzip files; download it or compress it again"
        )


@contextmanager
def _progress(archive: Path, size: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), disable=size < SHOW_FROM) as progress:
        bar = progress.add_task(f"index {archive.name}", total=size)
        yield lambda done: progress.update(bar, completed=done)


class _GzipStream(TarStream):
    """Also takes checksums, shows the progress and refuses what expands too much."""

    def __init__(self, file: Any, archive: Path, show: Callable[[int], None]) -> None:
        super().__init__(file, archive)
        self.show, self.watched = show, 0

    def read(self, size: int) -> bytes:
        """See TarStream."""
        data = super().read(size)
        if self.position - self.watched >= PIECE:
            self.watched = self.position
            compressed = self.file.tell_compressed() // 8
            self.show(compressed)
            if self.position > FREE_BYTES + MAX_RATIO * compressed:
                raise InputError(
                    f"{self.archive}: its first {compressed} bytes expand to {self.position}, more "
                    f"than {MAX_RATIO} times; refused"
                )
        return data

    def pass_over(self, size: int) -> int | None:
        """See TarStream."""
        crc = 0
        for start in range(0, size, PIECE):
            crc = zlib.crc32(self.read(min(PIECE, size - start)), crc)
        return crc
