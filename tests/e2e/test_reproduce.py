"""From a registered version back to code, data and parameters: what `mde reproduce` prints is done.

A real `dvc repro`, twice: once where the version is made, and once in an empty folder.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from mde.data.shards import read_manifest
from mde.files import file_sha256
from mde.reproduce import INSTALL
from tests.conftest import PARAMS, REPOSITORY, TINY

pytestmark = pytest.mark.e2e

VARIANT = "resfpn-resnet18"
URI = f"models:/mde-{VARIANT}@champion"
# Of the tiny params, one variant, and a sample with fewer frames: it is rendered twice.
FEWER = {"rooms": 4, "frames_per_room": 3, "drives": 2, "frames_per_drive": 6}
ONE = PARAMS[: PARAMS.index("  monodepth2")] + PARAMS[PARAMS.index("cluster:") :]
ONE = ONE.replace(json.dumps(TINY), json.dumps(FEWER))
CHANGE = "\n# Not committed.\n"


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
        timeout=600,
    )


def must(folder: Path, tools: Path, line: str) -> str:
    done = run(folder, tools, line)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tools: Path) -> Path:
    """A checkout with a change that is not committed, after `dvc repro register@…`."""
    folder = tmp_path_factory.mktemp("project")
    kept = ("mde", "pipelines", "dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml")
    for name in kept:
        must(folder, tools, f"cp -r {REPOSITORY / name} .")
    (folder / "params.yaml").write_text(ONE)
    must(folder, tools, "git init -q && dvc init -q && git add -A")
    must(folder, tools, "git -c user.name=t -c user.email=t@t commit -qm start")
    with (folder / "pipelines/train.py").open("a") as file:
        file.write(CHANGE)
    must(folder, tools, f"dvc repro register@{VARIANT}")
    return folder


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
    # One number is another one.
    (tmp_path / "params.yaml").write_text(ONE.replace("lr: 5e-4", "lr: 6e-4"))
    must(tmp_path, tools, f"dvc repro -s train@{VARIANT}")
    failed = run(tmp_path, tools, printed[-1])
    assert failed.returncode == 1
    assert "recipe.lr: 0.0005 then, 0.0006 now" in failed.stdout
    assert "differs from" in failed.stderr
    assert "params, model.safetensors" in failed.stderr
