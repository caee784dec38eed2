"""Registering, killed at every call: the alias never points at what has not been verified.

A real MLflow server answers through a proxy, which counts the requests and kills who made them.
"""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import torch
from mlflow import MlflowClient

from mde.errors import InputError
from mde.files import file_sha256
from mde.registry import fetch_version, register
from mde.tracking.store import connect
from mde.train.checkpoint import save_checkpoint

pytestmark = pytest.mark.e2e

FORK = multiprocessing.get_context("fork")


@dataclass
class Proxy:
    """Hands requests on to the server. victim: killed around request `at`, 0 for never.

    answered: kill after the server has done what was asked, rather than before. broken: the number
    of a request that is answered with an error.
    """

    server: str
    port: int = 0
    requests: list[str] = field(default_factory=list)
    victim: Any = None
    at: int = 0
    answered: bool = False
    broken: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def handle(self, call: BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.requests.append(f"{call.command} {call.path}")
            number = len(self.requests)
        body = call.rfile.read(int(call.headers.get("Content-Length", 0)))
        if number == self.at and not self.answered:
            self.victim.kill()
            return
        if number == self.broken:
            answer, content = 400, b'{"error_code": "INTERNAL_ERROR", "message": "disk on fire"}'
        else:
            headers = {k: v for k, v in call.headers.items() if k.lower() != "host"}
            reply = requests.request(
                call.command, self.server + call.path, headers=headers, data=body, timeout=60
            )
            answer, content = reply.status_code, reply.content
        if number == self.at:
            self.victim.kill()
            return
        call.send_response(answer)
        call.send_header("Content-Type", "application/json")
        call.send_header("Content-Length", str(len(content)))
        call.end_headers()
        call.wfile.write(content)

    def watch(self, victim: Any = None, at: int = 0, answered: bool = False) -> None:
        """Start counting anew."""
        self.requests, self.victim, self.at, self.answered = [], victim, at, answered
        self.broken = 0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_proxy(server: str) -> tuple[Proxy, ThreadingHTTPServer]:
    proxy = Proxy(server)

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            proxy.handle(self)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.port = listening.server_address[1]
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    return proxy, listening


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """An MLflow server of this module's own, behind the proxy that MLFLOW_TRACKING_URI names."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        try:
            requests.get(f"http://127.0.0.1:{port}/health", timeout=1)
            break
        except requests.RequestException:
            time.sleep(0.2)
    found, listening = start_proxy(f"http://127.0.0.1:{port}")
    found.artifacts = folder / "artifacts"  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{found.port}")
        yield found
    listening.shutdown()
    listening.server_close()
    server.terminate()
    server.wait(30)


@pytest.fixture(autouse=True)
def calm(proxy: Proxy) -> None:
    proxy.watch()


@pytest.fixture
def client(proxy: Proxy, tmp_path: Path) -> MlflowClient:
    return connect(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    save_checkpoint(folder, network.state_dict(), {"sgd": optimizer.state_dict()}, {"epoch": 1})
    return folder


def summary(variant: str, abs_rel: float, protocol: str = "nyu_labeled") -> dict[str, Any]:
    metrics = {"abs_rel": abs_rel, "rmse": 10 * abs_rel}
    return {"variant": variant, "protocol": protocol, "data_sha256": "ab" * 32, "metrics": metrics}


def new_run(client: MlflowClient, checkpoint: Path) -> str:
    experiment = client.get_experiment_by_name("mde")
    assert experiment
    run_id = str(client.create_run(experiment.experiment_id).info.run_id)
    client.log_artifacts(run_id, str(checkpoint), "checkpoint")
    return run_id


def state_of(client: MlflowClient, variant: str) -> tuple[dict[str, str], dict[str, str]]:
    """Aliases, and run ids by version; asserts that no run has two versions."""
    name = f"mde-{variant}"
    if not client.search_registered_models(f"name = '{name}'"):
        return {}, {}
    versions = {
        str(v.version): str(v.run_id) for v in client.search_model_versions(f"name = '{name}'")
    }
    assert len(set(versions.values())) == len(versions), versions
    aliases = client.get_registered_model(name).aliases
    return {alias: str(version) for alias, version in aliases.items()}, versions


def register_killed(
    proxy: Proxy, root: Path, run_id: str, content: Any, at: int, late: bool
) -> Any:
    """Register in a process that dies around its request `at`; returns how it ended."""
    # Forked, so that no time goes into imports; it waits until the proxy knows it.
    ready = FORK.Event()

    def target() -> None:
        ready.wait()
        register(root, run_id, content)

    process = FORK.Process(target=target)
    process.start()
    proxy.watch(process, at, late)
    ready.set()
    process.join()
    proxy.watch()
    return process.exitcode


CASES = {
    # Whether there is a champion, the newcomer's abs_rel beside its 0.2, its alias in the end.
    "the first one": (False, 0.3, "champion"),
    "a better one": (True, 0.1, "champion"),
    "a worse one": (True, 0.3, "challenger"),
}


# After each call: before the next one is the same to the server.
@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_call_the_alias_is_the_old_version_or_the_new_one(
    case: str, proxy: Proxy, client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    has_champion, abs_rel, alias = CASES[case]
    seen: set[tuple[int, bool]] = set()
    for at in range(1, 100):
        variant = f"killed-{uuid4().hex}"
        old = None
        if has_champion:
            old = register(tmp_path, new_run(client, checkpoint), summary(variant, 0.2)).version
        run_id = new_run(client, checkpoint)
        ended = register_killed(proxy, tmp_path, run_id, summary(variant, abs_rel), at, late=True)
        aliases, versions = state_of(client, variant)
        new = next((version for version, run in versions.items() if run == run_id), None)
        champion = aliases.get("champion")
        assert champion in ({old, new} if alias == "champion" else {old})
        if champion:
            fetch_version(tmp_path, f"models:/mde-{variant}@champion", tmp_path / "fetched")
        seen.add((len(versions), champion == old))
        again = register(tmp_path, run_id, summary(variant, abs_rel))
        aliases, versions = state_of(client, variant)
        assert sorted(versions) == (["1", "2"] if has_champion else ["1"])
        assert again.alias == alias
        assert aliases[alias] == again.version
        assert len(aliases) == (2 if alias == "challenger" else 1)
        tags = client.get_model_version(again.name, again.version).tags
        assert (tags["abs_rel"], tags["protocol"]) == (str(abs_rel), "nyu_labeled")
        if ended == 0:
            break
        assert ended == -9, f"request {at} ended the process with {ended}"
    # Killed before there was a version, and between the version and its alias, and not at all.
    assert at > 5
    assert {count for count, _ in seen} == ({1, 2} if has_champion else {0, 1})
    if alias == "champion":
        assert {(1 + has_champion, True), (1 + has_champion, False)} <= seen


def test_registering_again_changes_nothing(
    client: MlflowClient, checkpoint: Path, proxy: Proxy, tmp_path: Path
) -> None:
    variant, run_id = f"twice-{uuid4().hex}", new_run(client, checkpoint)
    first = register(tmp_path, run_id, summary(variant, 0.2))
    proxy.watch()
    assert register(tmp_path, run_id, summary(variant, 0.2)) == first
    changing = ("create", "set", "update", "delete", "alias")
    writes = [r for r in proxy.requests if not r.startswith("GET") and r.endswith(changing)]
    assert writes == []


def test_new_numbers_of_a_run_replace_its_tags_and_a_challenger_that_wins_is_no_more_one(
    client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    variant = f"again-{uuid4().hex}"
    register(tmp_path, new_run(client, checkpoint), summary(variant, 0.2))
    run_id = new_run(client, checkpoint)
    assert register(tmp_path, run_id, summary(variant, 0.3)).alias == "challenger"
    winner = register(tmp_path, run_id, summary(variant, 0.1))
    assert state_of(client, variant)[0] == {"champion": winner.version}
    assert client.get_model_version(winner.name, winner.version).tags["abs_rel"] == "0.1"


# --- What is not verified is not registered ---------------------------------------------------


def stored(proxy: Proxy, client: MlflowClient, run_id: str) -> Path:
    """Where the server keeps a run's checkpoint."""
    experiment = client.get_run(run_id).info.experiment_id
    folder: Path = proxy.artifacts / experiment / run_id / "artifacts/checkpoint"  # type: ignore[attr-defined]
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
    "a lost file": (lambda f, _: (f / "optimizer.pt").unlink(), "optimizer.pt: missing or changed"),
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
    champion = register(tmp_path, new_run(client, checkpoint), summary(variant, 0.2))
    bad = new_run(client, checkpoint)
    change(stored(proxy, client, bad), tmp_path / "trace")
    before = state_of(client, variant)
    with pytest.raises(InputError, match=rf"(?s)MLflow run {bad}.*{message}"):
        register(tmp_path, bad, summary(variant, 0.1))
    assert state_of(client, variant) == before
    # Nor does a version that was good when it was registered.
    late = new_run(client, checkpoint)
    register(tmp_path, late, summary(variant, 0.3))
    before = state_of(client, variant)
    change(stored(proxy, client, late), tmp_path / "trace")
    with pytest.raises(InputError, match=message):
        register(tmp_path, late, summary(variant, 0.1))
    assert state_of(client, variant) == before
    assert before[0]["champion"] == champion.version
    uri = f"models:/mde-{variant}@challenger"
    with pytest.raises(InputError, match=rf"(?s){uri}: .*{message}"):
        fetch_version(tmp_path, uri, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert not (tmp_path / "trace").exists()


def test_a_store_that_fails_is_not_taken_for_one_without_a_champion(
    proxy: Proxy, client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    variant = f"failing-{uuid4().hex}"
    register(tmp_path, new_run(client, checkpoint), summary(variant, 0.2))
    run_id = new_run(client, checkpoint)
    register(tmp_path, run_id, summary(variant, 0.3))
    before = state_of(client, variant)
    proxy.watch()
    register(tmp_path, run_id, summary(variant, 0.3))
    total = len(proxy.requests)
    assert total > 5
    for number in range(1, total + 1):
        proxy.watch()
        proxy.broken = number
        with pytest.raises(InputError, match=r"(?s)MLflow at .*(disk on fire|400)"):
            register(tmp_path, run_id, summary(variant, 0.3))
        proxy.watch()
        assert state_of(client, variant) == before


# --- Fetching ---------------------------------------------------------------------------------


def test_a_version_comes_by_alias_and_by_number(
    client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    variant = f"fetched-{uuid4().hex}"
    version = register(tmp_path, new_run(client, checkpoint), summary(variant, 0.2))
    for number, uri in enumerate((version.uri, f"models:/mde-{variant}/1")):
        folder = fetch_version(tmp_path, uri, tmp_path / str(number))
        content = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert content == {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def test_a_version_that_is_not_there_is_named_with_what_is(
    client: MlflowClient, checkpoint: Path, tmp_path: Path
) -> None:
    variant = f"a-known-{uuid4().hex}"
    register(tmp_path, new_run(client, checkpoint), summary(variant, 0.2))
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
