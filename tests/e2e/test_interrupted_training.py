"""A training whose driver is killed, then stopped with Ctrl-C: it ends as an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from mde.storage import open_storage
from mde.train.checkpoints import checkpoint_names
from tests.conftest import PARAMS, REPOSITORY, Stage
from tests.e2e.test_nodes import RUN, SMALL

pytestmark = pytest.mark.e2e

TIMES = {"images_per_s", "data_wait", "epoch_s"}


def start_training(root: Path) -> subprocess.Popen[str]:
    options = ["--variant", "small", "--root", str(root), "--params", str(root / "params.yaml")]
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.train", *options, "--resume"],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stop_at(training: subprocess.Popen[str], root: Path, step: int, number: int) -> str:
    """Send a signal to the driver once there is a checkpoint of that step; its output."""
    while training.poll() is None:
        for run in (root / "checkpoints").glob("small-*"):
            if checkpoint_names(open_storage(run))[:1] >= [f"step-{step:09d}"]:
                training.send_signal(number)
                return training.communicate(timeout=300)[0]
        time.sleep(0.05)
    raise AssertionError(training.communicate()[0])


def the_run(root: Path, status: str) -> str:
    """Id of the one MLflow run, once it has that status."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    for _ in range(120):
        (run,) = client.search_runs(["1"])
        if run.info.status == status:
            return run.info.run_id
        time.sleep(0.5)
    raise AssertionError(f"expected {status}, found {run.info.status}")


def curves(root: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    names = set(client.get_run(run_id).data.metrics) - TIMES
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in sorted(names)
        if not name.startswith("system/")
    }


def test_a_training_that_is_killed_and_stopped_ends_as_an_undisturbed_one(
    tiny_root: Path, tmp_path: Path, stage: Stage
) -> None:
    head, _, cluster = PARAMS.partition("cluster:")
    run = RUN.replace("storage: STORAGE, ", "")
    params = head.rstrip() + SMALL + run + "cluster:" + cluster.replace("workers: 2", "workers: 1")
    (tiny_root / "params.yaml").write_text(params)
    assert stage("convert", "--dataset", "nyu_labeled").returncode == 0

    killed = start_training(tiny_root)
    stop_at(killed, tiny_root, 4, signal.SIGKILL)
    run_id = the_run(tiny_root, "KILLED")

    stopped = start_training(tiny_root)
    said = stop_at(stopped, tiny_root, 8, signal.SIGINT)
    assert "going on after step" in said
    assert stopped.returncode not in (0, None)
    assert "Traceback" not in said
    assert the_run(tiny_root, "KILLED") == run_id

    resumed = start_training(tiny_root)
    said, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    assert the_run(tiny_root, "FINISHED") == run_id
    assert not list((tiny_root / "checkpoints").glob("small-*"))

    whole = tmp_path / "whole"
    whole.mkdir()
    for name in ("data", "params.yaml"):
        (whole / name).symlink_to(tiny_root / name)
    undisturbed = start_training(whole)
    assert undisturbed.wait(300) == 0
    expected = curves(whole, the_run(whole, "FINISHED"))
    assert curves(tiny_root, run_id) == expected
    # Every step, and no step twice.
    assert [step for step, _ in expected["step_loss"]] == list(
        range(1, 1 + len(expected["step_loss"]))
    )
    weights = [
        load_file(root / "models/small/checkpoint/model.safetensors") for root in (tiny_root, whole)
    ]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
