"""From a registered version, or a run, back to what it was made of."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient

from mde.errors import InputError
from mde.tracking.store import connect, explained_mlflow, shown_uri

EXPECTED = "expected models:/<name>@<alias>, models:/<name>/<version> or runs:/<run id>"


@dataclass(frozen=True)
class Lineage:
    """A training run, as MLflow has it.

    uri: what was asked for. title: for people. store: where MLflow is.
    """

    root: Path
    uri: str
    title: str
    store: str
    run_id: str
    tags: dict[str, str]
    params: dict[str, str]

    def names(self, folder: str = "") -> list[str]:
        """Paths of the run's files below a folder. Raises InputError as `find_lineage`."""
        with explained_mlflow(self.root):
            found = connect(self.root).list_artifacts(self.run_id, folder or None)
        return [file.path for file in found if not file.is_dir]

    def read(self, path: str) -> bytes:
        """One of the run's files. Raises InputError when it is not there."""
        if path not in self.names(path.rpartition("/")[0]):
            raise InputError(
                f"{self.uri}: MLflow run {self.run_id} has no file {path}: it was trained before "
                "mde kept it there, or not by mde"
            )
        with explained_mlflow(self.root), tempfile.TemporaryDirectory(prefix="mde-") as folder:
            found = mlflow.artifacts.download_artifacts(
                run_id=self.run_id, artifact_path=path, dst_path=folder
            )
            return Path(found).read_bytes()


def find_lineage(root: Path, uri: str) -> Lineage:
    """The run behind a version. uri: models:/name@alias, models:/name/3 or runs:/id.

    Raises InputError when there is no such version or run, and when MLflow does not answer.
    """
    client = connect(root)
    with explained_mlflow(root):
        run_id, title = _run_of(client, uri)
        run = client.get_run(run_id)
    return Lineage(
        root, uri, title, shown_uri(root), run_id, dict(run.data.tags), dict(run.data.params)
    )


def _run_of(client: MlflowClient, uri: str) -> tuple[str, str]:
    scheme, _, path = uri.partition(":/")
    if scheme == "runs" and path.strip("/"):
        run_id = path.strip("/").split("/")[0]
        return run_id, f"MLflow run {run_id}"
    name, at, alias = path.partition("@")
    number = ""
    if not at:
        name, _, number = path.rpartition("/")
    if scheme != "models" or not name or not (alias or number.isdecimal()):
        raise InputError(f"{uri}: {EXPECTED}")
    if at:
        version = client.get_model_version_by_alias(name, alias)
    else:
        version = client.get_model_version(name, number)
    if not version.run_id:
        raise InputError(f"{uri}: version {version.version} names no run; it was not made by mde")
    return str(version.run_id), f"{name} version {version.version}, MLflow run {version.run_id}"
