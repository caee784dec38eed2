"""`mde compare` as a user runs it: a run and a version in MLflow, a folder, and costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mde.errors import InputError
from mde.layout import Layout
from mde.registry import fetch_run
from mde.tracking.store import EXPERIMENT, connect
from tests.evaluation.compare_data import write_checkpoint, write_data

pytestmark = pytest.mark.e2e


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_data(Layout(tmp_path).shards("streets"))
    return tmp_path


def a_run(client: MlflowClient, checkpoint: Path | None) -> str:
    """A finished run with these files, if any, as its `checkpoint`."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    run_id: str = client.create_run(experiment.experiment_id).info.run_id
    if checkpoint:
        client.log_artifacts(run_id, str(checkpoint), "checkpoint")
    return run_id


def test_a_run_a_version_and_a_folder_are_compared_on_the_data_of_the_first(root: Path) -> None:
    client = connect(root)
    tracked = write_checkpoint(root / "tracked", "fast", 1, dataset="streets")
    run_id = a_run(client, tracked)
    client.create_registered_model("mde-fast")
    client.create_model_version("mde-fast", f"runs:/{run_id}/checkpoint", run_id)
    client.set_registered_model_alias("mde-fast", "champion", "1")
    other = write_checkpoint(root / "other", "contrast", 2, contrast=100)
    done = subprocess.run(
        [
            sys.executable, "-m", "mde.cli", "compare", run_id, "models:/mde-fast@champion",
            str(other), "--root", str(root), "--out", str(root / "out"), "--cost-seconds", "0.2",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((root / "out/metrics.json").read_text())
    first, second, third = content["models"]
    assert [model["label"] for model in content["models"]] == [
        f"fast (run {run_id[:8]})", "fast (@champion)", "contrast",
    ]  # fmt: skip
    assert first["metrics"] == second["metrics"] != third["metrics"]
    assert second["improvement"] == {"share": 0, "low": 0, "high": 0}
    for model in content["models"]:
        cost = model["cost"]
        assert (cost["height"], cost["width"], cost["parameters"]) == (32, 96, 3_960_930)
        assert cost["macs"] > 0
        assert 0 < cost["median_ms"] <= cost["p95_ms"]
        assert cost["runs"] >= 5
    assert (root / "out/cost.png").is_file()


def test_runs_without_a_checkpoint_and_unknown_runs_are_named(root: Path) -> None:
    client = connect(root)
    empty = a_run(client, None)
    with pytest.raises(InputError, match=f"run {empty} has no checkpoint"):
        fetch_run(root, empty, root / "into")
    with pytest.raises(InputError, match="f" * 32):
        fetch_run(root, "f" * 32, root / "into")
    assert not (root / "into").exists()
