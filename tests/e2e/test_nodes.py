"""A Ray cluster of three nodes: workers spread over them, a node is lost and another one joins."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from mde.storage import join_uri, open_storage
from mde.train.checkpoint import read_state
from mde.train.checkpoints import checkpoint_names
from tests.conftest import PARAMS, REPOSITORY
from tests.e2e.ray_cluster import Cluster

pytestmark = pytest.mark.e2e

SMALL = """
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
    recipe: {epochs: 8, batch_size: 2, lr: 5e-4}
    augment: {}
    protocol: nyu_labeled
"""
RUN = "run: {storage: STORAGE, checkpoint_steps: 1, log_steps: 1}\n"
CLUSTER = """
cluster:
  {num_workers: WORKERS, placement: STRICT_SPREAD, cpus_per_worker: 0.5, max_failures: 2}
"""


@pytest.fixture(scope="module")
def nodes(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head that has no CPU for workers, and two nodes that have."""
    cluster = Cluster(tmp_path_factory.mktemp("ray"), head_cpus=0)
    try:
        for _ in range(2):
            cluster.add_node(cpus=1)
        yield cluster
    finally:
        cluster.close()


def write_params(root: Path, storage: str, workers: int) -> None:
    head, _, _ = PARAMS.partition("cluster:")
    cluster = CLUSTER.replace("WORKERS", str(workers))
    run = RUN.replace("STORAGE", json.dumps(storage))
    (root / "params.yaml").write_text(head.rstrip() + SMALL + run + cluster)


def start_training(cluster: Cluster, root: Path) -> subprocess.Popen[str]:
    command = ["pipelines.train", "--variant", "small", "--root", str(root)]
    return subprocess.Popen(
        [sys.executable, "-m", *command, "--params", str(root / "params.yaml")],
        cwd=REPOSITORY,
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_to_the_end(cluster: Cluster, root: Path) -> str:
    training = start_training(cluster, root)
    out, _ = training.communicate(timeout=600)
    assert training.returncode == 0, out
    return out


def node_of_worker(cluster: Cluster) -> subprocess.Popen[bytes]:
    """The node that a training worker runs on."""
    for node in cluster.nodes:
        if node.poll() is None:
            for process in psutil.Process(node.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "RayTrainWorker" in "".join(process.cmdline()):
                        return node
    raise AssertionError("no node has a training worker")


def wait_for_step(storage_uri: str, step: int) -> None:
    """Until a run below has a checkpoint of at least that step."""
    storage = open_storage(storage_uri)
    for _ in range(3000):
        runs = [open_storage(uri) for uri in runs_below(storage_uri, storage.names())]
        names = [name for run in runs for name in checkpoint_names(run)]
        if any(int(name.split("-")[1]) >= step for name in names):
            return
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint of step {step} in {storage_uri}")


def runs_below(uri: str, names: list[str]) -> list[str]:
    return [join_uri(uri, name) for name in names if name.startswith("small-")]


def history(root: Path) -> list[dict[str, float]]:
    return read_state(root / "models/small/checkpoint")["history"]


def test_a_node_is_lost_and_another_one_joins(
    nodes: Cluster, bucket: str, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One worker, so that the weights can be compared to the bit; its runs are kept in S3."""
    bucket = join_uri(bucket, "mde")
    convert = ["pipelines.convert", "--dataset", "nyu_labeled", "--root", str(tiny_root)]
    write_params(tiny_root, bucket, workers=1)
    command = [sys.executable, "-m", *convert, "--params", str(tiny_root / "params.yaml")]
    subprocess.run(command, cwd=REPOSITORY, env=nodes.environment, check=True)

    training = start_training(nodes, tiny_root)
    wait_for_step(bucket, 4)
    nodes.kill_node(node_of_worker(nodes))
    nodes.add_node(cpus=1)
    out, _ = training.communicate(timeout=600)
    assert training.returncode == 0, out
    assert "going on after step" in out
    disturbed = load_file(tiny_root / "models/small/checkpoint/model.safetensors")
    assert [m["epoch"] for m in history(tiny_root)] == list(range(1, 9))

    # Then two workers, each on a node of its own, and then one that nobody disturbs.
    undisturbed = {}
    for workers in (2, 1):
        write_params(tiny_root, bucket, workers)
        train_to_the_end(nodes, tiny_root)
        undisturbed[workers] = history(tiny_root)
    expected = load_file(tiny_root / "models/small/checkpoint/model.safetensors")
    assert all(bool((expected[name] == disturbed[name]).all()) for name in expected)
    losses = [[m["train_loss"] for m in undisturbed[workers]] for workers in (1, 2)]
    # Dropout draws other numbers for each worker.
    assert losses[1] == pytest.approx(losses[0], rel=0.3)
    assert [m["step"] for m in undisturbed[1]] == [m["step"] for m in undisturbed[2]]
