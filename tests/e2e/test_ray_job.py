"""The README's `ray job submit`, on a cluster that this test starts and stops, with a token."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, convert_here
from tests.e2e.ray_cluster import Cluster

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a running head node, for a job's submitter."""
    nodes = Cluster(tmp_path_factory.mktemp("ray"), head_cpus=2)
    try:
        environment = {**nodes.environment, "DASHBOARD": nodes.dashboard}
        # A submitter is no driver.
        del environment["RAY_ADDRESS"]
        yield environment
    finally:
        nodes.close()


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


def test_a_job_trains_on_the_cluster(cluster: dict[str, str], tiny_root: Path) -> None:
    convert_here(tiny_root, "nyu_labeled")
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
