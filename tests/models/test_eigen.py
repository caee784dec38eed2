"""Eigen & Fergus 2015: sizes to the unit, stages that train apart, depth and messages."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.models.eigen import Eigen, stage_sizes, upsampling_matrix
from mde.models.encoders import ENCODERS
from mde.models.encoders.vgg import Vgg16

SMALL = (64, 96)


def build(width: float = 0.06, input_size: tuple[int, int] | None = SMALL) -> Eigen:
    torch.manual_seed(0)
    return Eigen("scratch", width, input_size, 0.1, 10.0)


def image(height: int = SMALL[0], width: int = SMALL[1], batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_gradient(module: nn.Module) -> set[str]:
    return {n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()}


def freeze(model: Eigen, *prefixes: str) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes))


def random_sum(values: Tensor) -> Tensor:
    return (values * torch.randn_like(values)).sum()


@pytest.fixture(scope="module")
def published() -> Eigen:
    """The published size, without memory."""
    with torch.device("meta"):
        return build(1, None)


def test_parameter_counts_are_those_of_the_layer_table(published: Eigen):
    scale1 = published.scale1
    channels = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    channels += [(256, 512)] + 5 * [(512, 512)]
    assert num_parameters(scale1.features) == sum(9 * i * o + o for i, o in channels) == 14_714_688
    assert num_parameters(scale1.fc6) == 512 * 7 * 9 * 4096 + 4096 == 132_124_672
    assert num_parameters(scale1.fc7) == 4096 * 64 * 14 * 19 + 64 * 14 * 19 == 69_747_328

    stem, conv, head = 81 * 3 * 96 + 96, 25 * 64 * 64 + 64, 25 * 64 + 1
    scale2 = stem + (25 * (64 + 96) * 64 + 64) + 2 * conv + head
    scale3 = stem + (25 * (1 + 96) * 64 + 64) + conv + head
    assert num_parameters(published.scale2) == scale2 == 486_017
    assert num_parameters(published.scale3) == scale3 == 282_753

    total = 14_714_688 + 132_124_672 + 69_747_328 + 486_017 + 282_753
    assert published.input_size == (228, 304)
    assert num_parameters(published) == total == 217_355_458


def test_every_stage_has_the_size_of_the_layer_table():
    # A sixteenth of the channels is quick to compute, and divides every number of the table.
    model = build(1 / 16, (228, 304)).eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda m, i, out: shapes.update({name: tuple(out.shape[1:])}))

    pools = [m for m in model.scale1.features if isinstance(m, nn.MaxPool2d)]
    stages: dict[str, nn.Module] = {f"1.{i}": pool for i, pool in enumerate(pools, 1)}
    stages |= {"1.6": model.scale1.fc6, "1.7": model.scale1.fc7, "up": model.scale1}
    for s, scale in {"2": model.scale2, "3": model.scale3}.items():
        stages |= {f"{s}.1": scale.stem, f"{s}.convs": scale.convs, s: scale}
    for name, module in stages.items():
        record(name, module)
    with torch.no_grad():
        maps = model(image(228, 304))

    assert shapes == {
        "1.1": (64 / 16, 112, 150),
        "1.2": (128 / 16, 56, 75),
        "1.3": (256 / 16, 28, 37),
        "1.4": (512 / 16, 14, 18),
        "1.5": (512 / 16, 7, 9),
        "1.6": (4096 / 16,),
        "1.7": (64 / 16 * 14 * 19,),
        "up": (64 / 16, 55, 74),
        "2.1": (96 / 16, 111, 149),
        "2.convs": (64 / 16, 55, 74),
        "2": (1, 55, 74),
        "3.1": (96 / 16, 111, 149),
        "3.convs": (64 / 16, 109, 147),
        "3": (1, 109, 147),
    }
    assert [tuple(m.shape) for m in maps] == [(2, 1, 109, 147), (2, 1, 55, 74)]


@pytest.mark.parametrize("height", [36, 37, 38, 47, 63, 120])
@pytest.mark.parametrize("width", [36, 51, 160])
def test_other_sizes_follow_from_the_same_arithmetic(height: int, width: int):
    sizes = stage_sizes((height, width))
    fine, coarse = build(0.02, (height, width))(image(height, width))
    assert (fine.shape[2:], coarse.shape[2:]) == (sizes.scale3, sizes.scale2)


def test_width_multiplies_all_channels_and_the_fully_connected_layers():
    model = build(0.125)
    convs = [m.out_channels for m in model.scale1.features if isinstance(m, nn.Conv2d)]
    assert convs == [8, 8, 16, 16, 32, 32, 32] + 6 * [64]
    assert model.scale1.fc6.out_features == 512
    assert model.scale1.grid == (8, 4, 6)
    assert (model.scale2.stem.out_channels, model.scale3.convs[0].out_channels) == (12, 8)
    assert build(1e-6).scale1.fc6.out_features == 1


@pytest.mark.parametrize(("inputs", "outputs"), [(14, 55), (19, 74), (4, 15), (2, 8)])
def test_upsampling_is_a_transposed_convolution_with_a_tent_and_a_centre_crop(
    inputs: int, outputs: int
):
    tent = torch.tensor([0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25]).view(1, 1, 7)
    values = torch.rand(1, 1, inputs)
    full = F.conv_transpose1d(values, tent, stride=4)[0, 0]
    margin = (len(full) - outputs) // 2
    expected = full[margin : margin + outputs]
    torch.testing.assert_close(upsampling_matrix(inputs, outputs) @ values[0, 0], expected)


def test_imagenet_weights_fill_the_convolutions_of_scale_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    file = replace(ENCODERS["vgg16"].imagenet, sha256="")
    monkeypatch.setitem(ENCODERS, "vgg16", ENCODERS["vgg16"]._replace(imagenet=file))
    weights = {k: v + 1 for k, v in Vgg16().state_dict().items()}
    file.path.parent.mkdir()
    torch.save(weights, file.path)
    model = Eigen("imagenet", 1, (36, 36), 0.1, 10.0)
    own = model.scale1.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())


def test_every_parameter_learns():
    model = build()
    sum(random_sum(values) for values in model(image())).backward()
    assert without_gradient(model) == set()


def test_the_first_stage_trains_scales_1_and_2_and_does_not_compute_scale_3():
    model = build().train()
    freeze(model, "scale3")
    model.scale3.stem.register_forward_hook(lambda *_: pytest.fail("scale 3 was computed"))
    fine, coarse = model(image())
    sizes = model.sizes
    assert (fine.shape[2:], coarse.shape[2:]) == (sizes.scale3, sizes.scale2)
    doubled = F.interpolate(coarse, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(fine, doubled[:, :, : sizes.scale3[0], : sizes.scale3[1]])
    random_sum(coarse).backward()
    scale3 = {f"scale3.{name}" for name, _ in model.scale3.named_parameters()}
    assert without_gradient(model) == scale3


def test_a_frozen_scale_3_still_answers_in_evaluation():
    model = build().eval()
    expected = model(image())[0]
    freeze(model, "scale3")
    torch.testing.assert_close(model(image())[0], expected)


def test_the_second_stage_trains_scale_3_alone_on_what_the_others_will_give():
    model = build().eval()
    expected = model(image())[1]
    freeze(model.train(), "scale1", "scale2")
    fine, coarse = model(image())
    assert not coarse.requires_grad
    torch.testing.assert_close(coarse, expected)
    random_sum(fine).backward()
    others = {name for name, _ in model.named_parameters() if not name.startswith("scale3")}
    assert without_gradient(model) == others


def test_dropout_acts_in_training_only():
    model = build().train()
    assert not torch.equal(model(image())[1], model(image())[1])
    model.eval()
    torch.testing.assert_close(model(image()), model(image()), rtol=0, atol=0)


def test_both_outputs_start_near_the_geometric_middle_of_the_depth_range():
    model = build().eval()
    for native in model(image()):
        assert native.mean().item() == pytest.approx(math.log(math.sqrt(0.1 * 10.0)), abs=0.3)


def test_native_maps_are_natural_logarithms_with_a_gradient_over_the_whole_range():
    depth = torch.tensor([1e-3, 0.1, 1.0, 10.0, 80.0])
    native = depth.log().requires_grad_()
    back = build().native_to_depth(native)
    torch.testing.assert_close(back, depth)
    back.sum().backward()
    torch.testing.assert_close(native.grad, depth)


def test_native_maps_far_outside_the_range_stay_finite():
    assert build().native_to_depth(torch.tensor([-1e4, 1e4])).isfinite().all()


@pytest.mark.parametrize("size", [SMALL, (60, 80), (131, 97), (20, 30)])
def test_predict_depth_takes_images_of_any_size(size: tuple[int, int]):
    depth = build().eval().predict_depth(image(*size))
    assert depth.shape == (2, 1, *size)
    assert depth.dtype == torch.float32


def test_predict_depth_of_a_larger_image_is_that_of_the_antialiased_small_one():
    model = build().eval()
    nn.init.normal_(model.scale3.head.weight)
    large = image(4 * SMALL[0], 4 * SMALL[1])
    small = F.interpolate(large, SMALL, mode="bilinear", antialias=True)
    native = F.interpolate(model(small)[0], large.shape[2:], mode="bilinear")
    torch.testing.assert_close(model.predict_depth(large), native.exp().clamp(0.1, 10))


@pytest.mark.parametrize(("bias", "expected"), [(1e4, 10.0), (-1e4, 0.1)])
def test_predict_depth_is_clamped_to_the_range(bias: float, expected: float):
    model = build().eval()
    nn.init.constant_(model.scale3.head.bias, bias)
    assert model.predict_depth(image()).unique().tolist() == [pytest.approx(expected)]


def test_channels_last_memory_changes_nothing():
    model = build().eval()
    expected = model(image())
    model.to(memory_format=torch.channels_last)
    maps = model(image().to(memory_format=torch.channels_last))
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_changes_the_depth_a_little_only():
    model = build().eval()
    expected = model.predict_depth(image())
    with torch.autocast("cpu", torch.bfloat16):
        depth = model.predict_depth(image())
    assert depth.dtype == torch.float32
    torch.testing.assert_close(depth, expected, rtol=0.05, atol=0.05)


def test_an_image_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match="images of 64x96, found 96x64"):
        build()(image(96, 64))


@pytest.mark.parametrize(
    ("weights", "width", "size", "message"),
    [
        ("scratch", 0.1, (35, 96), "at least 36x36, found 35x96"),
        ("scratch", 0.1, (64, 20), "at least 36x36, found 64x20"),
        ("scratch", 0.0, SMALL, "width must be positive, found 0.0"),
        ("imagenet", 0.5, SMALL, "'imagenet' fit the published width 1 only, found width 0.5"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(weights, width, size, message: str):
    with pytest.raises(ValueError, match=message):
        Eigen(weights, width, size, 0.1, 10.0)
