"""MLflow runs. With `registry`, the only module that imports MLflow.

The store is an SQLite file in the root folder, or the server of MLFLOW_TRACKING_URI.
"""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The default, seven retries over four minutes, would hold up training when the server is down.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from mde.errors import InputError
from mde.files import read_json, write_json
from mde.provenance import Provenance

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

    def log_epoch(self, metrics: dict[str, float]) -> None:
        """Log one epoch's metrics in one request. An MLflow that is down must not stop training."""
        step = int(metrics["epoch"])
        now = int(time.time() * 1000)
        points = [Metric(k, float(v), now, step) for k, v in metrics.items() if k != "epoch"]
        try:
            connect(self.root).log_batch(self.run_id, metrics=points)
        except (MlflowException, InputError) as error:
            warnings.warn(f"epoch {step} is not in MLflow: {error}", stacklevel=1)

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


@contextmanager
def open_run(root: Path, receipt: Path, provenance: Provenance) -> Iterator[TrackedRun]:
    """Start a run, or go on with the one that `receipt` names; end it when the block ends.

    receipt: a JSON file that is written when the run starts, so that a resumed training continues
    its run. A run whose block raises ends as FAILED (KILLED for Ctrl-C).
    """
    client = connect(root)
    if receipt.is_file():
        run_id = read_json(receipt)["run_id"]
        client.update_run(run_id, status="RUNNING")
    else:
        run_id = _create_run(client, provenance)
        write_json(receipt, {"run_id": run_id})
    status = "FAILED"
    try:
        yield TrackedRun(root, run_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)


def _create_run(client: mlflow.MlflowClient, provenance: Provenance) -> str:
    variant = provenance.variant
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None, "connect() creates it"
    run_id: str = client.create_run(experiment.experiment_id, run_name=variant["name"]).info.run_id
    tags = {
        "variant": variant["name"],
        "dataset": variant["dataset"],
        "family": variant["model"]["family"],
        "data_sha256": provenance.data_sha256,
        "mde_version": provenance.mde_version,
        "mlflow.source.git.commit": provenance.git_commit,
    }
    client.log_batch(
        run_id,
        params=[Param(key, str(value)) for key, value in flatten(variant).items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    return run_id


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings → dotted keys, so that runs can be searched by them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
