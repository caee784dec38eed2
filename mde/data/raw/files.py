"""Raw files of a dataset by name, whether they lie in a folder or in an archive."""

import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError, decode_raw_depth, decode_raw_image
from mde.errors import InputError


class RawFiles(ABC):
    """Files by name, with `/` between folders; read only."""

    @abstractmethod
    def names(self) -> list[str]:
        """All files, sorted."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file. Raises CodecError when it is missing or cannot be read."""

    def position(self, name: str) -> int:
        """Sort key: files are read fastest by increasing position; the same for all in a folder."""
        return 0

    def image(self, name: str) -> NDArray[np.uint8]:
        """An RGB image (H,W,3). Raises CodecError that names the file."""
        try:
            return decode_raw_image(self.read(name))
        except CodecError as error:
            raise error.about(name) from error

    def depth_codes(self, name: str) -> NDArray[np.integer]:
        """A depth PNG (H,W), uint8 or uint16 as stored. Raises CodecError that names the file."""
        try:
            return decode_raw_depth(self.read(name))
        except CodecError as error:
            raise error.about(name) from error


class Folder(RawFiles):
    """Files of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """All files below the folder, hidden ones left out."""
        found = []
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(folder).relative_to(self.root).as_posix()
            prefix = "" if base == "." else f"{base}/"
            found += [prefix + name for name in files if not name.startswith(".")]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            raise CodecError(
                str(error.strerror), "missing file" if missing else "unreadable file"
            ) from error


def open_raw(raw: Path, work: Path) -> RawFiles:
    """Open a folder or an archive (.zip, .tar, .tar.gz).

    work: a folder that all tasks of a conversion share, for an archive's index. The first process
    to open a .tar.gz makes the index, which takes as long as to decompress the archive once.
    Raises InputError when there is nothing, or an archive that must not be trusted.
    """
    if raw.is_dir():
        return Folder(raw)
    if raw.is_file():
        # Folders need no library for archives.
        from mde.data.raw.archives import open_archive

        return open_archive(raw, work)
    raise InputError(f"{raw}: no such folder or archive; set datasets.<name>.raw to your raw data")
