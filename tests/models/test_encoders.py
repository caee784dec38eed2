"""Encoders: the published networks to the last weight, and where their weights come from."""

import hashlib
import math
import os
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from mde.errors import InputError
from mde.models.encoders import (
    ENCODERS,
    IMAGENET_NORM,
    MONODEPTH2_NORM,
    NO_NORM,
    Encoder,
    check_encoder,
)
from mde.models.encoders.imagenet import ImageNetFile

PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "densenet121": 6_953_856,
    "densenet169": 12_484_480,
    "densenet201": 18_092_928,
    "mobilenet_v1": 3_206_976,
    "vgg16": 14_714_688,
}
CHANNELS = {
    "resnet18": [64, 64, 128, 256, 512],
    "resnet34": [64, 64, 128, 256, 512],
    "resnet50": [64, 256, 512, 1024, 2048],
    "densenet121": [64, 256, 512, 1024, 1024],
    "densenet169": [64, 256, 512, 1280, 1664],
    "densenet201": [64, 256, 512, 1792, 1920],
    "mobilenet_v1": [64, 128, 256, 512, 1024],
    "vgg16": [64, 128, 256, 512, 512],
}
every = pytest.mark.parametrize("name", ENCODERS)
NOWHERE = "http://127.0.0.1:9/weights"


def encoder(name: str, **options) -> Encoder:
    return Encoder(name, "scratch", NO_NORM, **options)


@cache
def on_paper(name: str, **options) -> Encoder:
    """Shapes without numbers."""
    with torch.device("meta"):
        return encoder(name, **options)


