"""Whether shards are still those of the raw files and of the settings in the params file.

DVC sees to that when it runs the stages. A stage that is run by hand asks here.
"""

import importlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from mde.data.place import Place, show
from mde.data.raw.fingerprint import RawState, newest_file, raw_state
from mde.data.raw.mirror import raw_path
from mde.data.shards import Manifest, read_manifest
from mde.errors import InputError


def check_current(params: Path, dataset: str, root: Path, folder: Place) -> None:
    """Refuse shards that were made with other settings or from other raw files.

    params: the params file with the section `datasets.<dataset>`. root: what the section's `raw` is
    relative to. folder: of the shards. Raw files that are not there, as on a cluster that has the
    shards alone, are not asked for; of those in an object store, the copy that was fetched is.
    Raises InputError that names what has changed, and as `read_manifest` does.
    """
    # By name: the code that converts is no part of what is trained, so DVC need not train again
    # when it changes.
    sources, tasks = map(importlib.import_module, ("mde.data.sources", "mde.data.tasks"))
    config, manifest = sources.load_source_config(params, dataset), read_manifest(folder)
    changes = _changed_settings(config, tasks.portable(config), manifest)
    raw = raw_path(config.raw, root, dataset)
    if manifest.raw and raw.exists() and (change := _changed_files(raw, manifest)):
        changes.append(change)
    if changes:
        listing = "\n  ".join(changes)
        raise InputError(
            f"{show(folder)}: converted before this was changed:\n  {listing}\n"
            f"Convert again: dvc repro convert@{dataset} (python -m pipelines.convert --dataset "
            f"{dataset} without DVC), or take the change back"
        )


def _changed_settings(config: Any, portable: dict[str, Any], manifest: Manifest) -> list[str]:
    # A setting that is younger than the shards had its default then.
    before = {field.name: field.default for field in fields(config)} | manifest.config
    # As JSON has them, which knows no tuples.
    pairs = {key: (_json(before[key]), _json(value)) for key, value in portable.items()}
    return [
        f"{key}: {then} then, {now} in the params file now"
        for key, (then, now) in pairs.items()
        if then != now
    ]


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def _changed_files(raw: Path, manifest: Manifest) -> str | None:
    before, now = RawState(**manifest.raw), raw_state(raw)
    if now == before:
        return None
    if (now.files, now.bytes) == (before.files, before.bytes):
        what = f"the same {now.files} files and {now.bytes} bytes, with other content or names"
    else:
        what = (
            f"{before.files} files of {before.bytes} bytes then, "
            f"{now.files} of {now.bytes} bytes now"
        )
    return f"raw files in {raw}: {what}; the latest change is in {newest_file(raw)}"
