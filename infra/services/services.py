"""All servers of a team together, on one folder that keeps what they know."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.services.keys import ENVIRONMENT, Keys, shell_lines, write_private
from infra.services.object_store import ObjectStore
from infra.services.postgres import OWNER, TRACKING, Postgres
from infra.services.process import HOST, free_port, require_free
from infra.services.tracking_server import TrackingServer
from mde.errors import InputError

BUCKET, ARTIFACTS = "mde", "mlflow"
"""Buckets: of data, shards and checkpoints, for everybody; of MLflow's artifacts, for MLflow."""


@dataclass(frozen=True)
class Ports:
    """Where the servers listen, on the loopback alone. 0: any that is free."""

    mlflow: int = 0
    postgres: int = 0
    store: int = 0
    artifacts: int = 0

    def chosen(self) -> "Ports":
        """With a free port for each 0. Raises InputError when another one is in use."""
        for name, port in vars(self).items():
            if port:
                require_free(port, name, f"--{name}-port")
        return replace(self, **{name: free_port() for name, port in vars(self).items() if not port})


class Services:
    """PostgreSQL, two object stores and MLflow; a context manager that starts and ends them.

    What they know outlives them in `folder`: with the same folder they go on where they were,
    with the same passwords. `environment` is what a client has to have in its environment; it
    stands in the file `environment` of the folder too.
    """

    def __init__(self, folder: Path, ports: Ports | None = None, workers: int = 1) -> None:
        self.folder, self.workers = folder.absolute(), workers
        self._wanted = ports or Ports()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(lock(self.folder))
            stack.callback(self._stop)
            self._start()
            self._left = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.close()

    @property
    def environment(self) -> dict[str, str]:
        """What clients need: MLflow's address with user and password, the store of bucket `mde`."""
        return self.mlflow.environment | self.store.environment

    @property
    def artifacts_environment(self) -> dict[str, str]:
        """AWS variables that open the bucket `mlflow`: MLflow's own, not for clients."""
        return dict(self.artifacts.environment)

    @property
    def postgres_uri(self) -> str:
        """URI of the database of runs, with its password."""
        return f"postgresql://{OWNER}:{self.keys.postgres}@{HOST}:{self.postgres.port}/{TRACKING}"

    def watch(self) -> None:
        """Wait until a server ends. Raises InputError then, with the last lines of its log."""
        while True:
            for part in self._parts:
                part.server.check()
            time.sleep(0.5)

    def _start(self) -> None:
        ports, logs = self._wanted.chosen(), self.folder / "log"
        logs.mkdir(mode=0o700, exist_ok=True)
        self.keys = keys = Keys.of(self.folder)
        self.postgres = Postgres(
            self.folder / "postgres", logs / "postgres.log", keys, ports.postgres
        )
        self.artifacts = ObjectStore(
            "the store of artifacts",
            ARTIFACTS,
            self.folder / "artifacts",
            logs / "artifacts.log",
            (keys.artifacts_id, keys.artifacts_secret),
            ports.artifacts,
        )
        self.store = ObjectStore(
            "the object store",
            BUCKET,
            self.folder / "store",
            logs / "store.log",
            (keys.store_id, keys.store_secret),
            ports.store,
        )
        self.mlflow = TrackingServer(
            self.folder / "mlflow",
            logs / "mlflow.log",
            keys,
            self.postgres,
            self.artifacts,
            ports.mlflow,
            self.workers,
        )
        self._parts = (self.postgres, self.artifacts, self.store, self.mlflow)
        for part in self._parts[:3]:
            part.start()
        for part in self._parts[:3]:
            part.wait()
        self.mlflow.start()
        self.mlflow.wait()
        write_private(self.folder / ENVIRONMENT, shell_lines(self.environment))

    def _stop(self) -> None:
        # MLflow first: it would complain about the others.
        for part in reversed(getattr(self, "_parts", ())):
            part.server.stop()


class LockedError(InputError):
    """Other servers, or a back-up of stopped ones, are at work on a folder."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make a folder one's own. Raises LockedError when it is another's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"{folder}: its servers run already; end them first (Ctrl-C where they were "
                "started), or choose another folder with --folder"
            ) from None
        yield
