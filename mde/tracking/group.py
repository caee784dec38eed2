"""Which runs belong together: those of one `dvc repro`."""

import hashlib
import os
import re
import socket
from collections.abc import Iterable
from itertools import pairwise

import psutil

from mde.errors import InputError

GROUP = "MDE_GROUP"
"""Environment: the group's name, in place of the one that `dvc` gives."""
COMMANDS = ("repro", "exp", "queue")


def find_group() -> str | None:
    """MDE_GROUP, or a name of the `dvc repro` or `dvc exp` that this process runs in; else None.

    Raises InputError when MDE_GROUP is not a name.
    """
    if name := os.environ.get(GROUP):
        if not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII):
            raise InputError(
                f"{GROUP}: found {name!r}, allowed: up to 64 letters, digits, '_', '-' and '.'"
            )
        return name
    for process in _ancestors():
        try:
            if (command := dvc_command(process.cmdline())) is not None:
                born = f"{socket.gethostname()} {process.pid} {process.create_time():.2f}"
                return f"{command}-{hashlib.sha256(born.encode()).hexdigest()[:8]}"
        except psutil.Error:
            # Gone meanwhile, or somebody else's.
            continue
    return None


def dvc_command(arguments: Iterable[str]) -> str | None:
    """`repro`, `exp` or `queue` when a command line is that of DVC; else None."""
    words = [word for word in arguments if not word.startswith("-")]
    for program, command in pairwise(words):
        if os.path.basename(program) in ("dvc", "dvc.exe"):
            return command if command in COMMANDS else None
    return None


def _ancestors() -> list[psutil.Process]:
    try:
        return psutil.Process().parents()
    except psutil.Error:
        return []
