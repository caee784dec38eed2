"""Published weights: the same output as the networks that they were saved from, or a clear no."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from mde.cli import app
from mde.errors import InputError
from mde.models import ModelConfig, build_model
from mde.models.weights import import_pose, import_weights, read_published
from mde.models.weights.files import Source, read_pair
from mde.models.weights.names import recognize_backbone, width_of
from mde.train.checkpoint import load_checkpoint, load_model, read_state
from tests.models.published import (
    DenseNetEncoder,
    DepthDecoder,
    MobileNetSkipAdd,
    Port,
    PoseDecoder,
    ResNetEncoder,
    randomized,
    save_monodepth2,
)

IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
State = dict[str, object]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """To 1e-4, of maps that are not flat: otherwise anything would pass."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert b.std() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def upsampled(native: Tensor) -> Tensor:
    return F.interpolate(native, IMAGE.shape[-2:], mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def resnet18() -> tuple[nn.Module, nn.Module]:
    encoder = randomized(ResNetEncoder, 18)
    return encoder, randomized(DepthDecoder, encoder.channels, seed=1)


@pytest.fixture
def monodepth2(tmp_path: Path, resnet18) -> Path:
    """As the project saves its mono+stereo weights."""
    return save_monodepth2(tmp_path / "ms", *resnet18, height=192, width=640, use_stereo=True)


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    net = randomized(MobileNetSkipAdd)
    # Most depths are above 0 then, where the last ReLU would hide differences.
    net.decode_conv6[1].bias.data += 2
    net.decode_conv6[1].weight.data *= 10
    return net


@pytest.fixture
def fastdepth(tmp_path: Path, mobilenet: nn.Module) -> Path:
    torch.save(mobilenet.state_dict(), tmp_path / "fastdepth.pth")
    return tmp_path / "fastdepth.pth"


@pytest.fixture(scope="module")
def port() -> nn.Module:
    net = randomized(Port, 169, width=0.5)
    net.decoder.conv3.bias.data += 3
    return net


@pytest.fixture
def densedepth(tmp_path: Path, port: nn.Module) -> Path:
    torch.save(port.state_dict(), tmp_path / "nyu.pth")
    return tmp_path / "nyu.pth"


def change(path: Path, edit: Callable[[State], object]) -> Path:
    """Let `edit` work on the dict that a file holds."""
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)
    return path


# ---- the same output


def test_monodepth2_with_resnet18_gives_the_published_maps_and_depth(monodepth2: Path, resnet18):
    encoder, decoder = resnet18
    disparities = decoder(encoder(IMAGE))
    found = read_published("monodepth2", monodepth2)
    assert (found.config.encoder, found.input_size) == ("resnet18", (192, 640))
    assert found.model.is_metric
    assert_same(found.model(IMAGE), disparities)
    # 1 / (1 / 100 + (1 / 0.1 - 1 / 100) disparity), in units of 5.4 m as it was trained on stereo.
    torch.testing.assert_close(
        found.model.predict_depth(IMAGE), 5.4 / (0.01 + 9.99 * disparities[0])
    )


def test_monodepth2_with_resnet50_gives_the_published_maps(tmp_path: Path):
    encoder = randomized(ResNetEncoder, 50)
    decoder = randomized(DepthDecoder, encoder.channels, seed=1)
    found = read_published("monodepth2", save_monodepth2(tmp_path, encoder, decoder))
    assert found.config.encoder == "resnet50"
    assert_same(found.model(IMAGE), decoder(encoder(IMAGE)))


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34", "resnet50", "densenet121", "densenet169", "densenet201"],
)
def test_every_encoder_is_recognised_even_when_a_layer_is_missing(name: str):
    with torch.device("meta"):
        tensors = getattr(torchvision.models, name)(weights=None).state_dict()
    tensors = {f"net.{key}": value for key, value in tensors.items() if "1.conv1" not in key}
    backbone = recognize_backbone(Source(Path("encoder.pth"), tensors, {}), "encoder.")
    features = "features." if name.startswith("densenet") else ""
    assert (backbone.name, backbone.prefix) == (name, f"net.{features}")


