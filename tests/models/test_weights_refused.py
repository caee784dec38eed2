"""Files that are not the published weights: refused, with what was found and what to do."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from mde.cli import app
from mde.errors import InputError
from mde.models.weights import import_pose, import_weights
from tests.models.published import (
    DepthDecoder,
    MobileNetSkipAdd,
    ResNetEncoder,
    save_monodepth2,
)

IMAGE = torch.zeros(1, 3, 64, 96)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def resnet18() -> tuple[nn.Module, nn.Module]:
    encoder = ResNetEncoder(18)
    return encoder, DepthDecoder(encoder.channels)


@pytest.fixture
def monodepth2(tmp_path: Path, resnet18) -> Path:
    """As the project saves its weights."""
    return save_monodepth2(tmp_path / "ms", *resnet18, height=192, width=640, use_stereo=True)


@pytest.fixture(scope="module")
def mobilenet() -> State:
    return MobileNetSkipAdd().state_dict()


@pytest.fixture
def fastdepth(tmp_path: Path, mobilenet: State) -> Path:
    torch.save(mobilenet, tmp_path / "fastdepth.pth")
    return tmp_path / "fastdepth.pth"


def change(path: Path, edit: Callable[[State], object]) -> Path:
    """Let `edit` work on the dict that a file holds."""
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)
    return path


def message(fmt: str, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        import_weights(fmt, path)
    return str(caught.value)


def test_missing_unexpected_misshaped_and_broken_tensors_are_listed(fastdepth: Path):
    def edit(state: State) -> None:
        del state["conv3.4.running_var"]
        state["extra.weight"] = torch.zeros(2, 3)
        state["decode_conv6.0.weight"] = torch.zeros(1, 16, 1, 1)
        state["conv0.1.bias"][0] = float("nan")

    found = message("fastdepth", change(fastdepth, edit))
    assert "fastdepth.pth: not the weights of FastDepth" in found
    assert "1 missing:\n    conv3.4.running_var 128\n" in found
    assert "1 unexpected:\n    extra.weight 2x3\n" in found
    assert "decode_conv6.0.weight is 1x16x1x1, expected 1x32x1x1" in found
    assert "1 with values that are not finite:\n    conv0.1.bias" in found


def test_a_long_list_is_cut_and_counted(monodepth2: Path):
    found = message("fastdepth", monodepth2 / "encoder.pth")
    assert "missing:\n    conv0.0.weight 32x3x3x3\n" in found
    assert "… and" in found
    assert found.count("\n") < 30


def test_names_in_messages_are_those_of_the_file(monodepth2: Path):
    def rename(state: State) -> None:
        for name in list(state):
            if "." in name:
                state[f"module.{name}"] = state.pop(name)
        del state["module.encoder.layer4.1.bn2.weight"]

    found = message("monodepth2", change(monodepth2 / "encoder.pth", rename))
    assert "encoder.pth: not the weights of monodepth2 with resnet18" in found
    assert "1 missing:\n    module.encoder.layer4.1.bn2.weight 512" in found
    assert "unexpected" not in found


def test_a_decoder_for_another_encoder_is_refused(monodepth2: Path):
    state = DepthDecoder([64, 256, 512, 1024, 2048]).state_dict()
    torch.save(state | {"decoder.14.conv.weight": torch.zeros(1)}, monodepth2 / "depth.pth")
    found = message("monodepth2", monodepth2)
    assert "depth.pth: not the weights of monodepth2 with resnet18" in found
    assert "decoder.0.conv.conv.weight is 256x2048x3x3, expected 256x512x3x3" in found
    assert "1 unexpected:\n    decoder.14.conv.weight 1" in found


def test_encoders_that_are_not_here_are_named(tmp_path: Path):
    layers = {
        f"encoder.original_model.features.denseblock{i}.denselayer{n}.norm1.weight": IMAGE
        for i, n in zip((1, 2, 3, 4), (6, 12, 36, 24), strict=True)
    }
    torch.save(layers, tmp_path / "first_port.pth")
    found = message("densedepth", tmp_path / "first_port.pth")
    assert "its encoder is densenet161" in found
    assert "densenet169" in found
    torch.save({"stages.0.weight": IMAGE}, tmp_path / "other.pth")
    found = message("densedepth", tmp_path / "other.pth")
    assert "neither a ResNet nor a DenseNet; it begins with stages.0.weight" in found


class Net(nn.Module):
    """A class that a pickle of a whole model names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_pickled_code_is_refused_with_its_class_and_the_way_out(new_format: bool, tmp_path: Path):
    path = tmp_path / "mobilenet-nnconv5dw-skipadd.pth.tar"
    torch.save({"epoch": 14, "model": Net()}, path, _use_new_zipfile_serialization=new_format)
    found = message("fastdepth", path)
    assert f"{path}: it holds Python code (tests.models.test_weights_refused.Net)" in found
    assert "torch.save(checkpoint['model'].state_dict(), NEW)" in found


