"""Workers, drivers and nodes are killed, nodes join: training ends as an undisturbed one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from mde.storage import join_uri, open_storage
from mde.train.checkpoint import read_state
from mde.train.checkpoints import checkpoint_names
from tests.conftest import PARAMS, REPOSITORY, convert_here
from tests.e2e.ray_cluster import Cluster

pytestmark = pytest.mark.e2e

# With dropout, so that chance has a part in it, and small, so that it is saved in no time.
PARAMS_OF_SMALL = (
    PARAMS.partition("cluster:")[0].rstrip()
    + """
  small:
    dataset: nyu_labeled
    model:
      family: eigen
      encoder: vgg16
      weights: scratch
      width: 0.05
      input_size: [64, 96]
      min_depth: 0.1
    objective: {kind: supervised, loss: mse}
    recipe: {epochs: 16, batch_size: 2, lr: 5e-4}
    augment: {}
    protocol: nyu_labeled
run: {checkpoint_steps: 1, log_steps: 1, storage: STORAGE}
cluster: {num_workers: WORKERS, placement: STRICT_SPREAD, cpus_per_worker: 0.5, max_failures: 2}
"""
)
EPOCHS, STEPS = 16, 48
TIMES = {"images_per_s", "data_wait", "epoch_s"}


def write_params(root: Path, storage: str = "null", workers: int = 1) -> None:
    content = PARAMS_OF_SMALL.replace("STORAGE", storage).replace("WORKERS", str(workers))
    (root / "params.yaml").write_text(content)


def start_training(root: Path, **environment: str) -> subprocess.Popen[str]:
    places = ["--root", str(root), "--params", str(root / "params.yaml")]
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.train", "--variant", "small", "--resume", *places],
        cwd=REPOSITORY,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(training: subprocess.Popen[str]) -> str:
    out, _ = training.communicate(timeout=600)
    assert training.returncode == 0, out
    return out


def new_root(sample: Path, folder: Path, shards: Path | None = None) -> Path:
    """A root with the tiny sample, and shards of it."""
    (folder / "data").mkdir(parents=True)
    (folder / "data/sample").symlink_to(sample / "data/sample")
    if shards is not None:
        (folder / "data/shards").symlink_to(shards)
    write_params(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tiny_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a training that nobody disturbs."""
    root = new_root(tiny_sample, tmp_path_factory.mktemp("whole") / "root")
    convert_here(root, "nyu_labeled")
    finish(start_training(root))
    return root


@pytest.fixture
def root(tiny_sample: Path, whole: Path, tmp_path: Path) -> Path:
    return new_root(tiny_sample, tmp_path / "root", whole / "data/shards")


def assert_same_weights(root: Path, whole: Path) -> None:
    found, expected = (
        load_file(folder / "models/small/checkpoint/model.safetensors") for folder in (root, whole)
    )
    assert all(bool((expected[name] == found[name]).all()) for name in expected)


def history(root: Path) -> list[dict[str, float]]:
    return read_state(root / "models/small/checkpoint")["history"]


def wait_for_step(runs: str, training: subprocess.Popen[str], step: int) -> None:
    """Until a run below the URI has a checkpoint of at least that step."""
    storage = open_storage(runs)
    while training.poll() is None:
        for run in (name for name in storage.names() if name.startswith("small-")):
            newest = checkpoint_names(open_storage(join_uri(runs, run)))[:1]
            if newest >= [f"step-{step:09d}"]:
                return
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
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in client.get_run(run_id).data.metrics
        # The machine's are no numbers of the training.
        if name not in TIMES and not name.startswith("system/")
    }


def kill_worker(parent: int) -> None:
    """SIGKILL the training worker below a process."""
    workers = [p for p in psutil.Process(parent).children(recursive=True) if is_worker(p)]
    assert len(workers) == 1
    workers[0].kill()


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "RayTrainWorker" in "".join(process.cmdline())
    return False


def test_killed_workers_and_drivers_and_one_that_is_stopped_change_nothing(
    root: Path, whole: Path
) -> None:
    runs = str(root / "checkpoints")
    killed = start_training(root)
    wait_for_step(runs, killed, 2)
    kill_worker(killed.pid)
    wait_for_step(runs, killed, 8)
    killed.kill()
    said, _ = killed.communicate(timeout=300)
    assert "going on after step" in said
    run_id = the_run(root, "KILLED")

    stopped = start_training(root)
    wait_for_step(runs, stopped, 16)
    stopped.send_signal(signal.SIGINT)
    said, _ = stopped.communicate(timeout=300)
    assert "going on after step" in said
    assert stopped.returncode != 0
    assert the_run(root, "KILLED") == run_id

    finish(start_training(root))
    assert the_run(root, "FINISHED") == run_id
    assert not list((root / "checkpoints").glob("small-*"))
    assert_same_weights(root, whole)
    expected = curves(whole, the_run(whole, "FINISHED"))
    assert [step for step, _ in expected["step_loss"]] == list(range(1, STEPS + 1))
    assert curves(root, run_id) == expected


@pytest.fixture
def nodes(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head that has no CPU for workers, and two nodes that have; all know the bucket's keys."""
    cluster = Cluster(tmp_path_factory.mktemp("ray"), head_cpus=0)
    try:
        for _ in range(2):
            cluster.add_node(cpus=1)
        yield cluster
    finally:
        cluster.close()


def node_of_worker(cluster: Cluster) -> subprocess.Popen[bytes]:
    """The node that a training worker runs on."""
    for node in cluster.nodes:
        alive = node.poll() is None
        if alive and any(map(is_worker, psutil.Process(node.pid).children(recursive=True))):
            return node
    raise AssertionError("no node has a training worker")


def test_a_node_is_lost_and_another_one_joins(
    root: Path, whole: Path, nodes: Cluster, bucket: str
) -> None:
    """The run is kept in S3: first by one worker, then by two, each on a node of its own."""
    runs = join_uri(bucket, "mde")
    write_params(root, f"'{runs}'")
    nodes.wait_for_cpus(2)
    training = start_training(root, **nodes.environment)
    wait_for_step(runs, training, 4)
    nodes.kill_node(node_of_worker(nodes))
    nodes.add_node(cpus=1)
    assert "going on after step" in finish(training)
    assert_same_weights(root, whole)
    assert open_storage(runs).names() == []

    nodes.wait_for_cpus(2)
    write_params(root, f"'{runs}'", workers=2)
    finish(start_training(root, **nodes.environment))
    alone, together = history(whole), history(root)
    for name in ("epoch", "step", "lr"):
        assert [m[name] for m in together] == [m[name] for m in alone]
    # Dropout draws other numbers for each worker, so only the start is alike.
    assert together[0]["train_loss"] == pytest.approx(alone[0]["train_loss"], rel=0.1)
