"""The model that MLflow loads: what it takes, what it refuses, and what its MLmodel says."""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from mde.errors import InputError
from mde.models import ModelConfig, build_model
from mde.pyfunc import MAX_SERVED_SIDE, SERVING, DepthFunction, RefusedInputError, _load_pyfunc
from mde.tracking.model_card import files_about, mlmodel
from mde.train.checkpoint import save_model
from mde.train.foreign import is_own_mlmodel

MODEL = {"family": "resfpn", "encoder": "resnet18", "weights": "scratch", "min_depth": 0.1}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    state = {"variant": {"name": "x", "model": MODEL}, "image_size": [32, 64]}
    save_model(folder, build_model(ModelConfig(**MODEL)), state)
    for name, content in files_about(folder, IMAGES[0]).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def function(checkpoint: Path) -> DepthFunction:
    return _load_pyfunc(str(checkpoint))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVING, "true")


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def text(image: np.ndarray) -> str:
    return base64.b64encode(png(image)).decode()


def test_images_of_any_number_and_size_become_depths(function: DepthFunction) -> None:
    depth = function.predict(IMAGES)
    assert (depth.shape, depth.dtype) == ((3, 40, 56), np.float32)
    np.testing.assert_allclose(function.predict(IMAGES[1:2]), depth[1:2], rtol=1e-4)
    assert function.predict(IMAGES[:0]).shape == (0, 40, 56)


