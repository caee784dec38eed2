"""Raw files inside .zip, .tar and .tar.gz archives, read in place; nothing is unpacked."""

import functools
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import Any

from mde.data.codecs import CodecError
from mde.data.raw.checks import MAX_MEMBERS, check_name, check_size, refuse
from mde.data.raw.files import RawFiles
from mde.data.raw.tar_index import GZIP_ERRORS, find_tar_index, open_gzip
from mde.errors import InputError

ENCRYPTED = 0x1
ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError,
    RuntimeError, ValueError, OverflowError, LookupError,
)  # fmt: skip
"""What zipfile raises on damaged files; NotImplementedError is a RuntimeError."""


def open_archive(archive: Path, work: Path) -> "Zip | Tar":
    """Open an archive by what is in it, not by its name.

    work: folder for the index of a tar. Raises InputError when it is of another kind, damaged, or
    has a member that is refused.
    """
    try:
        with archive.open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except OSError as error:
        raise InputError(f"{archive}: cannot be read: {error.strerror}") from error
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return Zip(archive)
    gzipped = head[:2] == b"\x1f\x8b"
    if gzipped or _is_tar(head):
        return Tar(archive, work, gzipped)
    raise InputError(
        f"{archive}: neither a folder nor a .zip, .tar or .tar.gz archive (it begins with "
        f"{head[:8]!r}); unpack it and give the folder, or download it again"
    )


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "backslashreplace")
    except (tarfile.HeaderError, ValueError):
        # An archive without members is zeros; one with a damaged first header says `ustar`.
        return head == bytes(tarfile.BLOCKSIZE) or head[257:262] == b"ustar"
    return True


def _visible(names: Any) -> list[str]:
    # As in a folder.
    return sorted(name for name in names if not name.startswith(".") and "/." not in name)


class Zip(RawFiles):
    """Members of a .zip."""

    def __init__(self, archive: Path) -> None:
        state = archive.stat()
        self._zip, self._members = _open_zip(archive, state.st_size, state.st_mtime_ns)

    def names(self) -> list[str]:
        """All files, sorted, hidden ones left out."""
        return _visible(self._members)

    def position(self, name: str) -> int:
        """Where the file begins in the archive."""
        member = self._members.get(name)
        return member.header_offset if member else 0

    def read(self, name: str) -> bytes:
        """The content of a file, whose CRC is checked."""
        if name not in self._members:
            raise CodecError("not in the archive", "missing file")
        try:
            return self._zip.read(self._members[name])
        except ZIP_ERRORS as error:
            raise CodecError(
                f"damaged in the archive: {error}", "damaged in the archive"
            ) from error


# A process reads many parts of one archive, whose directory takes a second to read.
@functools.lru_cache(maxsize=2)
def _open_zip(
    archive: Path, size: int, mtime_ns: int
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    try:
        opened = zipfile.ZipFile(archive)
    except ZIP_ERRORS as error:
        raise InputError(
            f"{archive}: not a whole zip archive of {size} bytes: {error}; download it again"
        ) from error
    members: dict[str, zipfile.ZipInfo] = {}
    try:
        for info in opened.infolist():
            _add_zip_member(archive, members, info)
    except InputError:
        opened.close()
        raise
    return opened, members


def _add_zip_member(
    archive: Path, members: dict[str, zipfile.ZipInfo], info: zipfile.ZipInfo
) -> None:
    name = check_name(archive, info.orig_filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if stat.S_ISLNK(kind) else "a device or pipe"
        refuse(archive, name, f"is {what}; files and folders are allowed")
    if info.is_dir():
        return
    if name in members:
        refuse(archive, name, "is there twice")
    if len(members) == MAX_MEMBERS:
        refuse(archive, name, f"is one more than {MAX_MEMBERS}")
    if info.flag_bits & ENCRYPTED:
        refuse(archive, name, "is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refuse(archive, name, f"uses compression {info.compress_type}; deflate is allowed")
    check_size(archive, name, info.file_size, info.compress_size)
    members[name] = info


class Tar(RawFiles):
    """Members of a .tar or .tar.gz, found by an index that is stored in the folder `work`.

    Fast when the files of one process are read by increasing `position`.
    """

    def __init__(self, archive: Path, work: Path, gzipped: bool) -> None:
        index = find_tar_index(archive, work, gzipped)
        self._members = index.members
        self._file: Any
        if index.seek_points is None:
            self._file = archive.open("rb")
        else:
            self._file = open_gzip(archive, index.seek_points)
        # rapidgzip aborts the process when it is still open at its end.
        weakref.finalize(self, self._file.close)

    def names(self) -> list[str]:
        """All files, sorted, hidden ones left out."""
        return _visible(self._members)

    def position(self, name: str) -> int:
        """Where the file begins in the archive."""
        member = self._members.get(name)
        return member.offset if member else 0

    def read(self, name: str) -> bytes:
        """The content of a file; in a .tar.gz it must be what it was when the index was made."""
        if name not in self._members:
            raise CodecError("not in the archive", "missing file")
        offset, size, crc = self._members[name]
        try:
            self._file.seek(offset)
            data: bytes = self._file.read(size)
        except GZIP_ERRORS as error:
            raise CodecError(
                f"damaged in the archive: {error}", "damaged in the archive"
            ) from error
        if len(data) != size or (crc is not None and zlib.crc32(data) != crc):
            raise CodecError(
                f"{len(data)} bytes with another checksum than when the archive was indexed: it "
                "was damaged since", "damaged in the archive",
            )  # fmt: skip
        return data
