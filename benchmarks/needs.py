"""What a training needs of disks, nodes and money, from measured figures and assumptions."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mde.files import read_json

RESULTS = Path("benchmarks/results")
GROUP = 16
"""Rows of a row group, `mde.data.shards.ROWS_PER_GROUP`."""
PIXELS = "1024x320"


@dataclass(frozen=True)
class Assumption:
    """A number that was not measured here, and whence it is."""

    name: str
    value: float
    unit: str
    source: str


GPU_RATE = Assumption(
    "an A100 trains", 231, "triplets/s",
    "ResNet-50's 2,600 images/s (timm issue 1491) by FLOPs: an upper bound",
)  # fmt: skip
GPUS_PER_NODE = Assumption("GPUs of a node", 8, "", "p4d.24xlarge, as Amazon describes it")
CORES_PER_NODE = Assumption("vCPUs of a node", 96, "", "the same; each as fast as a core here")
NETWORK = Assumption("network of a node", 400, "Gbit/s", "the same")
REQUESTS = Assumption(
    "requests for a row group", 5, "", "its footer 3, its columns 2; kept footers save the 3"
)
PREFIX = Assumption(
    "GET requests of a prefix", 5500, "/s", "Amazon S3's guide; it grows with steady load"
)
PRICES = [
    Assumption("a GPU-hour", 3.00, "USD", "assumed, November 2026"),
    Assumption("a vCPU-hour", 0.05, "USD", "assumed, November 2026"),
    Assumption("a TB-month of objects", 23.0, "USD", "assumed, November 2026"),
    Assumption("a million GET requests", 0.40, "USD", "assumed, November 2026"),
]
ASSUMED = [GPU_RATE, GPUS_PER_NODE, CORES_PER_NODE, NETWORK, REQUESTS, PREFIX, *PRICES]
CHECKPOINT = 322_152_280
"""Bytes of monodepth2, ResNet-18, with its pose network and Adam's state: two safetensors files."""
DRIVER_GIB, PLAN_SHARE = 64, 0.10
"""Memory of a driver; the share of a core that may plan."""


@dataclass(frozen=True)
class Measured:
    """What the results say.

    Bytes of a frame; CPU ms to store and to decode one; the feed's CPU time over that of decoding
    alone; the conversion's on Ray over that of a loop; CPU seconds to plan a row; bytes that a
    conversion's driver holds for a frame; bytes of a manifest for a shard; the most shards that
    were measured.
    """

    raw_bytes: float
    frame_bytes: float
    store_ms: float
    decode_ms: float
    feed_overhead: float
    ray_overhead: float
    plan_s: float
    driver_bytes: float
    manifest_bytes: float
    shards: int


def load(results: Path = RESULTS) -> tuple[Measured, dict[str, Any]]:
    """The measured figures, and the results of `benchmarks.metadata`."""
    frames, data, metadata = (
        read_json(results / f"{name}.json") for name in ("frames", "data", "metadata")
    )
    large, small = figures_of(frames[PIXELS]), figures_of(frames["640x192"])
    kitti = _median(data["kitti"]["runs"]["mde"], "cpu_ms_per_sample")
    shards = max(int(name.split()[0]) for name in metadata if name.endswith(" shards"))
    most = metadata[f"{shards} shards"]
    measured = Measured(
        raw_bytes=large["raw file"],
        frame_bytes=large["stored"],
        store_ms=large["store"],
        decode_ms=large["decode"],
        feed_overhead=kitti / (3 * small["decode"]),
        ray_overhead=1 / data["conversion"]["ratios"][0]["cpu_ratio"],
        plan_s=_median(most["runs"]["tasks, mid-epoch"], "cpu_ms_per_sample") / 1e3,
        driver_bytes=figures_of(metadata["conversion"])["conversion: driver, for each frame"],
        manifest_bytes=most["settings"]["manifest_bytes"] / shards,
        shards=shards,
    )
    return measured, metadata


