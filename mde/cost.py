"""What a depth model costs: parameters, arithmetic, latency of one image, memory.

Who measures it, and fairly beside others, is `mde.bench`.
"""

import contextlib
import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from mde.models import DepthModel
from mde.predictor import Predictor

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Costs of one image of height x width px on one device, without decoding it.

    parameters: of the depth model alone; what trains with it, such as a pose network, is not there.
    macs: multiply-adds of convolutions and matrix products; norms, activations, pooling and
    resizing are not counted.
    median_ms, p95_ms: an image (H,W,3) uint8 → depth (H,W) float32, both in the CPU's memory, over
    `runs` runs.
    allocated_mib, reserved_mib: peak on the GPU during prediction, weights included. growth_mib: on
    CPU, by how much the peak of resident memory during prediction lies above what the process held
    before the model was loaded; weights are in it, imported libraries are not. None: does not
    apply.
    """

    device: str
    threads: int
    height: int
    width: int
    parameters: int
    macs: int
    runs: int
    median_ms: float
    p95_ms: float
    allocated_mib: float | None = None
    reserved_mib: float | None = None
    growth_mib: float | None = None

    @property
    def memory_mib(self) -> float:
        """The one number of memory that there is for the kind of device."""
        found = self.allocated_mib if self.growth_mib is None else self.growth_mib
        assert found is not None, "one of the two is measured"
        return found


def count_parameters(model: DepthModel) -> int:
    """All of them, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: DepthModel, size: tuple[int, int]) -> int:
    """Multiply-adds of one forward pass of an image of size (H,W) px; see `Cost.macs`."""
    image = torch.zeros(1, 3, *size, device=next(model.parameters()).device)
    # In inference mode the counter misses linear layers, which are not taken apart there.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(model.fit_size(image))
    return int(counter.get_total_flops()) // 2


def time_runs(predictor: Predictor, image: NDArray[np.uint8], runs: int) -> list[float]:
    """Durations in ms of so many predictions of one image (H,W,3).

    Depth is an array when it comes, so whatever device made it has finished.
    """
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        predictor.predict_batch(image[None])
        times.append(1000 * (time.perf_counter() - begun))
    return times


def p95(times: list[float]) -> float:
    """The 95th percentile, interpolated."""
    return float(np.percentile(times, 95))


def reset_peak(device: torch.device) -> float:
    """Let the peak of memory start anew; the bytes that this process holds now.

    Of resident memory only Linux can forget the peak: elsewhere it is that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def peaks_mib(device: torch.device, before: float) -> dict[str, float]:
    """The fields of `Cost` for memory, at its peak since `reset_peak`.

    before: bytes that the process held before the model was loaded.
    """
    if device.type == "cuda":
        return {
            "allocated_mib": torch.cuda.max_memory_allocated(device) / MIB,
            "reserved_mib": torch.cuda.max_memory_reserved(device) / MIB,
        }
    return {"growth_mib": max(0.0, _peak() - before) / MIB}


def _peak() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # Not ru_maxrss, which after a fork begins with the parent's.
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def device_name(device: torch.device) -> str:
    """What the maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
