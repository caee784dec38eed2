"""Read ahead over the ends of epochs, so that no epoch starts with an empty pipeline."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from mde.cluster.feed import Feed, Part
from mde.schema import Batch


@dataclass
class ReadAhead:
    """A feed whose next part is decoded while the present one is consumed.

    The parts are train 0, val, train 1, val, … up to `epochs`, in this order, as
    `mde.train.loop.train` asks for them. They are one stream, which starts at the part that is
    asked for first, and anew when another one than the next is. It has no thread. After `close`, or
    the end of its context, the few decode tasks that are under way end by themselves.
    """

    feed: Feed
    epochs: int
    _stream: Any = field(default=None, init=False, repr=False)
    _at: Part | None = field(default=None, init=False)
    """Where the stream is."""
    _epoch: int = field(default=0, init=False)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.feed.steps_per_epoch

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Batch, float]]:
        """One shuffled, augmented epoch of (batch, weight), from a step on."""
        self._epoch = epoch
        return self._take(Part("train", epoch, start))

    def val(self) -> Iterator[tuple[Batch, float]]:
        """The validation split, after the epoch that was asked for last."""
        return self._take(Part("val", self._epoch))

    def close(self) -> None:
        """Start no more tasks; what is asked for next starts a new stream."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._at = None

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self, part: Part) -> Generator[tuple[Batch, float]]:
        if self._at != part:
            self.close()
            self._stream = self.feed.stream(self._parts_from(part))
        # Not at the next part before this one is consumed: who leaves it early starts anew.
        stream, self._at = self._stream, None
        for _ in range(part.start, self.feed.num_steps[part.split]):
            yield next(stream)
        if stream is self._stream:
            self._at = self._after(part)

    @staticmethod
    def _after(part: Part) -> Part:
        return Part("val", part.epoch) if part.split == "train" else Part("train", part.epoch + 1)

    def _parts_from(self, part: Part) -> Iterator[Part]:
        yield part
        while (part := self._after(part)).epoch < self.epochs:
            yield part
