"""Files that are there whole or not at all."""

import errno
import gc
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mde.errors import InputError

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `path` when the block ends, and vanishes when it raises.

    It stands beside `path` until then, so a killed process leaves nothing that looks finished.
    """
    draft = path.with_name(f".{path.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        replace_folder(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def replace_folder(draft: Path, path: Path) -> None:
    """Let the folder `draft` take the place of `path`, which at no moment is half of either."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    draft.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_fault(error: BaseException, folder: Path) -> str | None:
    """What is wrong with the disk of `folder`, when that is why writing to it has failed."""
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        return os.strerror(error.errno)
    # Writers in other languages say it in words, or say anything but that.
    if code := next((code for code in DISK_FAULTS if f"(os error {code})" in str(error)), None):
        return os.strerror(code)
    return os.strerror(errno.ENOSPC) if shutil.disk_usage(folder).free < 2**20 else None


@contextmanager
def without_collector() -> Iterator[None]:
    """No search for garbage: beside a million new objects it takes longer than all else."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one rename, making the folder if need be."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one rename, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.partial")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read JSON that an earlier stage wrote. Raises InputError when it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON: {error}; delete it and run dvc repro") from error
