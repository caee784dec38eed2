"""Shards → batches, against other formats with the same bytes, and against decoding alone."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import formats
from benchmarks.peers import FASTDEPTH
from benchmarks.reading import EPOCHS, NYU_BATCH, NYU_ROWS, OURS, feed_of, time_feed
from benchmarks.setup import Setup, nyu_dataset, read_once
from benchmarks.timing import (
    Run,
    alone,
    alternate,
    compare,
    describe,
    median_rate,
    time_call,
    time_parts,
)  # fmt: skip
from mde.data.augment import columns_of, load_sample
from mde.data.shards import read_manifest, read_row_group
from mde.schema import Row

ROWS_PER_SHARD = 256
ONE_CORE, ALL_CORES = "decoding alone, one core", "decoding alone, all cores at once"
DECODED_ROWS = 768
CHECKSUM_SIDES = ("verified", "unverified", "reading, verified", "reading, unverified")
Read = Callable[[Path, int, list[str]], pa.Table]
_together: Any = None


def measure_loaders(setup: Setup) -> dict[str, Any]:
    """The same encoded bytes in other formats; and how far all are from decoding alone."""
    folder = nyu_dataset(setup, NYU_ROWS)
    packed = formats.pack(folder, setup.work, ROWS_PER_SHARD)
    feed = feed_of(folder, formats.IMAGES, True, NYU_BATCH, FASTDEPTH, setup.workers)
    sides: dict[str, Callable[[], Run]] = {OURS: functools.partial(alone, time_feed, feed)}
    for name, where in packed.items():
        alone(check_same, name, where, folder, setup.workers)
        sides[name] = functools.partial(alone, time_format, name, where, setup.workers)
    sides[ONE_CORE] = functools.partial(alone, _time_decoding, folder, 1)
    sides[ALL_CORES] = functools.partial(alone, _time_decoding, folder, setup.workers)
    runs = alternate(sides, setup.rounds, setup.console)
    # What one core does, as often as there are cores.
    limit = f"{setup.workers} x one core"
    runs[limit] = [
        {**run, "samples_per_s": setup.workers * run["samples_per_s"]} for run in runs[ONE_CORE]
    ]
    best = max(packed, key=lambda name: median_rate(runs[name]))
    ratios = [
        compare(f"best other format ({best})", runs, OURS, best, 1.0),
        *(compare(f"same bytes, {name}", runs, OURS, name) for name in packed if name != best),
        compare("share of the limit", runs, OURS, limit),
        compare("share of decoding alone", runs, OURS, ALL_CORES),
    ]
    settings = {"frames": setup.frames, "batch_size": NYU_BATCH}
    return describe(ratios, runs, workers=setup.workers, **settings)


def time_format(name: str, folder: Path, workers: int) -> Run:
    """Time the epochs of a format's loader."""
    loader = formats.open_loader(name, folder, FASTDEPTH, NYU_BATCH, workers)
    return time_parts((len(batch["sample_id"]) for batch in loader) for _ in range(EPOCHS))


def check_same(name: str, packed: Path, folder: Path, workers: int) -> None:
    """Raises RuntimeError unless a format's loader gives the samples of a dataset, as ours."""
    rows = {row["sample_id"]: row for row in formats.train_rows(folder)}
    left = Counter(row["sample_id"] for row in formats.train_rows(folder))
    for batch in formats.open_loader(name, packed, FASTDEPTH, NYU_BATCH, workers):
        for place, sample_id in enumerate(batch["sample_id"]):
            left[sample_id] -= 1
            row = rows[sample_id]
            sample = formats.collate([load_sample(row, formats.IMAGES, True, FASTDEPTH, [0, 0])])
            for key in sample.keys() - {"sample_id"}:
                if not np.array_equal(batch[key][place], sample[key][0]):  # type: ignore[literal-required]
                    raise RuntimeError(f"{name} gives another {key} of {sample_id}")
    if wrong := [sample_id for sample_id, count in left.items() if count]:
        raise RuntimeError(f"{name} gives {len(wrong)} samples too often or not, as {wrong[0]}")


def _time_decoding(folder: Path, processes: int) -> Run:
    """Decode and augment rows that are in memory already, in so many processes at once."""
    context = get_context("spawn")
    together = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _meet_at, (together,)) as pool:
        runs = list(pool.map(_decode_rows, [folder] * processes))
    mean = {key: sum(run[key] for run in runs) / processes for key in runs[0]}
    return {**mean, "samples_per_s": processes * mean["samples_per_s"]}


def _meet_at(together: Any) -> None:
    global _together
    _together = together


def _decode_rows(folder: Path) -> Run:
    cv2.setNumThreads(1)
    rows: list[Row] = list(itertools.islice(formats.train_rows(folder), DECODED_ROWS))
    _decode(rows[:32])
    # No process is alone while it is timed.
    _together.wait()
    return time_call(lambda: _decode(rows), len(rows))


def _decode(rows: list[Row]) -> None:
    for row in rows:
        load_sample(row, formats.IMAGES, True, FASTDEPTH, [0, 0])


def measure_checksums(setup: Setup) -> dict[str, Any]:
    """One process reads, decodes and augments, with and without verifying page checksums."""
    folder = nyu_dataset(setup, 1)
    read_once(folder)
    sides = {
        name: functools.partial(alone, _time_row_groups, folder, name) for name in CHECKSUM_SIDES
    }
    runs = alternate(sides, setup.rounds, setup.console)
    verified, trusting, reading, reading_trusting = CHECKSUM_SIDES
    ratios = [
        compare("page checksums, of read and decode", runs, verified, trusting, 0.92),
        compare("page checksums, of reading", runs, reading, reading_trusting),
    ]
    return describe(ratios, runs, frames=setup.frames)


def _time_row_groups(folder: Path, side: str) -> Run:
    cv2.setNumThreads(1)
    columns = columns_of(formats.IMAGES, True)
    shards = read_manifest(folder).of_split("train")
    read: Read = _read_trusting if "unverified" in side else read_row_group

    def work() -> None:
        for shard in shards:
            for group in range(shard.row_groups):
                rows: Any = read(folder / shard.file, group, columns).to_pylist()
                if "reading" not in side:
                    _decode(rows)

    work()
    return time_call(work, sum(shard.rows for shard in shards))


def _read_trusting(path: Path, row_group: int, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(row_group, columns=columns)
