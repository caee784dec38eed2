"""The courier: a process beside a training that delivers its journal to MLflow.

`python -m mde.tracking.courier ROOT FOLDER CLAIM`, started by `mde.tracking.follow` with a pipe for
input. A line `{"status": …, "artifacts": …}` tells how the training ended; the pipe's end without
one tells that it was killed.
"""

import json
import logging
import os
import select
import sys
import time
from pathlib import Path

from mde.storage import open_storage
from mde.tracking.delivery import Delivery, claim_text
from mde.tracking.lease import Lease
from mde.tracking.run_folder import Artifacts, End, RunFolder
from mde.tracking.store import said, shown_uri
from mde.tracking.system import SystemSampler

POLL_S = 1.0
MAX_BACKOFF_S = 30.0
LOOK_S = 5.0
"""Between two looks for what comes more rarely than numbers: pictures, use of the machine."""
LINGER_S = 5.0
"""How long the workers of a killed driver may still write."""
PATIENCE = "MDE_TRACK_PATIENCE_S"
"""Environment: how long to wait at the end of a training for an MLflow that does not answer."""


class Courier:
    """Delivers a run folder until the run has ended and all is delivered, or patience has."""

    def __init__(self, root: Path, folder: RunFolder, claim: str) -> None:
        self.root, self.folder = root, folder
        self.lease = Lease(folder.storage, claim, claim_text("training"))
        self.delivery = Delivery(root, folder, self._answered)
        self.answered_at = time.monotonic()
        self.away = False
        self.next_try, self.backoff_s = 0.0, POLL_S
        self.next_look = 0.0
        self._input = b""
        self._told: set[str] = set()

    def run(self) -> None:
        """Deliver until the end, and a little longer."""
        end, record = None, self.folder.record
        started_ms = record.created_ms if record else time.time_ns() // 1_000_000
        sampler = SystemSampler(self.folder.system, started_ms, _say)
        sampler.start()
        while end is None:
            end = self._listen()
            if time.monotonic() >= self.next_try:
                self._try(end=None)
        sampler.stop()
        if not self._input:
            time.sleep(LINGER_S)
        self._finish(end)

    def _listen(self) -> End | None:
        """Wait for news of the training; how it ended, if it has."""
        if not select.select([sys.stdin], [], [], POLL_S)[0]:
            return None
        news = os.read(sys.stdin.fileno(), 2**16)
        self._input += news
        now_ms = time.time_ns() // 1_000_000
        if b"\n" in self._input:
            content = json.loads(self._input)
            made = content["artifacts"]
            return End(content["status"], now_ms, made and Artifacts(**made))
        return None if news else End("KILLED", now_ms)

    def _finish(self, end: End) -> None:
        """Deliver what is left, for as long as MLflow takes something."""
        patience_s = float(os.environ.get(PATIENCE, "20"))
        self.answered_at = time.monotonic()
        while not self._try(end) and time.monotonic() - self.answered_at < patience_s:
            time.sleep(POLL_S)
        if self.folder.end != end:
            # Another has not let go of the folder; `mde track sync` is to know it all the same.
            self.folder.write_end(end)

    def _try(self, end: End | None) -> bool:
        """Deliver what is there; whether that went well. end: of the run, None while it trains."""
        try:
            if not self.lease.try_acquire():
                return False
            # Only the owner of the lease says it: a former one may still be at work.
            if self.folder.end != end:
                self.folder.write_end(end)
            if self._has_news(end):
                self.delivery.deliver()
        except Exception as error:
            self._fail(error)
            return False
        if self.away:
            self.away = False
            _say(f"MLflow at {shown_uri(self.root)} answers again and has all metrics")
        self.backoff_s = POLL_S
        for name in self.delivery.damaged.keys() - self._told:
            _say(self.delivery.damaged[name])
            self._told.add(name)
        return True

    def _has_news(self, end: End | None) -> bool:
        known = self.folder.delivered
        status = "RUNNING" if end is None else end.status
        if known.run_id is None or known.status != status or self.folder.waiting():
            return True
        # Each look lists folders, which a bucket counts.
        if end is None and time.monotonic() < self.next_look:
            return False
        self.next_look = time.monotonic() + LOOK_S
        return bool(self.folder.waiting_system() or self.folder.waiting_once())

    def _fail(self, error: Exception) -> None:
        if not self.away:
            lines = said(error).splitlines() or [type(error).__name__]
            _say(
                f"MLflow at {shown_uri(self.root)} takes no metrics; training goes on, and they "
                f"wait in {self.folder.uri} ({lines[0][:160]})"
            )
        self.away = True
        self.next_try = time.monotonic() + self.backoff_s
        self.backoff_s = min(2 * self.backoff_s, MAX_BACKOFF_S)

    def _answered(self) -> None:
        self.answered_at = time.monotonic()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Follow the training whose process holds the other end of the input."""
    logging.disable(logging.WARNING)
    root, uri, claim = sys.argv[1:]
    courier = Courier(Path(root), RunFolder(open_storage(uri)), claim)
    try:
        courier.run()
    except Exception as error:
        _say(f"metrics wait in {uri}: {said(error)}; mde track sync delivers them")
        raise SystemExit(1) from None
    finally:
        courier.lease.release()


if __name__ == "__main__":
    main()
