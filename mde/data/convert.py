"""Raw files → shards and a manifest: the plan, one task, and the end. Knows nothing of Ray.

Which frame goes into which shard is decided before anything runs, so the output is the same for
any number of workers and any order of completion. A finished task leaves its shard and a record
beside it; a conversion that was killed goes on from these.
"""

import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mde.data.codecs import JPEG_QUALITY
from mde.data.encode import Encoder, Statistics
from mde.data.frames import Frame, Rejected, check_leaks, check_rejected
from mde.data.shards import (
    Manifest,
    Shard,
    find_duplicates,
    image_digest,
    write_manifest,
    write_shard,
)
from mde.data.sources import SourceConfig, get_source
from mde.errors import InputError
from mde.files import disk_fault, file_sha256, replace_folder, write_json
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


Execute = Callable[[Job, list[Task]], Iterable[dict[str, Any]]]
"""Runs `run_task` for every task and gives the records, in any order."""


def convert(config: SourceConfig, root: Path, out: Path, execute: Execute) -> Manifest:
    """Convert a raw dataset into the folder `out`, which is replaced in one rename.

    The work is done in `.<name>.partial` beside it. Killed and started again, the conversion goes
    on from the shards already finished, unless their raw files or the settings have changed.
    Raises InputError for bad raw data, a full disk, duplicate images in two splits, and when more
    than `max_rejected` of the frames are bad; what was at `out` is still there then.
    """
    job = Job(config, root / config.raw, out.with_name(f".{out.name}.partial"))
    if not job.raw.exists():
        raise InputError(f"{job.raw}: not there; set datasets.{out.name}.raw to your raw data")
    with _disk_errors(job):
        for folder in (job.shards, job.work):
            folder.mkdir(parents=True, exist_ok=True)
        listed = get_source(config.source).list_frames(config, job.raw, job.work)
    frames = [item for item in listed if isinstance(item, Frame)]
    missing = [item for item in listed if isinstance(item, Rejected)]
    _check_rejected(job, missing, len(listed))
    check_leaks(frames, config.allow_shared_scenes)
    tasks = list(plan_tasks(frames, config.rows_per_shard))
    records = _collect(job, tasks, execute)
    manifest = _finish(job, missing, len(listed), records)
    replace_folder(job.shards, out)
    shutil.rmtree(job.draft, ignore_errors=True)
    return manifest


def plan_tasks(frames: list[Frame], rows_per_shard: int) -> Iterator[Task]:
    """Cut each split into shards."""
    for split in SPLITS:
        of_split = [frame for frame in frames if frame.split == split]
        for start in range(0, len(of_split), rows_per_shard):
            yield Task(split, start // rows_per_shard, of_split[start : start + rows_per_shard])


def run_one_by_one(job: Job, tasks: list[Task]) -> Iterator[dict[str, Any]]:
    """Run the tasks in this process."""
    return (run_task(job, task) for task in tasks)


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
    with _disk_errors(job):
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
    content = [_portable(job.config), frames, stats, _code_sha256()]
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


def _collect(job: Job, tasks: list[Task], execute: Execute) -> list[dict[str, Any]]:
    total = sum(len(task.frames) for task in tasks)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    records = []
    with Progress(*columns, TextColumn("frames"), TimeRemainingColumn()) as progress:
        bar = progress.add_task(f"convert {job.config.source}", total=total)
        for record in execute(job, tasks):
            records.append(record)
            progress.advance(bar, record["frames"])
    order = {task.name: number for number, task in enumerate(tasks)}
    return sorted(records, key=lambda record: order[record["name"]])


def _finish(
    job: Job, missing: list[Rejected], total: int, records: list[dict[str, Any]]
) -> Manifest:
    rejected = [*missing, *(Rejected(**frame) for r in records for frame in r["rejected"])]
    _check_rejected(job, rejected, total)
    statistics = {
        split: merge([r["statistics"] for r in records if r["split"] == split]) for split in SPLITS
    }
    manifest = Manifest(
        source=job.config.source,
        config=_portable(job.config),
        shards=[Shard(**record["shard"]) for record in records if record["shard"]],
        rejected=rejected,
        duplicates=find_duplicates(
            ((r["split"], *item) for r in records for item in r["digests"].items()),
            job.config.allow_duplicates,
        ),
        statistics={split: part.summary() for split, part in statistics.items()},
        precision=precision(job.config.lossless, merge(map(asdict, statistics.values()))),
    )
    if not manifest.shards:
        raise InputError("no frame could be used; there is nothing to write")
    # Shards of an earlier plan that was never finished.
    for path in job.shards.iterdir():
        if path.name not in {shard.file for shard in manifest.shards}:
            path.unlink()
    with _disk_errors(job):
        write_manifest(job.shards, manifest)
    return manifest


def _check_rejected(job: Job, rejected: list[Rejected], total: int) -> None:
    try:
        check_rejected(rejected, total, job.config.max_rejected)
    except InputError as error:
        path = job.draft / "rejected.json"
        write_json(path, [asdict(frame) for frame in rejected])
        raise InputError(f"{error}\nAll of them: {path}") from None


def merge(parts: Iterable[dict[str, Any]]) -> Statistics:
    """The statistics of all parts, in their order."""
    return functools.reduce(Statistics.merge, (Statistics(**part) for part in parts), Statistics())


def precision(lossless: bool, statistics: Statistics) -> dict[str, Any]:
    """What storing has changed, as measured: PSNR of the images that were checked, depth in m."""
    psnr = {
        name: round(10 * math.log10(255**2 / mse), 2) if mse else None
        for name, mse in (
            ("psnr_db", statistics.image_mse / max(1, statistics.images_checked)),
            ("psnr_db_min", statistics.image_mse_max),
        )
    }
    return {
        "image": {
            "codec": "webp, lossless" if lossless else f"jpeg, quality {JPEG_QUALITY}, 4:4:4",
            "checked": statistics.images_checked,
            **psnr,
        },
        "depth": {
            "codec": "float32, lz4" if lossless else "uint16, lz4",
            "max_error_m": statistics.depth_error,
            **({"source_step_m": statistics.source_step} if statistics.source_step else {}),
        },
    }


def _portable(config: SourceConfig) -> dict[str, Any]:
    # Where the raw files lay, and what was tolerated, is not part of what the dataset is.
    content = {
        key: value for key, value in asdict(config).items() if key not in ("raw", "max_rejected")
    }
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in content.items()
    }


@contextmanager
def _disk_errors(job: Job) -> Iterator[None]:
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
