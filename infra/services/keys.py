"""Passwords and keys of the servers: made once, kept in files that only their owner reads."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mde.errors import InputError

KEYS = "keys.json"
ENVIRONMENT = "environment"
ADMIN = "admin"
MEMBER = "mde"
"""The MLflow user of `services/environment`: no administrator."""


def _secret() -> str:
    # Of letters and digits alone: it goes into URIs, INI files and shells.
    return secrets.token_hex(24)


def _key_id() -> str:
    return "MDE" + secrets.token_hex(8).upper()


@dataclass(frozen=True)
class Keys:
    """What the servers know each other and their users by."""

    postgres_superuser: str = field(default_factory=_secret)
    postgres: str = field(default_factory=_secret)
    mlflow_admin: str = field(default_factory=_secret)
    mlflow_member: str = field(default_factory=_secret)
    mlflow_flask: str = field(default_factory=_secret)
    artifacts_id: str = field(default_factory=_key_id)
    artifacts_secret: str = field(default_factory=_secret)
    store_id: str = field(default_factory=_key_id)
    store_secret: str = field(default_factory=_secret)

    @classmethod
    def of(cls, folder: Path) -> "Keys":
        """Those of a folder; made when it has none. Raises InputError when they are damaged."""
        file = folder / KEYS
        if not file.exists():
            keys = cls()
            write_private(file, json.dumps(asdict(keys), indent=1) + "\n")
            return keys
        try:
            return cls(**json.loads(file.read_text()))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{file}: is not what python -m infra.services has written ({error}). Without "
                "it nobody can open the database in this folder: bring the file back, or "
                "restore a back-up into another folder"
            ) from error


def write_private(file: Path, text: str) -> None:
    """Write a file whole, or not at all, that only its owner may read and write."""
    draft = file.with_name(f".{file.name}.partial")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
    draft.replace(file)


def shell_lines(environment: dict[str, str]) -> str:
    """`NAME=value` lines for `set -a; . FILE`; none of our values needs quotes."""
    return "".join(f"{name}={value}\n" for name, value in environment.items())
