"""Raw files → shards and a manifest: the plan and the end. Knows nothing of Ray.

Which frame goes into which shard is decided before anything runs, so the output is the same for
any number of workers and any order of completion.
"""

import functools
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mde.data.codecs import JPEG_QUALITY
from mde.data.encode import Statistics
from mde.data.frames import Frame, Rejected, check_leaks, check_rejected
from mde.data.raw.fingerprint import RawState, raw_state
from mde.data.raw.mirror import fetch_raw
from mde.data.shards import (
    Manifest,
    Shard,
    find_duplicates,
    write_manifest,
)
from mde.data.sources import SourceConfig, get_source
from mde.data.tasks import Job, Task, disk_errors, plan_tasks, portable, run_task
from mde.errors import InputError
from mde.files import replace_folder, write_json
from mde.schema import SPLITS

Execute = Callable[[Job, list[Task]], Iterable[dict[str, Any]]]
"""Runs `run_task` for every task and gives the records, in any order."""


def convert(config: SourceConfig, root: Path, out: Path, execute: Execute) -> Manifest:
    """Convert a raw dataset into the folder `out`, which is replaced in one rename.

    Raw files that lie in an object store are fetched first, see `mde.data.raw.mirror`.

    The work is done in `.<name>.partial` beside it. Killed and started again, the conversion goes
    on from the shards already finished, unless their raw files or the settings have changed.
    Raises InputError for bad raw data, a full disk, duplicate images in two splits, and when more
    than `max_rejected` of the frames are bad; what was at `out` is still there then.
    """
    raw = fetch_raw(config.raw, root, out.name)
    job = Job(config, raw, out.with_name(f".{out.name}.partial"))
    if not job.raw.exists():
        raise InputError(f"{job.raw}: not there; set datasets.{out.name}.raw to your raw data")
    try:
        manifest = _convert(job, execute)
    except BaseException:
        _remove_if_empty(job.draft)
        raise
    replace_folder(job.shards, out)
    shutil.rmtree(job.draft, ignore_errors=True)
    return manifest


def run_one_by_one(job: Job, tasks: list[Task]) -> Iterator[dict[str, Any]]:
    """Run the tasks in this process."""
    return (run_task(job, task) for task in tasks)


def _convert(job: Job, execute: Execute) -> Manifest:
    with disk_errors(job):
        for folder in (job.shards, job.work):
            folder.mkdir(parents=True, exist_ok=True)
        listed = get_source(job.config.source).list_frames(job.config, job.raw, job.work)
    frames = [item for item in listed if isinstance(item, Frame)]
    missing = [item for item in listed if isinstance(item, Rejected)]
    _check_rejected(job, missing, len(listed))
    check_leaks(frames, job.config.allow_shared_scenes)
    # Before they are read: a file that changes from here on makes the dataset out of date.
    raw = raw_state(job.raw)
    tasks = list(plan_tasks(frames, job.config.rows_per_shard))
    records = _collect(job, tasks, execute)
    return _finish(job, missing, len(listed), records, raw)


def _remove_if_empty(draft: Path) -> None:
    # What is done stays for the next start; of a conversion that has done nothing, nothing does.
    if not any(path.is_file() for path in draft.rglob("*")):
        shutil.rmtree(draft, ignore_errors=True)


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
    job: Job,
    missing: list[Rejected],
    total: int,
    records: list[dict[str, Any]],
    raw: RawState,
) -> Manifest:
    rejected = [*missing, *(Rejected(**frame) for r in records for frame in r["rejected"])]
    _check_rejected(job, rejected, total)
    statistics = {
        split: merge([r["statistics"] for r in records if r["split"] == split]) for split in SPLITS
    }
    manifest = Manifest(
        source=job.config.source,
        config=portable(job.config),
        shards=[Shard(**record["shard"]) for record in records if record["shard"]],
        rejected=rejected,
        duplicates=find_duplicates(
            ((r["split"], *item) for r in records for item in r["digests"].items()),
            job.config.allow_duplicates,
        ),
        statistics={split: part.summary() for split, part in statistics.items()},
        precision=precision(job.config.lossless, merge(map(asdict, statistics.values()))),
        raw=asdict(raw),
    )
    if not manifest.shards:
        raise InputError("no frame could be used; there is nothing to write")
    # Shards of an earlier plan that was never finished.
    known = {shard.file for shard in manifest.shards}
    for path in job.shards.iterdir():
        if path.name not in known:
            path.unlink()
    with disk_errors(job):
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
