"""What a dataset of up to a million shards costs before its first batch: manifest, plan, resume.

    python -m benchmarks.metadata                        # 1e3, 1e4, 1e5 and 1e6 shards
    python -m benchmarks.metadata --shards 1000 --runs 1

Shards are of 1,024 rows and 340 MB and hold nothing: their manifest is written, read, planned and
resumed by the code that trains, each in a process of its own. `benchmarks/README.md` says what is
compared, `docs/scaling.md` what follows from it.
"""

import functools
import hashlib
import itertools
import json
import os
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.data import kept_or_temporary, tabulate, tabulate_figures
from benchmarks.timing import (
    Figure,
    Run,
    alone,
    alternate,
    compare,
    describe,
    describe_figures,
    median_of,
    time_call,
)  # fmt: skip
from mde.cluster.decode import pack_tasks
from mde.data import shards as stored
from mde.data.epoch import Epoch
from mde.data.frames import Frame
from mde.data.plan import worker_steps
from mde.data.shards import (
    ROWS_PER_GROUP,
    Manifest,
    Shard,
    find_duplicates,
    read_manifest,
    verified_sha256,
    write_manifest,
)
from mde.files import read_json, write_json

RESULTS = Path("benchmarks/results/metadata.json")
ROWS, BYTES = 1024, 340_000_000
"""Of a shard: about what KITTI triplets at 1024x320 take."""
BATCH, WORKERS = 96, 8
MOST_S, MOST = 60, {"driver": 4096, "worker": 2048}
"""Seconds that a start may take, and MiB that a process of it may hold."""
FRAMES = 200_000
STRETCH = 2**18
"""Rows of all workers whose tasks a worker plans together."""
READS = 2
"""Of the manifest by `pipelines.train` before it verifies: are the shards current, where from."""


def made_shards(count: int, digest: str = "") -> list[Shard]:
    """Shards of a training split; without `digest` each has one of its own."""
    return [
        Shard(f"train-{i:05d}.parquet", "train", ROWS, ROWS // ROWS_PER_GROUP, BYTES,
              digest or f"{i * 2654435761 % 2**64:064x}")
        for i in range(count)
    ]  # fmt: skip


def measured(function: Callable[[], Any], items: int) -> Run:
    """Time and CPU time of a call, and how much its peak is above this process's memory so far."""
    before = _peak_mib()
    run = time_call(function, items)
    return run | {"peak_mib": _peak_mib() - before}


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) / 1024


# --- Sides ------------------------------------------------------------------------------------


def write_side(folder: Path, count: int) -> Run:
    """Write a manifest."""
    manifest = Manifest("made", {}, made_shards(count), [], {})
    return measured(lambda: write_manifest(folder, manifest), count)


def read_side(folder: Path, count: int) -> Run:
    """Read it."""
    return measured(lambda: read_manifest(folder), count)


def json_side(folder: Path, count: int) -> Run:
    """Parse the same bytes, and no more."""
    return measured(lambda: json.loads((folder / "manifest.json").read_bytes()), count)


