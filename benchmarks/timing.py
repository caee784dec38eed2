"""Alternating runs in fresh processes, wall and CPU time, and what is kept of a comparison.

Seconds mean nothing on a shared machine, so what counts is the ratio of two sides that ran next
to each other, and beside it the CPU time, which other people's jobs disturb less.
"""

import contextlib
import importlib.metadata
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import psutil
from rich.console import Console

from benchmarks.processes import cpu_by_kind

LIBRARIES = (
    "torch", "torchvision", "ray", "pyarrow", "numpy", "opencv-python-headless", "pillow", "h5py",
    "lz4", "scipy", "webdataset", "litdata", "mosaicml-streaming",
)  # fmt: skip
T = TypeVar("T")
Run = dict[str, float]
"""One run of one side; `samples_per_s` and `cpu_ms_per_sample` are always there."""


def cpu_seconds() -> float:
    """User and system time of this process and of all processes it has started, ended or not.

    A local Ray cluster is among them: its processes are children of the one that started it.
    """
    return sum(cpu_by_kind().values())


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """The value of a function that ran in a fresh process, so that no run disturbs the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def time_call(function: Callable[[], Any], samples: int) -> Run:
    """Time one call that handles so many samples."""
    load, cpu, start = os.getloadavg()[0], cpu_seconds(), time.perf_counter()
    function()
    wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    return {
        "samples_per_s": samples / wall,
        "cpu_ms_per_sample": 1e3 * cpu / samples,
        "wall_s": wall,
        "samples": samples,
        "load": load,
    }


def time_parts(parts: Iterable[Iterable[int]]) -> Run:
    """Consume parts (epochs) of batches, each given as its number of samples; time the last.

    The others warm up. `samples_per_s` is the steady state: from a quarter of the part on, when
    what had been read ahead is used up, to its end. `part_per_s` and the CPU time are of the whole
    part, with the wait for its first batch. `cpu_ms_<kind>` is the share of a kind of process.
    """
    load, begin, marks = os.getloadavg()[0], 0.0, [(0.0, 0)]
    cpu: Counter[str] = Counter()
    for part in parts:
        begin, before = time.perf_counter(), cpu_by_kind()
        marks = [(time.perf_counter(), size) for size in part]
        cpu = cpu_by_kind()
        cpu.subtract(before)
    samples = sum(size for _, size in marks)
    start, (end, _) = len(marks) // 4, marks[-1]
    return {
        "samples_per_s": sum(size for _, size in marks[start + 1 :]) / (end - marks[start][0]),
        "cpu_ms_per_sample": 1e3 * sum(cpu.values()) / samples,
        **{f"cpu_ms_{kind}": 1e3 * spent / samples for kind, spent in sorted(cpu.items())},
        "part_per_s": samples / (end - begin),
        "first_batch_s": marks[0][0] - begin,
        "wall_s": end - begin,
        "samples": samples,
        "load": load,
    }


def alternate(
    sides: Mapping[str, Callable[[], Run]], rounds: int, console: Console
) -> dict[str, list[Run]]:
    """Run all sides one after the other, `rounds` times."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            run = side()
            runs[name].append(run)
            console.print(
                f"  round {number + 1}: {name}: {run['samples_per_s']:.1f}/s, "
                f"{run['cpu_ms_per_sample']:.2f} ms CPU each, load {run['load']:.1f}",
                highlight=False,
            )
    return runs


@dataclass(frozen=True)
class Ratio:
    """How many times faster one side is than another.

    ours, peer: samples/s, medians of all runs. ratio: median over the rounds, each of which ran
    both sides within minutes. cpu_ratio: the same of CPU time, the peer's over ours.
    """

    name: str
    ours_is: str
    peer_is: str
    ours: float
    peer: float
    ratio: float
    cpu_ratio: float
    target: float | None
    met: bool | None


def compare(
    name: str,
    runs: dict[str, list[Run]],
    ours: str,
    peer: str,
    target: float | None = None,
    rate: str = "samples_per_s",
) -> Ratio:
    """The ratio of two sides in one of their rates, and whether it reaches the target."""
    pairs = list(zip(runs[ours], runs[peer], strict=True))
    ratio = statistics.median(a[rate] / b[rate] for a, b in pairs)
    cpu_ratio = statistics.median(b["cpu_ms_per_sample"] / a["cpu_ms_per_sample"] for a, b in pairs)
    return Ratio(
        name=name,
        ours_is=ours,
        peer_is=peer,
        ours=median_of(runs[ours], rate),
        peer=median_of(runs[peer], rate),
        ratio=ratio,
        cpu_ratio=cpu_ratio,
        target=target,
        met=None if target is None else ratio >= target,
    )


def median_of(runs: list[Run], key: str) -> float:
    """A figure of one side, median of the runs."""
    return statistics.median(run[key] for run in runs)


def median_rate(runs: list[Run]) -> float:
    """Samples/s, median of the runs."""
    return median_of(runs, "samples_per_s")


@dataclass(frozen=True)
class Figure:
    """A number that is no ratio of two rates: shares, seconds, bytes.

    bound: it should be at most so large; at_least: at least.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is within its bound, if there is one."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def describe_machine() -> dict[str, Any]:
    """CPU, cores, memory, Python and the versions of the libraries that matter here."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": versions,
    }


def describe(ratios: list[Ratio], runs: dict[str, list[Run]], **settings: Any) -> dict[str, Any]:
    """What is kept of one part: its ratios, both sides' single runs, and where they ran."""
    return {
        "ratios": [asdict(ratio) for ratio in ratios],
        "settings": settings,
        "runs": runs,
        "machine": describe_machine(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe_figures(figures: Iterable[Figure]) -> dict[str, Any]:
    """What is kept of a part's figures, beside `describe`."""
    return {"figures": [{**asdict(figure), "met": figure.met} for figure in figures]}
