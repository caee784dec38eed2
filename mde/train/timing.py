"""Where the time of a training goes: waiting for data, and everything else."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

RECENT_S = 20.0
"""Rates that are shown and logged are those of the last so many seconds, or a little more."""


class Timing:
    """Times of one worker.

    waited_s: for data, in this epoch. images: that this worker has trained on since it started.
    """

    def __init__(self) -> None:
        self.images = self.steps = 0
        self.waited_s = 0.0
        self._all_waited = 0.0
        self._before_s = 0.0
        self._started = self._run_started = self._shown = time.perf_counter()
        self._marks = [(self._started, 0, 0.0)]

    def start_epoch(self) -> None:
        """Begin to count anew."""
        self.waited_s = self._before_s = 0.0
        self._started = time.perf_counter()

    @property
    def epoch_s(self) -> float:
        """Seconds of this epoch so far, those before an interruption included."""
        return self._before_s + time.perf_counter() - self._started

    @property
    def step_s(self) -> float:
        """Seconds a step, with all that comes between steps, since this process started."""
        return (time.perf_counter() - self._run_started) / max(self.steps, 1)

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """Pass items on, and count the time until each is there."""
        source = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            waited = time.perf_counter() - asked
            self.waited_s += waited
            self._all_waited += waited
            yield item
            self.steps += 1

    def due(self, every_s: float) -> bool:
        """Whether so many seconds have passed since it last said yes."""
        now = time.perf_counter()
        if now - self._shown < every_s:
            return False
        self._shown = now
        return True

    def rates(self, world_size: int) -> dict[str, float]:
        """images_per_s, of all workers, and data_wait: the share of time spent waiting for data."""
        now = (time.perf_counter(), self.images, self._all_waited)
        self._marks.append(now)
        while len(self._marks) > 2 and now[0] - self._marks[1][0] > RECENT_S:
            self._marks.pop(0)
        then = self._marks[0]
        seconds = max(now[0] - then[0], 1e-9)
        return {
            "images_per_s": (now[1] - then[1]) * world_size / seconds,
            "data_wait": (now[2] - then[2]) / seconds,
        }

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on within an epoch."""
        return {"epoch_s": self.epoch_s, "waited_s": self.waited_s}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on within an epoch."""
        self._before_s, self.waited_s = state["epoch_s"], state["waited_s"]
