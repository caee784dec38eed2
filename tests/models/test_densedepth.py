"""DenseDepth: the published layer table, the quarter network, and inverse depth."""

import pytest
import torch
from torch import nn

from mde.losses import LOSSES
from mde.models import DepthModel, ModelConfig, build_model
from mde.models.densedepth import UpBlock


def build(encoder: str = "mobilenet_v1", **settings: float) -> DepthModel:
    torch.manual_seed(0)
    return build_model(ModelConfig("densedepth", encoder, "scratch", 0.1, 10.0, **settings)).eval()


def on_paper(**settings: float) -> DepthModel:
    """On torch's meta device: shapes without numbers, at no cost."""
    with torch.device("meta"):
        return build("densenet169", **settings)


def image(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def stages(downsample: int) -> dict[str, list[tuple[int, ...]]]:
    """C, H, W of what the encoder gives, finest first, and of what enters and leaves each layer."""
    seen: dict[str, list[tuple[int, ...]]] = {}
    model = on_paper(downsample=downsample)
    model.encoder.register_forward_hook(
        lambda module, inputs, maps: seen.update(encoder=[tuple(m.shape[1:]) for m in maps])
    )
    for name, part in model.decoder.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(
                lambda module, inputs, output, name=name: seen.update(
                    {name: [tuple(inputs[0].shape[1:]), tuple(output.shape[1:])]}
                )
            )
    model(torch.rand(1, 3, 480, 640, device="meta"))
    return seen


def test_stages_of_the_published_network_have_the_sizes_of_its_table():
    assert stages(downsample=1) == {
        "encoder": [(64, 240, 320), (64, 120, 160), (128, 60, 80), (256, 30, 40), (1664, 15, 20)],
        "conv2": [(1664, 15, 20), (1664, 15, 20)],
        "up1.convA": [(1664 + 256, 30, 40), (832, 30, 40)],
        "up1.convB": [(832, 30, 40), (832, 30, 40)],
        "up2.convA": [(832 + 128, 60, 80), (416, 60, 80)],
        "up2.convB": [(416, 60, 80), (416, 60, 80)],
        "up3.convA": [(416 + 64, 120, 160), (208, 120, 160)],
        "up3.convB": [(208, 120, 160), (208, 120, 160)],
        "up4.convA": [(208 + 64, 240, 320), (104, 240, 320)],
        "up4.convB": [(104, 240, 320), (104, 240, 320)],
        "conv3": [(104, 240, 320), (1, 240, 320)],
    }


def test_stages_of_the_quarter_network_have_the_sizes_of_its_table():
    assert stages(downsample=4) == {
        "encoder": [(64, 60, 80), (64, 30, 40), (128, 15, 20), (256, 7, 10), (1664, 3, 5)],
        "conv2": [(1664, 3, 5), (1664, 3, 5)],
        "up1.convA": [(1664 + 256, 7, 10), (832, 7, 10)],
        "up1.convB": [(832, 7, 10), (832, 7, 10)],
        "up2.convA": [(832 + 128, 15, 20), (416, 15, 20)],
        "up2.convB": [(416, 15, 20), (416, 15, 20)],
        "up3.convA": [(416 + 64, 30, 40), (208, 30, 40)],
        "up3.convB": [(208, 30, 40), (208, 30, 40)],
        "up4.convA": [(208 + 64, 60, 80), (104, 60, 80)],
        "up4.convB": [(104, 60, 80), (104, 60, 80)],
        "conv3": [(104, 60, 80), (1, 60, 80)],
    }


def test_the_quarter_network_is_the_whole_one_on_the_max_pooled_image():
    whole, quarter = build(), build(downsample=4)
    pooled = image(256, 384).unfold(2, 4, 4).unfold(3, 4, 4).amax((-1, -2))
    torch.testing.assert_close(quarter(image(256, 384)), whole(pooled))


def test_an_odd_size_gets_zeros_before_the_first_row_and_column():
    padded = UpBlock(1, 1, pad=True).upsample(torch.ones(1, 1, 3, 5), (7, 11))
    expected = torch.ones(1, 1, 7, 11)
    expected[..., 0, :] = 0
    expected[..., 0] = 0
    torch.testing.assert_close(padded, expected)


def test_a_skip_whose_size_was_rounded_up_cuts_the_first_row_off():
    rows = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1).expand(1, 1, 2, 2)
    cut = UpBlock(1, 1, pad=True).upsample(rows, (3, 4))
    torch.testing.assert_close(cut[0, 0, :, 0], torch.tensor([1, 2, 3]) / 3)


def test_the_published_network_stretches_corner_to_corner():
    rows = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1).expand(1, 1, 2, 2)
    stretched = UpBlock(1, 1, pad=False).upsample(rows, (5, 4))
    torch.testing.assert_close(stretched[0, 0, :, 0], torch.arange(5) / 4)


