"""MLflow's own tools and a registered version: loaded in a bare process, served over HTTP."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest
import requests
import torch

import mde
from mde.errors import InputError
from mde.models import ModelConfig, build_model
from mde.tracking.model_card import files_about
from mde.train.checkpoint import save_model
from tests.core.test_pyfunc import bomb
from tests.e2e.mlflow_proxy import Model, free_port

pytestmark = pytest.mark.e2e

URI = "models:/mde-served@champion"
MODEL = {"family": "fastdepth", "encoder": "mobilenet_v1", "weights": "scratch"}
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)


def text(image: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", image[..., ::-1])[1].tobytes()).decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    found = folder / "checkpoint"
    found.mkdir()
    state = {"variant": {"name": "served", "model": MODEL}, "image_size": [64, 96]}
    save_model(found, build_model(ModelConfig(**MODEL)), state)
    for name, content in files_about(found, IMAGE).items():
        (found / name).write_bytes(content)
    return found


@pytest.fixture(scope="module")
def registry(folder: Path, checkpoint: Path) -> Iterator[None]:
    """The store that MLFLOW_TRACKING_URI names meanwhile; it has the version."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        assert Model.trained(folder, checkpoint, "served", 0.2).register().uri == URI
        yield


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """Of a process that finds the package as if it were installed, and nothing else of here."""
    package = Path(mde.__file__).parent
    shutil.copytree(package, folder / "site/mde", ignore=shutil.ignore_patterns("__pycache__"))
    # MLflow starts uvicorn by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": str(folder / "site"), "HOME": str(folder)}


BARE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import mlflow
import numpy as np

