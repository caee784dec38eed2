"""`dvc repro` from raw files to the registry and the report, at a tiny scale, with real DVC.

And back: what `mde reproduce` prints is done in an empty folder, and makes the same version again.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

import mde
from mde.data.shards import read_manifest
from mde.files import file_sha256
from mde.metrics import METRICS
from mde.reproduce import INSTALL
from tests.conftest import PARAMS, REPOSITORY
from tests.e2e.ray_cluster import Cluster

pytestmark = pytest.mark.e2e

VARIANTS = ("resfpn-resnet18", "monodepth2-resnet18-ms")
VARIANT = VARIANTS[0]
URI = f"models:/mde-{VARIANT}@champion"
CHANGE = "\n# Not committed.\n"


@pytest.fixture(scope="module", autouse=True)
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray that all stages join: nine starts of one would take minutes."""
    cluster = Cluster(tmp_path_factory.mktemp("ray"), head_cpus=2)
    before = dict(os.environ)
    os.environ |= cluster.environment
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
        cluster.close()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH with an `mde` that runs the code of the current folder, as installed."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "mde").write_text(f'#!/bin/sh\nexec {sys.executable} -m mde.cli "$@"\n')
    (folder / "mde").chmod(0o755)
    return folder


def run(folder: Path, tools: Path, line: str) -> subprocess.CompletedProcess[str]:
    paths = [str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "COLUMNS": "200"}
    for name in ("MLFLOW_TRACKING_URI", "MDE_GIT_COMMIT", "MDE_GROUP"):
        environment.pop(name, None)
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )


