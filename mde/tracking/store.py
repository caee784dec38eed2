"""The MLflow store: an SQLite file in the root folder, or the server of MLFLOW_TRACKING_URI."""

import json
import os
import re
import time
import urllib.parse
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
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from mde.errors import InputError
from mde.redact import without_password
from mde.tracking.run_folder import DIGEST, DatasetUsed

EXPERIMENT = "mde"
JUDGED = ("protocol", "test_sha256", "ground_truth")
"""What of an evaluation says whether its numbers compare with those of another one."""
USER_CHECK_S = 5


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the SQLite store in `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def shown_uri(root: Path) -> str:
    """`tracking_uri` for messages: with `***` for a password."""
    return without_password(tracking_uri(root))


def said(error: Exception) -> str:
    """What an exception of MLflow says, for messages: no password, and no page of HTML."""
    text = re.sub(
        r"Response body: '\s*<.*", "it answered with a page of HTML", str(error), flags=re.S
    )
    return without_password(text)


def require_user(root: Path) -> None:
    """Raise InputError when the server answers, and refuses user and password.

    One that does not answer within seconds is not waited for, and not an error.
    """
    uri = tracking_uri(root)
    if not uri.startswith("http"):
        return
    try:
        answer = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/experiments/get-by-name",
            "GET",
            max_retries=0,
            timeout=USER_CHECK_S,
            raise_on_status=False,
            params={"experiment_name": EXPERIMENT},
        )
    except MlflowException:
        return
    if answer.status_code in (401, 403):
        raise InputError(_refusal(root, answer.status_code))


def _refusal(root: Path, status: int) -> str:
    uri = tracking_uri(root)
    user = get_default_host_creds(uri).username or urllib.parse.urlsplit(uri).username
    if status == 403:
        return (
            f"MLflow at {shown_uri(root)} does not permit user {user!r} to do this: an "
            "administrator of the server has to grant it"
        )
    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if not user and "MLFLOW_TRACKING_TOKEN" not in os.environ:
        return f"MLflow at {shown_uri(root)} wants a user and a password: set {names}"
    who = f"user {user!r}: check {names}" if user else "MLFLOW_TRACKING_TOKEN: check it"
    return f"MLflow at {shown_uri(root)} refuses {who}"


def _refused(root: Path, error: Exception) -> InputError | None:
    """The error for a person when MLflow refuses the user, or what the user asks for."""
    # Calls that only transfer files raise what `requests` raises.
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
    status = known.get(getattr(error, "error_code", ""), status)
    return InputError(_refusal(root, status)) if status in (401, 403) else None


def connect(root: Path) -> mlflow.MlflowClient:
    """A client of the store; creates the experiment at first use.

    Raises InputError when the server cannot be reached, or refuses the user.
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
        raise _refused(root, error) or InputError(
            f"MLflow at {shown_uri(root)} does not answer: {said(error)}"
        ) from error
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
        raise _refused(root, error) or InputError(
            f"MLflow at {shown_uri(root)}: {said(error)}"
        ) from error


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
                f"MLflow at {shown_uri(self.root)} does not take results of run {self.run_id}: "
                f"{said(error)}. If the store is a new one, train again: dvc repro -f -s train@…"
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
