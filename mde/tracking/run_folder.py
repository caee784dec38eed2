"""What a run's folder says of the run, beside its checkpoints and its journal. No MLflow here.

`run.json`: its key, name, parameters, written at the first start. `journal/end.json`: how it ended.
`delivered.json`: what MLflow has of it. `code/`: params.yaml, dvc.lock, a patch. `system/journal/`:
use of the machine. `pictures/<key>/<step>.png`. `model/`: what MLflow has beside the checkpoint.
"""

import json
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from mde.errors import InputError
from mde.storage import Storage, join_uri, open_storage
from mde.train import journal

RUN, DELIVERED = "run.json", "delivered.json"
# Among the segments: on NFS, a node that writes into a folder sees what others have just written
# there, so nobody takes a run for settled before its last segment.
END = f"{journal.FOLDER}/end.json"
CHECKPOINT_PREFIX = "step-"
CODE, SYSTEM, PICTURES, MODEL = "code", "system", "pictures", "model"
INPUTS = "inputs"
DIGEST = 16
"""Characters of a dataset's SHA-256 that are its digest in MLflow, which takes up to 36."""
LATER_COMMIT = "mde.resumed_with"
COMMIT, GROUP_TAG = "mlflow.source.git.commit", "mde.group"

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class DatasetUsed:
    """A dataset as an MLflow run has it.

    digest: the first characters of its SHA-256. source_type, source: as MLflow has them, which is
    JSON. rows: by split. context: `training` or `evaluation`. columns: JSON, as of MLflow's schema.
    """

    name: str
    digest: str
    source_type: str
    source: str
    rows: dict[str, int]
    context: str
    columns: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """A training run as MLflow is to show it. key: equal for all its starts, and no other run's."""

    key: str
    name: str
    created_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    inputs: tuple[DatasetUsed, ...] = ()


@dataclass(frozen=True)
class Artifacts:
    """A final checkpoint. place: relative to the root. sha256: of its state.json."""

    place: str
    sha256: str


@dataclass(frozen=True)
class End:
    """How a run ended, and what it has made."""

    status: Status
    ended_ms: int
    artifacts: Artifacts | None = None


@dataclass(frozen=True)
class Delivered:
    """What MLflow has confirmed.

    segments: names in the journal. system: in the one of the machine. artifacts: their SHA-256.
    once: names as of `RunFolder.waiting_once`.
    """

    run_id: str | None = None
    status: Status | None = None
    segments: tuple[str, ...] = ()
    artifacts: str | None = None
    system: tuple[str, ...] = ()
    once: tuple[str, ...] = ()