def image(height: int = 64, width: int = 96, channels: int = 3, batch: int = 1) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def assert_same_maps(maps: list[Tensor], expected: list[Tensor]) -> None:
    assert len(maps) == len(expected)
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def with_lively_norms(model: nn.Module) -> nn.Module:
    """Batch norms away from 1 and 0, so that each of them counts; the maps stay of order 1."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.num_batches_tracked.zero_()
            for values in (layer.weight.data, layer.running_var):
                values.uniform_(0.8, 1.2, generator=generator)
            for values in (layer.bias.data, layer.running_mean):
                values.uniform_(-0.1, 0.1, generator=generator)
    return model.eval()


@cache
def torchvision_model(name: str) -> nn.Module:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    if name == "vgg16":
        model.classifier = nn.Identity()
    torch.manual_seed(0)
    for values in model.to_empty(device="cpu").parameters():
        values.data.normal_(0, math.sqrt(1 / values[0].numel()) if values.ndim > 1 else 0.1)
    return with_lively_norms(model)


def without_classifier(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in weights.items() if not k.startswith(("fc.", "classifier."))}


def hooked_maps(model: nn.Module, layers: list[str], x: Tensor) -> list[Tensor]:
    """What `layers` give, copied at once: a later layer may work in place."""
    maps: list[Tensor] = []
    hooks = [
        model.get_submodule(layer).register_forward_hook(lambda *call: maps.append(call[2].clone()))
        for layer in layers
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return maps


# The networks


@every
def test_sizes_are_the_published_ones(name: str):
    assert num_parameters(on_paper(name)) == PARAMETERS[name]


def test_a_pair_of_images_enlarges_the_first_convolution_only():
    assert num_parameters(on_paper("resnet18", num_images=2)) == 11_185_920


@pytest.mark.parametrize(
    ("name", "pooled"), [*((name, False) for name in ENCODERS), ("densenet169", True)]
)
def test_every_encoder_gives_five_maps_at_strides_2_to_32(name: str, pooled: bool):
    model = on_paper(name, pooled=True) if pooled else on_paper(name)
    maps = model(torch.empty(2, 3, 64, 96, device="meta"))
    shapes = [(2, c, 64 >> s, 96 >> s) for s, c in enumerate(model.channels, start=1)]
    assert [tuple(m.shape) for m in maps] == shapes
    assert model.channels == ([64, 64, 128, 256, 1664] if pooled else CHANNELS[name])


BLOCKS = [f"features.denseblock{i}" for i in range(1, 5)]
VGG_POOLS = [f"features.{i}" for i in (4, 9, 16, 23, 30)]
POOLED = ["relu0", "pool0", "transition1", "transition2"]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("resnet50", ["layer1", "layer2", "layer3", "layer4"]),
        ("densenet121", ["features.relu0", *BLOCKS]),
        ("vgg16", VGG_POOLS),
    ],
)
def test_maps_are_those_of_torchvision_with_the_same_weights(name: str, layers: list[str]):
    model, published = encoder(name).eval(), torchvision_model(name)
    model.backbone.load_state_dict(without_classifier(published.state_dict()))
    with torch.no_grad():
        maps = model(image())
    # The stem's activation of a ResNet is the input of its max pooling.
    maps = maps[1:] if name.startswith("resnet") else maps
    assert_same_maps(maps, hooked_maps(published, layers, image()))


def test_the_finest_map_of_a_resnet_is_its_stem_before_the_pooling():
    model, published = encoder("resnet18").eval(), torchvision_model("resnet18")
    model.backbone.load_state_dict(without_classifier(published.state_dict()))
    with torch.no_grad():
        stem = published.bn1(published.conv1(image())).relu()
        torch.testing.assert_close(model(image())[0], stem, rtol=1e-5, atol=1e-5)


def test_pooled_maps_of_a_densenet_end_with_its_normalised_features():
    model, published = encoder("densenet121", pooled=True).eval(), torchvision_model("densenet121")
    model.backbone.load_state_dict(without_classifier(published.state_dict()))
    with torch.no_grad():
        maps, last = model(image()), published.features(image()).relu()
    layers = [f"features.{layer}" for layer in POOLED]
    assert_same_maps(maps, [*hooked_maps(published, layers, image()), last])


@pytest.mark.parametrize(
    ("name", "pooled"),
    [("resnet18", False), ("densenet121", False), ("densenet121", True), ("mobilenet_v1", False)],
)
def test_every_trainable_parameter_gets_a_gradient(name: str, pooled: bool):
    model = encoder(name, pooled=pooled)
    sum((m.square().mean() for m in model(image(batch=2))), torch.zeros(())).backward()
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert [n for n, p in model.named_parameters() if p.grad is not None] == trainable
    frozen = num_parameters(model) - sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert frozen == (2 * 1024 if name == "densenet121" and not pooled else 0)


@pytest.mark.parametrize(
    ("name", "mode"), [("resnet18", "out"), ("densenet121", "in"), ("mobilenet_v1", "out")]
)
def test_scratch_convolutions_have_the_published_spread_and_norms_start_at_one(
    name: str, mode: str
):
    torch.manual_seed(0)
    for layer in encoder(name).modules():
        if isinstance(layer, nn.Conv2d):
            width = layer.out_channels if mode == "out" else layer.in_channels
            expected = math.sqrt(2 / (layer.kernel_size[0] ** 2 * width))
            error = 5 / math.sqrt(2 * layer.weight.numel())
            assert layer.weight.std().item() == pytest.approx(expected, rel=error)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.eq(1).all()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v1", "vgg16"])
def test_channels_last_images_stay_channels_last(name: str):
    model = encoder(name).eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = model(image().to(memory_format=torch.channels_last))
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)


def test_the_image_is_normalised_before_the_backbone():
    torch.manual_seed(0)
    model = Encoder("resnet18", "scratch", MONODEPTH2_NORM).eval()
    with torch.no_grad():
        assert_same_maps(model(image()), model.backbone((image() - 0.45) / 0.225))
    pair = Encoder("resnet18", "scratch", IMAGENET_NORM, num_images=2)
    assert pair.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406] * 2)


# Names


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'resnet19'; known: densenet121, .*vgg16, and timm:<"):
        Encoder("resnet19", "scratch", NO_NORM)
    with pytest.raises(ValueError, match="unknown encoder 'timm:'"):
        check_encoder("timm:")


def test_timm_is_needed_for_its_own_models_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    check_encoder("timm:convnext_atto")
    encoder("mobilenet_v1")
    with pytest.raises(ImportError):
        encoder("timm:convnext_atto")


# ImageNet weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of torch.hub; gives where its checkpoints go."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def publish(hub: Path, monkeypatch: pytest.MonkeyPatch):
    """Put weights where those of `name` are looked for, under their true hash."""

    def put(name: str, weights: dict, sha256: str | None = None) -> Path:
        file = ENCODERS[name].imagenet
        save = save_file if file.name.endswith(".safetensors") else torch.save
        save(weights, hub / file.name)
        if sha256 is None:
            sha256 = hashlib.sha256((hub / file.name).read_bytes()).hexdigest()[:8]
        entry = ImageNetFile(file.name, NOWHERE, sha256, file.rename)
        monkeypatch.setitem(ENCODERS, name, ENCODERS[name]._replace(imagenet=entry))
        return hub / file.name

    return put


def as_published(name: str) -> dict[str, Tensor]:
    """A state dict as old as torchvision's files: before batch norms counted their batches."""
    weights = torchvision_model(name).state_dict()
    return {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}