def test_ddsr2020s_densenet121_gives_its_maps(tmp_path: Path):
    encoder = randomized(DenseNetEncoder, 121)
    decoder = randomized(DepthDecoder, encoder.channels, seed=1)
    # As that project saves them: an epoch's folder in an experiment's, and the sizes alone.
    folder = tmp_path / "models" / "weights_19"
    folder.mkdir(parents=True)
    sizes = {"height": 320, "width": 1024}
    torch.save(encoder.state_dict() | sizes, folder / "depth_encoder.pth")
    torch.save(decoder.state_dict(), folder / "depth_decoder.pth")
    found = read_published("monodepth2", tmp_path)
    assert (found.config.encoder, found.input_size) == ("densenet121", (320, 1024))
    assert_same(found.model(IMAGE), decoder(encoder(IMAGE)))


def test_fastdepth_gives_the_published_map_and_depth(fastdepth: Path, mobilenet: nn.Module):
    model, depth = import_weights("fastdepth", fastdepth), mobilenet(IMAGE)
    assert_same(model(IMAGE), [depth])
    torch.testing.assert_close(model.predict_depth(IMAGE), depth.clamp(1e-3, 10))


def test_densedepth_gives_the_ports_map_and_ten_metres_over_it(densedepth: Path, port: nn.Module):
    found, inverse = read_published("densedepth", densedepth), port(IMAGE)
    assert (found.config.encoder, found.config.width) == ("densenet169", 0.5)
    assert_same(found.model(IMAGE), [inverse])
    torch.testing.assert_close(
        found.model.predict_depth(IMAGE), (10 / upsampled(inverse)).clamp(0.1, 10)
    )


def test_densedepths_encoder_and_width_are_read_off_the_tensors(tmp_path: Path):
    net = randomized(Port, 121, width=0.3)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    found = read_published("densedepth", tmp_path)
    assert found.config.encoder == "densenet121"
    # 307 of 1024 channels: 0.3 of them, rounded down.
    assert found.config.width == 307 / 1024
    assert_same(found.model(IMAGE), [net(IMAGE)])


@pytest.mark.parametrize("inputs", [1024, 1664, 1920])
def test_any_number_of_channels_is_a_width_that_rounds_to_it(inputs: int):
    for outputs in range(16, inputs + 1):
        weight = torch.empty(outputs, inputs, 1, 1, device="meta")
        width = width_of(Source(Path("nyu.pth"), {"conv2.weight": weight}, {}), "conv2.")
        assert int(inputs * width) == outputs


def test_the_pose_network_gives_the_published_motion(tmp_path: Path):
    encoder = randomized(ResNetEncoder, 18, num_images=2)
    decoder = randomized(PoseDecoder, 512, seed=1)
    torch.save(encoder.state_dict(), tmp_path / "pose_encoder.pth")
    torch.save(decoder.state_dict(), tmp_path / "pose.pth")
    later = IMAGE.flip(-1)
    expected = decoder(encoder(torch.cat([IMAGE, later], 1))[-1])
    found = import_pose(tmp_path)(IMAGE, later)
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(import_pose(tmp_path)(later, IMAGE)[0], expected[0], atol=1e-4)


# ---- ways in which the same tensors are saved


def half(state: State) -> State:
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


def dotted(state: State) -> State:
    """Names of DenseNet's layers before 2017."""
    layers = {f".{kind}{i}.": f".{kind}.{i}." for kind in ("norm", "conv") for i in (1, 2)}
    return {
        k if "denselayer" not in k else _replaced(k, layers): v for k, v in state.items()
    }  # fmt: skip


def _replaced(name: str, parts: dict[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"a": IMAGE}}}},
        lambda state: {"model_state_dict": state, "args": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": state}, "ema": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {k: v for k, v in state.items() if "num_batches_tracked" not in k},
        lambda state: {k: v.double() if "weight" in k else v for k, v in state.items()},
    ],
    ids=["state_dict", "model_state_dict", "nested", "module", "pytorch 0.4", "double"],
)
def test_wrapped_and_prefixed_files_are_read(wrap, fastdepth: Path, mobilenet: nn.Module):
    torch.save(wrap(mobilenet.state_dict()), fastdepth)
    assert_same(import_weights("fastdepth", fastdepth)(IMAGE), [mobilenet(IMAGE)])