class RunFolder:
    """A run's folder on shared storage, by path or URI."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.storage.uri

    @property
    def record(self) -> RunRecord | None:
        """The run; None in a folder that holds none."""
        content = self._read(RUN)
        if content is None:
            return None
        used = [self._parse(DatasetUsed, RUN, each) for each in content.get(INPUTS, ())]
        return self._parse(RunRecord, RUN, {**content, INPUTS: tuple(used)})

    @property
    def end(self) -> End | None:
        """How the run ended; None as long as nobody has said."""
        content = self._read(END)
        if content is None:
            return None
        if (made := content.get("artifacts")) is not None:
            content["artifacts"] = self._parse(Artifacts, END, made)
        return self._parse(End, END, content)

    @property
    def delivered(self) -> Delivered:
        """What MLflow has."""
        content = self._read(DELIVERED)
        if content is None:
            return Delivered()
        found = self._parse(Delivered, DELIVERED, content)
        lists = {name: tuple(getattr(found, name)) for name in ("segments", "system", "once")}
        return replace(found, **lists)

    @property
    def system(self) -> Storage:
        """Where the journal of the machine is."""
        return open_storage(join_uri(self.uri, SYSTEM))

    def begin(
        self,
        name: str,
        params: dict[str, str],
        tags: dict[str, str],
        anew: bool = False,
        inputs: tuple[DatasetUsed, ...] = (),
        files: dict[str, bytes] | None = None,
    ) -> RunRecord:
        """The folder's run, to be gone on with; a new one in an empty folder.

        files: to be kept below `code/`. Those of the first start stay: when a later one is of
        another commit, the tag `mde.resumed_with` says so.

        A run that is finished and whose checkpoints are gone is not gone on with, nor is any when
        `anew`: what MLflow does not have of it is moved to a folder beside, for `mde track sync`.
        """
        record = self.record
        if record is not None and (anew or self.finished):
            self._set_aside(record.key)
            record = None
        if record is None:
            self.forget()
            for file, content in (files or {}).items():
                self.storage.write(f"{CODE}/{file}", content)
            now_ms = time.time_ns() // 1_000_000
            record = RunRecord(uuid.uuid4().hex, name, now_ms, params, tags, inputs)
            self._write(RUN, asdict(record))
        elif tags.get(COMMIT, record.tags.get(COMMIT)) != record.tags.get(COMMIT):
            record = replace(record, tags={**record.tags, LATER_COMMIT: tags[COMMIT]})
            self._write(RUN, asdict(record))
        return record

    def write_end(self, end: End | None) -> None:
        """Say how the run ended; None: that it goes on."""
        if end is None:
            self.storage.delete(END)
        else:
            self._write(END, asdict(end))

    def write_delivered(self, delivered: Delivered) -> None:
        """Remember what MLflow has."""
        self._write(DELIVERED, asdict(delivered))

    def waiting(self) -> list[str]:
        """Segments of the journal that MLflow does not have, in order."""
        known = set(self.delivered.segments)
        return [name for name in journal.segments(self.storage) if name not in known]

    def waiting_system(self) -> list[str]:
        """Segments of the journal of the machine that MLflow does not have, in order."""
        known = set(self.delivered.system)
        return [name for name in journal.segments(self.system) if name not in known]

    def waiting_once(self) -> list[str]:
        """What else MLflow does not have, and is to get once.

        `inputs`: the datasets; `mde.resumed_with=<commit>`: a tag; the others are files.
        """
        record, names = self.record, []
        if record is not None and record.inputs:
            names.append(INPUTS)
        if record is not None and LATER_COMMIT in record.tags:
            names.append(f"{LATER_COMMIT}={record.tags[LATER_COMMIT]}")
        known = set(self.delivered.once)
        return [name for name in (*names, *self._files()) if name not in known]

    def _files(self) -> list[str]:
        """Names of the files below `code/` and `pictures/`."""
        files = [f"{CODE}/{name}" for name in self.storage.names(CODE)]
        for key in self.storage.names(PICTURES):
            folder = f"{PICTURES}/{key}"
            files += [f"{folder}/{name}" for name in self.storage.names(folder)]
        return files

    def waiting_values(self) -> int:
        """Number of metric values that MLflow does not have; a damaged segment counts as one."""
        count = 0
        for name in self.waiting():
            try:
                points = journal.read_segment(self.storage, name)
                count += sum(len(point.values) for point in points)
            except InputError:
                count += 1
        return count

    @property
    def settled(self) -> bool:
        """Whether the run has ended and MLflow has all of it."""
        end, delivered = self.end, self.delivered
        if end is None or delivered.status != end.status or self.waiting():
            return False
        if self.waiting_system() or self.waiting_once():
            return False
        return end.artifacts is None or delivered.artifacts == end.artifacts.sha256

    @property
    def finished(self) -> bool:
        """Whether the run has ended well, and its checkpoints have been taken away."""
        names, end = self.storage.names(), self.end
        whole = end is not None and end.status == "FINISHED"
        return whole and not any(name.startswith(CHECKPOINT_PREFIX) for name in names)

    def forget(self) -> None:
        """Delete all of this but the checkpoints."""
        # Without its record, the rest of a half-deleted run is nobody's.
        for name in (RUN, DELIVERED, journal.FOLDER, CODE, SYSTEM, PICTURES, MODEL):
            self.storage.delete(name)

    def _set_aside(self, key: str) -> None:
        if self.settled:
            return
        aside = open_storage(_beside(self.uri, f".{key[:8]}"))
        names = [f"{journal.FOLDER}/{name}" for name in journal.segments(self.storage)]
        segments = journal.segments(self.system)
        names += [f"{SYSTEM}/{journal.FOLDER}/{name}" for name in segments]
        names += [f"{MODEL}/{name}" for name in self.storage.names(MODEL)]
        for name in (*names, *self._files(), END, DELIVERED, RUN):
            with suppress(FileNotFoundError):
                aside.write(name, self.storage.read(name))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self.storage.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise self._damaged(name, error) from error
        if not isinstance(content, dict):
            raise self._damaged(name, TypeError("not a JSON object"))
        return content

    def _parse(self, kind: type[Any], name: str, content: dict[str, Any]) -> Any:
        try:
            return kind(**content)
        except TypeError as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> InputError:
        return InputError(
            f"{self.uri}/{name}: damaged: {error}; bring it back from a copy, or delete the folder"
        )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self.storage.write(name, (json.dumps(content, indent=2) + "\n").encode())


def run_folders(uri: str) -> list[RunFolder]:
    """The runs right below a folder of shared storage, such as `checkpoints/`."""
    names = open_storage(uri).names()
    folders = [RunFolder(open_storage(join_uri(uri, name))) for name in names]
    found = []
    for folder in folders:
        with suppress(NotADirectoryError):
            if RUN in folder.storage.names():
                found.append(folder)
    return found


def _beside(uri: str, suffix: str) -> str:
    if "://" not in uri:
        return uri + suffix
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix))
