"""What a dataset's raw files look like from outside: enough to notice that they have changed.

Reading 30 GB again before each training is out of the question, and times say nothing, as a copy or
a checkout has its own. So it is names and sizes; the content too of small files (calibration,
split files, cameras), whose size a change often leaves as it is; and samples of very large ones.
Not seen is a change within a file of medium size that leaves its size alone: `dvc status` sees it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mde.data.raw.files import Folder
from mde.errors import InputError

SMALL_BYTES = 2**16
LARGE_BYTES = 2**24
SAMPLES, SAMPLE_BYTES = 64, 2**16


@dataclass(frozen=True)
class RawState:
    """Number and total size of the raw files, and a SHA-256 over their names, sizes and samples."""

    files: int
    bytes: int
    sha256: str


def raw_state(raw: Path) -> RawState:
    """Look at a raw folder, hidden files left out, or at an archive.

    Raises InputError when a file cannot be read.
    """
    # An archive may have any name.
    names = Folder(raw).names() if raw.is_dir() else [""]
    digest, total = hashlib.sha256(), 0
    for name in names:
        path = raw / name
        try:
            size = path.stat().st_size
            digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
            digest.update(_sample(path, size))
        except OSError as error:
            raise InputError(f"{path}: a raw file that cannot be read: {error.strerror}") from error
        total += size
    return RawState(len(names), total, digest.hexdigest())


def newest_file(raw: Path) -> str:
    """The raw file with the latest change of content, to name it to a person."""
    if not raw.is_dir():
        return raw.name
    return max(Folder(raw).names(), key=lambda name: (raw / name).stat().st_mtime_ns, default="")


def _sample(path: Path, size: int) -> bytes:
    if size <= SMALL_BYTES:
        return hashlib.sha256(path.read_bytes()).digest()
    if size < LARGE_BYTES:
        return b""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for number in range(SAMPLES):
            # From the first byte to the last.
            file.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.digest()
