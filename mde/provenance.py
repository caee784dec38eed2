"""Where a result comes from: code, configuration, data."""

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """What a training run is made of; kept in its checkpoints and its MLflow run.

    variant: `Variant.as_dict()`. data_sha256: of the dataset's manifest, which holds the SHA-256 of
    every shard. git_commit: with `+dirty` when files differ from it; `unknown` without git.
    """

    variant: dict[str, Any]
    data_sha256: str
    git_commit: str
    mde_version: str

    @classmethod
    def of(cls, variant: dict[str, Any], data_sha256: str) -> "Provenance":
        """Of the code that is running."""
        return cls(variant, data_sha256, git_commit(), mde_version())

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

    MDE_GIT_COMMIT wins: a Ray job gets a copy of the code without its git folder.
    """
    if commit := os.environ.get("MDE_GIT_COMMIT"):
        return commit
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def mde_version() -> str:
    """Version of the installed package."""
    try:
        return version("mde")
    except PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
