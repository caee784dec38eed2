"""FastDepth: the published layer table, its cost, its skips and its start."""

from collections import Counter
from math import sqrt

import pytest
import torch
from torch import nn

from mde.models import DepthModel, ModelConfig, build_model
from mde.models.fastdepth import FastDepthDecoder


def build() -> DepthModel:
    torch.manual_seed(0)
    return build_model(ModelConfig("fastdepth", "mobilenet_v1", "scratch", 0.1, 10.0))


def features(channels: list[int], requires_grad: bool = False) -> list[torch.Tensor]:
    """The five maps of a 64x96 image."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, c, 32 >> i, 48 >> i) for i, c in enumerate(channels)]
    return [torch.rand(s, generator=generator, requires_grad=requires_grad) for s in sizes]


def multiply_adds(model: DepthModel, size: int) -> dict[str, int]:
    """Multiplications of all convolutions for one image, counted on torch's meta device."""
    counts: Counter[str] = Counter()

    def count(name: str, conv: nn.Module, output: torch.Tensor) -> None:
        counts[name.split(".")[0]] += output.numel() * conv.weight[0].numel()

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, output, name=name: count(name, m, output))
    model.eval()(torch.rand(1, 3, size, size, device="meta"))
    return dict(counts)


def test_cost_at_the_published_size():
    # A block: 5x5 per channel, then 1x1, at 7, 14, 28, 56, 112 pixels; the head at 224.
    channels = (1024, 512, 256, 128, 64, 32)
    blocks = [
        (25 * channels[i] + channels[i] * channels[i + 1]) * (7 * 2**i) ** 2 for i in range(5)
    ]
    with torch.device("meta"):
        cost = multiply_adds(build(), 224)
    assert cost["decoder"] == sum(blocks) + 32 * 224**2
    assert round(cost["encoder"] / 1e9, 3) == 0.568
    assert round(cost["decoder"] / 1e9, 3) == 0.169
    assert round(sum(cost.values()) / 1e9, 3) == 0.737


def test_stages_have_the_sizes_of_the_table():
    seen = []
    with torch.device("meta"):
        model = build()
    model.encoder.register_forward_hook(
        lambda module, inputs, maps: seen.extend(tuple(m.shape[1:]) for m in maps)
    )
    for block in [*model.decoder.blocks, model.decoder.head]:
        block.register_forward_hook(
            lambda module, inputs, output: seen.append(
                (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))
            )
        )
    (depth,) = model(torch.rand(1, 3, 224, 224, device="meta"))
    assert seen[:5] == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7)]
    assert seen[5:] == [
        ((1024, 7, 7), (512, 7, 7)),
        ((512, 14, 14), (256, 14, 14)),
        ((256, 28, 28), (128, 28, 28)),
        ((128, 56, 56), (64, 56, 56)),
        ((64, 112, 112), (32, 112, 112)),
        ((32, 224, 224), (1, 224, 224)),
    ]
    assert depth.shape == (1, 1, 224, 224)


def test_a_block_is_5x5_norm_relu_and_1x1_norm_relu():
    kinds = [type(m).__name__ for m in build().decoder.blocks[0].modules() if not any(m.children())]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 2


def test_the_maps_at_2_4_and_8_are_added_and_the_one_at_16_is_not_used():
    maps = features([64, 128, 256, 512, 1024], requires_grad=True)
    FastDepthDecoder([64, 128, 256, 512, 1024])(maps).sum().backward()
    assert [m.grad is not None and bool(m.grad.any()) for m in maps] == [True] * 3 + [False, True]


def test_a_skip_is_added_behind_the_upsampling():
    decoder = FastDepthDecoder([64, 128, 256, 512, 1024]).eval()
    for block in decoder.blocks[:4]:
        nn.init.constant_(block[1][1].weight, 0)
        nn.init.constant_(block[1][1].bias, 2)
    seen = {}
    decoder.blocks[4].register_forward_hook(lambda m, inputs, o: seen.update(last=inputs[0]))
    maps = features([64, 128, 256, 512, 1024])
    decoder(maps)
    torch.testing.assert_close(seen["last"], 2 + maps[0])


@pytest.mark.parametrize(
    ("channels", "projected"),
    [
        # Finest first, against the decoder's 64, 128, 256.
        ([64, 128, 256, 512, 1024], []),
        ([64, 64, 128, 256, 512], ["1/8", "1/4"]),
        ([64, 256, 512, 1024, 2048], ["1/8", "1/4"]),
        ([0, 40, 80, 160, 320], ["1/8", "1/4"]),
    ],
)
def test_a_skip_is_projected_only_where_its_channels_differ(
    channels: list[int], projected: list[str]
):
    decoder = FastDepthDecoder(channels)
    kinds = [isinstance(skip.projection, nn.Conv2d) for skip in decoder.skips]
    assert [s for s, yes in zip(("1/8", "1/4", "1/2"), kinds, strict=True) if yes] == projected
    assert decoder(features(channels)).shape == (2, 1, 64, 96)


def test_convolutions_start_as_in_fastdepth():
    first = build().decoder.blocks[0]
    assert first[0][0].weight.std().item() == pytest.approx(sqrt(2 / (25 * 1024)), rel=0.02)
    assert first[1][0].weight.std().item() == pytest.approx(sqrt(2 / 512), rel=0.02)


def test_training_starts_at_the_middle_of_the_range_with_no_dead_head():
    (depth,) = build()(torch.rand(2, 3, 64, 96))
    assert depth.mean().item() == pytest.approx(5.05, abs=0.05)
    assert (depth > 0).float().mean() > 0.99


def test_a_depth_of_zero_is_lifted_to_the_smallest_one():
    model = build().eval()
    nn.init.constant_(model.decoder.head[1].bias, -1e4)
    image = torch.rand(1, 3, 64, 96)
    assert model(image)[0].unique().tolist() == [0]
    assert model.predict_depth(image).unique().tolist() == [pytest.approx(0.1)]
