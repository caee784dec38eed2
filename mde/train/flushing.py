"""Write the journal out while training goes on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mde.errors import InputError
from mde.train.journal import Journal

EVERY_S = 5.0


@contextmanager
def flushing(journal: Journal | None, every_s: float = EVERY_S) -> Iterator[None]:
    """Flush a journal every few seconds from a thread, and once more at the end.

    Storage that fails for a while costs nothing: the points wait. Raises InputError when it fails
    at the end.
    """
    if journal is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_flush_until, args=(journal, over, every_s), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _flush_now(journal)


def _flush_until(journal: Journal, over: threading.Event, every_s: float) -> None:
    while not over.wait(every_s):
        try:
            journal.flush()
        except OSError:
            continue


def _flush_now(journal: Journal) -> None:
    try:
        journal.flush()
    except OSError as error:
        raise InputError(
            f"{journal.storage.uri}: the journal of metrics could not be written: {error}"
        ) from error
