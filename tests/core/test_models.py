"""Depth models: sizes to the unit, shapes, ranges, gradients and messages."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from mde.errors import InputError
from mde.models import DepthModel, ModelConfig, build_model, build_pose

CONFIGS = {
    "monodepth2": ModelConfig("monodepth2", "resnet18", "scratch", 0.1, 100.0),
    "resfpn": ModelConfig("resfpn", "resnet18", "scratch", 0.1, 10.0),
}
families = pytest.mark.parametrize("family", CONFIGS)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def image(height: int = 64, width: int = 96, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def without_gradient(module: nn.Module) -> list[str]:
    return [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]


def leave_initial_zeros(module: nn.Module) -> None:
    """A residual branch starts at zero, and what is in it learns from the second step on."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.uniform_(parameter, 0.5, 1.5)


def build(family: str) -> DepthModel:
    torch.manual_seed(0)
    return build_model(CONFIGS[family])


def test_sizes_are_the_published_ones():
    assert num_parameters(build("monodepth2")) == 14_329_236
    assert num_parameters(build_pose(CONFIGS["monodepth2"])) == 12_500_492
    assert num_parameters(build("resfpn")) == 12_725_825


def test_monodepth2_returns_sigmoids_at_four_scales_finest_first():
    maps = build("monodepth2")(image())
    assert [tuple(m.shape) for m in maps] == [(2, 1, 64 >> s, 96 >> s) for s in range(4)]
    assert all(m.min() > 0 and m.max() < 1 for m in maps)


def test_monodepth2_ends_of_the_sigmoid_are_the_ends_of_the_depth_range():
    depth = build("monodepth2").native_to_depth(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(depth, torch.tensor([100.0, 0.1]))


def test_resfpn_returns_one_map_at_a_quarter_that_starts_inside_the_range():
    (depth,) = build("resfpn")(image())
    assert depth.shape == (2, 1, 16, 24)
    assert 0.1 < depth.mean() < 10


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


@families
@pytest.mark.parametrize("size", [(60, 96), (64, 100)])
def test_a_size_that_does_not_fit_is_refused_with_the_multiple(family: str, size: tuple[int, int]):
    with pytest.raises(ValueError, match=rf"multiples of 32, found {size[0]}x{size[1]}"):
        build(family)(image(*size))


@families
def test_predict_depth_has_the_size_of_the_image(family: str):
    depth = build(family).eval().predict_depth(image())
    assert depth.shape == (2, 1, 64, 96)
    assert depth.dtype == torch.float32


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
    metric = build_model(
        ModelConfig("monodepth2", "resnet18", "scratch", 0.1, 100.0, metres_per_unit=5.4)
    ).eval()
    metric.load_state_dict(plain.state_dict())
    torch.testing.assert_close(metric.predict_depth(image()), 5.4 * plain.predict_depth(image()))
    assert (metric.min_depth, metric.max_depth) == pytest.approx((0.54, 540.0))


def test_a_model_says_whether_its_depth_is_in_metres():
    relative = ModelConfig("monodepth2", "resnet18", "scratch", metric=False)
    assert not build_model(relative).is_metric
    assert build("monodepth2").is_metric
    assert build("resfpn").is_metric


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
        ({"family": "monodepth3"}, "unknown family; known: monodepth2, resfpn"),
        ({"encoder": "resnet19"}, "unknown encoder; known: .*resnet18"),
        ({"min_depth": 0.0}, "0 < min_depth < max_depth must hold, found 0.0, 10.0"),
        ({"min_depth": 20.0}, "found 20.0, 10.0"),
        ({"metres_per_unit": 0.0}, "metres_per_unit must be positive, found 0.0"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(change: dict, message: str):
    settings = {"family": "resfpn", "encoder": "resnet18", "weights": "scratch"} | change
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_imagenet_weights_that_cannot_be_had_are_an_input_error_that_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Its environment variables are read when it is imported, so they would come too late.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"'resnet18' \(resnet18.tv_in1k\) .* `weights: scratch`"):
        build_model(ModelConfig("resfpn", "resnet18", "imagenet"))