def imagenet(name: str, **options) -> Encoder:
    return Encoder(name, "imagenet", NO_NORM, **options).eval()


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "mobilenet_v1"])
def test_addresses_and_hashes_are_those_of_torchvision(name: str):
    file = ENCODERS[name].imagenet
    assert file.url == torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    assert file.url.endswith(f"{name}-{file.sha256}.pth")
    assert len(file.sha256) == 8


def test_imagenet_weights_fill_the_backbone_without_the_classifier(publish):
    publish("resnet18", as_published("resnet18"))
    found = imagenet("resnet18").backbone.state_dict()
    expected = without_classifier(torchvision_model("resnet18").state_dict())
    torch.testing.assert_close(dict(found), expected, rtol=0, atol=0)


def test_a_pair_of_equal_images_gives_the_maps_of_one_image(publish):
    publish("resnet18", as_published("resnet18"))
    with torch.no_grad():
        pair = imagenet("resnet18", num_images=2)(torch.cat([image(), image()], 1))
        assert_same_maps(pair, imagenet("resnet18")(image()))


def test_old_names_of_densenet_files_are_understood(publish):
    weights = as_published("densenet121")
    old = {
        k.replace("norm1", "norm.1").replace("norm2", "norm.2")
        .replace("conv1", "conv.1").replace("conv2", "conv.2"): v
        for k, v in weights.items()
    }  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    publish("densenet121", old)
    found = imagenet("densenet121").backbone.state_dict()
    expected = without_classifier(torchvision_model("densenet121").state_dict())
    torch.testing.assert_close(dict(found), expected, rtol=0, atol=0)


def test_mobilenet_weights_of_timm_give_the_maps_of_timm(publish):
    torch.manual_seed(0)
    published = with_lively_norms(timm.create_model("mobilenetv1_100"))
    publish("mobilenet_v1", published.state_dict())
    with torch.no_grad():
        maps = imagenet("mobilenet_v1")(image())
    assert_same_maps(maps, hooked_maps(published, [f"blocks.{i}" for i in range(5)], image()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv14.0.weight": torch.ones(1)}, "Unexpected .*conv14.0.weight"),
        ({"conv1.1.weight": None}, "Missing .*conv1.1.weight"),
        ({"conv0.0.weight": None}, "Missing .*conv0.0.weight"),
        ({"conv1.1.weight": torch.ones(3)}, "size mismatch for conv1.1.weight"),
    ],
)
def test_weights_of_another_network_are_refused_by_key(publish, change: dict, message: str):
    weights = encoder("mobilenet_v1").backbone.state_dict() | change
    path = publish("mobilenet_v1", {k: v for k, v in weights.items() if v is not None})
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        imagenet("mobilenet_v1")
    assert str(caught.value).startswith(f"{path}: not the weights of 'mobilenet_v1'")


def test_a_damaged_file_is_refused_by_name(publish):
    path = publish("resnet18", {}, sha256="f37072fd")
    with pytest.raises(InputError, match=r"damaged: its SHA-256 starts .* f37072fd") as caught:
        imagenet("resnet18")
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_weights_is_refused_by_name(publish):
    path = publish("mobilenet_v1", {"a": torch.ones(1)}, sha256="")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="cannot be read as weights") as caught:
        imagenet("mobilenet_v1")
    assert str(path) in str(caught.value)


