"""One task of a conversion: the frames of one shard. Finished ones are found again.

A task writes its shard, and then a record of it. A shard with a record is whole, and is not made
again as long as the raw files, the settings and this code are the same.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected
from mde.data.shards import image_digest, write_shard
from mde.data.sources import SourceConfig, get_source
from mde.errors import InputError
from mde.files import disk_fault, file_sha256, write_json
from mde.schema import SPLITS, Row


@dataclass(frozen=True)
class Task:
    """The frames of one shard."""

    split: str
    index: int
    frames: list[Frame]

    @property
    def name(self) -> str:
        """Of its record."""
        return f"{self.split}-{self.index:05d}"


@dataclass(frozen=True)
class Job:
    """What all tasks of a conversion share. raw: the raw files. draft: where the work is done."""

    config: SourceConfig
    raw: Path
    draft: Path

    @property
    def shards(self) -> Path:
        """What becomes the dataset."""
        return self.draft / "shards"

    @property
    def work(self) -> Path:
        """Records of finished tasks and whatever the source keeps."""
        return self.draft / "work"


def plan_tasks(frames: list[Frame], rows_per_shard: int) -> Iterator[Task]:
    """Cut each split into shards."""
    for split in SPLITS:
        of_split = [frame for frame in frames if frame.split == split]
        for start in range(0, len(of_split), rows_per_shard):
            yield Task(split, start // rows_per_shard, of_split[start : start + rows_per_shard])


def run_task(job: Job, task: Task) -> dict[str, Any]:
    """Make one shard, or find it finished; returns its record for the manifest.

    The record is written after the shard: a shard with a record is whole.
    """
    cv2.setNumThreads(1)
    path, state = job.work / f"{task.name}.json", _fingerprint(job, task)
    if record := _finished(job, path, state):
        return record
    encoder = Encoder(job.config.size, job.config.lossless)
    source = get_source(job.config.source)
    results = {
        result["sample_id"] if isinstance(result, dict) else result.sample_id: result
        for result in source.read_frames(job.config, job.raw, job.work, task.frames, encoder)
    }
    # Some sources read in the order of an archive.
    ordered = [results[frame.sample_id] for frame in task.frames]
    rejected = [result for result in ordered if isinstance(result, Rejected)]
    rows: list[Row] = [result for result in ordered if not isinstance(result, Rejected)]
    with disk_errors(job):
        shard = (
            write_shard(job.shards, task.split, task.index, rows, encoder.statistics.invalid)
            if rows
            else None
        )
        record = {
            "name": task.name,
            "split": task.split,
            "fingerprint": state,
            "frames": len(task.frames),
            "shard": asdict(shard) if shard else None,
            "rejected": [asdict(frame) for frame in rejected],
            "statistics": asdict(encoder.statistics),
            "digests": {row["sample_id"]: image_digest(row["image"]) for row in rows},
        }
        write_json(path, record)
    return record


def _fingerprint(job: Job, task: Task) -> str:
    # Raw files that were changed between two runs have another size or time.
    names = {name for frame in task.frames for name in frame.files.values()}
    paths = [job.raw / name for name in sorted(names)] if job.raw.is_dir() else [job.raw]
    stats = [(s.st_size, s.st_mtime_ns) if (s := _stat(path)) else None for path in paths]
    frames = [asdict(frame) for frame in task.frames]
    content = [portable(job.config), frames, stats, _code_sha256()]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


@functools.cache
def _code_sha256() -> str:
    # Shards of two versions of this code do not get into one dataset.
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    # A file that has vanished since it was listed is the source's to report.
    try:
        return path.stat()
    except OSError:
        return None


def _finished(job: Job, path: Path, fingerprint: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    if record["fingerprint"] != fingerprint:
        return None
    if record["shard"]:
        shard = job.shards / record["shard"]["file"]
        if not shard.is_file() or file_sha256(shard) != record["shard"]["sha256"]:
            return None
    return record


def portable(config: SourceConfig) -> dict[str, Any]:
    """The settings that make a dataset what it is: not where its raw files lay, or the limits."""
    content = {
        key: value for key, value in asdict(config).items() if key not in ("raw", "max_rejected")
    }
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in content.items()
    }


@contextmanager
def disk_errors(job: Job) -> Iterator[None]:
    """Raises InputError when the disk is full, with what to do."""
    try:
        yield
    except OSError as error:
        fault = disk_fault(error, job.draft if job.draft.exists() else job.draft.parent)
        if fault is None:
            raise
        finished = len(list(job.work.glob("*.json")))
        raise InputError(
            f"{job.draft}: {fault}; {finished} finished shards stay there: "
            "make room and start again to go on from them, or delete the folder"
        ) from error
