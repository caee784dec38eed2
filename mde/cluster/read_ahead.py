"""Read ahead over the ends of epochs, so that no epoch starts with an empty pipeline."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mde.cluster.feed import Feed
from mde.schema import Batch

END = object()
AHEAD = 8
"""Steps before the end of a part at which the next one starts: Ray needs a while to get going."""


@dataclass
class ReadAhead:
    """A feed whose next part is started while the present one is consumed.

    The parts are train 0, val, train 1, val, … up to `epochs`, in this order, as
    `mde.train.loop.train` asks for them; the first one asked for may be any epoch. A thread runs
    each, and keeps at most `depth` batches; it starts when its predecessor is nearly done.
    """

    feed: Feed
    epochs: int
    depth: int = 4
    _parts: "dict[int, queue.Queue[Any]]" = field(default_factory=dict, init=False)
    _epoch: int = field(default=0, init=False)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.feed.num_steps["train"]

    def train(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """One shuffled, augmented epoch of (batch, weight)."""
        self._epoch = epoch
        return self._take(2 * epoch)

    def val(self) -> Iterator[tuple[Batch, float]]:
        """The validation split, after the epoch that was asked for last."""
        return self._take(2 * self._epoch + 1)

    def _start(self, part: int) -> None:
        if part < 2 * self.epochs and part not in self._parts:
            self._parts[part] = queue.Queue(self.depth)
            threading.Thread(target=self._run, args=(part,), daemon=True).start()

    def _run(self, part: int) -> None:
        items = self._parts[part]
        try:
            batches = self.feed.val() if part % 2 else self.feed.train(part // 2)
            num_steps = self.feed.num_steps["val" if part % 2 else "train"]
            for step, item in enumerate(batches):
                if step == num_steps - AHEAD:
                    self._start(part + 1)
                items.put(item)
            self._start(part + 1)
            items.put(END)
        except BaseException as error:
            items.put(error)

    def _take(self, part: int) -> Iterator[tuple[Batch, float]]:
        self._start(part)
        items = self._parts[part]
        while (item := items.get()) is not END:
            if isinstance(item, BaseException):
                raise item
            yield item
        del self._parts[part]
