"""A training that another process reports to MLflow, so that it never waits for a server."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mde.files import file_sha256
from mde.provenance import Provenance
from mde.storage import open_storage
from mde.tracking.origin import Origin, describe
from mde.tracking.run_folder import MODEL, Artifacts, RunFolder, Status
from mde.tracking.store import require_user, shown_uri


class FollowedRun:
    """A training that a courier follows, from another process."""

    def __init__(self, root: Path, folder: RunFolder, key: str) -> None:
        self.root, self.folder, self.key = root, folder, key
        self.artifacts: Artifacts | None = None
        self.delivered = False
        """Whether MLflow has all of it; known when the `follow` block has ended."""

    def finish(self, checkpoint: Path, beside: dict[str, bytes] | None = None) -> None:
        """Name the final checkpoint, below the root, for MLflow to get when the block ends.

        It must stay there until then, and until `mde track sync` when MLflow does not answer.
        beside: files that MLflow is to have with it, see `mde.tracking.model_card`.
        """
        for name, content in (beside or {}).items():
            self.folder.storage.write(f"{MODEL}/{name}", content)
        place = checkpoint.absolute().relative_to(self.root).as_posix()
        self.artifacts = Artifacts(place, file_sha256(checkpoint / "state.json"))

    def receipt(self) -> dict[str, Any]:
        """What later stages find the run by, with `mde.tracking.delivery.run_id_of`."""
        place, root = self.folder.uri, self.root.resolve()
        if "://" not in place and Path(place).is_relative_to(root):
            # The root may be moved, or mounted elsewhere.
            place = Path(place).relative_to(root).as_posix()
        return {"key": self.key, "run_id": self.folder.delivered.run_id, "folder": place}


@contextmanager
def follow(
    root: Path,
    uri: str | Path,
    provenance: Provenance,
    anew: bool = False,
    origin: Origin | None = None,
) -> Iterator[FollowedRun]:
    """Let a courier bring the journal of a run folder to MLflow while the block trains.

    A folder that holds an unfinished run goes on with that run; anew: not so, and what MLflow does
    not have of it is kept beside the folder, for `mde track sync`. The block's end is the run's: as
    FAILED when it raises, as KILLED when that is Ctrl-C or SIGTERM. Then what is left is delivered,
    for as long as MLflow answers; what it does not take stays in the folder, and is said in a line.
    origin: what MLflow is to have besides, see `mde.tracking.origin`.
    Raises InputError, before anything is written, when MLflow refuses the user and password. But
    nothing here waits for an MLflow that does not answer before the block ends, and no other
    error of its is raised.
    """
    root, folder = root.absolute(), RunFolder(open_storage(uri))
    require_user(root)
    origin = origin or Origin()
    name, params, tags = describe(provenance)
    record = folder.begin(name, params, tags | origin.tags, anew, origin.inputs, origin.files)
    run = FollowedRun(root, folder, record.key)
    courier = _CourierProcess(root, folder)
    try:
        yield run
    except BaseException as error:
        courier.end(status_of(error))
        _say_what_is_left(run)
        raise
    courier.end("FINISHED", run.artifacts)
    run.delivered = folder.settled
    _say_what_is_left(run)


class _CourierProcess:
    """The courier beside this process; it sees the end of the pipe when this process is killed."""

    def __init__(self, root: Path, folder: RunFolder) -> None:
        self.root, self.folder, self.claim = root, folder, uuid.uuid4().hex
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        package = str(Path(__file__).parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mde.tracking.courier",
                str(self.root),
                self.folder.uri,
                self.claim,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Not ours: Ctrl-C is for the training, and the courier has to say that it came.
            start_new_session=True,
            env={
                "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
                **os.environ,
                # It tries again by itself, and is to notice soon that it must.
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
                "PYTHONPATH": os.pathsep.join(paths),
            },
        )

    def end(self, status: Status, artifacts: Artifacts | None = None) -> None:
        """Tell how the run ended, and wait until the courier has delivered it or given up."""
        line = {"status": status, "artifacts": artifacts and asdict(artifacts)}
        for _ in range(2):
            if self.process.poll() is not None:
                # Killed by somebody; under the same claim, the next one need not wait for it.
                self.process = self._start()
            self.process.communicate(json.dumps(line).encode() + b"\n")
            if self.process.returncode == 0:
                return


def status_of(error: BaseException) -> Status:
    """How a run ended that an exception ended.

    Ray makes Ctrl-C and SIGTERM into SystemExit, and others wrap KeyboardInterrupt into their own.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        found = pending.pop()
        if isinstance(found, KeyboardInterrupt | SystemExit):
            return "KILLED"
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            pending += [found.__cause__, found.__context__]
    return "FAILED"


def _say_what_is_left(run: FollowedRun) -> None:
    if run.folder.settled:
        return
    print(
        f"MLflow at {shown_uri(run.root)} does not have all of this run: "
        f"{run.folder.waiting_values()} points wait in {run.folder.uri}; when MLflow answers, "
        "mde track sync delivers it",
        file=sys.stderr,
        flush=True,
    )