FORMS: dict[str, Callable[[Path], Any]] = {
    "an image alone": lambda _: IMAGES[0],
    "an image alone, as numbers": lambda _: IMAGES[0].tolist(),
    "numbers": lambda _: IMAGES.tolist(),
    "arrays": lambda _: list(IMAGES),
    "a path": lambda folder: str(folder / "0.png"),
    "paths": lambda folder: [folder / "0.png", str(folder / "1.png")],
    "base64": lambda _: text(IMAGES[0]),
    "base64, several": lambda _: [text(image) for image in IMAGES],
    "an array of base64": lambda _: np.array([text(image) for image in IMAGES]),
    "a frame of base64": lambda _: pd.DataFrame({"image": [text(image) for image in IMAGES]}),
    "a frame of paths": lambda folder: pd.DataFrame({"image": [str(folder / "0.png")]}),
    "a mapping": lambda _: {"image": [text(IMAGES[0])]},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_images_in_any_form_give_the_same_depths(
    form: str, function: DepthFunction, tmp_path: Path
) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(png(IMAGES[number]))
    depth = function.predict(FORMS[form](tmp_path))
    np.testing.assert_allclose(depth, function.predict(IMAGES[: len(depth)]), rtol=1e-4)


def test_images_of_several_sizes_become_a_list_of_depths(function: DepthFunction) -> None:
    found = function.predict([IMAGES[0], text(IMAGES[1, :20])])
    assert [depth.shape for depth in found] == [(40, 56), (20, 56)]
    np.testing.assert_allclose(found[0], function.predict(IMAGES[0])[0], rtol=1e-4)


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + crc


def bomb(width: int, height: int) -> str:
    """A PNG of some bytes whose header asks for more."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


RAGGED = [[[0, 0, 0], [0, 0, 0]], [[0, 0, 0]]]
GARBAGE: dict[str, tuple[Any, str]] = {
    "floats": (IMAGES[0] / 255, r"\(H,W,3\) of uint8, RGB; found \(40, 56, 3\) of float64"),
    "a batch of floats": (IMAGES / 255, r"\(N,H,W,3\) of uint8"),
    "four channels": (np.zeros((2, 8, 8, 4), np.uint8), r"found \(2, 8, 8, 4\) of uint8"),
    "no channels": (np.zeros((8, 8), np.uint8), r"found \(8, 8\)"),
    "an image without rows": (np.zeros((1, 0, 8, 3), np.uint8), r"found \(1, 0, 8, 3\)"),
    "numbers beyond bytes": ([[[0, 0, 256]]], r"image 0: expected whole numbers .* from 0 to 256"),
    "negative numbers": ([[[[0, 0, -1]]]], "whole numbers from 0 to 255"),
    "NaN": ([[[0, 0, float("nan")]]], r"whole numbers .* found \(1, 1, 3\) of float64"),
    "truth values": ([[[True, False, True]]], "of bool"),
    "enormous numbers": ([[[0, 0, 2**80]]], "of object"),
    "nothing in it": ([[[None] * 3]], "of object"),
    "rows of different lengths": (RAGGED, "image 0: its rows differ in length"),
    "the second is none": ([text(IMAGES[0]), 7], "image 1: expected an image, found int"),
    "an empty list": ([], "found an empty list"),
    "empty lists": ([[]], r"found \(0,\)"),
    "deep nesting": ([[[[[[1]]]]]], "found"),
    "a number": (7, "expected images, found int"),
    "nothing": (None, "found NoneType"),
    "another column": (pd.DataFrame({"picture": ["x"]}), "expected 'image' alone, found picture"),
    "more columns": (pd.DataFrame({"image": ["x"], "more": [1]}), "found image, more"),
    "a chat": ({"messages": []}, "expected 'image' alone, found messages"),
    "half a PNG": (text(IMAGES[0])[:400], "truncated PNG"),
    "a header alone": (text(IMAGES[0])[:12], "not a readable image"),
    "base64 with a gap": (text(IMAGES[0])[:40] + "\n" + text(IMAGES[0])[40:], "not valid base64"),
    "base64 cut off": (text(IMAGES[0])[:-5], "not valid base64"),
    "another alphabet": ("iVBORw0KGgo" + "ß" * 8, "not valid base64"),
    "a bomb": (bomb(60000, 60000), "exceeds limit|is more than"),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_anything_else_is_refused_with_a_reason(kind: str, function: DepthFunction) -> None:
    value, message = GARBAGE[kind]
    with pytest.raises(RefusedInputError, match=message) as caught:
        function.predict(value)
    assert isinstance(caught.value, InputError)
    # What a server answers is the reason, and not the request.
    caught.value.message = f"Failed to predict data '{value}'"
    answer = json.loads(caught.value.serialize_as_json())
    assert caught.value.get_http_status_code() == 400
    assert answer == {"error_code": "INVALID_PARAMETER_VALUE", "message": str(caught.value)}


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("path", ["image.png", "/etc/hostname", "none/such.png", "x" * 5000, ""])
def test_a_server_reads_no_files_and_does_not_say_which_there_are(
    path: str, function: DepthFunction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(png(IMAGES[0]))
    with pytest.raises(RefusedInputError, match="not read by their path here") as caught:
        function.predict([path])
    assert not path or path not in str(caught.value)


@pytest.mark.usefixtures("served")
def test_paths_are_read_or_refused_as_the_variable_says(
    function: DepthFunction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(IMAGES[0]))
    monkeypatch.setenv("MDE_IMAGE_PATHS", "true")
    assert function.predict(str(path)).shape == (1, 40, 56)
    monkeypatch.setenv("MDE_IMAGE_PATHS", "1")
    with pytest.raises(InputError, match="MDE_IMAGE_PATHS is '1'; it must be true or false"):
        _load_pyfunc(str(tmp_path))
    monkeypatch.delenv(SERVING)
    monkeypatch.setenv("MDE_IMAGE_PATHS", "false")
    with pytest.raises(RefusedInputError, match="not read by their path here"):
        function.predict(str(path))


@pytest.mark.parametrize("name", ["none.png", ".", "a\0b", "x" * 5000])
def test_a_path_without_an_image_is_named(
    name: str, function: DepthFunction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedInputError, match=r"image 0: .*expected a file's path") as caught:
        function.predict(name)
    assert len(str(caught.value)) < 400


@pytest.mark.usefixtures("served")
def test_what_a_request_may_ask_for_is_limited(
    function: DepthFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before anything is decoded: none of these has any pixels.
    with pytest.raises(RefusedInputError, match="5000x5000 px is too much"):
        function.predict([bomb(5000, 5000)])
    with pytest.raises(RefusedInputError, match=f"a side may have {MAX_SERVED_SIDE} px"):
        function.predict([bomb(MAX_SERVED_SIDE + 1, 1)])
    monkeypatch.setattr("mde.pyfunc.MAX_SERVED_PIXELS", 40 * 56 + 1)
    assert function.predict([text(IMAGES[0])]).shape == (1, 40, 56)
    with pytest.raises(RefusedInputError, match="image 1: 56x40 px is too much"):
        function.predict([text(IMAGES[0]), IMAGES[1].tolist()])
    with pytest.raises(RefusedInputError, match="too much"):
        function.predict(IMAGES)
    monkeypatch.setattr("mde.pyfunc.MAX_SERVED_TEXT", 1000)
    with pytest.raises(RefusedInputError, match="characters of base64, and 1000 are allowed"):
        function.predict(text(IMAGES[0]))


# --- Through MLflow ---------------------------------------------------------------------------


def test_mlflow_hands_over_every_form(checkpoint: Path, tmp_path: Path) -> None:
    model = mlflow.pyfunc.load_model(str(checkpoint))
    (tmp_path / "0.png").write_bytes(png(IMAGES[0]))
    expected = model.predict(IMAGES[:1])
    for value in (model.input_example, str(tmp_path / "0.png"), [text(IMAGES[0])], IMAGES[0]):
        np.testing.assert_allclose(model.predict(value), expected, rtol=1e-4)
    assert model.metadata.get_input_schema().inputs[0].shape == (-1, -1, -1, 3)


@pytest.mark.parametrize("damage", ["flip", "cut", "pickle"])
def test_mlflow_loads_no_checkpoint_that_was_changed(
    damage: str, checkpoint: Path, tmp_path: Path
) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= damage == "flip"
    weights.write_bytes(content[:-1] if damage == "cut" else content)
    if damage == "pickle":
        torch.save({}, tmp_path / "more.pt")
    message = "more.pt" if damage == "pickle" else r"model\.safetensors: missing or changed"
    with pytest.raises(InputError, match=message):
        mlflow.pyfunc.load_model(str(tmp_path))


@pytest.mark.parametrize(("is_metric", "unit"), [(True, "depth_m"), (False, "depth_up_to_scale")])
def test_the_card_says_the_unit_and_is_known_as_ours(is_metric: bool, unit: str) -> None:
    content = json.dumps(mlmodel(is_metric, {"variant": {"name": "x"}})).encode()
    assert is_own_mlmodel(content)
    assert unit in yaml.safe_load(content)["signature"]["outputs"]
