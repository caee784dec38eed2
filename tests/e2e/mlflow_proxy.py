"""An MLflow server behind a proxy that counts requests and kills, and models to register there."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import torch
from mlflow import MlflowClient

from mde.promotion import PromotionConfig
from mde.registry import Registered, register
from mde.tracking.store import connect
from mde.train.checkpoint import save_checkpoint


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
    artifacts: Path = Path()

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


@contextmanager
def serve(folder: Path) -> Iterator[Proxy]:
    """An MLflow server of one's own, behind the proxy that MLFLOW_TRACKING_URI names meanwhile."""
    port = free_port()
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
    found.artifacts = folder / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{found.port}")
        yield found
    listening.shutdown()
    listening.server_close()
    server.terminate()
    server.wait(30)


def small_checkpoint(folder: Path) -> Path:
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    save_checkpoint(folder, network.state_dict(), {"sgd": optimizer.state_dict()}, {"epoch": 1})
    return folder


@dataclass(frozen=True)
class Model:
    """A trained and evaluated model: its MLflow run, and its results in the folder `root`."""

    root: Path
    run_id: str
    variant: str
    summary: dict[str, Any]

    @classmethod
    def trained(cls, root: Path, checkpoint: Path, variant: str, abs_rel: float) -> "Model":
        client = connect(root)
        experiment = client.get_experiment_by_name("mde")
        assert experiment
        run_id = str(client.create_run(experiment.experiment_id).info.run_id)
        client.log_artifacts(run_id, str(checkpoint), "checkpoint")
        client.set_terminated(run_id)
        return cls(root, run_id, variant, {}).evaluated(abs_rel)

    @property
    def per_image(self) -> Path:
        return self.root / self.run_id / "per_image.parquet"

    def evaluated(
        self,
        abs_rel: float,
        protocol: str = "nyu_labeled@1",
        test_sha256: str = "cd" * 32,
        images: int = 40,
    ) -> "Model":
        """Errors that differ between images more than between models, as they do."""
        about = {"protocol": protocol, "test_sha256": test_sha256}
        hardness = 1 + 0.5 * np.sin(np.arange(images))
        values = abs_rel * hardness * np.random.default_rng(0).uniform(0.98, 1.02, images)
        columns = {
            "sample_id": [f"room/{number:03d}" for number in range(images)] + ["room/none"],
            "skipped": pa.array([None] * images + ["no ground truth"], pa.string()),
            "abs_rel": pa.array([*values, None]),
            "rmse": pa.array([*(10 * values), None]),
        }
        table = pa.table(columns).replace_schema_metadata({"mde": json.dumps(about)})
        self.per_image.parent.mkdir(exist_ok=True)
        pq.write_table(table, self.per_image)
        connect(self.root).log_artifact(self.run_id, str(self.per_image), "evaluation")
        summary = {"variant": self.variant, **about, "data_sha256": "ab" * 32}
        metrics = {"abs_rel": abs_rel, "rmse": 10 * abs_rel, "edge_accuracy": None}
        return replace(self, summary={**summary, "metrics": metrics})

    def register(self, config: PromotionConfig | None = None) -> Registered:
        config = config or PromotionConfig()
        return register(self.root, self.run_id, self.summary, self.per_image, config)


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
