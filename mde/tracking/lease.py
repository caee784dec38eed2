"""A claim of one process on a run folder, on any storage: no locks, no clocks that must agree.

A claim is a file that its owner rewrites every few seconds. Others hold it for alive as long as
they see it change, so neither host names nor process ids nor clocks of other nodes are trusted.
"""

import random
import threading
import time
from contextlib import suppress

from mde.storage import Storage

FOLDER = "claims"
BEAT_S = 2.0
STALE_S = 10.0
"""A claim that does not change for so long is that of a dead process."""


class Lease:
    """The right to deliver a run, which one process has at a time.

    name: of the claim; a process that takes over from one that it knows to be dead gives the same.
    text: what the claim says to people, such as host, process id and purpose.
    """

    def __init__(self, storage: Storage, name: str, text: str) -> None:
        self.storage, self.name, self.text = storage, name, text
        self.held = False
        self._watch = ClaimWatch(storage, name)
        self._released = threading.Event()
        self._beater: threading.Thread | None = None

    def try_acquire(self) -> bool:
        """Take the lease if nobody else may have it; to be tried again later when not."""
        if self.held:
            return True
        if self._watch.foreign():
            return False
        # Of two that write at once, each sees the other: both step back. Of two that write one
        # after the other, the second sees the first.
        self._write(0)
        if self._watch.foreign():
            self.storage.delete(self._path)
            time.sleep(random.random())
            return False
        self.held = True
        self._released.clear()
        self._beater = threading.Thread(target=self._beat, daemon=True)
        self._beater.start()
        return True

    def acquire(self) -> str | None:
        """Take the lease; returns what a living owner's claim says, and None when it is taken."""
        while not self.try_acquire():
            if (owner := self._watch.living()) is not None:
                return owner
            time.sleep(0.5)
        return None

    def release(self) -> None:
        """Give the lease back."""
        self._released.set()
        if self._beater is not None:
            self._beater.join()
        if self.held:
            self.held = False
            self.storage.delete(self._path)

    @property
    def _path(self) -> str:
        return f"{FOLDER}/{self.name}"

    def _write(self, beat: int) -> None:
        self.storage.write(self._path, f"{self.text}\n{beat}\n".encode())

    def _beat(self) -> None:
        beat = 0
        while not self._released.wait(BEAT_S):
            beat += 1
            # A storage that is away for a moment must not end the thread.
            with suppress(OSError):
                if self.name not in self.storage.names(FOLDER):
                    # Taken away by others while this process was stopped.
                    self.held = False
                    return
                self._write(beat)


class ClaimWatch:
    """The claims of others on a run folder, as they change."""

    def __init__(self, storage: Storage, own: str = "") -> None:
        self.storage, self.own = storage, own
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._living: str | None = None

    def foreign(self) -> list[str]:
        """Claims of others that are not known to be dead; those that are, are taken away."""
        found = []
        for name in self.storage.names(FOLDER):
            if name == self.own:
                continue
            with suppress(FileNotFoundError):
                content, now = self.storage.read(f"{FOLDER}/{name}"), time.monotonic()
                former, since = self._seen.get(name, (content, now))
                if former != content:
                    self._living = content.decode(errors="replace").splitlines()[0]
                    since = now
                self._seen[name] = (content, since)
                if now - since > STALE_S:
                    self.storage.delete(f"{FOLDER}/{name}")
                else:
                    found.append(name)
        return found

    def living(self) -> str | None:
        """What the claim says that has been seen to change; None as long as none has."""
        return self._living
