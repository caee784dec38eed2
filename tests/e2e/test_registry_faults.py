"""Registering, killed at every call: the alias never points at what has not been verified.

A real MLflow server answers through a proxy, which counts the requests and kills who made them.
"""

import json
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from mlflow import MlflowClient

from mde.errors import InputError
from mde.files import file_sha256
from mde.registry import fetch_version, promote
from mde.tracking.store import connect
from tests.e2e.mlflow_proxy import Model, Proxy, serve, small_checkpoint, state_of

pytestmark = pytest.mark.e2e

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with serve(tmp_path_factory.mktemp("mlflow")) as found:
        yield found


@pytest.fixture(autouse=True)
def calm(proxy: Proxy) -> None:
    proxy.watch()


@pytest.fixture
def client(proxy: Proxy, tmp_path: Path) -> MlflowClient:
    return connect(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def register_killed(proxy: Proxy, model: Model, at: int) -> Any:
    """Register in a process that dies after its request `at`; returns how it ended."""
    # Forked, so that no time goes into imports; it waits until the proxy knows it.
    ready = FORK.Event()

    def target() -> None:
        ready.wait()
        model.register()

    process = FORK.Process(target=target)
    process.start()
    proxy.watch(process, at, answered=True)
    ready.set()
    process.join()
    proxy.watch()
    return process.exitcode


def writes(requests: list[str]) -> list[int]:
    """Numbers of the requests that change something."""
    changing = ("create", "set-tag", "delete-tag", "log-parameter", "alias")
    return [
        number
        for number, request in enumerate(requests, 1)
        if not request.startswith("GET") and request.split("?")[0].endswith(changing)
    ]


CASES = {
    # Whether there is a champion, the newcomer's abs_rel beside its 0.2, its alias in the end.
    "the first one": (False, 0.3, "champion"),
    "a better one": (True, 0.1, "champion"),
}


def prepare(
    root: Path, checkpoint: Path, champion: bool, abs_rel: float
) -> tuple[Model, str | None]:
    variant = f"killed-{uuid4().hex}"
    old = None
    if champion:
        old = Model.trained(root, checkpoint, variant, 0.2).register().version
    return Model.trained(root, checkpoint, variant, abs_rel), old


# A call that only reads leaves what the one before has left, so there is no need to be killed at
# it; and killed before a call is the same to the server as after the one before.
@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_call_the_alias_is_the_old_version_or_the_new_one(
    case: str, proxy: Proxy, client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    has_champion, abs_rel, alias = CASES[case]
    model, _ = prepare(tmp_path, checkpoint, has_champion, abs_rel)
    proxy.watch()
    model.register()
    points = [1, *writes(proxy.requests)]
    # Version, reason, over, record, claim, alias, done, tag; and the first time the model.
    assert len(points) >= (8 if alias == "champion" else 7), proxy.requests
    seen: set[tuple[int, bool]] = set()
    for at in points:
        model, old = prepare(tmp_path, checkpoint, has_champion, abs_rel)
        assert register_killed(proxy, model, at) == -9
        aliases, versions = state_of(client, model.variant)
        new = next((v for v, run in versions.items() if run == model.run_id), None)
        champion = aliases.get("champion")
        assert champion in ({old, new} if alias == "champion" else {old})
        if champion:
            uri = f"models:/mde-{model.variant}@champion"
            fetch_version(tmp_path, uri, tmp_path / "fetched")
        seen.add((len(versions), champion == old))
        again = model.register()
        aliases, versions = state_of(client, model.variant)
        assert sorted(versions) == (["1", "2"] if has_champion else ["1"])
        assert (again.alias, again.verdict) == (alias, alias)
        assert aliases[alias] == again.version
        assert len(aliases) == (2 if alias == "challenger" else 1)
        tags = client.get_model_version(again.name, again.version).tags
        assert (tags["abs_rel"], tags["protocol"]) == (str(abs_rel), "nyu_labeled@1")
        assert (tags["promotion"], tags["promotion_over"]) == (alias, old or "none")
    # Killed before there was a version, and between the version and its alias, and at the end.
    assert {count for count, _ in seen} == ({1, 2} if has_champion else {0, 1})
    if alias == "champion":
        assert {(1 + has_champion, True), (1 + has_champion, False)} <= seen


def test_registering_again_changes_nothing(
    client: MlflowClient, checkpoint: Path, proxy: Proxy, tmp_path: Path
) -> None:
    variant = f"twice-{uuid4().hex}"
    champion = Model.trained(tmp_path, checkpoint, variant, 0.2)
    worse = Model.trained(tmp_path, checkpoint, variant, 0.3)
    found = [champion.register(), worse.register()]
    proxy.watch()
    assert [champion.register(), worse.register()] == found
    assert writes(proxy.requests) == []


def test_new_numbers_of_a_run_replace_its_tags_and_a_challenger_that_wins_is_no_more_one(
    client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    variant = f"again-{uuid4().hex}"
    Model.trained(tmp_path, checkpoint, variant, 0.2).register()
    model = Model.trained(tmp_path, checkpoint, variant, 0.3)
    assert model.register().alias == "challenger"
    winner = model.evaluated(0.1).register()
    assert state_of(client, variant)[0] == {"champion": winner.version}
    assert client.get_model_version(winner.name, winner.version).tags["abs_rel"] == "0.1"


# --- What is not verified is not registered ---------------------------------------------------


def stored(proxy: Proxy, client: MlflowClient, run_id: str) -> Path:
    """Where the server keeps a run's checkpoint."""
    experiment = client.get_run(run_id).info.experiment_id
    folder = proxy.artifacts / experiment / run_id / "artifacts/checkpoint"
    assert folder.is_dir()
    return folder


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def add_code(folder: Path, trace: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code/mde_plugin.py").write_text(f"open({str(trace)!r}, 'w')")


def add_mlmodel(folder: Path, trace: Path) -> None:
    add_code(folder, trace)
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function: {loader_module: mde_plugin, code: code}\n"
    )


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def add_pickle(folder: Path, trace: Path) -> None:
    torch.save(Payload(trace), folder / "model.pt")
    state = json.loads((folder / "state.json").read_text())
    state["sha256"]["model.pt"] = file_sha256(folder / "model.pt")
    (folder / "state.json").write_text(json.dumps(state))


DAMAGES = {
    "a flipped bit": (lambda folder, _: flip(folder), r"model\.safetensors: missing or changed"),
    "a lost file": (
        lambda folder, _: (folder / "optimizer.safetensors").unlink(),
        r"optimizer\.safetensors: missing or changed",
    ),
    "no state": (lambda f, _: (f / "state.json").unlink(), "has no state.json"),
    "code": (add_code, r"refused, .*code/ \(a folder of code\)"),
    "an MLflow model": (add_mlmodel, r"refused, .*MLmodel \(an MLflow model"),
    "a pickle": (add_pickle, r"refused, .*model\.pt \(a pickle"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_fails_verification_moves_no_alias(
    damage: str, proxy: Proxy, client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    change, message = DAMAGES[damage]
    variant = f"damaged-{uuid4().hex}"
    champion = Model.trained(tmp_path, checkpoint, variant, 0.2).register()
    bad = Model.trained(tmp_path, checkpoint, variant, 0.1)
    change(stored(proxy, client, bad.run_id), tmp_path / "trace")
    before = state_of(client, variant)
    with pytest.raises(InputError, match=rf"(?s)MLflow run {bad.run_id}.*{message}"):
        bad.register()
    assert state_of(client, variant) == before
    # Nor does a version that was good when it was registered.
    late = Model.trained(tmp_path, checkpoint, variant, 0.3)
    late.register()
    before = state_of(client, variant)
    change(stored(proxy, client, late.run_id), tmp_path / "trace")
    with pytest.raises(InputError, match=message):
        late.evaluated(0.1).register()
    uri = f"models:/mde-{variant}@challenger"
    with pytest.raises(InputError, match=rf"(?s){uri}: .*{message}"):
        promote(tmp_path, uri, "it must be good", "anna")
    assert state_of(client, variant) == before
    assert before[0]["champion"] == champion.version
    with pytest.raises(InputError, match=rf"(?s){uri}: .*{message}"):
        fetch_version(tmp_path, uri, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert not (tmp_path / "trace").exists()


def test_a_store_that_fails_is_not_taken_for_one_without_a_champion(
    proxy: Proxy, client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    variant = f"failing-{uuid4().hex}"
    Model.trained(tmp_path, checkpoint, variant, 0.2).register()
    model = Model.trained(tmp_path, checkpoint, variant, 0.3)
    version = model.register().version
    before = state_of(client, variant)

    def undecided() -> None:
        if "promotion" in client.get_model_version(f"mde-{variant}", version).tags:
            client.delete_model_version_tag(f"mde-{variant}", version, "promotion")
        proxy.watch()

    errors: list[str] = []
    while len(errors) < 100:
        undecided()
        proxy.broken = len(errors) + 1
        try:
            model.register()
        except InputError as error:
            errors.append(str(error))
        else:
            # Nothing but the end of the requests lets it through.
            assert len(proxy.requests) < proxy.broken, proxy.requests
            break
        proxy.watch()
        assert state_of(client, variant) == before
    assert len(errors) > 10
    assert all(re.match(r"(?s)MLflow at .*(disk on fire|400)", error) for error in errors), errors


# --- Fetching ---------------------------------------------------------------------------------


def test_a_version_comes_by_alias_and_by_number(
    client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    variant = f"fetched-{uuid4().hex}"
    version = Model.trained(tmp_path, checkpoint, variant, 0.2).register()
    for number, uri in enumerate((version.uri, f"models:/mde-{variant}/1")):
        folder = fetch_version(tmp_path, uri, tmp_path / str(number))
        content = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert content == {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def test_a_version_that_is_not_there_is_named_with_what_is(
    client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    variant = f"a-known-{uuid4().hex}"
    Model.trained(tmp_path, checkpoint, variant, 0.2).register()
    for uri, message in (
        (f"models:/mde-{variant}@challenger", "no alias 'challenger'; there are: champion"),
        (f"models:/mde-{variant}/2", "no version 2; there are: 1"),
        ("models:/mde-nothing@champion", rf"no model 'mde-nothing'; registered: .*mde-{variant}"),
        (f"models:/mde-{variant}", "expected models:/<name>@<alias> or models:/<name>/<version>"),
        (f"mde-{variant}@champion", "expected models:/<name>@<alias>"),
        ("models:/@champion", "expected models:/<name>@<alias>"),
    ):
        with pytest.raises(InputError, match=message):
            fetch_version(tmp_path, uri, tmp_path / "fetched")
