"""The MLflow store: an SQLite file in the root folder, or the server of MLFLOW_TRACKING_URI."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The default, seven retries over four minutes, would hold up training when the server is down.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

import mlflow
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from mde.errors import InputError

EXPERIMENT = "mde"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the SQLite store in `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def connect(root: Path) -> mlflow.MlflowClient:
    """A client of the store; creates the experiment at first use.

    Raises InputError when the server cannot be reached.
    """
    uri = tracking_uri(root)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client = mlflow.MlflowClient(uri)
    try:
        if client.get_experiment_by_name(EXPERIMENT) is None:
            # A server keeps artifacts itself; the embedded store keeps them beside its file.
            local = uri.startswith("sqlite:")
            location = (root.resolve() / "mlruns").as_uri() if local else None
            client.create_experiment(EXPERIMENT, artifact_location=location)
    except MlflowException as error:
        raise InputError(f"MLflow at {uri} does not answer: {error}") from error
    return client


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run, as plain values: it travels to other processes."""

    root: Path
    run_id: str

    def log_evaluation(self, folder: Path, summary: dict[str, Any]) -> None:
        """Log an evaluation's numbers as `test_…`, its protocol as a tag, its files as artifacts.

        Raises InputError when the run is not in the store.
        """
        client = connect(self.root)
        now = int(time.time() * 1000)
        metrics = {f"test_{name}": value for name, value in summary["metrics"].items()}
        for baseline, values in summary["baselines"].items():
            metrics |= {f"{baseline}_{name}": value for name, value in values.items()}
        points = [Metric(name, value, now, 0) for name, value in metrics.items()]
        try:
            client.log_batch(self.run_id, points, tags=[RunTag("protocol", summary["protocol"])])
        except MlflowException as error:
            raise InputError(
                f"MLflow at {tracking_uri(self.root)} does not take results of run {self.run_id}: "
                f"{error}. If the store is a new one, train again: dvc repro -f -s train@…"
            ) from error
        self.log_files(folder, "evaluation")

    def log_files(self, folder: Path, artifact_path: str) -> None:
        """Upload a folder's content below `artifact_path`."""
        connect(self.root).log_artifacts(self.run_id, str(folder), artifact_path)