def test_a_block_has_one_leaky_relu():
    block = UpBlock(2, 1, pad=False)
    for conv in (block.convA, block.convB):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
        conv.weight.data[0, 0, 1, 1] = 1
    x, skip = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)
    torch.testing.assert_close(block(x, skip), torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(block(-x, skip), torch.full((1, 1, 4, 4), -0.2))


def test_nothing_bounds_the_native_map():
    model = build(width=0.1)
    nn.init.constant_(model.decoder.conv3.bias, -100)
    assert model(image())[0].max() < -50


def test_parts_of_the_decoder_are_named_as_in_the_pytorch_port():
    ups = [f"up{i}.conv{letter}" for i in (1, 2, 3, 4) for letter in "AB"]
    names = [f"{part}.{kind}" for part in ("conv2", *ups, "conv3") for kind in ("weight", "bias")]
    assert list(on_paper().decoder.state_dict()) == names


def test_the_map_is_ten_metres_divided_by_depth():
    depth = on_paper().native_to_depth(torch.tensor([1.0, 2.0, 4.0, 100.0]))
    torch.testing.assert_close(depth, torch.tensor([10.0, 5.0, 2.5, 0.1]))


def test_the_map_is_depth_when_it_is_not_inverse():
    depth = torch.tensor([-1.0, 0.0, 5.0])
    assert torch.equal(on_paper(inverse=False).native_to_depth(depth), depth)


def test_depth_falls_smoothly_with_the_map_also_where_no_depth_is():
    """By hand: the tangent of 10 / y at y = 1 is 10 · (2 - y); 20 at 0, 50 at -3."""
    model = on_paper()
    torch.testing.assert_close(
        model.native_to_depth(torch.tensor([0.0, -3.0])), torch.tensor([20.0, 50.0])
    )
    y = torch.tensor([-1e4, -3.0, 0.0, 0.999, 1.0, 1.001, 50.0, 1e4], requires_grad=True)
    model.native_to_depth(y).sum().backward()
    assert y.grad is not None
    torch.testing.assert_close(
        y.grad, torch.tensor([-10, -10, -10, -10, -10, -10 / 1.001**2, -10 / 50**2, -10 / 1e8])
    )


@pytest.mark.parametrize("inverse_space", [False, True])
def test_a_map_of_the_wrong_sign_is_pulled_back(inverse_space: bool):
    model = on_paper()
    native = torch.full((1, 1, 2, 2), -5.0, requires_grad=True)
    pred, target = model.native_to_depth(native), torch.full((1, 1, 2, 2), 5.0)
    if inverse_space:
        pred, target = model.max_depth / pred, model.max_depth / target
    LOSSES["l1"](pred, target, torch.ones_like(pred, dtype=torch.bool)).backward()
    assert native.grad is not None
    assert (native.grad < -1e-3).all()


@pytest.mark.parametrize(("inverse", "start"), [(True, 10 / 5.05), (False, 5.05)])
def test_training_starts_at_the_middle_of_the_range(inverse: bool, start: float):
    model = build(inverse=inverse)
    assert model(image())[0].mean().item() == pytest.approx(start, abs=0.2)
    assert model.predict_depth(image()).mean().item() == pytest.approx(5.05, abs=0.5)


@pytest.mark.parametrize(("bias", "expected"), [(1e4, 0.1), (0.9, 10.0), (-1e4, 10.0)])
def test_predict_depth_is_clamped_to_the_range(bias: float, expected: float):
    model = build(width=0.1)
    nn.init.zeros_(model.decoder.conv3.weight)
    nn.init.constant_(model.decoder.conv3.bias, bias)
    assert model.predict_depth(image()).unique().tolist() == [pytest.approx(expected)]


def test_sizes_that_are_no_multiple_of_32_are_taken():
    model = build(width=0.1)
    assert model(image(50, 75))[0].shape == (1, 1, 25, 38)
    assert model.predict_depth(image(50, 75)).shape == (1, 1, 50, 75)


@pytest.mark.parametrize(
    ("downsample", "size", "message"),
    [
        (1, (31, 64), "at least 32 at downsample 1, found 31x64"),
        (4, (128, 124), "at least 128 at downsample 4, found 128x124"),
        (4, (130, 128), "multiples of 4, found 130x128"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(downsample: int, size: tuple[int, int], message: str):
    with pytest.raises(ValueError, match=message):
        on_paper(downsample=downsample)(image(*size))


def test_a_width_that_leaves_no_channels_is_refused():
    with pytest.raises(ValueError, match=r"width 0\.005 leaves no channels of 1664"):
        on_paper(width=0.005)
