"""Read ahead over the ends of epochs, so that no epoch starts with an empty pipeline."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mde.cluster.feed import Feed
from mde.schema import Batch

END = object()


@dataclass
class ReadAhead:
    """A feed whose next part is started while the present one is consumed.

    The parts are train 0, val, train 1, val, … up to `epochs`, in this order, as
    `mde.train.loop.train` asks for them; the first one asked for may be any epoch. A thread runs
    them one after the other and keeps at most `depth` batches.
    """

    feed: Feed
    epochs: int
    depth: int = 4
    _queue: "queue.Queue[Any] | None" = field(default=None, init=False)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.feed.steps_per_epoch

    def train(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """One shuffled, augmented epoch of (batch, weight)."""
        if self._queue is None:
            self._queue = queue.Queue(self.depth)
            threading.Thread(target=self._run, args=(self._queue, epoch), daemon=True).start()
        return self._take(self._queue)

    def val(self) -> Iterator[tuple[Batch, float]]:
        """The validation split, after the epoch that was asked for last."""
        assert self._queue is not None, "an epoch comes first"
        return self._take(self._queue)

    def _run(self, items: "queue.Queue[Any]", first_epoch: int) -> None:
        try:
            for epoch in range(first_epoch, self.epochs):
                for part in (self.feed.train(epoch), self.feed.val()):
                    for item in part:
                        items.put(item)
                    items.put(END)
        except BaseException as error:
            items.put(error)

    @staticmethod
    def _take(items: "queue.Queue[Any]") -> Iterator[tuple[Batch, float]]:
        while (item := items.get()) is not END:
            if isinstance(item, BaseException):
                raise item
            yield item
