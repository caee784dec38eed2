"""Write the journal out while training goes on."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mde.errors import InputError
from mde.train.journal import Journal

FIRST_S, LAST_S, SHARE = 2.0, 60.0, 0.01


@contextmanager
def flushing(journal: Journal | None) -> Iterator[None]:
    """Flush a journal from a thread, often at first and every minute later, and once at the end.

    Storage that fails for a while costs nothing: the points wait. Raises InputError when it fails
    at the end.
    """
    if journal is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_flush_until, args=(journal, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _flush_now(journal)


def _flush_until(journal: Journal, over: threading.Event) -> None:
    started = time.monotonic()
    # Every flush is a file, and a run may take a week.
    while not over.wait(min(LAST_S, max(FIRST_S, SHARE * (time.monotonic() - started)))):
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
