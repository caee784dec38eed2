"""What `mde doctor` finds, and how its checks run: each in a process of its own, for limited time.

So a library that crashes, hangs or prints cannot take the doctor with it.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

STATES = ("fail", "warn", "ok")
"""Worst first. Only `fail` makes the doctor's exit code 1."""

AT_A_TIME = 2


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report. todo: what to do about it, in one line; none when ok."""

    name: str
    state: Literal["fail", "warn", "ok"]
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Scope:
    """What is examined: the root folder, the params file, and the storage of runs (path or URI)."""

    root: Path
    params: Path
    storage: str


@dataclass(frozen=True)
class Check:
    """`find` is importable by name, takes a scope, and is given up after `limit_s`."""

    name: str
    find: Callable[[Scope], list[Finding]]
    limit_s: float = 60


@dataclass
class Examination:
    """Runs checks, two at a time; ends their processes when it is left."""

    scope: Scope
    _running: dict[str, Any] = field(default_factory=dict)

    @property
    def running(self) -> list[str]:
        """Names of the checks that run now."""
        return list(self._running)

    def run(self, checks: list[Check]) -> Iterator[tuple[Check, list[Finding]]]:
        """Yield each check with what it found, as they end."""
        pool = ThreadPoolExecutor(AT_A_TIME)
        try:
            started = {pool.submit(self._run, check): check for check in checks}
            for done in as_completed(started):
                yield started[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(self._running.values()):
                _end(process)

    def _run(self, check: Check) -> list[Finding]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        with tempfile.NamedTemporaryFile(prefix="mde-doctor-") as output:
            arguments = (theirs, output.name, check.find, self.scope)
            process = context.Process(target=_in_child, args=arguments)
            process.start()
            self._running[check.name] = process
            theirs.close()
            try:
                if not ours.poll(check.limit_s):
                    return [_gave_up(check, f"no answer within {check.limit_s:g} s", output.name)]
                findings: list[Finding] = ours.recv()
                # It may still have to end what it started.
                process.join(10)
                return findings
            except EOFError:
                process.join(5)
                what = f"the check ended with exit code {process.exitcode}"
                return [_gave_up(check, what, output.name)]
            finally:
                _end(process)
                self._running.pop(check.name, None)


def _in_child(
    results: Connection, output: str, find: Callable[[Scope], list[Finding]], scope: Scope
) -> None:
    os.setsid()
    threading.Thread(target=_follow_parent, daemon=True).start()
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    results.send(find(scope))
    results.close()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "checks run in children"
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _end(process: Any) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # Ended by itself, or not yet in a group of its own.
        process.kill()


def _gave_up(check: Check, what: str, output: str) -> Finding:
    lines = [line for line in Path(output).read_text(errors="replace").splitlines() if line.strip()]
    said = f"; its last words: {lines[-1].strip()[:200]}" if lines else ""
    return Finding(check.name, "fail", what + said, "try again when the machine is less busy")


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Sorted by state; those of equal state stay in order."""
    return sorted(findings, key=lambda finding: STATES.index(finding.state))
