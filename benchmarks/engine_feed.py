"""The feed against other loaders of the same encoded samples with the same augmentation."""

import functools
from collections.abc import Callable
from typing import Any

from benchmarks import formats
from benchmarks.engine_runs import EngineSetup
from benchmarks.loaders import ROWS_PER_SHARD, check_same, time_format
from benchmarks.peers import FASTDEPTH
from benchmarks.processes import RAY
from benchmarks.reading import NYU_BATCH, OURS, feed_of, time_feed
from benchmarks.setup import nyu_dataset
from benchmarks.timing import (
    Figure,
    Run,
    alone,
    alternate,
    compare,
    describe,
    describe_figures,
    median_of,
)  # fmt: skip

NYU_EPOCH = 48_000
"""Samples in an epoch of FastDepth's or DenseDepth's training set, in round figures."""
PEERS = (*formats.NAMES, formats.PLAIN)


def measure_feed(setup: EngineSetup) -> dict[str, Any]:
    """Steady rate, a whole epoch, its first batch and CPU time: ours, and each of the others."""
    folder = nyu_dataset(setup, setup.rows)
    packed = {**formats.pack(folder, setup.work, ROWS_PER_SHARD), formats.PLAIN: folder}
    feed = feed_of(folder, formats.IMAGES, True, NYU_BATCH, FASTDEPTH, setup.workers)
    sides: dict[str, Callable[[], Run]] = {OURS: functools.partial(alone, time_feed, feed)}
    for name, where in packed.items():
        alone(check_same, name, where, folder, setup.workers)
        sides[name] = functools.partial(alone, time_format, name, where, setup.workers)
    runs = alternate(sides, setup.rounds, setup.console)
    for run in (run for side in runs.values() for run in side):
        run["nyu_epoch_per_s"] = nyu_epoch_rate(run)
        run["cpu_ms_ray"] = sum(run.get(f"cpu_ms_{kind}", 0.0) for kind in RAY)
        run["cpu_ms_without_ray"] = run["cpu_ms_per_sample"] - run["cpu_ms_ray"]
    ratios = [
        ratio
        for rate, what, target in (
            ("samples_per_s", "steady", 1.0),
            ("part_per_s", "whole epoch", None),
            ("nyu_epoch_per_s", f"epoch of {NYU_EPOCH}, reckoned", 0.9),
        )
        for ratio in against_best(runs, rate, what, target)
    ]
    rows = int(runs[OURS][0]["samples"])
    return {
        **describe(
            ratios, runs, workers=setup.workers, rows=rows, frames=setup.frames,
            batch_size=NYU_BATCH,
        ),
        **describe_figures(figures_of(runs)),
    }  # fmt: skip


def nyu_epoch_rate(run: Run) -> float:
    """Samples/s of an epoch of NYU_EPOCH samples, from a shorter one.

    What the shorter one took over its steady rate is taken once: the start does not grow with it.
    """
    steady = 1 / run["samples_per_s"]
    start_s = max(0.0, run["wall_s"] - run["samples"] * steady)
    return NYU_EPOCH / (NYU_EPOCH * steady + start_s)


def against_best(
    runs: dict[str, list[Run]], rate: str, what: str, target: float | None
) -> list[Any]:
    """Ours against each of the others in one rate; the target is for the best of them."""
    best = max(PEERS, key=lambda name: median_of(runs[name], rate))
    others = [name for name in PEERS if name != best]
    return [
        compare(f"{what}, best other ({best})", runs, OURS, best, target, rate),
        *(compare(f"{what}, {name}", runs, OURS, name, None, rate) for name in others),
    ]


def figures_of(runs: dict[str, list[Run]]) -> list[Figure]:
    """CPU time and first batches; all medians."""

    def median(name: str, key: str) -> float:
        return median_of(runs[name], key)

    whole, without, best = "cpu_ms_per_sample", "cpu_ms_without_ray", {}
    for key in (whole, without):
        best[key] = min(median(name, key) for name in PEERS)
    return [
        Figure("CPU, mde / best other", median(OURS, whole) / best[whole], "x", 1.05),
        Figure(
            "CPU without Ray's daemons, mde / best other",
            median(OURS, without) / best[without],
            "x",
        ),
        *(
            Figure(f"CPU, mde, {kind}", median(OURS, f"cpu_ms_{kind}"), "ms/sample")
            for kind in ("driver", "decode task", *RAY)
            if f"cpu_ms_{kind}" in runs[OURS][0]
        ),
        *(Figure(f"CPU, {name}", median(name, whole), "ms/sample") for name in PEERS),
        Figure("first batch of a later epoch, mde", median(OURS, "first_batch_s"), "s", 0.2),
        *(
            Figure(f"first batch of a later epoch, {name}", median(name, "first_batch_s"), "s")
            for name in PEERS
        ),
    ]
