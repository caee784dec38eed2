"""The README's `ray job submit`, on a cluster that this test starts and stops, with a token."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Stage

pytestmark = pytest.mark.e2e

BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a running head node; its processes end with the test, and no others."""
    # Ray's sockets lie below its folder, and their paths must be short.
    folder = tmp_path_factory.mktemp("ray", numbered=True)
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    port, dashboard, client = free_ports(3)
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            [
                *("ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2"),
                *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={client}"),
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        address = f"http://127.0.0.1:{dashboard}"
        try:
            wait_for(environment, address, folder / "head.log")
            yield {**environment, "DASHBOARD": address}
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)


def wait_for(environment: dict[str, str], address: str, log: Path) -> None:
    command = ["ray", "job", "list", "--address", address]
    for _ in range(60):
        ready = subprocess.run(command, env=environment, capture_output=True, check=False)
        if ready.returncode == 0:
            return
        time.sleep(1)
    raise AssertionError(log.read_text())


def submit(
    cluster: dict[str, str], root: Path, *command: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    variables = {"MDE_ROOT": str(root), "MDE_GIT_COMMIT": "0123abc"}
    return subprocess.run(
        [
            *("ray", "job", "submit", "--address", cluster["DASHBOARD"], "--working-dir", "."),
            *("--runtime-env-json", json.dumps({"env_vars": variables}), "--", *command),
        ],
        cwd=REPOSITORY,
        env={**cluster, **changes},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_a_job_trains_on_the_cluster(
    cluster: dict[str, str], tiny_root: Path, stage: Stage
) -> None:
    assert stage("convert", "--dataset", "nyu_labeled").returncode == 0
    train = ("python", "-m", "pipelines.train", "--variant", "resfpn-resnet18")
    params = ("--params", str(tiny_root / "params.yaml"))
    result = submit(cluster, tiny_root, *train, *params)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "epoch 2/2" in result.stdout
    checkpoint = tiny_root / "models/resfpn-resnet18/checkpoint"
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["git_commit"] == "0123abc"
    assert state["epoch"] == 2


def test_without_the_token_nobody_gets_in(
    cluster: dict[str, str], tiny_root: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    result = submit(cluster, tiny_root, "python", "-V", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert result.returncode != 0


def test_a_failing_job_says_why(cluster: dict[str, str], tiny_root: Path) -> None:
    train = ("python", "-m", "pipelines.train", "--variant", "resfpn-resnet81")
    result = submit(cluster, tiny_root, *train)
    assert result.returncode == 1
    assert "did you mean 'resfpn-resnet18'" in result.stdout