class Payload:
    """Makes a file, when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path):
    torch.save({"a": torch.zeros(2), "b": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    assert "holds Python code" in message("densedepth", tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a file of tensors, or damaged, or cut short"),
        (b"hello there, this is text", "not a file of tensors, or damaged, or cut short"),
        (b"\n<!DOCTYPE html><html>quota exceeded", "it is a web page"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_file_of_tensors_is_refused(
    content: bytes, expected: str, suffix: str, tmp_path: Path
):
    path = (tmp_path / "weights").with_suffix(suffix)
    path.write_bytes(content)
    found = message("fastdepth", path)
    assert found.startswith(f"{path}: {expected}")


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_refused(
    share: float, new_format: bool, fastdepth: Path, mobilenet: State
):
    torch.save(mobilenet, fastdepth, _use_new_zipfile_serialization=new_format)
    whole = fastdepth.read_bytes()
    fastdepth.write_bytes(whole[: int(share * len(whole))])
    assert "cut short by the download" in message("fastdepth", fastdepth)


def test_an_archive_is_to_be_unpacked(monodepth2: Path):
    path = monodepth2 / "mono+stereo_640x192.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(monodepth2 / "depth.pth", "depth.pth")
    assert "it is an archive of depth.pth; unpack it" in message("monodepth2", path)


def test_files_that_are_not_there_are_named(monodepth2: Path, tmp_path: Path):
    assert "nowhere: no such file or folder" in message("monodepth2", tmp_path / "nowhere")
    assert "nowhere.pth: no such file" in message("fastdepth", tmp_path / "nowhere.pth")
    (monodepth2 / "depth.pth").unlink()
    found = message("monodepth2", monodepth2)
    assert "no depth.pth (nor depth_decoder, decoder); there are encoder.pth" in found
    with pytest.raises(InputError, match=r"no pose_encoder.pth .*there are encoder.pth"):
        import_pose(monodepth2)


def test_several_candidates_are_listed(monodepth2: Path, fastdepth: Path):
    (monodepth2 / "depth.safetensors").write_bytes(b"")
    found = message("monodepth2", monodepth2)
    assert "keep one of depth.pth, depth.safetensors" in found
    (fastdepth.parent / "other.pth").write_bytes(b"")
    found = message("fastdepth", fastdepth.parent)
    assert "give one file of weights; there are fastdepth.pth, other.pth" in found
    (monodepth2.parent / "s").mkdir()
    (monodepth2.parent / "s" / "encoder.pth").write_bytes(b"")
    assert "several folders hold weights; give one of ms, s" in message(
        "monodepth2", monodepth2.parent
    )


def test_a_file_without_a_dict_of_tensors_is_refused(tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save(torch.zeros(3), path)
    assert "it holds a Tensor, not a dict of tensors" in message("fastdepth", path)
    torch.save({"epoch": 3, "lr": 0.1}, path)
    assert "no dict of tensors, alone or under state_dict" in message("fastdepth", path)


def test_a_pyramid_between_encoder_and_decoder_is_refused(monodepth2: Path):
    (monodepth2 / "fpn.pth").write_bytes(b"")
    assert "fpn.pth: a feature pyramid" in message("monodepth2", monodepth2)


def test_unknown_formats_and_settings_are_refused(fastdepth: Path):
    found = message("midas", fastdepth)
    assert "unknown format 'midas'; known: monodepth2, fastdepth, densedepth" in found
    with pytest.raises(InputError, match="no setting 'metres_per_unit'"):
        import_weights("fastdepth", fastdepth, metres_per_unit=5.4)
    with pytest.raises(InputError, match="min_depth < max_depth"):
        import_weights("fastdepth", fastdepth, min_depth=20.0)


# ---- the command


def test_the_command_leaves_nothing_when_the_weights_are_refused(fastdepth: Path, tmp_path: Path):
    out = tmp_path / "imported"
    fastdepth.write_bytes(b"")
    done = CliRunner().invoke(
        app, ["import-weights", "fastdepth", str(fastdepth), "--out", str(out)]
    )
    assert done.exit_code == 1
    assert not out.exists()


def test_the_command_replaces_no_folder(fastdepth: Path, tmp_path: Path):
    (tmp_path / "kept.json").write_text(json.dumps({}))
    command = ["import-weights", "fastdepth", str(fastdepth), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "is there already" in done.output
    assert (tmp_path / "kept.json").exists()
