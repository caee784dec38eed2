"""The MLflow model registry: versions of `mde-<variant>` and their aliases."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException, RestException

from mde.errors import InputError
from mde.tracking import connect

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
    is not registered twice. Raises InputError when the run has no checkpoint.
    """
    client, name = connect(root), f"mde-{summary['variant']}"
    checkpoint = next((f for f in client.list_artifacts(run_id) if f.path == "checkpoint"), None)
    if checkpoint is None:
        raise InputError(f"MLflow run {run_id} has no checkpoint to register; train it again")
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="A depth model trained by mde.")
    tags = {
        "protocol": summary["protocol"],
        "data_sha256": summary["data_sha256"],
        **{metric: f"{value:.6g}" for metric, value in summary["metrics"].items()},
    }
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if known:
        version = known[0].version
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)
    else:
        source = f"{client.get_run(run_id).info.artifact_uri}/checkpoint"
        version = client.create_model_version(name, source, run_id, tags=tags).version
    alias = CHAMPION if _is_champion(client, name, version, tags) else CHALLENGER
    client.set_registered_model_alias(name, alias, version)
    return Registered(name, str(version), alias, run_id, f"models:/{name}@{alias}")


def _is_champion(client: Any, name: str, version: str, tags: dict[str, str]) -> bool:
    try:
        present = client.get_model_version_by_alias(name, CHAMPION)
    except (RestException, MlflowException):
        return True
    if present.version == version:
        return True
    same = all(present.tags.get(key) == tags[key] for key in ("protocol", "data_sha256"))
    # Numbers of another protocol or dataset say nothing: the newest wins, as there is no rival.
    return not same or float(tags["abs_rel"]) <= float(present.tags["abs_rel"])