def must(folder: Path, tools: Path, line: str) -> str:
    done = run(folder, tools, line)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tools: Path) -> Path:
    """A checkout of this code with tiny params and a change in no commit, after `dvc repro`."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("mde", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "params.yaml").write_text(PARAMS)
    must(folder, tools, "git init -q && dvc init -q && git add -A")
    must(folder, tools, "git -c user.name=t -c user.email=t@t commit -qm start")
    with (folder / "pipelines/train.py").open("a") as file:
        file.write(CHANGE)
    must(folder, tools, "dvc repro")
    return folder


def test_shards_of_both_datasets_are_whole(project: Path) -> None:
    for name in ("nyu_labeled", "kitti"):
        manifest = read_manifest(project / "data/shards" / name)
        assert all(manifest.counts.values()), manifest.counts
        assert manifest.rejected == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_scored_beside_the_baselines(project: Path, variant: str) -> None:
    summary = json.loads((project / "results" / variant / "metrics.json").read_text())
    assert set(summary["baselines"]) == {"constant", "random"}
    for values in (summary["metrics"], *summary["baselines"].values()):
        assert all(values[name] >= 0 for name in METRICS)
    assert summary["images"] > 0
    assert summary["skipped"] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_registry_leads_back_to_code_data_and_parameters(
    project: Path, tools: Path, variant: str
) -> None:
    store = f"sqlite:///{project / 'mlflow.db'}"
    client = MlflowClient(store, registry_uri=store)
    version = client.get_model_version_by_alias(f"mde-{variant}", "champion")
    mlflow_run = client.get_run(version.run_id)
    assert mlflow_run.info.status == "FINISHED"
    tags, params = mlflow_run.data.tags, mlflow_run.data.params
    head = must(project, tools, "git rev-parse HEAD").strip()
    assert tags["mlflow.source.git.commit"].startswith(head)
    assert params["recipe.batch_size"] == "4"
    state = json.loads((project / "models" / variant / "checkpoint/state.json").read_text())
    size = {"resfpn-resnet18": [64, 96]}.get(variant, [64, 128])
    assert state["image_size"] == size
    assert state["data_sha256"] == tags["data_sha256"] == version.tags["data_sha256"]
    history = client.get_metric_history(version.run_id, "train_loss")
    assert [point.step for point in history] == [point["step"] for point in state["history"]]
    protocol = {"resfpn-resnet18": "nyu_labeled-1"}.get(variant, "kitti_eigen_stereo-1")
    assert f"{protocol}/abs_rel" in mlflow_run.data.metrics
    files = {f.path for f in client.list_artifacts(version.run_id, "checkpoint")}
    assert "checkpoint/model.safetensors" in files
    assert client.list_artifacts(version.run_id, "evaluation/panels")


def test_the_report_is_one_self_contained_page(project: Path) -> None:
    page = (project / "reports/index.html").read_text()
    for word in (*VARIANTS, "constant", "random", "abs_rel", "data:image/webp;base64"):
        assert word in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_second_repro_runs_nothing(project: Path, tools: Path) -> None:
    printed = must(project, tools, "dvc repro")
    assert "Running stage" not in printed
    assert "up to date" in printed


def test_a_change_of_the_protocol_trains_nothing(project: Path, tools: Path) -> None:
    params = project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("protocol: kitti_eigen_stereo", "protocol: kitti_eigen_mono"))
    status = run(project, tools, "dvc status").stdout
    params.write_text(before)
    assert "evaluate@monodepth2-resnet18-ms" in status
    assert "train@" not in status


def test_the_summary_shows_every_variant(project: Path, tools: Path) -> None:
    shown = must(project, tools, "mde summary")
    assert all(name in shown for name in (*VARIANTS, "constant", "index.html", "mlflow ui"))


# --- And back ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow_run(project: Path) -> mlflow.entities.Run:
    store = f"sqlite:///{project / 'mlflow.db'}"
    client = MlflowClient(store, registry_uri=store)
    version = client.get_model_version_by_alias(f"mde-{VARIANT}", "champion")
    return client.get_run(version.run_id)


def test_a_run_says_what_it_was_made_of(project: Path, mlflow_run: mlflow.entities.Run) -> None:
    tags, params = mlflow_run.data.tags, mlflow_run.data.params
    assert (params["recipe.epochs"], params["model.encoder"]) == ("2", "resnet18")
    named = ("variant", "family", "mode", "dataset", "device", "num_workers")
    assert [tags[name] for name in named] == [
        *(VARIANT, "resfpn", "supervised", "nyu_labeled", "cpu", "1"),
    ]
    assert tags["mlflow.source.git.commit"].endswith("+dirty")
    assert tags["mde.code"] == "commit and uncommitted.patch"
    for path in ("data/shards/nyu_labeled", "data/sample/nyu_labeled"):
        assert tags[f"dvc.{path}"].endswith(".dir")
    system = {name for name in mlflow_run.data.metrics if name.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= system


def test_the_datasets_are_inputs_of_the_run(project: Path, mlflow_run: mlflow.entities.Run) -> None:
    found = {each.dataset.name: each for each in mlflow_run.inputs.dataset_inputs}
    counts = read_manifest(project / "data/shards/nyu_labeled").counts
    training, evaluation = found["nyu_labeled"], found["nyu_labeled/test"]
    assert mlflow_run.data.tags["data_sha256"].startswith(training.dataset.digest)
    assert f'"num_rows": {sum(counts.values())}' in training.dataset.profile
    assert str(project / "data/shards/nyu_labeled") in evaluation.dataset.source
    contexts = [each.tags[0].value for each in (training, evaluation)]
    assert contexts == ["training", "evaluation"]


def test_the_run_is_a_child_of_its_dvc_repro(
    project: Path, mlflow_run: mlflow.entities.Run
) -> None:
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    parent = client.get_run(mlflow_run.data.tags["mlflow.parentRunId"])
    assert parent.info.run_name == mlflow_run.data.tags["mde.group"]
    assert parent.info.run_name.startswith("repro-")
    assert parent.info.status == "FINISHED"


def test_mlflow_loads_the_version_and_predicts(
    project: Path, mlflow_run: mlflow.entities.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{project / 'mlflow.db'}"
    for name in ("TRACKING", "REGISTRY"):
        monkeypatch.setenv(f"MLFLOW_{name}_URI", store)
    former = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    try:
        model = mlflow.pyfunc.load_model(URI)
    finally:
        mlflow.set_tracking_uri(former[0])
        mlflow.set_registry_uri(former[1])
    assert model.input_example.shape == (1, 64, 96, 3)
    depth = model.predict(model.input_example)
    assert (depth.shape, depth.dtype) == ((1, 64, 96), np.float32)
    assert (depth > 0).all()
    image = model.input_example[0]
    np.testing.assert_array_equal(mde.load(URI, root=project).predict(image).depth, depth[0])
    (output,) = model.metadata.get_output_schema().inputs
    assert output.name == "depth_m"
    with pytest.raises(mlflow.MlflowException, match="uint8"):
        model.predict(model.input_example.astype(np.float64))


def test_the_printed_commands_make_the_version_again_to_the_bit(
    project: Path, tools: Path, tmp_path: Path
) -> None:
    printed = must(project, tools, f"mde reproduce {URI}").splitlines()
    assert any(line.startswith("git checkout") for line in printed)
    for line in printed:
        if line != INSTALL:
            outcome = must(tmp_path, tools, line)
    assert f". is {URI}, made again" in outcome
    assert "equal to the bit" in outcome
    assert (tmp_path / "params.yaml").read_bytes() == (project / "params.yaml").read_bytes()
    assert (tmp_path / "pipelines/train.py").read_text().endswith(CHANGE)
    weights = f"models/{VARIANT}/checkpoint/model.safetensors"
    assert file_sha256(tmp_path / weights) == file_sha256(project / weights)
    # Results that are other ones.
    state = tmp_path / f"models/{VARIANT}/checkpoint/state.json"
    state.write_text(state.read_text().replace('"lr": 0.0005,', '"lr": 0.0006,'))
    failed = run(tmp_path, tools, printed[-1])
    assert failed.returncode == 1
    assert "recipe.lr: 0.0005 then, 0.0006 now" in failed.stdout
    assert "differs from" in failed.stderr
