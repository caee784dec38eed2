"""On paper: what feeds 8 GPUs that train monodepth2 at 1024x320, and what runs out first.

Measured here: CPU time and bytes of a sample. Taken from others: the GPU's rate, unless there is a
GPU or it is given, and what the node has. Everything is taken to grow in proportion.
"""

import functools
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.engine_memory import count_traffic
from benchmarks.engine_runs import EngineSetup
from benchmarks.peers import MONODEPTH2
from benchmarks.reading import KITTI_BATCH, OURS, feed_of, time_feed
from benchmarks.setup import kitti_dataset
from benchmarks.timing import (
    Figure,
    Run,
    alone,
    alternate,
    describe,
    describe_figures,
    median_of,
)  # fmt: skip
from mde.data.shards import read_manifest

SIZE, GPUS = (320, 1024), 8
TRIPLET = ("image", "image_prev", "image_next")
RESNET50_RATE, RESNET50_GFLOP, MONODEPTH2_GFLOP = 2600, 24.6, 277
"""ResNet-50 on an A100 in AMP, channels last: images/s (huggingface/pytorch-image-models #1491) and
GFLOP of a training image at 224x224; GFLOP of a training sample of monodepth2, ResNet-18, at
1024x320 with its two pose pairs, by torch's FlopCounterMode."""
PUBLISHED_RATE = RESNET50_RATE * RESNET50_GFLOP / MONODEPTH2_GFLOP
GPU_OPTIONS = "channels_last+bf16"
STEPS, WARM_UP, ROUNDS = 20, 10, 5


@dataclass(frozen=True)
class Node:
    """A machine with 8 GPUs; the defaults are an EC2 p4d.24xlarge's, as Amazon describes it.

    memory_gb_per_s: what its memory carries, taken as half of two sockets' six channels of
    DDR4-2933. busy_cores: kept for launching kernels and the system, an assumption.
    """

    name: str = "p4d.24xlarge"
    cores: int = 96
    busy_cores: int = 16
    network_gbit_per_s: float = 400
    disks_gb_per_s: float = 16
    memory_gb_per_s: float = 140


@dataclass(frozen=True)
class Sample:
    """What a sample costs: ms of one core, by who spends them, and bytes.

    decode_ms: decode tasks and Ray's daemons. take_ms: the training process, for getting batches.
    """

    decode_ms: float
    take_ms: float
    read_bytes: float
    store_bytes: float


@dataclass(frozen=True)
class Need:
    """A resource: what `gpus` GPUs need of it, what there is, and how many it would feed."""

    resource: str
    need: float
    have: float
    unit: str
    feeds_gpus: float


MEMORY_PASSES = 5
"""A decoded byte is written, copied into the store (read, written), read and written to the GPU."""


def needs(sample: Sample, rate: float, node: Node, gpus: int = GPUS) -> list[Need]:
    """The resources of a node whose GPUs each train on `rate` samples/s; scarcest first."""
    total, decoding = rate * gpus, node.cores - node.busy_cores
    rows = [
        ("cores that decode", total * sample.decode_ms / 1e3, decoding, "cores"),
        ("one process per GPU that takes batches", rate * sample.take_ms / 1e3, 1.0, "core"),
        ("reading shards from disks", total * sample.read_bytes / 1e9, node.disks_gb_per_s, "GB/s"),
        (
            "reading shards over the network",
            8 * total * sample.read_bytes / 1e9, node.network_gbit_per_s, "Gbit/s",
        ),
        (
            "batches over the network, if other nodes decode",
            8 * total * sample.store_bytes / 1e9, node.network_gbit_per_s, "Gbit/s",
        ),
        (
            f"memory, {MEMORY_PASSES} passes over decoded bytes",
            MEMORY_PASSES * total * sample.store_bytes / 1e9, node.memory_gb_per_s, "GB/s",
        ),
    ]  # fmt: skip
    found = [Need(name, need, have, unit, gpus * have / need) for name, need, have, unit in rows]
    return sorted(found, key=lambda need: need.feeds_gpus)


