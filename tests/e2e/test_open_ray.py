"""Real Rays with and without a token: who is let in, and which of them `connect` refuses."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mde.cluster.security import ALLOW_OPEN, ask
from tests.conftest import REPOSITORY
from tests.e2e.ray_cluster import BIN, free_ports

pytestmark = pytest.mark.e2e

CONNECT = """
import ray
from mde.cluster.session import connect
connect()
print("in:", ray.get_runtime_context().gcs_address)
"""
STRANGER = """
from mde.cluster.security import ask
print("stranger:", ask(ray.get_runtime_context().gcs_address).state)
"""


def connect(home: Path, code: str = CONNECT, **changes: str) -> subprocess.CompletedProcess[str]:
    """Connect as a user with this home does, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    kept.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**kept, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", **changes},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


@contextmanager
def head(folder: Path, **changes: str) -> Iterator[str]:
    """The address of a head node that ends with the block, with its processes and no others."""
    port, dashboard, agent = free_ports(3)
    ports = (f"--port={port}", f"--dashboard-port={dashboard}")
    log = folder / "head.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [
                *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=1", *ports),
                f"--dashboard-agent-listen-port={agent}",
                # Ray's default range could hold one of the ports above.
                *("--min-worker-port=0", "--max-worker-port=0"),
            ],
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **changes},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while "Ray runtime started" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.5)
            yield f"127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_ray_without_a_token_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    with head(tmp_path, RAY_AUTH_MODE="disabled") as address:
        assert ask(address).state == "in"
        refused = connect(tmp_path, RAY_ADDRESS=address)
        allowed = connect(tmp_path, RAY_ADDRESS=address, **{ALLOW_OPEN: "1"})
    assert refused.returncode == 1
    assert f"RAY_ADDRESS={address} is a Ray without a token" in refused.stderr
    assert f"{ALLOW_OPEN}=1" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr
    assert "in:" in allowed.stdout
    assert f"{ALLOW_OPEN}=1 allows it" in allowed.stderr


def test_a_ray_with_a_token_takes_the_right_one_alone(tmp_path: Path) -> None:
    token, wrong = tmp_path / "token", tmp_path / "wrong"
    for path in (token, wrong):
        path.write_text(secrets.token_hex(32))
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with head(tmp_path, **mine) as address:
        assert ask(address).state == "refused"
        assert ask(address, token.read_text()).state == "in"
        right = connect(tmp_path, RAY_ADDRESS=address, **mine)
        other = connect(
            tmp_path, RAY_ADDRESS=address, **{**mine, "RAY_AUTH_TOKEN_PATH": str(wrong)}
        )
        none = connect(tmp_path, RAY_ADDRESS=address)
    assert right.returncode == 0, right.stderr
    assert f"{token}: others could read" in right.stderr
    assert "does not take the token of RAY_AUTH_TOKEN_PATH" in other.stderr
    assert "demands a token: set RAY_AUTH_MODE=token" in none.stderr


def test_a_local_ray_has_a_token_that_its_user_alone_can_read(tmp_path: Path) -> None:
    result = connect(tmp_path, CONNECT + STRANGER)
    assert "stranger: refused" in result.stdout, result.stderr
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600


def test_a_local_ray_without_a_token_is_not_started_unless_it_is_allowed(tmp_path: Path) -> None:
    refused = connect(tmp_path, RAY_AUTH_MODE="disabled")
    assert "RAY_AUTH_MODE=disabled starts a Ray without a token" in refused.stderr
    assert "in:" not in refused.stdout
    allowed = connect(
        tmp_path, CONNECT + STRANGER, **{"RAY_AUTH_MODE": "disabled", ALLOW_OPEN: "1"}
    )
    assert "stranger: in" in allowed.stdout, allowed.stderr
