"""A Ray cluster of several node processes on this machine, each at an address of its own."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that Ray does not keep for its workers (10002-19999)."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port > 19999 and port not in found:
            found.append(port)
    return found


class Cluster:
    """Starts and ends nodes, and no other Ray's processes.

    environment: what a driver needs to join as a user with the token. secrets_of_nodes: what the
    nodes alone have in theirs.
    """

    def __init__(
        self, folder: Path, head_cpus: int, secrets_of_nodes: dict[str, str] | None = None
    ) -> None:
        # Ray's sockets lie below its folder, and their paths must be short.
        self.folder = folder
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.port, dashboard, agent = free_ports(3)
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.environment.pop("RAY_ADDRESS", None)
        self._secrets = secrets_of_nodes or {}
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._commands: list[list[str]] = []
        self._start(
            *("--head", f"--port={self.port}", f"--num-cpus={head_cpus}"),
            *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        )
        try:
            self.wait_until(
                ["ray", "job", "list", "--address", self.dashboard], "the head does not answer"
            )
        except BaseException:
            self.close()
            raise
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"

    def add_node(self, cpus: int) -> subprocess.Popen[bytes]:
        """Start a node that joins the head; it takes a few seconds to arrive."""
        (agent,) = free_ports(1)
        return self._start(
            *(f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}"),
            f"--node-ip-address=127.0.0.{len(self.nodes) + 1}",
            f"--dashboard-agent-listen-port={agent}",
        )

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = ["ray", "start", "--block", "--object-store-memory=200000000", *options]
        self._commands.append(command)
        self.nodes.append(self._run(len(self.nodes)))
        return self.nodes[-1]

    def _run(self, number: int) -> subprocess.Popen[bytes]:
        with (self.folder / f"node_{number}.log").open("ab") as log:
            mine = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
            return subprocess.Popen(
                self._commands[number],
                env=mine | self._secrets,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, command: list[str], failure: str) -> None:
        """Repeat a command until it succeeds."""
        for _ in range(60):
            done = subprocess.run(command, env=self.environment, capture_output=True, check=False)
            if done.returncode == 0:
                return
            # On a busy machine Ray gives up starting; a node that was killed is meant to be dead.
            for number, node in enumerate(self.nodes):
                if node.poll() is not None and node.returncode > 0:
                    self.nodes[number] = self._run(number)
            time.sleep(1)
        logs = [path.read_text() for path in sorted(self.folder.glob("node_*.log"))]
        raise AssertionError("\n".join([failure, done.stderr.decode(), *logs]))

    def wait_for_cpus(self, cpus: int) -> None:
        """Until the nodes that have joined have so many CPUs for workers."""
        code = (
            "import ray; ray.init(logging_level=40); "
            f"assert ray.cluster_resources().get('CPU', 0) >= {cpus}"
        )
        self.wait_until([sys.executable, "-c", code], f"there are no {cpus} CPUs")

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        """SIGKILL all processes of a node at once, as a power cut does."""
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        """End what is left."""
        for node in reversed(self.nodes):
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGTERM)
        for node in self.nodes:
            try:
                node.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
