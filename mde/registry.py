"""The MLflow model registry: versions of `mde-<variant>`, and which of them is champion.

`mde.promotion` compares a version with the champion, `mde.succession` moves the alias; here stands
what goes before: the files are verified, the version is made and gets its tags. A process that is
killed between any two calls leaves nothing that a second try would not find and go on with.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from mde.errors import InputError
from mde.files import fresh_folder
from mde.promotion import PromotionConfig, Verdict
from mde.rivals import Candidate
from mde.succession import (
    CHALLENGER,
    CHAMPION,
    PROMOTION,
    REASON,
    RECORD,
    aliases_of,
    crown,
    set_tags,
)
from mde.tracking.store import connect, explained_mlflow
from mde.train.checkpoint import read_state
from mde.train.foreign import (
    CHECKPOINT_FILES,
    MLMODEL,
    MLMODEL_LIMIT,
    is_own_mlmodel,
    refuse_foreign_names,
)


@dataclass(frozen=True)
class Registered:
    """A registered version; `uri` loads it.

    verdict: champion or challenger, as it was decided, and the reason. alias: the one that it has
    now, if any: a version that was champion has none. metric, improvement, bounds: of
    `mde.promotion.Verdict`.
    """

    name: str
    version: str
    alias: str | None
    run_id: str
    uri: str
    verdict: str
    reason: str
    metric: str | None
    improvement: float | None
    bounds: list[float] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def register(
    root: Path,
    run_id: str,
    summary: dict[str, Any],
    per_image: Path,
    config: PromotionConfig,
) -> Registered:
    """Register a run's `checkpoint` artifacts as a version of `mde-<variant>`.

    summary: the variant's evaluation, as in its `metrics.json`. per_image: its table of single
    images.

    It becomes `champion` when there is none, or when it is better on the same images by more than
    chance and `config.margin`; else `challenger`, with the reason. A version of the same run is not
    registered twice, and decided on again only when its evaluation is a new one. Raises InputError
    when MLflow does not answer or does not know the run, when the run's checkpoint is missing,
    damaged, or holds more than data, and when the evaluation is not whole.
    """
    client, name = connect(root), f"mde-{summary['variant']}"
    candidate = Candidate.read(summary, per_image, config)
    tags = candidate.tags()
    with explained_mlflow(root):
        known = _version_of_run(client, name, run_id)
        source = _source(client, known) if known else _checkpoint_uri(client, run_id)
        _verify(source, f"checkpoint of MLflow run {run_id}")
        if known:
            version = str(known.version)
            _renew(client, known, tags)
        else:
            _create_model(client, name)
            version = str(client.create_model_version(name, source, run_id, tags=tags).version)
        if not _is_decided(client, name, version):
            judge = partial(candidate.judge, client, version)
            crown(client, name, version, judge, by="comparison of images")
        return _registered(client, name, version)


def promote(root: Path, uri: str, reason: str, by: str) -> Registered:
    """Make a version champion by hand; `reason` and `by` stay in its tags.

    uri: `models:/<name>/<version>` or `models:/<name>@<alias>`. Raises InputError when there is no
    such version, MLflow does not answer, its files fail verification, or it is champion already.
    """
    if not reason.strip():
        raise InputError("a promotion by hand needs a reason: --reason '…'")
    client = connect(root)
    with explained_mlflow(root):
        version = _find_version(client, uri)
        name, number = version.name, str(version.version)
        if aliases_of(client, name).get(CHAMPION) == number:
            raise InputError(f"{uri}: version {number} is champion already")
        _verify(_source(client, version), uri)
        verdict = Verdict(True, f"by hand, by {by}: {reason}")
        crown(client, name, number, lambda seat: verdict, by)
        return _registered(client, name, number)


def fetch_version(root: Path, uri: str, into: Path) -> Path:
    """Download a registered version as the checkpoint folder `into`, and verify it.

    uri: `models:/<name>@<alias>` or `models:/<name>/<version>`. Of its files only those of a
    checkpoint are ever downloaded. Returns `into`, which is replaced in one rename.
    Raises InputError when there is no such version, MLflow does not answer, a file differs from its
    SHA-256, or the version holds code, a pickle or an MLflow model.
    """
    client = connect(root)
    with explained_mlflow(root):
        version = _find_version(client, uri)
        with fresh_folder(into) as folder:
            _download(_source(client, version), folder, uri)
    return into


def _version_of_run(client: MlflowClient, name: str, run_id: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return min(versions, key=lambda version: int(version.version), default=None)


def _verify(source: str, where: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _download(source, Path(folder), where)


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
    if MLMODEL in found and is_own_mlmodel(_read_text(source, MLMODEL)):
        # For MLflow's other users; nothing here reads it.
        del found[MLMODEL]
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


def _create_model(client: MlflowClient, name: str) -> None:
    if client.search_registered_models(f"name = '{name}'"):
        return
    try:
        client.create_registered_model(name, description="A depth model trained by mde.")
    except MlflowException as error:
        # Another process was faster.
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _read_text(source: str, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{source}/{name}"
        file = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        with open(file, "rb") as content:
            return content.read(MLMODEL_LIMIT + 1)


def _renew(client: MlflowClient, version: ModelVersion, tags: dict[str, str]) -> None:
    """Give a version the numbers of a new evaluation, on which it is to be decided anew."""
    name, number = version.name, str(version.version)
    if all(version.tags.get(key) == value for key, value in tags.items()):
        return
    champion = aliases_of(client, name).get(CHAMPION)
    # Of a decision that is being carried out, all has been compared.
    if number != champion and version.tags.get(PROMOTION) in (CHAMPION, CHALLENGER):
        client.delete_model_version_tag(name, number, PROMOTION)
    set_tags(client, name, number, tags)


def _is_decided(client: MlflowClient, name: str, version: str) -> bool:
    verdict = client.get_model_version(name, version).tags.get(PROMOTION)
    is_champion = aliases_of(client, name).get(CHAMPION) == version
    # A challenger that is champion was made it in MLflow itself.
    return verdict == CHAMPION or (verdict == CHALLENGER and not is_champion)


def _registered(client: MlflowClient, name: str, version: str) -> Registered:
    found, aliases = client.get_model_version(name, version), aliases_of(client, name)
    alias = next((a for a in (CHAMPION, CHALLENGER) if aliases.get(a) == version), None)
    numbers = json.loads(found.tags.get(RECORD, "{}"))
    return Registered(
        name=name,
        version=version,
        alias=alias,
        run_id=str(found.run_id),
        uri=f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}",
        verdict=found.tags[PROMOTION],
        reason=found.tags[REASON],
        **{key: numbers.get(key) for key in ("metric", "improvement", "bounds")},
    )


def fetch_run(root: Path, run_id: str, into: Path) -> Path:
    """Download the `checkpoint` artifacts of an MLflow run as the folder `into`, and verify them.

    Returns `into`, which is replaced in one rename. Raises InputError as `fetch_version` does, and
    when there is no such run or it has no checkpoint.
    """
    client = connect(root)
    with explained_mlflow(root), fresh_folder(into) as folder:
        _download(_checkpoint_uri(client, run_id), folder, f"runs:/{run_id}")
    return into
