"""What an archive may contain. One bad member and the archive is refused as a whole.

Nothing is ever unpacked to disk, so a name such as `../x` could do no harm here; but an archive
that has one was not made by those who made the dataset.
"""

from pathlib import Path
from typing import NoReturn

from mde.errors import InputError

MAX_MEMBER = 256 * 2**20
"""Bytes of a member, expanded; a frame of any official dataset has less than 10 MB."""
MAX_MEMBERS = 2_000_000
MAX_RATIO = 900
"""Expanded to compressed size; zlib reaches 1030, with zeros alone."""
FREE_BYTES = 2**20
"""Expanded bytes of a member that are not held against its ratio."""


def refuse(archive: Path, member: str, problem: str) -> NoReturn:
    """Raises InputError: archive, member and problem. problem: what follows the member's name."""
    raise InputError(
        f"{archive}: member {member[:200]!r} {problem}; an archive with such a member is refused "
        "as a whole: get it again from its publisher, or unpack it and give the folder"
    )


def check_name(archive: Path, name: str) -> str:
    """The name without `./`. Raises InputError when it leads out of the archive's own folder."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts:
        refuse(archive, name, "has '..' in its name")
    # C: is a drive.
    if parts[0] == "" or parts[0][1:2] == ":":
        refuse(archive, name, "has an absolute name, or none")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def check_size(archive: Path, name: str, size: int, compressed: int | None = None) -> None:
    """Raises InputError when a member is too large. compressed: its size in the archive."""
    if not 0 <= size <= MAX_MEMBER:
        refuse(archive, name, f"has {size} bytes, {MAX_MEMBER} are allowed")
    if compressed is not None and size > FREE_BYTES + MAX_RATIO * compressed:
        refuse(archive, name, f"expands from {compressed} to {size} bytes")
