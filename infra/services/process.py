"""A server's process: started, waited for until it answers, watched, ended."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mde.errors import InputError

HOST = "127.0.0.1"
START_S = 300
"""How long a server may take until it answers; a busy machine takes a minute."""
END_S = 30
TAIL = 12
# Of the person who starts the servers, perhaps with the environment of other servers loaded.
FOREIGN = ("AWS_", "MLFLOW_", "PG", "RCLONE_")


@dataclass
class Server:
    """One server: how to start it, when it is up, and how to end it.

    answers: whether it is up, asked until it is so. environment: besides this process's own.
    log: gets all that it says. user: numbers of an account (uid, gid), when not this process's.
    """

    name: str
    command: Sequence[str | Path]
    folder: Path
    log: Path
    answers: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    end_signal: signal.Signals = signal.SIGTERM
    user: tuple[int, int] | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; `wait` tells when it is up."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_ended_with_us(self.end_signal), *map(str, self.command)],
                cwd=self.folder,
                env=own_environment() | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for us, who end the servers in their order.
                start_new_session=True,
                umask=0o077,
                **as_user(self.user),
            )

    def wait(self) -> None:
        """Wait until it answers. Raises InputError when it ends before, or takes too long."""
        deadline = time.monotonic() + START_S
        while not self.answers():
            self.check()
            if time.monotonic() > deadline:
                raise InputError(f"{self.name} does not answer after {START_S} s. {self.tail()}")
            time.sleep(0.1)

    def check(self) -> None:
        """Raise InputError, with the last lines of its log, when the process has ended."""
        assert self.process is not None, "started"
        if (code := self.process.poll()) is not None:
            how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
            raise InputError(f"{self.name} has ended {how}. {self.tail()}")

    def tail(self) -> str:
        """The last lines of its log, for a message."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL:]
        return "\n  ".join([f"The last lines of {self.log}:", *lines])

    def stop(self) -> None:
        """End the process and what it has started; kill what does not go."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(self.end_signal)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        with suppress(ProcessLookupError):
            # It leads a group of its own, with its workers in it.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


def own_environment() -> dict[str, str]:
    """This process's environment, without settings of other servers than ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


def as_user(user: tuple[int, int] | None) -> dict[str, Any]:
    """Arguments of `subprocess` that give a process to another account."""
    return {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []}


def _ended_with_us(end_signal: signal.Signals) -> list[str]:
    # So that nothing stays behind when this process is killed; every Linux has it.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", end_signal.name.removeprefix("SIG"), "--"] if setpriv else []


def free_port() -> int:
    """A port of this machine that nobody listens to at the moment."""
    with closing(socket.socket()) as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def require_free(port: int, name: str, option: str) -> None:
    """Raise InputError when somebody listens to a port."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"{name}: cannot listen to port {port} of {HOST}: {error.strerror}. "
                f"End what listens there, or choose another port with {option}"
            ) from error
