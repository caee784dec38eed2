"""Where a result comes from: code, configuration, data."""

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit


@dataclass(frozen=True)
class Provenance:
    """What a training run is made of; kept in its checkpoints and its MLflow run.

    variant: `Variant.as_dict()`. data_sha256: of the dataset's manifest, which holds the SHA-256 of
    every shard. git_commit: with `+dirty` when files differ from it; `unknown` without git.
    image_size: (H,W) px that the network is to see a whole image at, if that is known.
    """

    variant: dict[str, Any]
    data_sha256: str
    git_commit: str
    mde_version: str
    image_size: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, variant: dict[str, Any], data_sha256: str, image_size: tuple[int, int] | None
    ) -> "Provenance":
        """Of the code that is running."""
        return cls(variant, data_sha256, git_commit(), mde_version(), image_size)

    @property
    def fingerprint(self) -> str:
        """Names a run: an interrupted training goes on only with equal configuration and data."""
        trained = {key: value for key, value in self.variant.items() if key != "protocol"}
        content = json.dumps([trained, self.data_sha256], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:10]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def git_commit() -> str:
    """The commit of the code.

    MDE_GIT_COMMIT wins: a Ray job gets a copy of the code without its git folder. `dvc.lock` may
    differ: `dvc repro` writes it as it goes.
    """
    if commit := os.environ.get("MDE_GIT_COMMIT"):
        return commit
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no", *_BUT_THE_LOCK)
        return _git("rev-parse", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass(frozen=True)
class WorkingTree:
    """What a commit does not say of the code that is running.

    origin: where it can be cloned from, without credentials; the checkout's own folder when git
    knows no remote. patch: `git diff` of tracked files, b"" when they are the commit's. untracked:
    code beside them that is in no commit, nor in the patch.
    """

    origin: str
    patch: bytes
    untracked: tuple[str, ...]


def working_tree(apart: Path | None = None) -> WorkingTree | None:
    """The checkout of the running code; None where there is none, as in a Ray job.

    apart: a file that is kept by itself and is not to be in the patch, such as params.yaml.
    """
    if os.environ.get("MDE_GIT_COMMIT"):
        return None
    try:
        top = Path(_git("rev-parse", "--show-toplevel"))
        paths = [*_BUT_THE_LOCK]
        if apart is not None and apart.resolve().is_relative_to(top.resolve()):
            paths.append(f":(top,exclude){apart.resolve().relative_to(top.resolve()).as_posix()}")
        patch = _git_bytes("diff", "HEAD", "--binary", *paths)
        code = _git("ls-files", "--others", "--exclude-standard", "--full-name", ":(top)*.py")
        return WorkingTree(_remote() or str(top), patch, tuple(code.splitlines()))
    except (OSError, subprocess.CalledProcessError):
        return None


def mde_version() -> str:
    """Version of the installed package."""
    try:
        return version("mde")
    except PackageNotFoundError:
        return "unknown"


def without_credentials(url: str) -> str:
    """A URL without user name and password; `git@host:path`, which has none, as it is."""
    parts = urlsplit(url)
    if "://" not in url or parts.scheme == "ssh":
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


_BUT_THE_LOCK = ("--", ":(top)", ":(top,exclude,glob)**/dvc.lock")


def _remote() -> str | None:
    names = _git("remote").splitlines()
    if not names:
        return None
    name = "origin" if "origin" in names else names[0]
    return without_credentials(_git("remote", "get-url", name))


def _git(*arguments: str) -> str:
    return _git_bytes(*arguments).decode(errors="replace").strip()


def _git_bytes(*arguments: str) -> bytes:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout
