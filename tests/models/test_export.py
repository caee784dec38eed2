"""Exported files: every family's depth is torch's, and the file says whose it is."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import mde
from mde.cli.export import export
from mde.cli.predict import predict
from mde.errors import InputError
from mde.export import OnnxPredictor, export_onnx, job, read_metadata
from mde.models import ModelConfig, build_model
from mde.predictor import as_pixels, load_predictor
from mde.train.checkpoint import save_model

NETWORKS = {
    "fastdepth": ("mobilenet_v1", {}),
    "resfpn": ("resnet18", {}),
    "eigen": ("vgg16", {"width": 0.1, "input_size": (36, 48)}),
    "densedepth": ("resnet18", {"width": 0.25, "downsample": 2}),
    "monodepth2": ("resnet18", {"min_depth": 0.5, "metric": False}),
}
SIZE = (64, 96)


def make_checkpoint(folder: Path, name: str) -> Path:
    encoder, settings = NETWORKS[name]
    content = {
        "family": name,
        "encoder": encoder,
        "weights": "scratch",
        "min_depth": 0.1,
        **settings,
    }
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    state = {
        "variant": {"name": f"tiny-{name}", "dataset": "rooms", "model": content},
        "git_commit": "abc",
        "data_sha256": "def",
        "image_size": SIZE,
    }
    save_model(folder, build_model(ModelConfig(**content)).eval(), state)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (9, 13, 3)).astype(np.uint8)
        smooth = cv2.resize(noise, (150, 110), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.png"), smooth)
    return folder


@pytest.fixture(scope="module")
def fastdepth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("fastdepth"), "fastdepth")


@pytest.fixture(scope="module")
def exported(fastdepth: Path, pictures: Path) -> Path:
    path = fastdepth.parent / "fastdepth.onnx"
    report = export_onnx(fastdepth, path, images=pictures)
    assert report.parity.keys() == {"onnxruntime", "openvino"}
    return report.path


@pytest.fixture
def built_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of `fastdepth` is taken from its file: to trace the network takes seconds."""
    content = exported.read_bytes()
    monkeypatch.setattr(job, "build_onnx", lambda model, size: content)


def check_depth(checkpoint: Path, path: Path) -> None:
    """Of images and sizes that were not compared before the file was kept."""
    reference = load_predictor(checkpoint, "cpu")
    for runtime in ("onnxruntime", "openvino"):
        predictor = OnnxPredictor(path, runtime)
        assert predictor.info == reference.info
        for shape in ((2, 131, 77), (9, 40, 50), (1, *SIZE)):
            images = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
            found = predictor.predict_batch(images)
            assert (found.shape, found.dtype) == (shape, np.float32)
            np.testing.assert_allclose(found, reference.predict_batch(images), rtol=1e-3)
        assert predictor.predict_batch(images[:0]).shape == (0, *SIZE)


def test_the_depth_of_fastdepth_is_that_of_torch(fastdepth: Path, exported: Path) -> None:
    check_depth(fastdepth, exported)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "fastdepth"])
def test_the_depth_of_other_families_is_that_of_torch(
    name: str, tmp_path: Path, pictures: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", name)
    check_depth(checkpoint, export_onnx(checkpoint, tmp_path / "model.onnx", images=pictures).path)


def test_the_file_alone_says_what_the_model_is(exported: Path) -> None:
    found = read_metadata(exported)
    assert (found["variant"], found["unit"], found["is_metric"]) == ("tiny-fastdepth", "m", True)
    assert (found["git_commit"], found["data_sha256"]) == ("abc", "def")
    assert (found["min_depth"], found["max_depth"]) == (0.1, 10.0)
    assert found["image_size"] == list(SIZE)
    assert found["parity"]["onnxruntime"]["max"] < 1e-3
    assert mde.load(exported).predict(np.zeros((30, 40, 3), np.uint8)).depth.shape == (30, 40)


@pytest.mark.usefixtures("built_once")
def test_int8_loses_what_the_report_says(
    fastdepth: Path, pictures: Path, tmp_path: Path, exported: Path
) -> None:
    report = export_onnx(fastdepth, tmp_path / "8.onnx", None, "int8", pictures, max_loss=0.5)
    assert report.bytes < exported.stat().st_size / 2.5
    image = as_pixels(pictures / "0.png")[None]
    expected = load_predictor(fastdepth, "cpu").predict_batch(image)
    for runtime, loss in report.loss.items():
        found = OnnxPredictor(report.path, runtime).predict_batch(image)
        difference = float((np.abs(found - expected) / expected).mean())
        assert 0 < difference < 5 * loss.value < 0.5


@pytest.mark.usefixtures("built_once")
def test_fp16_halves_the_file(
    fastdepth: Path, pictures: Path, tmp_path: Path, exported: Path
) -> None:
    report = export_onnx(fastdepth, tmp_path / "16.onnx", None, "fp16", pictures)
    assert report.bytes < exported.stat().st_size / 1.8
    assert all(loss.value < 0.01 for loss in report.loss.values())


@pytest.mark.usefixtures("built_once")
def test_a_file_that_loses_too_much_is_not_kept(
    fastdepth: Path, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"loses too much in int8 .*allowed: 0\.00%"):
        export_onnx(fastdepth, tmp_path / "8.onnx", None, "int8", pictures, max_loss=0.0)
    assert not list(tmp_path.iterdir())


def test_without_real_images_there_is_no_file(fastdepth: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data/shards/rooms is not there; give .* --images"):
        export_onnx(fastdepth, tmp_path / "x.onnx", root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("built_once")
def test_the_command_writes_a_checked_file(fastdepth: Path, pictures: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export)
    path = tmp_path / "fast.onnx"
    given = [str(fastdepth), "--onnx", str(path), "--images", str(pictures)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert "float32 on onnxruntime against torch: relative difference max" in result.output
    before = path.read_bytes()
    assert CliRunner().invoke(app, given).exit_code == 1
    assert path.read_bytes() == before


@pytest.mark.usefixtures("built_once")
def test_predict_takes_a_file_and_makes_one_itself(
    fastdepth: Path, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    app = typer.Typer()
    app.command()(predict)
    expected = load_predictor(fastdepth, "cpu").predict(pictures / "0.png").depth
    for number, model in enumerate(([str(exported)], [str(fastdepth), "--onnx"])):
        out = tmp_path / str(number)
        result = CliRunner().invoke(app, [*model, str(pictures), "--npy", "--out", str(out)])
        assert result.exit_code == 0, result.output
        np.testing.assert_allclose(np.load(out / "npy/0.npy"), expected, rtol=1e-3)
        assert len(list((out / "npy").iterdir())) == 5
