"""What a depth model costs: parameters, arithmetic, latency of one image, memory.

    python -m mde.cost CHECKPOINT HEIGHT WIDTH [--seconds N]

measures in a process of its own, of which nothing else has used memory, and prints JSON.
"""

import argparse
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mde.errors import InputError, explained
from mde.models import DepthModel
from mde.predictor import load_depth_model

WARM_UP, RUNS, FEWEST_RUNS = 10, 50, 5
SECONDS = 60.0
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Costs of one image of height x width px on one device, without decoding it.

    parameters: of the depth model alone; what trains with it, such as a pose network, is not there.
    macs: multiply-adds of convolutions and matrix products; norms, activations, pooling and
    resizing are not counted.
    median_ms, p95_ms: an image (1,3,H,W) on the device → depth (1,1,H,W) in m, over `runs` runs.
    allocated_mib, reserved_mib: peak on the GPU, weights included. growth_mib: on CPU, by how much
    prediction raises the peak of the process's resident memory above what it held with the model
    loaded; weights are not in it. None: does not apply.
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


def measure_apart(checkpoint: Path, size: tuple[int, int], seconds: float = SECONDS) -> Cost:
    """`measure` a checkpoint in a process of its own.

    size: (H,W) px. Raises InputError when that process fails, with what it said last.
    """
    command = [sys.executable, "-m", "mde.cost", str(checkpoint), *map(str, size)]
    done = subprocess.run([*command, f"--seconds={seconds}"], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ")
        raise InputError(f"{checkpoint}: its cost could not be measured: {said or done.returncode}")
    return Cost(**json.loads(done.stdout))


def measure(model: DepthModel, size: tuple[int, int], seconds: float = SECONDS) -> Cost:
    """Measure a model in eval mode on the device that it is on.

    Memory comes first: on CPU it is right in a process that has not predicted anything before.
    seconds: after so long timing ends, with at least FEWEST_RUNS runs.
    """
    device = next(model.parameters()).device
    image = torch.rand(1, 3, *size, device=device)
    memory = _cuda_memory(model, image) if device.type == "cuda" else _cpu_memory(model, image)
    times = time_runs(model, image, seconds)
    return Cost(
        device=_device_name(device),
        threads=torch.get_num_threads(),
        height=size[0],
        width=size[1],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=count_macs(model, image),
        runs=len(times),
        median_ms=statistics.median(times),
        p95_ms=p95(times),
        **memory,
    )


def count_macs(model: DepthModel, image: Tensor) -> int:
    """Multiply-adds of one forward pass of an image (B,3,H,W); see `Cost.macs`."""
    # In inference mode the counter misses linear layers, which are not taken apart there.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(model.fit_size(image))
    return int(counter.get_total_flops()) // 2


@torch.inference_mode()
def time_runs(model: DepthModel, image: Tensor, seconds: float = SECONDS) -> list[float]:
    """Durations in ms of RUNS predictions after WARM_UP unmeasured ones, fewer of a slow model."""
    started, times = time.perf_counter(), []
    for number in range(WARM_UP + RUNS):
        begun = time.perf_counter()
        _predict(model, image)
        ended = time.perf_counter()
        late = ended - started > seconds
        if number >= WARM_UP or late:
            times.append(1000 * (ended - begun))
        if late and len(times) >= FEWEST_RUNS:
            break
    return times


def p95(times: list[float]) -> float:
    """The 95th percentile, interpolated."""
    return float(torch.tensor(times, dtype=torch.float64).quantile(0.95))


def _predict(model: DepthModel, image: Tensor) -> None:
    model.predict_depth(image)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)


@torch.inference_mode()
def _cuda_memory(model: DepthModel, image: Tensor) -> dict[str, float]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(image.device)
    _predict(model, image)
    allocated = torch.cuda.max_memory_allocated(image.device)
    reserved = torch.cuda.max_memory_reserved(image.device)
    return {"allocated_mib": allocated / MIB, "reserved_mib": reserved / MIB}


@torch.inference_mode()
def _cpu_memory(model: DepthModel, image: Tensor) -> dict[str, float]:
    before = _reset_peak()
    for _ in range(3):
        _predict(model, image)
    return {"growth_mib": max(0.0, _peak() - before) / MIB}


def _reset_peak() -> float:
    """Let the peak of resident memory start anew; what it is now, bytes.

    Loading a model peaks too. Only Linux can forget that: elsewhere growth begins at that peak.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # Not ru_maxrss, which after a fork begins with the parent's.
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the cost of a checkpoint's depth model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("height", type=int, help="px")
    parser.add_argument("width", type=int, help="px")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for timing, at most")
    given = parser.parse_args()
    with explained(debug=False):
        if min(given.height, given.width) < 1:
            raise InputError(f"size {given.height}x{given.width}: both must be at least 1 px")
        model, _ = load_depth_model(given.checkpoint)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = measure(model.to(device), (given.height, given.width), given.seconds)
        print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
