"""Depth models, family by encoder: sizes to the unit, shapes, ranges, gradients and messages."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mde.models import FAMILIES, DepthModel, ModelConfig, build_mask, build_model, build_pose

# A small network of every family whose encoder can be exchanged.
CONFIGS = {
    "densedepth": ModelConfig("densedepth", "mobilenet_v1", "scratch", 0.1, 10.0, width=0.1),
    "fastdepth": ModelConfig("fastdepth", "mobilenet_v1", "scratch", 0.1, 10.0),
    "monodepth2": ModelConfig("monodepth2", "resnet18", "scratch", 0.1, 100.0),
    "resfpn": ModelConfig("resfpn", "resnet18", "scratch", 0.1, 10.0),
}
families = pytest.mark.parametrize("family", CONFIGS)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def image(height: int = 64, width: int = 96, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def without_gradient(module: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]


def leave_initial_zeros(module: nn.Module) -> None:
    """A residual branch starts at zero, and what is in it learns from the second step on."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.uniform_(parameter, 0.5, 1.5)


@cache
def untouched(family: str) -> DepthModel:
    torch.manual_seed(0)
    return build_model(CONFIGS[family])


def build(family: str) -> DepthModel:
    # A copy costs a tenth of random numbers.
    return deepcopy(untouched(family))


def on_paper(family: str, encoder: str, **settings: float) -> DepthModel:
    """A model of torch's meta device: shapes without numbers, at no cost."""
    with torch.device("meta"):
        return build_model(ModelConfig(family, encoder, "scratch", **settings)).eval()


def conv(inputs: int, outputs: int, size: int = 3) -> int:
    """Parameters of a convolution with bias."""
    return outputs * (inputs * size**2 + 1)


@pytest.mark.parametrize(
    ("family", "encoder", "settings", "encoder_size", "decoder_size", "total"),
    [
        ("monodepth2", "resnet18", {}, 11_176_512, 3_152_724, 14_329_236),
        ("monodepth2", "resnet50", {}, 23_508_032, 9_014_100, 32_522_132),
        ("monodepth2", "densenet121", {}, 6_953_856, 6_654_804, 13_608_660),
        ("monodepth2", "densenet169", {}, 12_484_480, 8_719_188, 21_203_668),
        ("monodepth2", "densenet201", {}, 18_092_928, 10_488_660, 28_581_588),
        ("densedepth", "densenet169", {}, 12_484_480, 30_173_209, 42_657_689),
        ("densedepth", "densenet169", {"width": 0.5}, 12_484_480, 8_880_925, 21_365_405),
        ("densedepth", "densenet169", {"downsample": 4}, 12_484_480, 30_173_209, 42_657_689),
        ("densedepth", "densenet201", {}, 18_092_928, 39_713_161, 57_806_089),
        ("fastdepth", "mobilenet_v1", {}, 3_206_976, 753_954, 3_960_930),
        ("resfpn", "resnet18", {}, 11_176_512, 1_549_313, 12_725_825),
    ],
)
def test_sizes_are_the_published_ones(
    family: str, encoder: str, settings: dict, encoder_size: int, decoder_size: int, total: int
):
    assert encoder_size + decoder_size == total
    model = on_paper(family, encoder, **settings)
    assert num_parameters(model.encoder) == encoder_size
    assert num_parameters(model) == total


