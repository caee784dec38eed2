"""The members of a tar stream, read forward once.

Python's tarfile takes a damaged header for the end of the archive and reads extended headers of any
size into memory, so only its parser of single headers is used here.
"""

import os
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from mde.data.raw.checks import MAX_MEMBERS, check_name, check_size, refuse
from mde.errors import InputError

BLOCK = tarfile.BLOCKSIZE
PIECE = 2**20
MAX_EXTENSION = 2**20
"""Bytes of an extended header; real ones hold a long name."""
PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENSION_TYPES = (
    *PAX_TYPES, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


class Member(NamedTuple):
    """offset: of the content in the expanded tar. crc: its CRC-32, None where nothing checks it."""

    offset: int
    size: int
    crc: int | None


class TarStream:
    """Reads a tar forward, exactly as much as is asked for. file: a plain tar, opened to read."""

    def __init__(self, file: Any, archive: Path) -> None:
        self.file, self.archive, self.position = file, archive, 0

    def read(self, size: int) -> bytes:
        """`size` bytes. Raises InputError when there are less."""
        data = self.file.read(size)
        self.position += len(data)
        if len(data) != size:
            raise InputError(
                f"{self.archive}: truncated: it ends after {self.position} bytes, before the end "
                "mark of a tar; download it again"
            )
        return data

    def pass_over(self, size: int) -> int | None:
        """Go past the content of a member; returns its CRC-32 if it was read."""
        if size:
            self.file.seek(size - 1, os.SEEK_CUR)
            self.position += size - 1
            # The last byte is read to notice a truncated file.
            self.read(1)
        return None

    def pass_over_rest(self) -> None:
        """Go to the end. Raises InputError when there is something else than zeros."""
        while data := self.file.read(PIECE):
            self.position += len(data)
            if data.count(0) != len(data):
                raise InputError(
                    f"{self.archive}: data after the end mark; it is damaged, or consists of "
                    "several archives; download it again, or make one archive of them"
                )


def read_members(stream: TarStream) -> dict[str, Member]:
    """Name → place of all files of a tar; folders are left out.

    Raises InputError when it is truncated, damaged, or has a member that is refused.
    """
    members: dict[str, Member] = {}
    extended: dict[str, str] = {}
    while any(block := stream.read(BLOCK)):
        header = _parse_header(stream, block)
        if header.type in EXTENSION_TYPES:
            extended |= _read_extension(stream, header)
            continue
        name, size = _check(stream.archive, header, extended)
        extended = {}
        if header.isdir():
            continue
        if name in members:
            refuse(stream.archive, name, "is there twice")
        if len(members) == MAX_MEMBERS:
            refuse(stream.archive, name, f"is one more than {MAX_MEMBERS}")
        offset = stream.position
        members[name] = Member(offset, size, stream.pass_over(size))
        stream.read(-size % BLOCK)
    stream.pass_over_rest()
    return members


def _parse_header(stream: TarStream, block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except (tarfile.HeaderError, ValueError) as error:
        what = "damaged tar header" if stream.position > BLOCK else "not a tar archive"
        raise InputError(
            f"{stream.archive}: {what} at byte {stream.position - BLOCK} of the tar ({error}); "
            "download it again"
        ) from error


def _check(archive: Path, header: tarfile.TarInfo, extended: dict[str, str]) -> tuple[str, int]:
    # What an extended header says comes first.
    name = check_name(archive, extended.get("path", header.name))
    if not (header.isreg() or header.isdir()) or header.type == tarfile.GNUTYPE_SPARSE:
        kind = KINDS.get(header.type, f"of type {header.type!r}")
        refuse(archive, name, f"is {kind}; files and folders are allowed")
    if any(key.startswith("GNU.sparse") for key in extended):
        refuse(archive, name, "is a sparse file; files without holes are allowed")
    try:
        size = int(extended.get("size", header.size))
    except ValueError:
        refuse(archive, name, f"has {extended['size'][:50]!r} bytes")
    check_size(archive, name, size)
    return name, size


def _read_extension(stream: TarStream, header: tarfile.TarInfo) -> dict[str, str]:
    if not 0 <= header.size <= MAX_EXTENSION:
        refuse(stream.archive, header.name, f"is an extended header of {header.size} bytes")
    content = stream.read(header.size)
    stream.read(-header.size % BLOCK)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.split(b"\0")[0].decode("utf-8", "backslashreplace")}
    return _parse_pax(stream.archive, header, content) if header.type in PAX_TYPES else {}


def _parse_pax(archive: Path, header: tarfile.TarInfo, content: bytes) -> dict[str, str]:
    # Records `<length> <key>=<value>\n`, where the length counts itself.
    records: dict[str, str] = {}
    while content.strip(b"\0"):
        digits, found, _ = content[:20].partition(b" ")
        length = int(digits) if found and digits.isdigit() else 0
        key, found, value = content[len(digits) + 1 : length].partition(b"=")
        if not found or not value.endswith(b"\n") or length > len(content):
            refuse(archive, header.name, "is a damaged extended header")
        text = value[:-1].decode("utf-8", "backslashreplace")
        records[key.decode("utf-8", "backslashreplace")] = text
        content = content[length:]
    return records
