"""The MLflow store: an SQLite file in the root folder, or the server of MLFLOW_TRACKING_URI."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The default, seven retries over four minutes, would hold up training when the server is down.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
# Files of a run are small, and stages have progress of their own to show.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag
from mlflow.exceptions import MlflowException

from mde.errors import InputError
from mde.tracking.run_folder import DIGEST, DatasetUsed

EXPERIMENT = "mde"
JUDGED = ("protocol", "test_sha256", "ground_truth")
"""What of an evaluation says whether its numbers compare with those of another one."""


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
            # MLflow's pages begin with what a training has, and not with what a chat has.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            client.create_experiment(EXPERIMENT, location, kind)
    except MlflowException as error:
        raise InputError(f"MLflow at {uri} does not answer: {error}") from error
    return client


def log_datasets(client: mlflow.MlflowClient, run_id: str, inputs: tuple[DatasetUsed, ...]) -> None:
    """Log datasets as inputs of a run; what it has already is not doubled."""
    found = []
    for used in inputs:
        profile = json.dumps({"num_rows": sum(used.rows.values()), **used.rows})
        source = (used.source_type, used.source)
        dataset = Dataset(used.name, used.digest, *source, used.columns, profile)
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", used.context)]))
    client.log_inputs(run_id, found)


@contextmanager
def explained_mlflow(root: Path) -> Iterator[None]:
    """Turn what MLflow raises, in transfers of files too, into an InputError that names it."""
    try:
        yield
    # What is raised for a transfer that fails is an OSError.
    except (MlflowException, OSError) as error:
        raise InputError(f"MLflow at {tracking_uri(root)}: {error}") from error


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run, as plain values: it travels to other processes."""

    root: Path
    run_id: str

    def log_evaluation(self, folder: Path, summary: dict[str, Any]) -> None:
        """Log an evaluation's numbers, JUDGED as tags, its files as artifacts.

        A number is called `<protocol>/<metric>`, such as `nyu_eigen-1/abs_rel`, so that MLflow does
        not put those of different protocols into one column; a baseline's, `<protocol>/random/…`.

        A metric that is defined on no image is null in `metrics.json`, and not among the numbers.
        Raises InputError when the run is not in the store.
        """
        client = connect(self.root)
        now = int(time.time() * 1000)
        # MLflow takes no @ in names.
        protocol = summary["protocol"].replace("@", "-")
        metrics = dict(summary["metrics"])
        metrics |= {f"scale_{of}": value for of, value in summary.get("scale", {}).items()}
        for baseline, values in summary["baselines"].items():
            metrics |= {f"{baseline}/{name}": value for name, value in values.items()}
        points = [
            Metric(f"{protocol}/{name}", value, now, 0)
            for name, value in metrics.items()
            if value is not None
        ]
        try:
            tags = [RunTag(key, summary[key]) for key in JUDGED if key in summary]
            client.log_batch(self.run_id, points, tags=tags)
        except MlflowException as error:
            raise InputError(
                f"MLflow at {tracking_uri(self.root)} does not take results of run {self.run_id}: "
                f"{error}. If the store is a new one, train again: dvc repro -f -s train@…"
            ) from error
        self._log_dataset(client, summary)
        self.log_files(folder, "evaluation")

    def _log_dataset(self, client: mlflow.MlflowClient, summary: dict[str, Any]) -> None:
        """Log the split that was scored as an input: a dataset of its own, as MLflow has it."""
        if not {"dataset", "data_sha256", "split"} <= summary.keys():
            return
        name, digest = summary["dataset"], summary["data_sha256"][:DIGEST]
        rows = {summary["split"]: summary["images"]}
        # Where it lies, the training has said.
        inputs = client.get_run(self.run_id).inputs
        known = [each.dataset for each in inputs.dataset_inputs] if inputs else []
        found = [dataset for dataset in known if dataset.digest == digest][:1]
        used = DatasetUsed(
            name=f"{name}/{summary['split']}",
            digest=digest,
            source_type=found[0].source_type if found else "local",
            source=found[0].source if found else json.dumps({"uri": name}),
            rows=rows,
            context="evaluation",
            columns=found[0].schema if found else None,
        )
        log_datasets(client, self.run_id, (used,))

    def log_files(self, folder: Path, artifact_path: str) -> None:
        """Upload a folder's content below `artifact_path`."""
        connect(self.root).log_artifacts(self.run_id, str(folder), artifact_path)