def figures_of(part: dict[str, Any]) -> dict[str, float]:
    """The figures of one part of some results, by name."""
    return {figure["name"]: figure["value"] for figure in part["figures"]}


def _median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


@dataclass(frozen=True)
class Need:
    """What a training needs. rows: triplets. footers: whether each worker keeps all of them."""

    name: str
    rows: int
    rows_per_shard: int
    epochs: int
    gpus: int
    footers_kept: bool
    measured: Measured

    @property
    def rate(self) -> float:
        """Triplets/s that the GPUs take."""
        return self.gpus * GPU_RATE.value

    @property
    def row_bytes(self) -> float:
        """A row holds its frame and both neighbours."""
        return 3 * self.measured.frame_bytes

    @property
    def stored_bytes(self) -> float:
        """Of all shards."""
        return self.rows * self.row_bytes

    @property
    def requests(self) -> float:
        """To the object store, in an epoch."""
        each = REQUESTS.value - 3 * self.footers_kept
        return self.rows / GROUP * each

    @property
    def decode_ms(self) -> float:
        """CPU time to feed a triplet."""
        return 3 * self.measured.decode_ms * self.measured.feed_overhead

    @property
    def conversion_hours(self) -> float:
        """Core-hours."""
        each = 3 * self.measured.store_ms * self.measured.ray_overhead
        return self.rows * each / 1e3 / 3600

    @property
    def epoch_s(self) -> float:
        """Seconds of an epoch, when nothing but the GPUs limits it."""
        return self.rows / self.rate

    def costs(self) -> tuple[float, float, float, float]:
        """USD: conversion, a month of storage, GPUs, requests."""
        gpu, cpu, month, million = (price.value for price in PRICES)
        return (
            self.conversion_hours * cpu,
            self.stored_bytes / 1e12 * month,
            self.epochs * self.epoch_s / 3600 * self.gpus * gpu,
            self.epochs * self.requests / 1e6 * million,
        )

    def column(self) -> list[str]:
        """The cells of the table, in the order of ROWS."""
        shards = -(-self.rows // self.rows_per_shard)
        nodes, rate = -(-self.gpus // int(GPUS_PER_NODE.value)), self.rate
        conversion, storage, gpus, requests = self.costs()
        read = rate * self.row_bytes
        cells = [
            f"{self.rows:,}", amount(self.rows * self.measured.raw_bytes, "B"),
            amount(self.stored_bytes, "B"), f"{shards:,}",
            amount(self.stored_bytes / shards, "B"), f"{self.rows // GROUP:,}",
            amount(shards * self.measured.manifest_bytes, "B"),
            f"{self.conversion_hours:,.1f}", f"{self.gpus} on {nodes}",
            f"{rate:,.0f}", f"{rate * self.decode_ms / 1e3 / self.gpus:.1f} of 12",
            f"{8 * read / nodes / 1e9:.1f} of {NETWORK.value:.0f}", amount(read, "B/s"),
            f"{self.requests / self.epoch_s:,.0f}", f"{self.epochs}", span(self.epoch_s),
            span(self.epochs * self.epoch_s), amount(self.epochs * CHECKPOINT, "B"),
            *(f"{cost:,.2f}" for cost in (conversion, storage, gpus, requests)),
        ]  # fmt: skip
        return cells


ROWS = [
    "triplets", "raw PNG files of as many frames", "stored", "shards", "a shard", "row groups",
    "manifest", "conversion, core-hours", "GPUs on nodes", "triplets/s", "cores for each GPU",
    "network of a node, Gbit/s", "read from the store", "requests/s", "epochs", "an epoch",
    "all epochs", "checkpoints, one an epoch", "USD: conversion", "USD: a month of storage",
    "USD: GPUs", "USD: requests",
]  # fmt: skip


def amount(value: float, unit: str) -> str:
    """Three digits and a prefix: 18.2 GB."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def span(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for factor, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.1f} {name}"
    return f"{seconds:.1f} s"
