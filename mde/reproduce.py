"""Make a registered version again: the commands, its exact parameters, and the comparison."""

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mde.errors import InputError
from mde.files import read_json, write_bytes
from mde.layout import Layout
from mde.provenance import mde_version, without_credentials
from mde.tracking.lineage import Lineage
from mde.tracking.origin import (
    PARAMS,
    PATCH,
    REMOTE,
    REPOSITORY,
    STATE,
    UNTRACKED,
    dvc_tag,
    environment_tags,
    flatten,
)
from mde.tracking.run_folder import CODE, COMMIT, LATER_COMMIT
from mde.train.checkpoint import read_state

INSTALL = "make .venv/bin/.installed && . .venv/bin/activate"
EXACT, WITHIN = 1e-6, 0.02
"""Relative differences of metrics that are taken for equal: with equal weights, and else."""


def commands(found: Lineage) -> Iterator[str]:
    """What to type in an empty folder, in order; lines that start with # are for people."""
    commit, dirty, _ = found.tags.get(COMMIT, "unknown").partition("+dirty")
    variant, patched = _tag(found, "variant"), f"{CODE}/{PATCH}" in found.names(CODE)
    again = f"MLFLOW_TRACKING_URI={shlex.quote(found.store)} mde reproduce {shlex.quote(found.uri)}"
    yield f"# {found.title}: variant {variant}, dataset {_tag(found, 'dataset')}"
    yield from (f"# CAUTION: {line}" for line in warnings(found, bool(dirty), patched))
    yield f"git clone {shlex.quote(_repository(found))} ."
    yield f"git checkout --quiet {shlex.quote(commit)}"
    yield INSTALL
    yield f"{again} --restore .  # {PARAMS}" + (f" and {PATCH}" if patched else "")
    if patched:
        yield f"git apply {PATCH}"
        yield INSTALL
    yield from _raw_data(found)
    yield f"dvc repro evaluate@{shlex.quote(variant)}"
    yield f"{again} --check ."


def warnings(found: Lineage, dirty: bool, patched: bool) -> Iterator[str]:
    """What stands between the run and its reproduction here."""
    commit = found.tags.get(COMMIT, "unknown")
    if commit == "unknown":
        yield "the commit is not known: it was trained without git; find it by its date and numbers"
    state = found.tags.get(STATE, "not recorded")
    if dirty and not patched and state != "as committed":
        yield f"files differed from the commit, and there is no patch of them ({state})"
    if names := found.tags.get(UNTRACKED):
        yield f"these files were in no commit, and are not kept: {names}"
    if later := found.tags.get(LATER_COMMIT):
        yield f"it was interrupted, and went on with another commit: {later}"
    if REPOSITORY not in found.tags:
        yield "no repository was recorded; put its address in the place of REPOSITORY"
    elif "://" not in (place := found.tags[REPOSITORY]) and ":" not in place:
        yield "git knew no remote; this is the path of the checkout on the machine that trained it"
    here = {**environment_tags(), "mde_version": mde_version()}
    for name, value in here.items():
        then = found.tags.get(name, "not recorded")
        if then != value:
            yield f"{name} was {then} and is {value} here: numbers may differ by rounding"
    if not _is_exact(found):
        yield (
            f"it was trained by {found.tags.get('num_workers', '?')} workers on "
            f"{found.tags.get('device', '?')}: numbers will differ by rounding"
        )


def restore(found: Lineage, folder: Path) -> list[Path]:
    """Write the run's exact params.yaml, and its patch if there is one, into a folder."""
    names = [name for name in (PARAMS, PATCH) if f"{CODE}/{name}" in found.names(CODE)]
    if PARAMS not in names:
        raise InputError(f"{found.uri}: MLflow run {found.run_id} has no {CODE}/{PARAMS}")
    written = [folder / name for name in names]
    for path in written:
        write_bytes(path, found.read(f"{CODE}/{path.name}"))
    return written


@dataclass(frozen=True)
class Comparison:
    """One thing that was compared. note: what was found, for people."""

    name: str
    same: bool
    note: str


def compare(found: Lineage, root: Path) -> list[Comparison]:
    """Compare what was made in `root` with the version.

    Weights must be equal to the bit when both were trained by one worker on CPU with the same torch
    on the same kind of machine; else the metrics decide alone. Raises InputError when there is
    nothing to compare.
    """
    layout, variant = Layout(root), _tag(found, "variant")
    state = read_state(layout.model(variant) / "checkpoint")
    then = _parse(found, "checkpoint/state.json")
    params = {key: str(value) for key, value in flatten(state["variant"]).items()}
    weights = _compare_weights(found, then["sha256"], state["sha256"])
    return [
        _equal("data_sha256", _tag(found, "data_sha256"), state["data_sha256"]),
        _compare_params(found.params, params),
        weights,
        _compare_metrics(
            _parse(found, "evaluation/metrics.json")["metrics"],
            read_json(layout.result(variant) / "metrics.json")["metrics"],
            EXACT if _same_weights(then, state) else WITHIN,
        ),
    ]


