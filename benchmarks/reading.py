"""Shards → batches, against the loaders of the published training codes over the raw files."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks import peers
from benchmarks.made_data import make_drives, make_rooms
from benchmarks.setup import KITTI_STORED, Setup, kitti_dataset, local_ray, nyu_dataset, read_once
from benchmarks.timing import Run, alone, alternate, compare, describe, time_parts
from mde.cluster.feed import Feed
from mde.cluster.read_ahead import ReadAhead
from mde.data.augment import Augment
from mde.schema import Batch
from mde.train.objectives.images import jitter, to_float

NYU_BATCH, KITTI_BATCH = 32, 12
NYU_ROWS, KITTI_ROWS = 4096, 1920
"""Of an epoch from shards, at least."""
TRIPLET = ("image", "image_prev", "image_next")
OURS, OURS_FLOAT = "mde", "mde, jittered floats"
"""As the feed gives them; and with what is the device's work done here, on the CPU."""
EPOCHS = 2
"""The first one warms up."""


def measure_nyu(setup: Setup) -> dict[str, Any]:
    """FastDepth's recipe from shards, and by a DataLoader from its .h5 files."""
    raw, folder = make_rooms(setup.work, setup.frames), nyu_dataset(setup, NYU_ROWS)
    feed = feed_of(folder, ("image",), True, NYU_BATCH, peers.FASTDEPTH, setup.workers)
    files = peers.FastDepthFiles(peers.list_h5(raw))
    return _measure(setup, "NYU 224x224, .h5", 8.0, raw, feed, files)


def measure_kitti(setup: Setup) -> dict[str, Any]:
    """Monodepth2's triplets at 640x192 from shards, and by a DataLoader from the PNG files."""
    raw, folder = make_drives(setup.work, setup.triplets), kitti_dataset(setup, KITTI_ROWS)
    feed = feed_of(folder, TRIPLET, False, KITTI_BATCH, peers.MONODEPTH2, setup.workers)
    files = peers.Monodepth2Files(peers.list_triplets(raw), KITTI_STORED)
    return _measure(setup, "KITTI triplets 640x192, .png", 15.0, raw, feed, files)


def _measure(
    setup: Setup, name: str, target: float, raw: Path, feed: Feed, files: Dataset[Any]
) -> dict[str, Any]:
    read_once(raw)
    batch, peer = feed.batch_size, "DataLoader over the raw files"
    sides = {
        OURS: functools.partial(alone, time_feed, feed),
        peer: functools.partial(alone, _time_files, files, batch, setup.workers),
        OURS_FLOAT: functools.partial(alone, time_feed, feed, True),
    }
    runs = alternate(sides, setup.rounds, setup.console)
    ratios = [
        compare(name, runs, OURS, peer, target),
        compare(f"{name}, floats", runs, OURS_FLOAT, peer),
    ]
    settings = {"frames": setup.frames, "triplets": setup.triplets, "batch_size": batch}
    return describe(ratios, runs, workers=setup.workers, **settings)


def feed_of(
    folder: Path, images: tuple[str, ...], with_depth: bool, batch_size: int, augment: Augment,
    workers: int,
) -> Feed:  # fmt: skip
    """The feed of a single training worker with so many decode tasks at a time."""
    return Feed(
        folder=folder, images=images, with_depth=with_depth, batch_size=batch_size, seed=0,
        augment=augment, rank=0, world_size=1, decode_tasks=workers,
    )  # fmt: skip


def time_feed(feed: Feed, floats: bool = False) -> Run:
    """Time the epochs of a feed, read as training reads them, on a Ray of this process's own."""
    # As a worker does that shares the cores with its decode tasks.
    torch.set_num_threads(1)
    # One epoch more: what is read ahead for it belongs to the account of the last one.
    with local_ray(), contextlib.closing(ReadAhead(feed, EPOCHS + 1)) as ahead:

        def epoch(number: int) -> Iterator[int]:
            for batch, _ in ahead.train(number):
                if floats:
                    _use(batch)
                yield len(batch["sample_id"])
            if list(ahead.val()):
                raise RuntimeError(f"{feed.folder}: has a val split, which would be timed")

        return time_parts(epoch(number) for number in range(EPOCHS))


def _use(batch: Batch) -> None:
    """The start of a training step: every image as the loss and as the networks see it."""
    for name, values in batch.items():
        if name.startswith("image"):
            jitter(to_float(values), batch["color_matrix"])  # type: ignore[arg-type]


def _time_files(dataset: Dataset[Any], batch_size: int, workers: int) -> Run:
    return time_parts(peers.epochs_of(dataset, batch_size, workers, EPOCHS))