def test_sizes_of_the_decoders_follow_from_their_tables():
    disparity = conv(512, 256) + conv(256 + 256, 256) + conv(256, 128) + conv(128 + 128, 128)
    disparity += conv(128, 64) + conv(64 + 64, 64) + conv(64, 32) + conv(32 + 64, 32)
    disparity += conv(32, 16) + conv(16, 16) + sum(conv(c, 1) for c in (16, 32, 64, 128))
    assert disparity == 3_152_724
    dense = conv(1664, 1664, 1) + conv(104, 1)
    for inputs, skip in ((1664, 256), (832, 128), (416, 64), (208, 64)):
        dense += conv(inputs + skip, inputs // 2) + conv(inputs // 2, inputs // 2)
    assert dense == 30_173_209
    # A block: 5x5 per channel and 1x1, both without bias, and two numbers a channel per norm.
    fast = sum(25 * c + 2 * c + c * c // 2 + c for c in (1024, 512, 256, 128, 64)) + 32 + 2
    assert fast == 753_954
    assert conv(128, 64) + conv(256, 128) + conv(512, 256) + conv(64, 1) == 1_549_313


def test_the_pose_network_has_its_published_size():
    assert num_parameters(build_pose(CONFIGS["monodepth2"])) == 11_185_920 + 1_314_572 == 12_500_492


def test_eigen_has_its_published_size():
    scale1 = 14_714_688 + 132_124_672 + 69_747_328
    assert scale1 + 486_017 + 282_753 == 217_355_458
    assert num_parameters(on_paper("eigen", "vgg16")) == 217_355_458


def test_eigen_is_built_for_the_size_and_the_width_of_its_config():
    model = on_paper("eigen", "vgg16", width=0.1, input_size=(64, 96))
    assert model(image().to("meta"))[0].shape[-2:] == (27, 43)
    assert num_parameters(model) < 3e6


# The first number: how much smaller a family's finest map is than the image. The last encoder has
# no map at half the image's size.
@pytest.mark.parametrize(
    ("family", "shrinks"), [("densedepth", 2), ("fastdepth", 1), ("monodepth2", 1), ("resfpn", 4)]
)
@pytest.mark.parametrize(
    "encoder", ["resnet50", "densenet121", "mobilenet_v1", "vgg16", "timm:convnext_atto"]
)
def test_every_family_takes_every_kind_of_encoder(family: str, shrinks: int, encoder: str):
    maps = on_paper(family, encoder)(image().to("meta"))
    assert maps[0].shape == (2, 1, 64 // shrinks, 96 // shrinks)


@families
def test_an_encoder_without_a_stem_learns(family: str):
    torch.manual_seed(0)
    model = build_model(ModelConfig(family, "timm:convnext_atto", "scratch", 0.1, 10.0))
    sum((m * torch.randn_like(m)).sum() for m in model(image())).backward()
    missing = without_gradient(model)
    # Its last norm and head are not part of a pyramid.
    assert [name for name in missing if not name.startswith("encoder.")] == []


def test_monodepth2_returns_sigmoids_at_four_scales_finest_first():
    maps = build("monodepth2")(image())
    assert [tuple(m.shape) for m in maps] == [(2, 1, 64 >> s, 96 >> s) for s in range(4)]
    assert all(m.min() > 0 and m.max() < 1 for m in maps)


def test_monodepth2_ends_of_the_sigmoid_are_the_ends_of_the_depth_range():
    depth = build("monodepth2").native_to_depth(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(depth, torch.tensor([100.0, 0.1]))


def test_a_mask_has_a_sigmoid_map_for_each_source_at_the_scales_of_the_disparity():
    model = build("monodepth2")
    features = model.encoder(image())
    masks = build_mask(model, num_sources=2)(features)
    disparities = model.decoder(features)
    assert [m.shape[-2:] for m in masks] == [d.shape[-2:] for d in disparities]
    assert all(m.shape[1] == 2 and m.min() > 0 and m.max() < 1 for m in masks)


def test_a_mask_without_monodepth2_is_refused():
    with pytest.raises(ValueError, match="goes with monodepth2, found a ResFpn model"):
        build_mask(build("resfpn"), num_sources=2)


def test_resfpn_returns_one_map_at_a_quarter_that_starts_inside_the_range():
    (depth,) = build("resfpn")(image())
    assert depth.shape == (2, 1, 16, 24)
    assert 0.1 < depth.mean() < 10


def test_parts_of_resfpn_with_a_resnet18_are_the_published_ones():
    parts = {name.partition(".")[0] for name in build("resfpn").state_dict()}
    assert parts == {"encoder", "residual_convs", "final_conv"}


def test_resfpn_projects_a_stem_that_its_first_stage_does_not_match():
    assert num_parameters(on_paper("resfpn", "resnet50").stem) == conv(64, 256, size=1)


@families
def test_every_parameter_learns(family: str):
    model = build(family)
    leave_initial_zeros(model)
    sum((m * torch.randn_like(m)).sum() for m in model(image())).backward()
    assert without_gradient(model) == []


def test_every_parameter_of_the_pose_network_learns():
    pose = build_pose(CONFIGS["monodepth2"])
    leave_initial_zeros(pose)
    rotation, translation = pose(image(), image().flip(-1))
    assert rotation.shape == translation.shape == (2, 3)
    (rotation.sum() + translation.sum()).backward()
    assert without_gradient(pose) == []


def test_motions_start_small_and_depend_on_the_order_of_the_frames():
    pose = build_pose(CONFIGS["monodepth2"]).eval()
    forth, back = pose(image(), image().flip(-1)), pose(image().flip(-1), image())
    assert max(part.abs().max() for part in forth) < 0.1
    assert not torch.equal(forth[0], back[0])


@pytest.mark.parametrize("family", ["fastdepth", "monodepth2", "resfpn"])
@pytest.mark.parametrize("size", [(60, 96), (64, 100)])
def test_a_size_that_does_not_fit_is_refused_with_the_multiple(family: str, size: tuple[int, int]):
    with pytest.raises(ValueError, match=rf"multiples of 32, found {size[0]}x{size[1]}"):
        untouched(family)(image(*size))


@families
def test_predict_depth_has_the_size_of_the_image(family: str):
    depth = build(family).eval().predict_depth(image())
    assert depth.shape == (2, 1, 64, 96)
    assert depth.dtype == torch.float32


@families
def test_predict_depth_takes_images_of_any_size_and_gives_depth_of_the_size_asked_for(family: str):
    model = build(family).eval()
    assert model.predict_depth(image(70, 101)).shape == (2, 1, 70, 101)
    assert model.predict_depth(image(70, 101), (33, 47)).shape == (2, 1, 33, 47)
    plain = model.predict_depth(image())
    # The scene stays in place when the image comes a little larger.
    larger = F.interpolate(image(), (68, 102), mode="bilinear", antialias=True)
    moved = model.predict_depth(larger, (64, 96))
    assert (moved / plain).log().abs().median() < 0.1


@families
def test_predictions_repeat_and_do_not_depend_on_the_rest_of_the_batch(family: str):
    model = build(family).eval()
    depth = model.predict_depth(image())
    assert torch.equal(model.predict_depth(image()), depth)
    torch.testing.assert_close(model.predict_depth(image()[1:]), depth[1:], rtol=1e-4, atol=1e-4)


@families
def test_channels_last_changes_nothing(family: str):
    model = build(family).eval()
    expected = model(image())[0]
    model.to(memory_format=torch.channels_last)
    native = model(image().contiguous(memory_format=torch.channels_last))[0]
    torch.testing.assert_close(native, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("bias", "expected"), [(1e4, 10.0), (-1e4, 0.1)])
def test_predict_depth_of_resfpn_is_clamped_to_the_range(bias: float, expected: float):
    model = build("resfpn").eval()
    nn.init.constant_(model.final_conv.bias, bias)
    assert model.predict_depth(image()).unique().tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize(("bias", "expected"), [(1e4, 0.1), (-1e4, 100.0)])
def test_predict_depth_of_monodepth2_reaches_the_ends_of_its_range(bias: float, expected: float):
    model = build("monodepth2").eval()
    nn.init.constant_(model.decoder.heads[0].bias, bias)
    assert model.predict_depth(image()).unique().tolist() == [pytest.approx(expected)]


def test_metres_per_unit_scales_the_depth_and_its_range():
    plain = build("monodepth2").eval()
    settings = {"min_depth": 0.1, "max_depth": 100.0, "metres_per_unit": 5.4}
    metric = on_paper("monodepth2", "resnet18", **settings).to_empty(device="cpu")
    metric.encoder, metric.decoder = plain.encoder, plain.decoder
    torch.testing.assert_close(metric.predict_depth(image()), 5.4 * plain.predict_depth(image()))
    assert (metric.min_depth, metric.max_depth) == pytest.approx((0.54, 540.0))


def test_a_model_says_whether_its_depth_is_in_metres():
    assert not on_paper("monodepth2", "resnet18", metric=False).is_metric
    assert all(untouched(family).is_metric for family in CONFIGS)


@families
def test_bfloat16_autocast_changes_the_depth_a_little_only(family: str):
    model = build(family).eval()
    expected = model.predict_depth(image())
    with torch.autocast("cpu", torch.bfloat16):
        depth = model.predict_depth(image())
    assert depth.dtype == torch.float32
    torch.testing.assert_close(depth, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "monodepth3"}, "unknown family 'monodepth3'; known: densedepth, eigen, fastd"),
        ({"encoder": "resnet19"}, "unknown encoder 'resnet19'; known: .*resnet18"),
        ({"min_depth": 0.0}, "0 < min_depth < max_depth must hold, found 0.0, 10.0"),
        ({"min_depth": 20.0}, "found 20.0, 10.0"),
        ({"metres_per_unit": 0.0}, "metres_per_unit must be positive, found 0.0"),
        ({"width": 0.0}, "width must be positive, found 0.0"),
        ({"width": float("nan")}, "width must be positive, found nan"),
        ({"downsample": 3}, "downsample must be 1, 2, 4, 8, …, found 3"),
        ({"downsample": 0}, "found 0"),
        ({"input_size": (0, 8)}, r"input_size must be two positive numbers, found \(0, 8\)"),
        ({"width": 0.5}, "'resfpn' has no setting 'width', found 0.5; .* it: densedepth, eigen"),
        ({"downsample": 4}, "no setting 'downsample', found 4; .* it: densedepth"),
        ({"inverse": False}, "no setting 'inverse', found False; .* it: densedepth"),
        ({"input_size": (64, 96)}, r"no setting 'input_size', found \(64, 96\); .* it: eigen"),
        ({"metres_per_unit": 5.4}, "no setting 'metres_per_unit', found 5.4; .* it: monodepth2"),
        ({"metric": False}, "no setting 'metric', found False; .* it: monodepth2"),
        ({"family": "eigen"}, "the encoder of family 'eigen' is 'vgg16', found 'resnet18'"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(change: dict, message: str):
    settings = {"family": "resfpn", "encoder": "resnet18", "weights": "scratch"} | change
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_takes_its_settings_from_the_config_alone(family: str):
    encoder = FAMILIES[family].only_encoder or "resnet18"
    model = on_paper(family, encoder, min_depth=0.5, max_depth=20.0)
    assert (model.min_depth, model.max_depth) == (0.5, 20.0)