def _compare_params(then: dict[str, str], now: dict[str, str]) -> Comparison:
    # A run may have params of others beside the variant's, and a parameter that is younger than
    # the run had its default then.
    parts = {key.partition(".")[0] for key in now}
    known = [key for key in then if key.partition(".")[0] in parts]
    differing = [
        f"{key}: {then[key]} then, {now.get(key)} now" for key in known if then[key] != now.get(key)
    ]
    note = "; ".join(differing) or f"{len(known)} equal"
    return Comparison("params", not differing, note)


def _compare_weights(found: Lineage, then: dict[str, str], now: dict[str, str]) -> Comparison:
    name = "model.safetensors"
    if then[name] == now[name]:
        return Comparison(name, True, f"equal to the bit, SHA-256 {now[name][:16]}…")
    here = environment_tags()
    alike = all(found.tags.get(key) == value for key, value in here.items())
    if alike and _is_exact(found):
        return Comparison(name, False, f"SHA-256 {then[name][:16]}… then, {now[name][:16]}… now")
    return Comparison(name, True, "other bits, as is to be expected; the metrics decide")


def _compare_metrics(
    then: dict[str, float | None], now: dict[str, float | None], tolerance: float
) -> Comparison:
    differences = {name: _difference(value, now.get(name)) for name, value in then.items()}
    worst = max(differences, key=differences.__getitem__)
    note = (
        f"largest relative difference {differences[worst]:.2g}, of {worst} ({then[worst]} then, "
        f"{now.get(worst)} now); allowed {tolerance:g}"
    )
    return Comparison("metrics.json", differences[worst] <= tolerance, note)


def _difference(then: float | None, now: float | None) -> float:
    """Relative; infinite when one of them is not defined, and the other is."""
    if then is None or now is None:
        return 0.0 if then is now else math.inf
    difference = abs(now - then) / max(abs(then), 1e-12)
    return math.inf if math.isnan(difference) else difference


def _same_weights(then: dict[str, Any], now: dict[str, Any]) -> bool:
    return bool(then["sha256"]["model.safetensors"] == now["sha256"]["model.safetensors"])


def _equal(name: str, then: str, now: str) -> Comparison:
    return Comparison(name, then == now, now if then == now else f"{then} then, {now} now")


def _is_exact(found: Lineage) -> bool:
    return (found.tags.get("num_workers"), found.tags.get("device")) == ("1", "cpu")


def _raw_data(found: Lineage) -> Iterator[str]:
    """How to come to the raw data of the run's dataset."""
    name = _tag(found, "dataset")
    try:
        raw = str(
            YAML(typ="safe", pure=True).load(found.read(f"{CODE}/{PARAMS}"))["datasets"][name][
                "raw"
            ]
        )
    except (YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{found.uri}: {CODE}/{PARAMS} names no raw data of {name}") from error
    if PurePosixPath(raw).is_relative_to("data/sample"):
        yield f"# {raw} is the built-in sample: the pipeline renders it"
        return
    digest = found.tags.get(dvc_tag(raw))
    if "://" in raw:
        yield f"# {raw} is fetched by the pipeline; AWS_ENDPOINT_URL and keys are the environment's"
    elif found.tags.get(REMOTE):
        yield f"dvc pull {shlex.quote(raw)}"
    else:
        yield f"# put the raw files of {name} at {raw}"
    yield f"# {raw} had the DVC hash {digest or 'that nobody recorded'}"


def _repository(found: Lineage) -> str:
    return without_credentials(found.tags.get(REPOSITORY, "REPOSITORY"))


def _tag(found: Lineage, name: str) -> str:
    if name not in found.tags:
        raise InputError(
            f"{found.uri}: MLflow run {found.run_id} has no tag '{name}': it was not made by "
            f"mde; it has {', '.join(sorted(found.tags)) or 'none'}"
        )
    return found.tags[name]


def _parse(found: Lineage, path: str) -> Any:
    try:
        return json.loads(found.read(path))
    except ValueError as error:
        raise InputError(f"{found.uri}: {path} is not valid JSON: {error}") from error
