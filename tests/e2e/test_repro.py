"""`dvc repro` from raw files to the registry and the report, at a tiny scale, with real DVC."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mde.data.shards import read_manifest
from mde.metrics import METRICS
from tests.conftest import PARAMS, REPOSITORY

pytestmark = pytest.mark.e2e

VARIANTS = ("resfpn-resnet18", "monodepth2-resnet18-ms")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git checkout of this code with tiny params, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("mde", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "params.yaml").write_text(PARAMS)
    for command in (
        ["git", "init", "-q"],
        ["dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"],
        ["dvc", "repro"],
    ):
        result = run(folder, *command)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
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
def test_the_registry_leads_back_to_code_data_and_parameters(project: Path, variant: str) -> None:
    store = f"sqlite:///{project / 'mlflow.db'}"
    client = MlflowClient(store, registry_uri=store)
    version = client.get_model_version_by_alias(f"mde-{variant}", "champion")
    mlflow_run = client.get_run(version.run_id)
    assert mlflow_run.info.status == "FINISHED"
    tags, params = mlflow_run.data.tags, mlflow_run.data.params
    head = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    assert tags["mlflow.source.git.commit"].startswith(head)
    assert params["recipe.batch_size"] == "4"
    state = json.loads((project / "models" / variant / "checkpoint/state.json").read_text())
    assert state["data_sha256"] == tags["data_sha256"] == version.tags["data_sha256"]
    history = client.get_metric_history(version.run_id, "train_loss")
    assert [point.step for point in history] == [point["step"] for point in state["history"]]
    assert "test_abs_rel" in mlflow_run.data.metrics
    files = {f.path for f in client.list_artifacts(version.run_id, "checkpoint")}
    assert "checkpoint/model.safetensors" in files
    assert client.list_artifacts(version.run_id, "evaluation/panels")


def test_the_report_is_one_self_contained_page(project: Path) -> None:
    page = (project / "reports/index.html").read_text()
    for word in (*VARIANTS, "constant", "random", "abs_rel", "data:image/webp;base64"):
        assert word in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_second_repro_runs_nothing(project: Path) -> None:
    result = run(project, "dvc", "repro")
    assert "Running stage" not in result.stdout
    assert "up to date" in result.stdout


def test_a_change_of_the_protocol_trains_nothing(project: Path) -> None:
    params = project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("protocol: kitti_eigen_stereo", "protocol: kitti_eigen_mono"))
    status = run(project, "dvc", "status").stdout
    params.write_text(before)
    assert "evaluate@monodepth2-resnet18-ms" in status
    assert "train@" not in status


def test_the_summary_shows_every_variant(project: Path) -> None:
    shown = run(project, sys.executable, "-m", "mde.cli", "summary").stdout
    assert all(name in shown for name in (*VARIANTS, "constant", "index.html", "mlflow ui"))
