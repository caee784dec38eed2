"""Use of the machine beside a training: CPU, memory, disk, network and GPUs, into a journal."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from mde.storage import Storage
from mde.train.journal import Journal

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""Environment, as of MLflow: `false` switches it off."""
INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
"""Environment, as of MLflow: seconds between two samples."""
INTERVAL_S, FLUSH_S = 10.0, 60.0


class SystemSampler:
    """Samples this machine from a thread, until it is stopped.

    The values are MLflow's own, `system/…`. Their step is the seconds since the run's first start,
    so that a resumed run goes on where it stopped. What is sampled is on disk a minute later.

    storage: for a journal that nobody else writes. started_ms: of the run, since 1970.
    """

    def __init__(self, storage: Storage, started_ms: int, say: Callable[[str], None]) -> None:
        self.storage, self.started_ms, self.say = storage, started_ms, say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_over, daemon=True)

    def start(self) -> None:
        """Begin, unless it is switched off."""
        if os.environ.get(SWITCH, "true").lower() not in ("false", "0"):
            self._thread.start()

    def stop(self) -> None:
        """Take a last sample and write what is left."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample_until_over(self) -> None:
        try:
            self._sample(_monitors(self.say), Journal(self.storage))
        # Whatever a driver or a kernel answers: the courier has more to do.
        except Exception as error:
            self.say(f"use of the machine is no longer recorded: {type(error).__name__}: {error}")

    def _sample(self, monitors: list[BaseMetricsMonitor], journal: Journal) -> None:
        interval_s = float(os.environ.get(INTERVAL) or INTERVAL_S)
        over, begun, flushed = False, time.monotonic(), 0.0
        while not over:
            over = self._over.wait(interval_s)
            journal.add(time.time_ns() // 10**9 - self.started_ms // 1000, _values(monitors))
            now = time.monotonic()
            if over or now - begun < FLUSH_S or now - flushed >= FLUSH_S:
                # A storage that is away for a moment: the samples wait for the next time.
                with nullcontext() if over else suppress(OSError):
                    journal.flush()
                flushed = now


def _monitors(say: Callable[[str], None]) -> list[BaseMetricsMonitor]:
    found: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    # What it has counted until now is not of this run.
    found[0].collect_metrics()
    found[0].clear_metrics()
    try:
        found.append(GPUMonitor())
    except ImportError:
        if shutil.which("nvidia-smi"):
            say("use of the GPUs is not recorded: pip install nvidia-ml-py")
    except RuntimeError:
        # The library is there, a GPU is not.
        pass
    return found


def _values(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values