def test_half_precision_becomes_float32(fastdepth: Path, mobilenet: nn.Module):
    torch.save(half(mobilenet.state_dict()), fastdepth)
    model = import_weights("fastdepth", fastdepth)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model(IMAGE)[0], mobilenet(IMAGE), rtol=0, atol=0.02)


def test_old_files_and_safetensors_are_read(fastdepth: Path, mobilenet: nn.Module):
    state = mobilenet.state_dict()
    torch.save(state, fastdepth, _use_new_zipfile_serialization=False)
    assert_same(import_weights("fastdepth", fastdepth)(IMAGE), [mobilenet(IMAGE)])
    save_file(state, fastdepth.with_suffix(".safetensors"))
    found = import_weights("fastdepth", fastdepth.with_suffix(".safetensors"))
    assert_same(found(IMAGE), [mobilenet(IMAGE)])


def test_densenets_old_names_and_any_prefix_are_read(densedepth: Path, port: nn.Module):
    state = {
        f"module.{k.replace('.features', '')}": v for k, v in dotted(port.state_dict()).items()
    }
    assert "module.encoder.original_model.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, densedepth)
    assert_same(import_weights("densedepth", densedepth)(IMAGE), [port(IMAGE)])


def test_monodepth2_in_one_file_is_read(tmp_path: Path, resnet18):
    encoder, decoder = resnet18
    parts = {"encoder": encoder.state_dict(), "depth": decoder.state_dict()}
    flat = {f"{name}.{key}": v for name, part in parts.items() for key, v in part.items()}
    torch.save(flat, tmp_path / "all.pth")
    assert_same(import_weights("monodepth2", tmp_path / "all.pth")(IMAGE), decoder(encoder(IMAGE)))


def test_the_two_files_are_found_by_one_of_them_below_a_folder_and_in_one(monodepth2: Path):
    encoder = torch.load(monodepth2 / "encoder.pth", weights_only=True)
    depth = torch.load(monodepth2 / "depth.pth", weights_only=True)
    both = monodepth2.parent / "both.pt"
    torch.save({"epoch": 1, "encoder": encoder, "decoder": depth}, both)
    for path in (monodepth2 / "depth.pth", monodepth2.parent, both):
        first, second = read_pair(path, ("encoder",), ("depth", "decoder"))
        assert first.tensors.keys() == encoder.keys() - {"height", "width", "use_stereo"}
        assert first.facts == {"height": 192, "width": 640, "use_stereo": True}
        assert second.tensors.keys() == depth.keys()


def test_depth_is_metric_with_stereo_or_when_the_unit_is_given(monodepth2: Path):
    change(monodepth2 / "encoder.pth", lambda state: state.update(use_stereo=False))
    relative = read_published("monodepth2", monodepth2)
    assert not relative.model.is_metric
    assert not relative.config.metric
    assert (relative.model.min_depth, relative.model.max_depth) == (0.1, 100)
    metric = import_weights("monodepth2", monodepth2, metres_per_unit=2.0, max_depth=80.0)
    assert metric.is_metric
    assert (metric.min_depth, metric.max_depth) == (0.2, 160)


# ---- the command


def test_the_command_writes_a_checkpoint_that_gives_the_same_output(
    monodepth2: Path, resnet18, tmp_path: Path
):
    out = tmp_path / "imported"
    done = CliRunner().invoke(
        app, ["import-weights", "monodepth2", str(monodepth2), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "monodepth2 with resnet18, 14,329,236 parameters" in done.output
    assert "height and width in training: 192 x 640" in done.output
    assert "depth from 0.54 to 540 m" in done.output
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "state.json"]
    state = read_state(out)
    assert len(state["imported"]) == 2
    model = build_model(ModelConfig(**state["variant"]["model"]))
    load_model(out, model)
    encoder, decoder = resnet18
    assert_same(model.eval()(IMAGE), decoder(encoder(IMAGE)))
    with pytest.raises(InputError, match="without its optimizer"):
        load_checkpoint(out, model)
