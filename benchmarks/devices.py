"""Where a measurement ran and how it was taken: device, time, memory. Needs torch alone.

GPU work is asynchronous, so every clock is read behind a synchronisation. GPU memory is what
torch's allocator says: allocated (tensors) and reserved (held from the driver). A CPU has no such
allocator; there it is the process's peak resident memory above what it was at the start.
"""

import gc
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
MIB = 2**20


def pick_device(name: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: a GPU when there is one. Raises ValueError when there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here; use --device cpu")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """What the maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor's name in /proc/cpuinfo, or what Python knows of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The device and every setting that changes its speed."""
    return {
        "device": device.type,
        "name": device_name(device),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "tf32_matrix_products": torch.backends.cuda.matmul.allow_tf32,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def now() -> str:
    """The time in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_calls(function: Callable[[], Any], count: int, device: torch.device) -> float:
    """Seconds per call of `count` calls in a row, the device's work included."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(count):
        function()
    synchronise(device)
    return (time.perf_counter() - start) / count


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def free_memory(device: torch.device) -> None:
    """Give back what nothing holds any more, and count peaks anew from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.init()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def gpu_peaks_mib(device: torch.device) -> dict[str, float | None]:
    """Peak memory since `free_memory`, MiB; None on a CPU, where nobody counts it."""
    if device.type != "cuda":
        return {"allocated_mib": None, "reserved_mib": None}
    return {
        "allocated_mib": torch.cuda.max_memory_allocated(device) / MIB,
        "reserved_mib": torch.cuda.max_memory_reserved(device) / MIB,
    }


def resident_mib(field: str = "VmRSS") -> float | None:
    """This process's resident memory, MiB: `VmRSS` at present, `VmHWM` at its peak. Linux only."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    sizes = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(sizes[0]) / 1024 if sizes else None


def alone(preload: str, function: Callable[..., T], *arguments: Any) -> T:
    """The value of a function in a fresh process, so that memory and caches start empty.

    preload: a module that a server process imports once, before any tensor or GPU is touched; the
    fresh processes are forked from it and need not import torch again.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Rows of text under headings; the first column is left-aligned, the others right."""
    if markdown:
        rule = ["---", *["---:"] * (len(headings) - 1)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (headings, rule, *rows))
    lines = [headings, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def show(value: float | None, digits: int = 1) -> str:
    """A number for a table; a dash when it was not measured."""
    return "–" if value is None else f"{value:.{digits}f}"