def epoch_side(count: int, rows: int = ROWS) -> Run:
    """Build an epoch's order from the shards; rows: of each."""
    shards = [Shard("", "train", rows, -(-rows // ROWS_PER_GROUP), BYTES, "")] * count
    return measured(lambda: Epoch(shards, ROWS_PER_GROUP, 0, 0), count * shards[0].row_groups)


def permutation_side(count: int) -> Run:
    """What numpy takes to permute as many int64 as there are row groups."""
    groups = count * ROWS // ROWS_PER_GROUP
    return measured(lambda: np.random.default_rng(0).permutation(groups), groups)


def tasks_side(count: int, share: float) -> Run:
    """Plan a worker's tasks of one stretch of the epoch, from this share of it on."""
    shards = [Shard("", "train", ROWS, ROWS // ROWS_PER_GROUP, BYTES, "")] * count
    order, steps = Epoch(shards, ROWS_PER_GROUP, 0, 0), STRETCH // BATCH
    start = int(share * max(0, len(order) // BATCH - steps))

    def plan() -> None:
        pack_tasks(worker_steps(order, BATCH, 0, WORKERS, start, start + steps), 100)

    return measured(plan, steps * BATCH)


def worker_side(folder: Path, count: int) -> Run:
    """What a training worker does that resumes in mid-epoch, until its first tasks are planned."""
    # Imported here: it brings torch and Ray along, which every other process would have to start.
    from mde.cluster.feed import Feed, Part

    def start() -> None:
        feed = Feed(folder, ("image",), False, BATCH, 0, None, 1, WORKERS)
        part = Part("train", 3, feed.steps_per_epoch // 2)
        list(itertools.islice(feed._tasks(part), 4))

    return measured(start, count)


def driver_side(folder: Path, count: int) -> Run:
    """What `pipelines.train` does with the shards before Ray starts; they are on a local disk."""
    # Else a dataset of less than 1 TiB would be read through, which takes what its bytes take.
    stored.WHOLE_UP_TO = 0

    def start() -> None:
        for _ in range(READS):
            read_manifest(folder)
        verified_sha256(folder)

    return measured(start, count)


def conversion_side() -> Run:
    """What the driver of a conversion holds: the frames, and the digests of their images."""

    def hold() -> None:
        frames = [_frame(i) for i in range(FRAMES)]
        digests = {frame.sample_id: f"{i:016x}" for i, frame in enumerate(frames)}
        find_duplicates(("train", *item) for item in digests.items())

    return measured(hold, FRAMES)


def _frame(number: int) -> Frame:
    drive = f"2011_09_26/2011_09_26_drive_{number // 1000:04d}_sync"
    files = {
        role: f"{drive}/image_02/data/{number + step:010d}.png"
        for step, role in enumerate(("image_prev", "image", "image_next"))
    }
    return Frame(f"{drive}_{number:010d}_l", "train", drive, files)


# --- Parts ------------------------------------------------------------------------------------


def make_sparse(folder: Path, count: int) -> None:
    """A dataset whose shards have their size and hold zeros, which take no room on the disk."""
    digest = hashlib.sha256(bytes(BYTES)).hexdigest()
    shards = made_shards(count, digest)
    for shard in shards:
        with (folder / shard.file).open("wb") as file:
            os.truncate(file.fileno(), shard.bytes)
    write_manifest(folder, Manifest("made", {}, shards, [], {}))


def measure(work: Path, count: int, rounds: int, console: Console) -> dict[str, Any]:
    """All sides at one number of shards."""
    folder = work / f"{count}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    alone(make_sparse, folder, count)
    # Writing comes last: its manifest is not that of the sparse shards.
    sides = {
        "read_manifest": functools.partial(alone, read_side, folder, count),
        "json.loads": functools.partial(alone, json_side, folder, count),
        "order of an epoch": functools.partial(alone, epoch_side, count),
        "numpy permutation": functools.partial(alone, permutation_side, count),
        "order, shards of 1,000 rows": functools.partial(alone, epoch_side, count, 1000),
        "tasks, mid-epoch": functools.partial(alone, tasks_side, count, 0.5),
        "tasks, start": functools.partial(alone, tasks_side, count, 0.0),
        "worker": functools.partial(alone, worker_side, folder, count),
        "driver": functools.partial(alone, driver_side, folder, count),
        "write_manifest": functools.partial(alone, write_side, folder, count),
    }
    runs: dict[str, list[Run]] = {}
    for name, side in sides.items():
        few = 1 if name in ("driver", "write_manifest") else rounds
        runs |= alternate({name: side}, few, console)
    ratios = [
        compare("manifest read", runs, "read_manifest", "json.loads"),
        compare("order of an epoch", runs, "order of an epoch", "numpy permutation"),
        compare("tasks from mid-epoch on", runs, "tasks, mid-epoch", "tasks, start"),
    ]
    size = (folder / "manifest.json").stat().st_size
    shutil.rmtree(folder)
    settings = {"rows": ROWS, "bytes": BYTES, "batch_size": BATCH, "workers": WORKERS}
    found = describe(ratios, runs, shards=count, manifest_bytes=size, **settings)
    return found | describe_figures(figures_of(runs, size))


def figures_of(runs: dict[str, list[Run]], manifest_bytes: int) -> list[Figure]:
    """CPU time and memory, medians; the bounds are those of a whole start."""
    figures = [Figure("manifest", manifest_bytes / 1e6, "MB")]
    for name in runs:
        seconds = statistics.median(
            run["cpu_ms_per_sample"] * run["samples"] / 1e3 for run in runs[name]
        )
        memory, most = median_of(runs[name], "peak_mib"), MOST.get(name)
        figures += [
            Figure(f"{name}: CPU", seconds, "s", MOST_S if most else None),
            Figure(f"{name}: memory", memory, "MiB", most),
        ]
    return figures


def measure_conversion(rounds: int, console: Console) -> dict[str, Any]:
    """Memory of a conversion's driver for each frame."""
    runs = alternate({"conversion": functools.partial(alone, conversion_side)}, rounds, console)
    held = 2**20 * median_of(runs["conversion"], "peak_mib") / FRAMES
    figures = [Figure("conversion: driver, for each frame", held, "bytes")]
    return describe([], runs, frames=FRAMES) | describe_figures(figures)


def keep(out: Path, found: dict[str, Any]) -> None:
    """Write what was found so far; other parts of the file stay."""
    write_json(out, {**(read_json(out) if out.is_file() else {}), **found})


def main(
    shards: Annotated[str, typer.Option(help="Numbers of them.")] = "1000,10000,100000,1000000",
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    work: Annotated[Path | None, typer.Option(help="Folder for empty shards.")] = None,
    out: Annotated[Path, typer.Option(help="Results; other parts in it stay.")] = RESULTS,
) -> None:
    """Measure what the shards' number alone costs, and print ratios and figures."""
    console, found = Console(), {}
    with kept_or_temporary(work) as folder:
        for count in map(int, shards.split(",")):
            console.print(f"[bold]{count} shards[/]")
            found[f"{count} shards"] = measure(folder, count, runs, console)
            keep(out, found)
    found["conversion"] = measure_conversion(runs, console)
    keep(out, found)
    console.print(tabulate(found))
    console.print(tabulate_figures(found))


if __name__ == "__main__":
    typer.run(main)
