"""One model in one mode, in a process of its own: nothing else's memory, threads or crash is in it.

Processes are forked from a server that has imported torch, and wait while others take their turns.
"""

import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mde.bench.modes import EAGER, Mode
from mde.cost import count_macs, count_parameters, device_name, peaks_mib, reset_peak, time_runs
from mde.errors import InputError
from mde.predictor import Predictor, TorchPredictor

WARM_UP, FEWEST_WARM_UP, WARM_UP_S = 10, 2, 20.0
REASON_LENGTH = 300
T = TypeVar("T")


class SideError(Exception):
    """Why a side could not be measured, in one line."""


@dataclass(frozen=True)
class Side:
    """What takes turns. label: of the model. model: a checkpoint folder, or an ONNX file.

    size: (H,W) px of the image, and of what the network sees. device: `cpu` or `cuda`.
    """

    label: str
    model: Path
    size: tuple[int, int]
    mode: Mode
    device: str
    threads: int


@dataclass(frozen=True)
class Started:
    """What is known of a side before its first turn.

    start_s: loading, and the first prediction, in which torch.compile compiles. run_ms: of a warm
    run. depths: (N,H,W) of the images. memory: fields of `mde.cost.Cost`. counts: `parameters` and
    `macs` of the plain network, which other modes do not show.
    """

    device: str
    start_s: float
    warm_up: int
    run_ms: float
    depths: NDArray[np.float32]
    memory: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)


class SideProcess:
    """A process that loads a side and runs it when told. Its methods raise SideError."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._pool = fresh_process()

    def start(self, images: NDArray[np.uint8]) -> Started:
        """Load, warm up, and measure memory; images (N,H,W,3): the first one is timed."""
        return ask(self._pool, _start, self.side, images)

    def turn(self, runs: int) -> list[float]:
        """Durations in ms, after one run that is not counted: others have used the caches."""
        return ask(self._pool, _turn, runs)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def fresh_process() -> ProcessPoolExecutor:
    """A process that has imported what this module does, and has done nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(1, mp_context=context)


def ask(pool: ProcessPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
    """The value of a function in a process; raises SideError with the reason why there is none."""
    try:
        return pool.submit(_guarded, function, *arguments).result()
    except BrokenProcessPool as error:
        raise SideError("its process died; perhaps memory was short") from error


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        # Errors of the runtimes' own kinds do not survive the way between processes.
        raise SideError(reason_of(error)) from None


def reason_of(error: BaseException) -> str:
    """An error in one line, short enough for a table's foot."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if not isinstance(error, InputError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= REASON_LENGTH else text[:REASON_LENGTH] + " …"


_held: tuple[Predictor, NDArray[np.uint8]] | None = None
"""In a side's process: its predictor, and the image that is timed."""


def _start(side: Side, images: NDArray[np.uint8]) -> Started:
    global _held
    # What libraries warn of would end in the middle of the progress bar; failures are exceptions.
    logging.disable(logging.WARNING)
    torch.set_num_threads(side.threads)
    device = torch.device(side.device)
    begun, before = time.perf_counter(), reset_peak(device)
    predictor = side.mode.load(side.model, side.size, side.device, side.threads)
    image = images[0]
    time_runs(predictor, image, 1)
    start_s = time.perf_counter() - begun
    times: list[float] = []
    while len(times) < FEWEST_WARM_UP or (len(times) < WARM_UP and sum(times) < 1e3 * WARM_UP_S):
        times += time_runs(predictor, image, 1)
    reset_peak(device)
    time_runs(predictor, image, 3)
    memory = peaks_mib(device, before)
    counts: dict[str, int] = {}
    if side.mode == EAGER:
        assert isinstance(predictor, TorchPredictor), "eager is torch's"
        counts = {
            "parameters": count_parameters(predictor.model),
            "macs": count_macs(predictor.model, side.size),
        }
    _held = predictor, image
    return Started(
        device=device_name(device),
        start_s=start_s,
        warm_up=1 + len(times),
        run_ms=statistics.median(times),
        depths=predictor.predict_batch(images),
        memory=memory,
        counts=counts,
    )


def _turn(runs: int) -> list[float]:
    assert _held is not None, "a turn comes after the start"
    predictor, image = _held
    return time_runs(predictor, image, 1 + runs)[1:]
