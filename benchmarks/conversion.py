"""Raw files → shards: Ray against one process, and slabs against image by image."""

import functools
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import ray

from benchmarks.made_data import make_mat, make_rooms
from benchmarks.setup import Setup, nyu_config, read_once
from benchmarks.timing import Run, alone, alternate, compare, describe, time_call
from mde.cluster.convert import run_on_ray
from mde.data.convert import Execute, convert, run_one_by_one
from mde.data.encode import Encoder
from mde.data.shards import read_manifest
from mde.data.sources import nyu_labeled
from mde.data.tasks import Job, Task, run_task

ROWS_PER_SHARD = 64
WARM_FRAMES = 256
RAY, ONE = "Ray, warm", "one process"
RAY_COLD, POOL = "Ray with its start", "plain processes"
MAT_IMAGES = 91
"""All of them in every chunk; how the real file is chunked depends on who saved it."""
SINGLE_IMAGES = 6
"""Read one by one, which takes so long that a few must do."""


def measure_conversion(setup: Setup) -> dict[str, Any]:
    """FastDepth's files → shards, by Ray on all cores and by a loop in one process.

    Beside it plain processes, one for each core, which is what the machine has to give.
    """
    raw = make_rooms(setup.work, setup.frames)
    read_once(raw)
    digests = setup.work / "converted.sha256"
    digests.unlink(missing_ok=True)
    sides = {
        side: functools.partial(alone, _convert, raw, digests, side, setup.frames, setup.workers)
        for side in (RAY, ONE, RAY_COLD, POOL)
    }
    runs = alternate(sides, setup.rounds, setup.console)
    ratios = [
        compare("conversion", runs, RAY, ONE, 1.8),
        compare("conversion, with Ray's start", runs, RAY_COLD, ONE),
        compare("conversion, plain processes", runs, POOL, ONE),
    ]
    settings = {"frames": setup.frames, "rows_per_shard": ROWS_PER_SHARD}
    return describe(ratios, runs, workers=setup.workers, **settings)


def _convert(raw: Path, digests: Path, side: str, frames: int, workers: int) -> Run:
    cv2.setNumThreads(1)
    out = digests.with_name("converted")
    shutil.rmtree(out.with_name(".converted.partial"), ignore_errors=True)
    whole = nyu_config(raw, ROWS_PER_SHARD)
    few = nyu_config(raw, ROWS_PER_SHARD, subset=min(WARM_FRAMES, frames))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def run_in_pool(job: Job, tasks: list[Task]) -> Iterator[dict[str, Any]]:
            return pool.map(functools.partial(run_task, job), tasks)

        ways: dict[str, Execute] = {ONE: run_one_by_one, POOL: run_in_pool}
        execute = ways.get(side, run_on_ray)
        if side != RAY_COLD:
            convert(few, raw, out, execute)
        samples = len(list(raw.rglob("*.h5")))
        timed = time_call(lambda: convert(whole, raw, out, execute), samples)
    ray.shutdown()
    _check_same(out, digests)
    return timed


def _check_same(out: Path, digests: Path) -> None:
    """Raises RuntimeError unless this run gives the bytes that the first run gave."""
    found = "\n".join(shard.sha256 for shard in read_manifest(out).shards)
    if not digests.exists():
        digests.write_text(found)
    if digests.read_text() != found:
        raise RuntimeError(f"{out}: two ways to convert gave different bytes")


def measure_slabs(setup: Setup) -> dict[str, Any]:
    """A .mat whose chunks span images: whole chunks at once, and one image after the other."""
    raw = make_mat(setup.work, MAT_IMAGES)
    read_once(raw)
    slabs, single = "slabs", "image by image"
    sides = {
        slabs: functools.partial(alone, _read_mat, raw, False),
        single: functools.partial(alone, _read_mat, raw, True),
    }
    runs = alternate(sides, setup.rounds, setup.console)
    ratios = [compare("chunks that span images", runs, slabs, single)]
    size = f"{MAT_IMAGES} images in every chunk; {SINGLE_IMAGES} of them read one by one"
    return describe(ratios, runs, data=size)


def _read_mat(raw: Path, one_by_one: bool) -> Run:
    cv2.setNumThreads(1)
    config = nyu_labeled.Config(
        source="nyu_labeled", raw=str(raw), height=240, width=320,
        split="random", ratios=(1.0, 0.0, 0.0),
    )  # fmt: skip
    frames: Any = nyu_labeled.list_frames(config, raw, raw)
    groups = [[frame] for frame in frames[:SINGLE_IMAGES]] if one_by_one else [frames]

    def read() -> None:
        for group in groups:
            encoder = Encoder(config.size)
            for _ in nyu_labeled.read_frames(config, raw, raw, group, encoder):
                pass

    return time_call(read, sum(map(len, groups)))
