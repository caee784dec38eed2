"""CPU time and memory of a program's processes, by what they do: driver, workers, Ray's daemons."""

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import psutil

MIB = 2**20
KINDS = (
    ("raylet", "/raylet/raylet"),
    ("gcs", "/gcs_server"),
    ("daemons", "ray/dashboard"),
    ("daemons", "ray-dashboard"),
    ("daemons", "ray.dashboard"),
    ("daemons", "monitor.py"),
    ("daemons", "ray::DashboardAgent"),
    ("daemons", "ray::RuntimeEnvAgent"),
    ("train worker", "ray::RayTrainWorker"),
    ("controller", "ray::TrainController"),
    ("decode task", "ray::run_task"),
    ("decode task", "ray::IDLE"),
    ("actors", "ray::"),
)
"""A process is of the first kind whose text stands in its command line."""
RAY = ("raylet", "gcs", "daemons", "controller", "actors")
"""What only Ray needs: neither trains nor decodes."""


def processes_of(root: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    """A process and all that it has started, each with its kind.

    `driver` is the process itself, `worker` what it has started, `loader` what those have started;
    a process of a local Ray cluster is of one of KINDS.
    """
    yield "driver", root
    for process in root.children(recursive=True):
        # One may end at any moment.
        with contextlib.suppress(psutil.Error):
            yield _kind_of(process, root), process


def _kind_of(process: psutil.Process, root: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    plain = "worker" if process.ppid() == root.pid else "loader"
    return next((kind for kind, text in KINDS if text in command), plain)


def cpu_by_kind(root: psutil.Process | None = None) -> Counter[str]:
    """User and system seconds of a process (None: this one) and of all that it has started.

    `ended` is of those that are gone and were waited for.
    """
    total: Counter[str] = Counter()
    for kind, process in processes_of(root or psutil.Process()):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total[kind] += times.user + times.system
            total["ended"] += times.children_user + times.children_system
    return total


def memory_by_kind(root: psutil.Process) -> dict[str, dict[str, float]]:
    """For each kind: the largest process's resident (RSS) and proportional (PSS) memory, MiB.

    PSS counts a page that n processes share as 1/n; total_pss_mib is of all processes of the kind.
    """
    sizes: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for kind, process in processes_of(root):
        with contextlib.suppress(psutil.Error):
            memory = process.memory_full_info()
            sizes[kind].append((memory.rss / MIB, memory.pss / MIB))
    return {
        kind: {
            "rss_mib": max(rss for rss, _ in found),
            "pss_mib": max(pss for _, pss in found),
            "total_pss_mib": sum(pss for _, pss in found),
            "processes": len(found),
        }
        for kind, found in sizes.items()
    }


class Monitor:
    """Watches another program's processes from a thread, from `with` to its end.

    memory: look at memory too, which costs more. samples: time, and CPU seconds of each kind so
    far; of a process that is gone, all but what it did after the last look. peaks: the highest of
    `memory_by_kind`, each figure on its own.
    """

    def __init__(self, pid: int, memory: bool = False) -> None:
        self.root, self.memory, self.every_s = psutil.Process(pid), memory, 2.0 if memory else 0.5
        self.samples: list[tuple[float, Counter[str]]] = []
        self._spent: Counter[str] = Counter()
        self._known: dict[psutil.Process, float] = {}
        self.peaks: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            with contextlib.suppress(psutil.Error):
                self.look()
            if self._done.wait(self.every_s):
                return

    def look(self) -> None:
        """Take one sample."""
        for kind, process in processes_of(self.root):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                spent = times.user + times.system
                # By what it does now: a Ray worker is idle, or decodes, before it trains.
                self._spent[kind] += spent - self._known.get(process, 0.0)
                self._known[process] = spent
        self.samples.append((time.time(), self._spent.copy()))
        if not self.memory:
            return
        for kind, sizes in memory_by_kind(self.root).items():
            peak = self.peaks[kind]
            for name, size in sizes.items():
                peak[name] = max(peak[name], size)

    def cpu_between(self, start: float, end: float) -> dict[str, float]:
        """CPU seconds of each kind between two times of `time.time()`."""
        times = [at for at, _ in self.samples]
        found = {}
        for kind in sorted({kind for _, sample in self.samples for kind in sample}):
            spent = [sample[kind] for _, sample in self.samples]
            before, after = np.interp([start, end], times, spent)
            found[kind] = float(after - before)
        return found