class Trap:
    """Pickled code: makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_not_run(publish, tmp_path: Path):
    publish("resnet18", {"conv1.weight": Trap(tmp_path / "trapped")})
    with pytest.raises(InputError, match="cannot be read as weights"):
        imagenet("resnet18")
    assert not (tmp_path / "trapped").exists()


def test_offline_the_error_names_the_file_its_address_and_the_way_out(
    hub: Path, monkeypatch: pytest.MonkeyPatch
):
    file = ImageNetFile("resnet18-f37072fd.pth", NOWHERE, "f37072fd")
    monkeypatch.setitem(ENCODERS, "resnet18", ENCODERS["resnet18"]._replace(imagenet=file))
    with pytest.raises(InputError) as caught:
        imagenet("resnet18")
    for part in ("'resnet18'", str(hub / file.name), NOWHERE, "`weights: scratch`"):
        assert part in str(caught.value)
    assert list(hub.iterdir()) == []


def test_a_download_is_kept_when_it_is_whole_and_dropped_when_it_is_damaged(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "server.pth"
    torch.save(encoder("mobilenet_v1").backbone.state_dict(), source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for sha256, kept in (("0" * 8, []), (digest, [hub / "weights.pth"])):
        file = ImageNetFile("weights.pth", source.as_uri(), sha256)
        monkeypatch.setitem(
            ENCODERS, "mobilenet_v1", ENCODERS["mobilenet_v1"]._replace(imagenet=file)
        )
        if kept:
            imagenet("mobilenet_v1")
        else:
            with pytest.raises(InputError, match="damaged"):
                imagenet("mobilenet_v1")
        assert list(hub.iterdir()) == kept


# Models of timm


def test_a_model_of_timm_gives_its_own_five_maps():
    torch.manual_seed(0)
    model = encoder("timm:mobilenetv3_small_050").eval()
    assert model.channels == [16, 8, 16, 24, 288]
    with torch.no_grad():
        maps = model(image())
        assert_same_maps(maps, model.backbone.body(image()))
    assert [m.shape[-2:] for m in maps] == [(64 >> s, 96 >> s) for s in range(1, 6)]


def test_a_model_that_starts_at_stride_4_gets_a_first_map_without_channels():
    model = on_paper("timm:convnext_atto", num_images=2)
    assert model.channels == [0, 40, 80, 160, 320]
    maps = model(torch.empty(2, 6, 64, 96, device="meta"))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 >> s, 96 >> s) for s, c in enumerate(model.channels, start=1)
    ]


def test_the_map_without_channels_does_not_widen_what_it_is_joined_to():
    model = encoder("timm:starnet_s050").eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = model(image())
        upsampled = maps[1].repeat(1, 1, 2, 2)
        joined = torch.cat([upsampled, maps[0]], 1)
    assert joined.dtype == upsampled.dtype == torch.bfloat16
    torch.testing.assert_close(joined, upsampled)


def test_channels_last_maps_of_timm_come_with_the_channels_first():
    model = encoder("timm:mambaout_femto").eval()
    with torch.no_grad():
        maps = model(image())
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 >> s, 96 >> s) for s, c in enumerate(model.channels, start=1)
    ]


def test_maps_finer_than_stride_2_are_left_out():
    model = on_paper("timm:vgg11")
    maps = model(torch.empty(1, 3, 64, 96, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 >> s, 96 >> s) for s, c in enumerate([128, 256, 512, 512, 512], start=1)
    ]


def test_a_model_for_one_size_says_so():
    model = on_paper("timm:efficientformer_l1")
    with pytest.raises(ValueError, match="takes images of 224x224 only, found 64x96"):
        model(image().to("meta"))


def test_a_model_without_a_pyramid_is_refused_with_its_strides():
    with pytest.raises(InputError, match=r"vit_tiny_patch16_224 gives maps at strides \[16, 16"):
        encoder("timm:vit_tiny_patch16_224")


def test_an_unknown_model_of_timm_is_refused_with_near_names():
    with pytest.raises(InputError, match=r"no model 'resnet_18'; near names: .*resnet18"):
        encoder("timm:resnet_18")
    with pytest.raises(InputError, match=r"resnet18 has no weights 'of_nobody'; known: a1_in1k,"):
        encoder("timm:resnet18.of_nobody")


def test_offline_timm_gives_up_at_once_and_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        imagenet("timm:mobilenetv3_small_050")
    # The hub's own retries sleep for 46 s.
    assert time.monotonic() - start < 20
    source = "timm/mobilenetv3_small_050.lamb_in1k"
    for part in ("'timm:mobilenetv3_small_050'", source, str(tmp_path), "`weights: scratch`"):
        assert part in str(caught.value)
    assert not constants.HF_HUB_OFFLINE


def test_a_model_of_timm_without_weights_is_told_from_one_that_is_offline():
    with pytest.raises(InputError, match="timm has no weights for 'mobilenetv2_035'"):
        imagenet("timm:mobilenetv2_035")
