"""Brings what training has written into its run folder to MLflow; once, whatever is killed when.

The courier does it beside a training, `sync` later for what the courier had to leave.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from mde.errors import InputError
from mde.files import file_sha256, read_json
from mde.storage import Storage, open_storage
from mde.tracking.attachments import local_copy, send_once
from mde.tracking.lease import Lease
from mde.tracking.run_folder import (
    MODEL,
    Artifacts,
    Delivered,
    End,
    RunFolder,
    Status,
)
from mde.tracking.runs import KEY_TAG, MAX_METRICS, create_run, find_run, join_group, send_params
from mde.tracking.store import connect, said, shown_uri
from mde.train.journal import Point, read_segment

__all__ = ["KEY_TAG", "Delivery", "Synced", "claim_text", "run_id_of", "sync"]

CHECKPOINT = "checkpoint"
# A server that keeps artifacts in a bucket answers when they are there.
UPLOAD_TIMEOUT_S = 300


class Delivery:
    """One run's way into MLflow. `deliver` may fail anywhere, and be called again.

    Nothing is doubled: a run is looked for by its key before it is created, and MLflow ignores a
    point that it has. answered: called whenever MLflow has answered.
    """

    def __init__(
        self, root: Path, folder: RunFolder, answered: Callable[[], None] = lambda: None
    ) -> None:
        self.root, self.folder, self.answered = root, folder, answered
        self.values = 0
        """How many metric values of the training have been delivered."""
        self.damaged: dict[str, str] = {}
        """Messages of files that cannot be read, by name; they are left where they are."""
        self._client: mlflow.MlflowClient | None = None

    def deliver(self) -> str:
        """Deliver everything that waits; returns the id of the MLflow run.

        Raises what MLflow raises, and InputError when it does not answer or when a file of the
        folder is damaged. What has been delivered until then is remembered.
        """
        try:
            run_id = self._open_run()
            self._send_journal(run_id)
            self._send_system(run_id)
            self._send_status(run_id)
            self._send_once(run_id)
            self._send_artifacts(run_id)
        except MlflowException as error:
            self._client = None
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                # Another store, or one that was emptied: it is to get everything anew.
                self.folder.write_delivered(Delivered())
            raise
        return run_id

    def _open_run(self) -> str:
        if self._client is None:
            self._client = connect(self.root)
            self.answered()
        delivered, record = self.folder.delivered, self.folder.record
        if delivered.run_id is not None:
            return delivered.run_id
        if record is None:
            raise InputError(f"{self.folder.uri}: holds no training run (it has no run.json)")
        run_id = find_run(self._client, record.key) or create_run(self._client, record)
        self.answered()
        # Again for a run that was found: whoever created it may not have come so far.
        send_params(self._client, run_id, record)
        join_group(self._client, run_id, record)
        self.answered()
        self.folder.write_delivered(Delivered(run_id))
        return run_id

    def _send_journal(self, run_id: str) -> None:
        for names, points in self._requests(self.folder.storage, self.folder.waiting()):
            self.values += self._send_points(run_id, points)
            delivered = self.folder.delivered
            known = (*delivered.segments, *names)
            self.folder.write_delivered(replace(delivered, segments=known))

    def _send_system(self, run_id: str) -> None:
        for names, points in self._requests(self.folder.system, self.folder.waiting_system()):
            self._send_points(run_id, points)
            delivered = self.folder.delivered
            known = (*delivered.system, *names)
            self.folder.write_delivered(replace(delivered, system=known))

    def _send_points(self, run_id: str, points: list[Point]) -> int:
        assert self._client is not None
        metrics = [
            Metric(key, value, point.time_ms, point.step)
            for point in points
            for key, value in point.values.items()
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(run_id, metrics[start : start + MAX_METRICS])
            self.answered()
        return len(metrics)

    def _requests(
        self, storage: Storage, waiting: list[str]
    ) -> Iterator[tuple[list[str], list[Point]]]:
        """Segments that wait, as many at a time as fit into a request, and at least one."""
        names: list[str] = []
        points: list[Point] = []
        size = 0
        for name in waiting:
            try:
                found = read_segment(storage, name)
            except InputError as error:
                self.damaged[name] = str(error)
                continue
            more = sum(len(point.values) for point in found)
            if names and size + more > MAX_METRICS:
                yield names, points
                names, points, size = [], [], 0
            names, points, size = [*names, name], [*points, *found], size + more
        if names:
            yield names, points

    def _send_status(self, run_id: str) -> None:
        assert self._client is not None
        end, delivered = self.folder.end, self.folder.delivered
        status: Status = "RUNNING" if end is None else end.status
        if delivered.status == status:
            return
        if end is None:
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._client.set_terminated(run_id, end.status, end.ended_ms)
            if (record := self.folder.record) is not None:
                join_group(self._client, run_id, record)
        self.answered()
        self.folder.write_delivered(replace(delivered, status=status))

    def _send_once(self, run_id: str) -> None:
        assert self._client is not None
        for name in self.folder.waiting_once():
            try:
                with _upload_timeout():
                    send_once(self._client, run_id, self.folder, name)
            except InputError as error:
                self.damaged[name] = str(error)
                continue
            self.answered()
            delivered = self.folder.delivered
            self.folder.write_delivered(replace(delivered, once=(*delivered.once, name)))

    def _send_artifacts(self, run_id: str) -> None:
        assert self._client is not None
        artifacts = None if (end := self.folder.end) is None else end.artifacts
        if artifacts is None or self.folder.delivered.artifacts == artifacts.sha256:
            return
        source = self._find(artifacts)
        with _upload_timeout():
            for file in sorted(path for path in source.rglob("*") if path.is_file()):
                place = Path(CHECKPOINT, file.parent.relative_to(source)).as_posix()
                self._client.log_artifact(run_id, str(file), place)
                self.answered()
            for name in self.folder.storage.names(MODEL):
                data = self.folder.storage.read(f"{MODEL}/{name}")
                with local_copy(name, data) as copy:
                    self._client.log_artifact(run_id, str(copy), CHECKPOINT)
                self.answered()
        self.folder.write_delivered(replace(self.folder.delivered, artifacts=artifacts.sha256))

    def _find(self, artifacts: Artifacts) -> Path:
        source = self.root / artifacts.place
        state = source / "state.json"
        if not state.is_file() or file_sha256(state) != artifacts.sha256:
            raise InputError(
                f"{source}: no longer the checkpoint of the run in {self.folder.uri}: it was "
                "deleted, or a later training has replaced it. Bring it back, or delete that folder"
            )
        return source


@contextmanager
def _upload_timeout() -> Iterator[None]:
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    former = os.environ.get(name)
    os.environ[name] = str(UPLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        if former is None:
            del os.environ[name]
        else:
            os.environ[name] = former


@dataclass(frozen=True)
class Synced:
    """What became of a run folder. values: that were delivered now. note: for people."""

    uri: str
    values: int
    note: str
    problems: tuple[str, ...] = ()


def sync(root: Path, folder: RunFolder) -> Synced | None:
    """Deliver what waits in a run folder; None when nothing does.

    A run that nobody trains any more and that has not said how it ended was killed. A run that is
    training is left to its courier. Raises InputError when MLflow does not take it.
    """
    if folder.settled:
        return None
    lease = Lease(folder.storage, uuid.uuid4().hex, claim_text("mde track sync"))
    if (owner := lease.acquire()) is not None:
        return Synced(folder.uri, 0, f"left to {owner}, which is alive")
    try:
        if folder.end is None:
            folder.write_end(End("KILLED", time.time_ns() // 1_000_000))
        delivery = Delivery(root, folder)
        run_id = _deliver(delivery)
        end = folder.end
        note = f"{end.status if end else 'RUNNING'}, MLflow run {run_id}"
        if folder.settled and folder.finished:
            folder.forget()
        return Synced(folder.uri, delivery.values, note, tuple(delivery.damaged.values()))
    finally:
        lease.release()


def _deliver(delivery: Delivery) -> str:
    for last_try in (False, True):
        try:
            return delivery.deliver()
        except MlflowException as error:
            if not last_try and error.error_code == "RESOURCE_DOES_NOT_EXIST":
                continue
            raise InputError(
                f"MLflow at {shown_uri(delivery.root)} does not take the run in "
                f"{delivery.folder.uri}: {said(error)}"
            ) from error
    raise AssertionError("unreachable")


def run_id_of(root: Path, receipt: Path) -> str:
    """Id of the MLflow run of a trained variant, from the `run.json` beside its checkpoint.

    Delivers first what waits of the run. Raises InputError when MLflow does not answer or does not
    know the run.
    """
    content = read_json(receipt)
    run_id, key = content["run_id"], content.get("key")
    if key is None:
        return str(run_id)
    place = content["folder"]
    folder = RunFolder(open_storage(place if "://" in place else root / place))
    record = folder.record
    try:
        if record is not None and record.key == key:
            sync(root, folder)
        found = run_id or find_run(connect(root), key)
    except (InputError, MlflowException) as error:
        raise InputError(
            f"{receipt}: what MLflow is to have of this training waits in {folder.uri}, and could "
            f"not be delivered: {said(error)}. When MLflow answers: mde track sync"
        ) from error
    if found is None:
        raise InputError(
            f"{receipt}: MLflow at {shown_uri(root)} knows no run with key {key}, and nothing "
            "waits for mde track sync. If the store is a new one, train again: "
            "dvc repro -f -s train@…"
        )
    return str(found)


def claim_text(purpose: str) -> str:
    """What a claim says of this process."""
    return f"{purpose}, {socket.gethostname()}, process {os.getpid()}"
