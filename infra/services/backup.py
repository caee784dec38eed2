"""Back-ups of what MLflow has: databases and artifacts in one folder, whole or not at all.

The databases come first. An artifact is written before anything names it and never changed, so
those that are copied afterwards hold all that the databases name.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from packaging.version import Version
from werkzeug.security import generate_password_hash

from infra.services import postgres as pg
from infra.services.keys import ADMIN, MEMBER, Keys
from infra.services.postgres import ACCOUNTS, TRACKING, Postgres
from infra.services.process import free_port
from infra.services.services import ARTIFACTS, LockedError, lock
from mde.errors import InputError
from mde.files import file_sha256, fresh_folder, read_json, write_json

FORMAT = 1
MANIFEST = "manifest.json"
# Of users first: one who may act on what no database knows would get rights on its successor.
DUMPS = {ACCOUNTS: "accounts.dump", TRACKING: "tracking.dump"}
UNFINISHED = ".rclone_*"


@dataclass(frozen=True)
class Content:
    """How much a store holds."""

    runs: int
    versions: int
    files: int

    def __str__(self) -> str:
        return f"{self.runs} runs, {self.versions} model versions, {self.files} files of artifacts"


def back_up(folder: Path, target: Path) -> Content:
    """Copy what the services in `folder` hold to a new folder, while they run or not.

    Raises InputError when there are none, or when `target` is there already.
    """
    if not (folder / "postgres/data/PG_VERSION").exists():
        raise InputError(f"{folder}: holds no services; python -m infra.services makes them")
    if target.exists():
        raise InputError(f"{target}: is there already; a back-up goes into a new folder")
    with fresh_folder(target) as draft, running_postgres(folder) as postgres:
        # Hashes of passwords are in it.
        draft.chmod(0o700)
        for database, name in DUMPS.items():
            postgres.run("pg_dump", "--format=custom", "--file", draft / name, database)
        source = folder / "artifacts" / ARTIFACTS
        ignored = shutil.ignore_patterns(UNFINISHED)
        shutil.copytree(source, draft / "artifacts", ignore=ignored)
        files = {path.relative_to(draft).as_posix(): path for path in _files(draft)}
        manifest = {
            "format": FORMAT,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "mlflow": installed("mlflow"),
            "postgres": pg.version(),
            "sha256": {name: file_sha256(path) for name, path in sorted(files.items())},
        }
        write_json(draft / MANIFEST, manifest)
        return _content(postgres, len(files) - len(DUMPS))


def restore(source: Path, folder: Path) -> Content:
    """Make services in a new or empty `folder` that hold what a back-up holds.

    Users keep their passwords; `admin` and `mde` get new ones, as in every new folder. Raises
    InputError when the folder holds something, or when the back-up is damaged or too new.
    """
    manifest = _checked(source)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"{folder}: is not empty. A back-up is restored into a new folder, which may take its "
            "place afterwards"
        )
    with fresh_folder(folder) as draft:
        draft.chmod(0o700)
        with running_postgres(draft) as postgres:
            for database, name in DUMPS.items():
                postgres.run(
                    "pg_restore", "--no-owner", "--exit-on-error", "-d", database, source / name
                )
            _set_passwords(postgres)
            content = _content(postgres, len(manifest["sha256"]) - len(DUMPS))
        shutil.copytree(source / "artifacts", draft / "artifacts" / ARTIFACTS)
    return content


@contextmanager
def running_postgres(folder: Path) -> Iterator[Postgres]:
    """The database server of a folder: the one that runs, or else one for as long as the block.

    It makes a new one in a folder that has none.
    """
    keys, log = Keys.of(folder), folder / "log/postgres.log"
    try:
        with lock(folder):
            log.parent.mkdir(mode=0o700, exist_ok=True)
            postgres = Postgres(folder / "postgres", log, keys, free_port())
            try:
                postgres.start()
                postgres.wait()
                yield postgres
            finally:
                postgres.server.stop()
    except LockedError:
        # The fourth line of this file is the port.
        about = (folder / "postgres/data/postmaster.pid").read_text().splitlines()
        yield Postgres(folder / "postgres", log, keys, int(about[3]))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _checked(source: Path) -> dict[str, Any]:
    if not (source / MANIFEST).is_file():
        raise InputError(f"{source}: is no back-up of python -m infra.services: no {MANIFEST}")
    manifest: dict[str, Any] = read_json(source / MANIFEST)
    if manifest["format"] != FORMAT:
        raise InputError(f"{source}: a back-up of format {manifest['format']}, known is {FORMAT}")
    for name, found in (("mlflow", installed("mlflow")), ("postgres", pg.version())):
        if Version(manifest[name]) > Version(found):
            raise InputError(
                f"{source}: made with {name} {manifest[name]}, and installed is {found}, which "
                "cannot read it: install the newer one first"
            )
    for name, sha256 in manifest["sha256"].items():
        file = source / name
        if not file.is_file() or file_sha256(file) != sha256:
            what = "has other content than when it was made" if file.is_file() else "is missing"
            raise InputError(f"{file}: {what}; this back-up is damaged, take another one")
    return manifest


def _set_passwords(postgres: Postgres) -> None:
    passwords = {ADMIN: postgres.keys.mlflow_admin, MEMBER: postgres.keys.mlflow_member}
    with closing(postgres.connect(ACCOUNTS)) as connection, connection.cursor() as cursor:
        for name, password in passwords.items():
            row = (generate_password_hash(password), name)
            cursor.execute("UPDATE users SET password_hash = %s WHERE username = %s", row)
        connection.commit()


def _content(postgres: Postgres, files: int) -> Content:
    with closing(postgres.connect(TRACKING)) as connection, connection.cursor() as cursor:
        counts: list[int] = []
        for table in ("runs", "model_versions"):
            cursor.execute(f"SELECT count(*) FROM {table}")
            counts += cursor.fetchone() or [0]
    return Content(counts[0], counts[1], files)