def measure_estimate(setup: EngineSetup) -> dict[str, Any]:
    """Measure the feed at 1024x320, and reckon."""
    folder = kitti_dataset(setup, min(setup.rows, KITTI_BATCH * setup.steps), SIZE)
    feed = feed_of(folder, TRIPLET, False, KITTI_BATCH, MONODEPTH2, setup.workers)
    counted = "one epoch, counted"
    sides = {
        OURS: functools.partial(alone, time_feed, feed),
        counted: functools.partial(alone, count_traffic, feed),
    }
    runs = alternate(sides, setup.rounds, setup.console)
    manifest = read_manifest(folder)
    taking = median_of(runs[OURS], "cpu_ms_driver")
    sample = Sample(
        decode_ms=statistics.median(
            run["cpu_ms_per_sample"] - run["cpu_ms_driver"] for run in runs[OURS]
        ),
        take_ms=taking,
        read_bytes=sum(s.bytes for s in manifest.shards) / sum(manifest.counts.values()),
        store_bytes=median_of(runs[counted], "store_bytes_per_sample"),
    )
    rate, rate_is = gpu_rate(setup.gpu_rate)
    node = Node()
    found = needs(sample, rate, node)
    settings = {"size": list(SIZE), "batch_size": KITTI_BATCH, "triplets": setup.triplets}
    return {
        **describe([], runs, **settings),
        **describe_figures(figures_of(sample, rate, rate_is, found)),
        "assumptions": {
            "gpu_samples_per_s": rate, "gpu_rate_is": rate_is, "gpus": GPUS, "node": asdict(node),
            "sample": asdict(sample), "a vCPU of the node": "is as fast as a core here",
            "decoding": "grows in proportion to the cores",
        },
        "needs": [asdict(need) for need in found],
    }  # fmt: skip


def figures_of(sample: Sample, rate: float, rate_is: str, found: list[Need]) -> list[Figure]:
    """The estimate as rows: what a sample costs, the GPUs' rate, and each resource."""
    rows = [
        Figure("a sample: CPU that decodes, Ray's daemons included", sample.decode_ms, "ms"),
        Figure("a sample: CPU of the process that takes it", sample.take_ms, "ms"),
        Figure("a sample: encoded", sample.read_bytes / 1e6, "MB"),
        Figure("a sample: through the object store", sample.store_bytes / 1e6, "MB"),
        Figure(f"one GPU ({rate_is})", rate, "samples/s"),
    ]
    for need in found:
        what = f"{need.resource}: {need.have:g} {need.unit} feed {need.feeds_gpus:.3g} GPUs"
        rows.append(Figure(f"{GPUS} GPUs need, {what}", need.need, need.unit, need.have))
    return rows


def gpu_rate(given: float | None) -> tuple[float, str]:
    """Samples/s of one GPU, and whence: given, measured when there is a GPU, else published."""
    if given is not None:
        return given, "given"
    if torch.cuda.is_available():
        run = alone(measure_gpu)
        return run["samples_per_s"], f"measured, {torch.cuda.get_device_name()}, {GPU_OPTIONS}"
    source = "ResNet-50 at 2600 images/s, timm issue 1491, by FLOPs"
    return PUBLISHED_RATE, f"A100, reckoned from a published rate: {source}"


def measure_gpu() -> Run:
    """Training steps of monodepth2 at 1024x320 on a batch that is already on the GPU."""
    from dataclasses import replace

    from benchmarks import devices, train_step
    from benchmarks.cases import FAMILIES
    from mde.train.objectives import SelfSupervisedConfig

    video = SelfSupervisedConfig("self_supervised", "m")
    case = replace(FAMILIES["monodepth2"], size=SIZE, objective=video)
    device = torch.device("cuda")
    side = train_step.Side(case, train_step.OPTIONS[GPU_OPTIONS], device)
    side.start(WARM_UP)
    seconds = [devices.time_calls(side.step, STEPS, device) for _ in range(ROUNDS)]
    return {"samples_per_s": case.batch / statistics.median(seconds)}
