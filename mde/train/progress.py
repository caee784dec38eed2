"""What a person sees while a model trains."""

import time
from collections.abc import Callable
from dataclasses import dataclass

Show = Callable[["Progress"], None]

LINE_EVERY_S = 30.0


@dataclass(frozen=True)
class Progress:
    """A moment of a training.

    epoch: from 1. step: of the epoch's `steps` that are done. loss: this worker's in the last step,
    or the epoch's mean over all. data_wait: share of the time that was spent waiting for data.
    epoch_done: this is the end of an epoch. note: what else has happened.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    images_per_s: float
    data_wait: float
    eta_s: float
    stage: str = ""
    val_loss: float | None = None
    epoch_done: bool = False
    note: str = ""

    def line(self) -> str:
        """One line, for a log."""
        where = f"{self.stage}epoch {self.epoch}/{self.epochs} · step {self.step}/{self.steps}"
        note = f" · {self.note}" if self.note else ""
        if note and not self.epoch_done:
            return where + note
        val = "" if self.val_loss is None else f" · val {self.val_loss:.4f}"
        return (
            f"{where} · loss {self.loss:.4f}{val} · {self.images_per_s:.1f} images/s · "
            f"waiting for data {100 * self.data_wait:.0f} % · ETA {duration(self.eta_s)}{note}"
        )


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Lines:
    """Shows progress as lines: each epoch's end, each note, and else one every half minute."""

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self.say = say
        self.said = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Say it, if it is time."""
        now = time.monotonic()
        if progress.epoch_done or progress.note or now - self.said > LINE_EVERY_S:
            self.said = now
            self.say(progress.line())
