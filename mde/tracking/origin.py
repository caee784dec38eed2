"""What a training run is made of, as MLflow is to have it: tags, files, datasets."""

import configparser
import getpass
import json
import os
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mde.data.place import Place, show
from mde.data.shards import ROW_SCHEMA, read_manifest
from mde.errors import InputError
from mde.provenance import Provenance, WorkingTree, working_tree
from mde.redact import secret_in
from mde.tracking.group import find_group
from mde.tracking.run_folder import COMMIT, DIGEST, GROUP_TAG, DatasetUsed

PARAMS, LOCK, PATCH = "params.yaml", "dvc.lock", "uncommitted.patch"
"""Files of a run, below `code/`."""
REPOSITORY, STATE = "mlflow.source.git.repoURL", "mde.code"
UNTRACKED, REMOTE = "mde.untracked", "dvc.remote"
MAX_PATCH = 5 * 2**20
MAX_TAG = 500
DVC_EXP = ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


@dataclass(frozen=True)
class Origin:
    """Where a run comes from, beside its parameters. files: by their names below `code/`."""

    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    inputs: tuple[DatasetUsed, ...] = ()


def origin_of(
    root: Path, params: Path, data: Place, provenance: Provenance, workers: int, device: str
) -> Origin:
    """The origin of a training that is about to start.

    root: with `dvc.lock`, if there is one. params: the params file. data: the dataset's place.
    workers, device: how many of what it runs on. Raises InputError when MDE_GROUP is not a name,
    and when a password or key of the environment stands in the params file.
    """
    dataset = provenance.variant["dataset"]
    files = {PARAMS: params.read_bytes()}
    if name := secret_in(files[PARAMS]):
        raise InputError(
            f"{params}: the value of {name} stands in it, and MLflow is to have this file: take it "
            "out; it belongs into the environment alone"
        )
    tags = {"num_workers": str(workers), "device": device, **environment_tags(), **_source()}
    if (lock := root / LOCK).is_file():
        files[LOCK] = lock.read_bytes()
        tags |= dvc_tags(files[LOCK], dataset)
    if remote := _dvc_remote(root):
        tags[REMOTE] = remote
    more_tags, patch = _code(working_tree(apart=params))
    tags |= more_tags
    if patch:
        files[PATCH] = patch
    if group := find_group():
        tags[GROUP_TAG] = group
    return Origin(tags, files, (_training_data(dataset, data, provenance.data_sha256),))


def describe(provenance: Provenance) -> tuple[str, dict[str, str], dict[str, str]]:
    """Name, parameters and tags of a run."""
    # As it comes back from a checkpoint, where a tuple is a list.
    variant = json.loads(json.dumps(provenance.variant))
    objective = variant.get("objective", {})
    tags = {
        "variant": variant["name"],
        "dataset": variant["dataset"],
        "family": variant["model"]["family"],
        "mode": objective.get("mode", "supervised"),
        "data_sha256": provenance.data_sha256,
        "mde_version": provenance.mde_version,
        COMMIT: provenance.git_commit,
    }
    # Set within `dvc exp run`: the runs of a sweep are found by them.
    tags |= {name.lower(): os.environ[name] for name in DVC_EXP if name in os.environ}
    return variant["name"], {key: str(v) for key, v in flatten(variant).items()}, tags


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings → dotted keys, so that runs can be searched by them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def environment_tags() -> dict[str, str]:
    """Python, torch and platform of this process: what equal bits depend on."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "unknown"
    return {
        "python": platform.python_version(),
        "torch": torch,
        "platform": f"{sys.platform}-{platform.machine()}",
    }


def dvc_tags(lock: bytes, dataset: str) -> dict[str, str]:
    """`dvc.<path>` → hash, of what `convert@<dataset>` has made and of what it has read.

    lock: content of a dvc.lock; one that cannot be read is said in a tag.
    """
    try:
        stages = (YAML(typ="safe", pure=True).load(lock) or {})["stages"]
        stage = stages.get(f"convert@{dataset}", {})
        entries = [*stage.get("outs", ()), *stage.get("deps", ())]
        found = {str(entry["path"]): _hash(entry) for entry in entries}
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        return {"dvc.lock": f"cannot be read: {type(error).__name__}"}
    code = ("mde/", "pipelines/")
    return {dvc_tag(path): found[path] for path in found if not path.startswith(code)}


def dvc_tag(path: str) -> str:
    """The tag of a path, or URI, that DVC knows: MLflow takes no other characters, and no `//`."""
    return "dvc." + re.sub(r"[^\w ./:-]", "_", re.sub("/+", "/", path), flags=re.ASCII)


def _hash(entry: dict[str, Any]) -> str:
    # A single object in a bucket has an ETag, whatever `hash` says.
    name = str(entry.get("hash", "md5"))
    return str(entry["etag"] if name not in entry and "etag" in entry else entry[name])


def _source() -> dict[str, str]:
    """Who started what, by the names that MLflow's pages know."""
    tags = {"mlflow.source.name": "pipelines.train", "mlflow.source.type": "LOCAL"}
    # A container may have no name for its user.
    with suppress(KeyError, OSError, ImportError):
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _dvc_remote(root: Path) -> str | None:
    """Name of the remote that `dvc pull` takes; None without one."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        found.read([root / ".dvc/config", root / ".dvc/config.local"])
    except configparser.Error:
        return None
    return found.get("core", "remote", fallback=None)


def _code(tree: WorkingTree | None) -> tuple[dict[str, str], bytes]:
    """Tags that say how to come to the code, and the patch to keep."""
    if tree is None:
        if os.environ.get("MDE_GIT_COMMIT"):
            return {STATE: "as given by MDE_GIT_COMMIT"}, b""
        nowhere = "no git here, and MDE_GIT_COMMIT is not set"
        print(f"note: the run's commit is unknown: {nowhere}", file=sys.stderr, flush=True)
        return {STATE: f"unknown: {nowhere}"}, b""
    tags = {REPOSITORY: tree.origin, STATE: "as committed"}
    if tree.untracked:
        listing = f"{len(tree.untracked)}: {', '.join(tree.untracked)}"
        tags[UNTRACKED] = listing[:MAX_TAG]
    if len(tree.patch) > MAX_PATCH:
        size = f"{len(tree.patch) / 2**20:.0f} MB, more than {MAX_PATCH // 2**20} MB"
        return {**tags, STATE: f"uncommitted changes are not kept: {size}"}, b""
    if name := secret_in(tree.patch):
        held = f"the value of {name} stands in them"
        return {**tags, STATE: f"uncommitted changes are not kept: {held}"}, b""
    if tree.patch:
        tags[STATE] = f"commit and {PATCH}"
    return tags, tree.patch


def _training_data(name: str, data: Place, sha256: str) -> DatasetUsed:
    place = show(data)
    kind = place.partition("://")[0] if "://" in place else "local"
    rows = read_manifest(data).counts
    source = json.dumps({"uri": place})
    fields = [{"name": field.name, "type": str(field.type)} for field in ROW_SCHEMA]
    columns = json.dumps({"mlflow_colspec": fields})
    return DatasetUsed(name, sha256[:DIGEST], kind, source, rows, "training", columns)
