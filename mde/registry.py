"""The MLflow model registry: versions of `mde-<variant>` and their aliases.

An alias moves last, to a version whose files have just been verified. So a process that is killed
between any two calls leaves the alias where it was or where it belongs, and a second try finds
what the first one has made.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from mde.errors import InputError
from mde.files import fresh_folder
from mde.tracking.store import connect, tracking_uri
from mde.train.checkpoint import read_state
from mde.train.foreign import CHECKPOINT_FILES, refuse_foreign_names

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Registered:
    """A registered version; `uri` loads it by its alias."""

    name: str
    version: str
    alias: str
    run_id: str
    uri: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def register(root: Path, run_id: str, summary: dict[str, Any]) -> Registered:
    """Register a run's `checkpoint` artifacts as a version of `mde-<variant>`.

    summary: the variant's evaluation, as in its `metrics.json`.

    It becomes `champion` when there is none yet, or when its abs_rel is not worse than that of the
    champion under the same protocol on the same data; else `challenger`. A version of the same run
    is not registered twice. Raises InputError when MLflow does not answer or does not know the run,
    and when the run's checkpoint is missing, damaged, or holds more than data.
    """
    client, name = connect(root), f"mde-{summary['variant']}"
    tags = {
        "protocol": summary["protocol"],
        "data_sha256": summary["data_sha256"],
        **{metric: f"{value:.6g}" for metric, value in summary["metrics"].items()},
    }
    with _explained(root):
        known = _version_of_run(client, name, run_id)
        source = _source(client, known) if known else _checkpoint_uri(client, run_id)
        with tempfile.TemporaryDirectory() as folder:
            _download(source, Path(folder), f"checkpoint of MLflow run {run_id}")
        if known:
            version = str(known.version)
            _set_tags(client, known, tags)
        else:
            _create_model(client, name)
            version = str(client.create_model_version(name, source, run_id, tags=tags).version)
        alias = _move_alias(client, name, version, tags)
    return Registered(name, version, alias, run_id, f"models:/{name}@{alias}")


def fetch_version(root: Path, uri: str, into: Path) -> Path:
    """Download a registered version as the checkpoint folder `into`, and verify it.

    uri: `models:/<name>@<alias>` or `models:/<name>/<version>`. Of its files only those of a
    checkpoint are ever downloaded. Returns `into`, which is replaced in one rename.
    Raises InputError when there is no such version, MLflow does not answer, a file differs from its
    SHA-256, or the version holds code, a pickle or an MLflow model.
    """
    client = connect(root)
    with _explained(root):
        version = _find_version(client, uri)
        with fresh_folder(into) as folder:
            _download(_source(client, version), folder, uri)
    return into


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    # What is raised for a transfer that fails is an OSError.
    except (MlflowException, OSError) as error:
        raise InputError(f"MLflow at {tracking_uri(root)}: {error}") from error


def _version_of_run(client: MlflowClient, name: str, run_id: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return min(versions, key=lambda version: int(version.version), default=None)


def _find_version(client: MlflowClient, uri: str) -> ModelVersion:
    path = uri.removeprefix("models:/")
    name, at, alias = path.partition("@")
    number = "" if at else PurePosixPath(path).name
    if not at:
        name = path.removesuffix(f"/{number}")
    if path == uri or not name or not (alias or number.isdecimal()):
        raise InputError(f"{uri}: expected models:/<name>@<alias> or models:/<name>/<version>")
    if not client.search_registered_models(f"name = '{name}'"):
        known = sorted(model.name for model in client.search_registered_models())
        raise InputError(f"{uri}: no model '{name}'; registered: {', '.join(known) or 'none'}")
    aliases = client.get_registered_model(name).aliases
    if alias and alias not in aliases:
        raise InputError(f"{uri}: no alias '{alias}'; there are: {', '.join(aliases) or 'none'}")
    versions = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    number = number or str(aliases[alias])
    if number not in versions:
        raise InputError(f"{uri}: no version {number}; there are: {', '.join(versions) or 'none'}")
    return versions[number]


def _source(client: MlflowClient, version: ModelVersion) -> str:
    return client.get_model_version_download_uri(version.name, str(version.version))


def _checkpoint_uri(client: MlflowClient, run_id: str) -> str:
    if not any(file.path == "checkpoint" for file in client.list_artifacts(run_id)):
        raise InputError(f"MLflow run {run_id} has no checkpoint to register; train it again")
    return f"{client.get_run(run_id).info.artifact_uri}/checkpoint"


def _download(source: str, folder: Path, where: str) -> None:
    """Put the files of a checkpoint into a local folder and verify them; nothing else is read."""
    found = {
        PurePosixPath(file.path).name + "/" * file.is_dir: file.path
        for file in mlflow.artifacts.list_artifacts(artifact_uri=source)
    }
    refuse_foreign_names(found, where)
    for name in CHECKPOINT_FILES:
        if name in found:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{source}/{name}", dst_path=str(folder)
            )
    try:
        read_state(folder)
    except InputError as error:
        # The folder is a temporary one: what people can look for is the version.
        raise InputError(f"{where}: {str(error).replace(str(folder), source)}") from error


def _set_tags(client: MlflowClient, version: ModelVersion, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, str(version.version), key, value)


def _create_model(client: MlflowClient, name: str) -> None:
    if client.search_registered_models(f"name = '{name}'"):
        return
    try:
        client.create_registered_model(name, description="A depth model trained by mde.")
    except MlflowException as error:
        # Another process was faster.
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _move_alias(client: MlflowClient, name: str, version: str, tags: dict[str, str]) -> str:
    aliases = {alias: str(n) for alias, n in client.get_registered_model(name).aliases.items()}
    alias = CHAMPION if _is_champion(client, name, version, tags, aliases) else CHALLENGER
    if aliases.get(alias) != version:
        client.set_registered_model_alias(name, alias, version)
    if alias == CHAMPION and aliases.get(CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
    return alias


def _is_champion(
    client: MlflowClient, name: str, version: str, tags: dict[str, str], aliases: dict[str, str]
) -> bool:
    present = aliases.get(CHAMPION)
    if present is None or present == version:
        return True
    rival = client.get_model_version(name, present).tags
    same = all(rival.get(key) == tags[key] for key in ("protocol", "data_sha256"))
    # Numbers of another protocol or dataset say nothing: the newest wins, as there is no rival.
    return not same or float(tags["abs_rel"]) <= float(rival["abs_rel"])
