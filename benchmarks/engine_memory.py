"""What goes through Ray's object store for a sample, and each kind of process's memory."""

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.engine_ddp import SIDES
from benchmarks.engine_runs import EngineSetup, run_training, work_of
from benchmarks.formats import IMAGES
from benchmarks.object_store import stored
from benchmarks.peers import FASTDEPTH
from benchmarks.reading import NYU_BATCH, feed_of
from benchmarks.setup import local_ray, nyu_dataset
from benchmarks.timing import (
    Figure,
    Run,
    alone,
    alternate,
    describe,
    describe_figures,
    median_of,
    time_call,
)  # fmt: skip
from mde.cluster.feed import Feed

MIB = 2**20
FEED = "feed, NYU 224x224"
SIZES = {"pss_mib": "PSS", "rss_mib": "RSS"}


def measure_memory(setup: EngineSetup) -> dict[str, Any]:
    """Two workers of both sides, watched; and an epoch of the feed, whose traffic is counted."""
    work = next(iter(work_of(setup, setup.variant, setup.wait_steps).values()))
    folder = nyu_dataset(setup, NYU_BATCH * setup.wait_steps)
    feed = feed_of(folder, IMAGES, True, NYU_BATCH, FASTDEPTH, setup.workers)
    sides: dict[str, Callable[[], Run]] = {
        name: functools.partial(run_training, setup, side, work, memory=True)
        for name, side in SIDES.items()
    }
    sides[FEED] = functools.partial(alone, count_traffic, feed)
    runs = alternate(sides, setup.rounds, setup.console)
    figures = [*traffic(FEED, runs[FEED]), *memory(runs)]
    per_sample = median_of(runs["mde"], "store_bytes_per_sample") / MIB
    figures.append(Figure(f"object store, training {setup.variant}", per_sample, "MiB/sample"))
    settings = {"variant": setup.variant, "workers": work.workers, "steps": setup.wait_steps}
    return {**describe([], runs, **settings), **describe_figures(figures)}


def count_traffic(feed: Feed) -> Run:
    """An epoch of a feed: bytes and objects put into the object store, and the batches' bytes.

    float_bytes_per_sample: of the batches if their images were float32.
    """
    sizes, samples = {"bytes": 0, "images": 0}, feed.manifest.counts["train"]

    def epoch() -> None:
        for batch, _ in feed.train(0):
            for name, value in batch.items():
                size = getattr(value, "nbytes", 0)
                sizes["bytes"] += size
                sizes["images"] += size if name.startswith("image") else 0

    with local_ray():
        before = stored()
        run = time_call(epoch, samples)
        after = stored()
    return {
        **run,
        "batch_bytes_per_sample": sizes["bytes"] / samples,
        "float_bytes_per_sample": (sizes["bytes"] + 3 * sizes["images"]) / samples,
        "store_bytes_per_sample": (after["bytes"] - before["bytes"]) / samples,
        "store_objects_per_sample": (after["objects"] - before["objects"]) / samples,
    }


def traffic(name: str, runs: list[Run]) -> list[Figure]:
    """The traffic of one sample, and what it would be in float32; medians."""
    put, batch, floats = (
        median_of(runs, f"{key}_bytes_per_sample") for key in ("store", "batch", "float")
    )
    unit = "MiB/sample"
    return [
        Figure(f"object store, {name}", put / MIB, unit),
        Figure(f"object store / what batches hold, {name}", put / batch, "x"),
        Figure(f"object store, {name}, were images float32", (put + floats - batch) / MIB, unit),
        Figure(f"objects, {name}", median_of(runs, "store_objects_per_sample"), "/sample"),
    ]  # fmt: skip


def memory(runs: dict[str, list[Run]]) -> list[Figure]:
    """The largest process of each kind at its peak, and all of a kind together; medians."""
    figures = []
    for side in SIDES:
        kinds = [
            key.removeprefix("pss_mib_") for key in runs[side][0] if key.startswith("pss_mib_")
        ]
        for kind in kinds:
            number = round(median_of(runs[side], f"processes_{kind}"))
            figures += [
                Figure(
                    f"{what}, {side}, {kind} (largest of {number})",
                    median_of(runs[side], f"{key}_{kind}"), "MiB",
                )
                for key, what in SIZES.items()
            ]  # fmt: skip
    return figures