model = mlflow.pyfunc.load_model("{uri}")
np.save("depth.npy", model.predict(["image.png"]))
"""
ABSENT = {"ray", "dvc", "gradio", "onnx", "onnxruntime", "openvino", "matplotlib", "h5py", "av"}


@pytest.fixture(scope="module")
def bare(
    folder: Path, registry: None, environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A process that loads the version, in a folder with nothing but an image, and predicts."""
    (folder / "bare").mkdir()
    cv2.imwrite(str(folder / "bare/image.png"), IMAGE[..., ::-1])
    process = subprocess.Popen(
        [sys.executable, "-c", BARE.format(absent=ABSENT, uri=URI)],
        env={**os.environ, **environment},
        cwd=folder / "bare",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def server(folder: Path, bare: object, environment: dict[str, str]) -> Iterator[str]:
    """Where `mlflow models serve` answers; it starts while the bare process does."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", URI, "-h", "127.0.0.1", "-p", str(port)]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while not answers(url):
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < deadline, (folder / "serve.log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def ask(url: str, content: Any, **headers: str) -> requests.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return requests.post(f"{url}/invocations", data=body, headers=headers, timeout=120)


@pytest.fixture(scope="module")
def expected(folder: Path, registry: None) -> np.ndarray:
    """What `mde` itself makes of the image, (H,W)."""
    return mde.load(URI, root=folder).predict(IMAGE).depth


def test_a_request_is_answered_with_the_depth_that_mde_predicts(
    server: str, checkpoint: Path, expected: np.ndarray
) -> None:
    example = json.loads((checkpoint / "serving_input_example.json").read_text())
    for content in (
        example,
        {"inputs": IMAGE.tolist()},
        {"inputs": text(IMAGE)},
        {"inputs": {"image": [text(IMAGE)]}},
    ):
        reply = ask(server, content)
        assert reply.status_code == 200, reply.text
        depth = np.array(reply.json()["predictions"], np.float32)
        np.testing.assert_allclose(depth, expected[None], rtol=1e-5)
    reply = ask(server, {"inputs": [text(IMAGE), text(IMAGE[:24])]})
    assert [np.shape(depth) for depth in reply.json()["predictions"]] == [(48, 64), (24, 64)]


NUMBERS = IMAGE[:2, :2].tolist()
GARBAGE: dict[str, tuple[Any, str]] = {
    "cut off": (b'{"inputs": [[[[0', "valid JSON"),
    "nothing": (b"", "valid JSON"),
    "noise": (bytes(range(128, 256)), "valid JSON"),
    "a list": ([1, 2], "Received a list"),
    "other keys": ({"images": NUMBERS}, "'inputs' key"),
    "a frame": ({"dataframe_split": {"columns": ["image"], "data": [["x"]]}}, "'inputs' key"),
    "a chat": ({"messages": [{"role": "user", "content": "hello"}]}, "'image' alone"),
    "no images": ({"inputs": []}, "found an empty list"),
    "null": ({"inputs": None}, "found NoneType"),
    "floats": ({"inputs": (IMAGE[:2, :2] / 255).tolist()}, "whole numbers from 0 to 255"),
    "NaN": (b'{"inputs": [[[NaN, 0, 0]]]}', "whole numbers from 0 to 255"),
    "beyond bytes": ({"inputs": [[[0, 0, 256]]]}, "numbers from 0 to 256"),
    "grey": ({"inputs": [[0, 1], [2, 3]]}, "uint8, RGB; found"),
    "four channels": ({"inputs": [[[[0, 0, 0, 0]]]]}, "found (1, 1, 4)"),
    "ragged": ({"inputs": [NUMBERS, [[[0, 0, 0]], []]]}, "image 1: its rows differ"),
    "words": ({"inputs": ["hello"]}, "PNG, JPEG or WebP file in base64"),
    "a path": ({"inputs": ["/etc/hostname"]}, "not read by their path here"),
    "half a PNG": ({"inputs": [text(IMAGE)[:400]]}, "truncated PNG"),
    "not base64": ({"inputs": [text(IMAGE)[:401]]}, "not valid base64"),
    "a bomb": ({"inputs": [bomb(50000, 50000)]}, "exceeds limit"),
    "a large one": ({"inputs": [bomb(8000, 8000)]}, "too much"),
    "a long one": ({"inputs": [bomb(2**20, 1)]}, "a side may have"),
}


def test_garbage_is_refused_with_a_reason_and_the_server_lives_on(
    server: str, expected: np.ndarray
) -> None:
    for kind, (content, reason) in GARBAGE.items():
        reply = ask(server, content)
        assert reply.status_code == 400, (kind, reply.text[:1000])
        assert reason in reply.json()["message"], (kind, reply.text[:1000])
        assert "Traceback" not in reply.text, kind
    assert ask(server, b"a,b\n1,2", Content_Type="text/csv").status_code == 400
    assert (
        ask(server, b"PAR1nothing", Content_Type="application/vnd.apache.parquet").status_code
        == 400
    )
    assert ask(server, b"hello", Content_Type="text/plain").status_code == 415
    # MLflow itself gives up on this one, before it is ours.
    assert ask(server, b'{"inputs": ' + b"[" * 10**6).status_code >= 400
    reply = ask(server, {"inputs": [text(IMAGE)]})
    np.testing.assert_allclose(reply.json()["predictions"], expected[None], rtol=1e-5)


def test_a_bare_process_elsewhere_loads_the_version(
    bare: subprocess.Popen[str], folder: Path, expected: np.ndarray
) -> None:
    _, error = bare.communicate(timeout=300)
    assert bare.returncode == 0, error
    np.testing.assert_allclose(np.load(folder / "bare/depth.npy"), expected[None], rtol=1e-5)


def test_mlflow_refuses_a_version_whose_weights_were_changed(
    registry: None, folder: Path, checkpoint: Path
) -> None:
    model = Model.trained(folder, checkpoint, "changed", 0.2)
    uri = model.register().uri
    (stored,) = folder.glob(f"mlruns/**/{model.run_id}/artifacts/checkpoint/model.safetensors")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    for changed in (content, content[: len(content) // 2]):
        stored.write_bytes(changed)
        with pytest.raises(InputError, match=r"model\.safetensors: missing or changed"):
            mlflow.pyfunc.load_model(uri)


def test_a_registered_version_holds_no_pickle_and_no_code(
    registry: None, expected: np.ndarray, tmp_path: Path
) -> None:
    stored = Path(mlflow.artifacts.download_artifacts(URI, dst_path=str(tmp_path)))
    kinds = {path.suffix for path in stored.rglob("*") if path.is_file()}
    assert kinds == {"", ".json", ".safetensors"}
    assert json.loads((stored / "MLmodel").read_text())["flavors"].keys() == {"python_function"}
