"""The supervised objective: spaces, sizes, stages and what stays frozen."""

import math

import pytest
import torch
from torch import Tensor, nn

from mde.losses import LOSSES
from mde.schema import Batch
from mde.train.objectives import SupervisedConfig, build_objective
from mde.train.objectives.objective import Objective
from mde.train.objectives.supervised import Supervised, masked_area


class Given(nn.Module):
    """A model whose native maps are parameters, in m; its range is 0.1 to 10 m."""

    min_depth, max_depth = 0.1, 10.0

    def __init__(self, *maps: Tensor) -> None:
        super().__init__()
        self.maps = nn.ParameterList(maps)

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(self.maps)

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native


class Parts(nn.Module):
    """Named parts, among them a batch norm in the encoder and a layer that is frozen already."""

    min_depth, max_depth = 0.1, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.unused = nn.BatchNorm2d(4).requires_grad_(False)
        self.scale1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.scale10 = nn.Conv2d(4, 1, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.scale1(self.encoder(image))
        return [self.scale10(features), features[:, :1]]

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native


def grid(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).view(1, 1, len(rows), -1)


def batch_of(depth: Tensor) -> Batch:
    size, *_ = depth.shape
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (size, 3, 8, 8), generator=generator, dtype=torch.uint8),
        "color_matrix": torch.eye(3, 4).expand(size, 3, 4),
        "depth": depth,
    }


def loss_of(native: Tensor, depth: Tensor, **options) -> float:
    config = SupervisedConfig("supervised", **options)
    return float(build_objective(config, Given(native))(batch_of(depth))["loss"].detach())


def trained(objective: Objective) -> set[str]:
    return {name for name, p in objective.model.named_parameters() if p.requires_grad}


def in_eval_mode(objective: Objective) -> set[str]:
    return {name for name, module in objective.model.named_children() if not module.training}


# Configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l3"}, "unknown loss 'l3'; known: berhu, densedepth, eigen2015, l1, mse, silog"),
        ({"loss": "l1", "silog_lambda": 0.85}, r"silog_lambda belongs to the loss 'silog'.*0\.85"),
        ({"loss": "silog", "silog_lambda": 1.5}, "silog_lambda must be 0 to 1, found 1.5"),
        ({"loss": "silog", "silog_lambda": math.nan}, "silog_lambda must be 0 to 1, found nan"),
    ],
)
def test_refuses_options_that_mean_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        SupervisedConfig("supervised", **options)


# What is compared


@pytest.mark.parametrize("loss", LOSSES)
def test_takes_the_loss_of_that_name_where_the_ground_truth_is_positive(loss):
    pred, depth = 1 + torch.rand(2, 2, 1, 12, 13)
    depth[:, :, 3:5, 2:9] = 0
    options = {"data_range": 10.0} if loss == "densedepth" else {}
    expected = LOSSES[loss](pred, depth, depth > 0, **options)
    assert loss_of(pred, depth, loss=loss) == pytest.approx(float(expected), rel=1e-6)


def test_binds_lambda_to_silog():
    depth = grid([1.0, 3.0])
    losses = {
        lam: loss_of(2 * depth, depth, loss="silog", silog_lambda=lam) for lam in (0.0, 0.5, 1.0)
    }
    squared = math.log(2) ** 2
    assert losses == pytest.approx({0.0: squared, 0.5: squared / 2, 1.0: 0.0}, abs=1e-6)


def test_inverse_space_is_max_depth_over_depth_with_the_target_clamped_to_the_range():
    # 10 / 5 against 10 / 0.1 (0.05 is too near), 10 / 4 against 10 / 10 (20 is too far).
    value = loss_of(grid([5.0, 4.0, 3.0]), grid([0.05, 20.0, 0.0]), space="inverse")
    assert value == pytest.approx((98 + 1.5) / 2)


def test_ssim_knows_the_range_of_the_space():
    ones = torch.ones(1, 1, 11, 11)
    # Constant maps: (1 - luminance) / 2 and 0.1 L1; C1 is (0.01 L)².
    inverse = 0.1 * 2 + (1 - (2 * 4 * 2 + 1) / (16 + 4 + 1)) / 2
    metres = 0.1 * 2.5 + (1 - (2 * 2.5 * 5 + 0.01) / (6.25 + 25 + 0.01)) / 2
    found = loss_of(2.5 * ones, 5 * ones, loss="densedepth", space="inverse")
    assert found == pytest.approx(inverse, rel=1e-5)
    assert loss_of(2.5 * ones, 5 * ones, loss="densedepth") == pytest.approx(metres, rel=1e-5)


class TwoNumbers(Given):
    """A depth map that goes linearly from one number to the other."""

    def forward(self, image: Tensor) -> list[Tensor]:
        start, end = self.maps[0].flatten()
        return [torch.lerp(start, end, torch.linspace(0, 1, 12)).expand(1, 1, 12, 12)]


@pytest.mark.parametrize("space", ["depth", "inverse"])
@pytest.mark.parametrize("loss", LOSSES)
def test_training_that_starts_at_negative_depths_gets_out_of_there(loss, space):
    objective = build_objective(
        SupervisedConfig("supervised", loss, space=space), TwoNumbers(torch.tensor([-1.0, -0.5]))
    )
    (numbers,) = objective.parameters()
    batch = batch_of(torch.linspace(1, 3, 12).expand(1, 1, 12, 12))
    losses = []
    for _ in range(60):
        value = objective(batch)["loss"]
        (gradient,) = torch.autograd.grad(value, numbers)
        # Steps of one length, as Adam's are at first.
        numbers.data -= 0.1 * gradient / gradient.norm()
        losses.append(float(value.detach()))
    assert numbers.min() > 0.1
    assert losses[-1] < 0.5 * losses[0]


def test_at_target_resizes_the_prediction_and_at_native_averages_the_ground_truth():
    native, depth = grid([2.0, 6.0]), grid([1.0, 0.0, 5.0, 5.0], [3.0, 0.0, 9.0, 0.0])
    # Bilinear: 2, 3, 5, 6 in both rows; valid are columns 0, 2, 3 and 0, 2.
    assert loss_of(native, depth) == pytest.approx((1 + 0 + 1 + 1 + 4) / 5)
    # (1 + 3) / 2 against 2 and (5 + 5 + 9) / 3 against 6.
    assert loss_of(native, depth, at="native") == pytest.approx((0 + 1 / 3) / 2)


def test_at_native_in_inverse_space_averages_the_inverses():
    native, depth = grid([2.0]), grid([1.0, 5.0])
    # (10 / 1 + 10 / 5) / 2 = 6 against 10 / 2.
    assert loss_of(native, depth, at="native", space="inverse") == pytest.approx(1.0)


def test_masked_area_leaves_out_empty_cells_and_takes_sizes_that_do_not_divide():
    values = grid([1.0, 2.0, 6.0], [math.nan, 4.0, math.nan])
    valid = torch.tensor([[True, True, True], [False, True, False]]).view(1, 1, 2, 3)
    averages, cells = masked_area(values, valid, (2, 2))
    # Three columns to two cells: both take the middle column.
    torch.testing.assert_close(averages, grid([1.5, 4.0], [4.0, 4.0]))
    assert cells.all()
    valid[..., 1, 1] = False
    averages, cells = masked_area(values, valid, (2, 2))
    torch.testing.assert_close(averages, grid([1.5, 4.0], [0.0, 0.0]))
    assert cells.flatten().tolist() == [True, True, False, False]


@pytest.mark.parametrize("at", ["target", "native"])
@pytest.mark.parametrize("space", ["depth", "inverse"])
def test_a_batch_without_ground_truth_gives_zero_and_no_gradient(at, space):
    model = Given(torch.full((2, 1, 3, 4), 2.0))
    objective = build_objective(SupervisedConfig("supervised", at=at, space=space), model)
    value = objective(batch_of(torch.zeros(2, 1, 6, 8)))["loss"]
    value.backward()
    assert value == 0
    assert (model.maps[0].grad == 0).all()


def test_the_loss_is_float32_inside_autocast():
    native, depth = 1 + torch.rand(2, 1, 1, 12, 12)
    config = SupervisedConfig("supervised", "densedepth", space="inverse")
    objective = build_objective(config, Given(native.bfloat16()))
    expected = objective(batch_of(depth))["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        value = objective(batch_of(depth))["loss"]
    assert value.dtype == torch.float32
    assert value == expected


# Stages and frozen parts


def test_a_stage_chooses_the_native_map():
    objective = build_objective(
        SupervisedConfig("supervised"), Given(grid([2.0]), grid([5.0]), grid([9.0]))
    )
    batch = batch_of(grid([1.0]))
    assert objective(batch)["loss"] == 1
    objective.start_stage((), output=1)
    assert objective(batch)["loss"] == 4
    objective.start_stage((), output=3)
    with pytest.raises(ValueError, match="the model has 3 native maps, numbered from 0; found 3"):
        objective(batch)
    with pytest.raises(ValueError, match="found -1"):
        objective.start_stage((), output=-1)


def test_a_stage_trains_the_named_parts_only_and_the_next_one_others():
    objective = Objective(Parts())
    objective.start_stage(("scale1",))
    assert trained(objective) == {
        "scale1.0.weight", "scale1.0.bias", "scale1.1.weight", "scale1.1.bias",
    }  # fmt: skip
    assert in_eval_mode(objective) == {"encoder", "unused", "scale10"}
    objective.start_stage(("encoder.1", "scale10.bias"))
    assert trained(objective) == {"encoder.1.weight", "encoder.1.bias", "scale10.bias"}
    assert in_eval_mode(objective) == {"unused", "scale1"}
    assert not objective.model.encoder[0].training
    objective.start_stage()
    assert trained(objective) == {
        name for name, _ in objective.model.named_parameters() if not name.startswith("unused")
    }
    assert in_eval_mode(objective) == {"unused"}


def test_a_stage_drops_the_gradients_of_what_it_freezes():
    objective = build_objective(SupervisedConfig("supervised"), Parts())
    objective(batch_of(torch.ones(2, 1, 8, 8)))["loss"].backward()
    assert objective.model.encoder[0].weight.grad is not None
    objective.start_stage(("scale10",))
    assert {n for n, p in objective.model.named_parameters() if p.grad is not None} == {
        "scale10.weight", "scale10.bias",
    }  # fmt: skip


def test_a_stage_leaves_other_networks_alone():
    objective = Objective(Parts())
    objective.pose = nn.Linear(2, 2)
    objective.start_stage(("scale1",))
    assert all(p.requires_grad for p in objective.pose.parameters())
    assert objective.pose.training


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("scale2", "Parts has no parameters below 'scale2'; its parts are encoder, unused, "),
        ("scale", "no parameters below 'scale'; .*unused, scale1, scale10"),
        ("unused", "'unused' is frozen as a whole"),
    ],
)
def test_a_stage_refuses_a_part_that_cannot_be_trained_and_changes_nothing(part, message):
    objective = Objective(Parts())
    before = trained(objective)
    with pytest.raises(ValueError, match=message):
        objective.start_stage(("scale1", part), output=1)
    assert trained(objective) == before
    assert objective.output == 0


def test_a_frozen_encoder_stays_as_it_is_through_training_and_stages():
    objective = build_objective(SupervisedConfig("supervised", freeze_encoder=True), Parts())
    encoder = {name: value.clone() for name, value in objective.model.encoder.state_dict().items()}
    for restart in (lambda: None, objective.start_stage, objective.eval, objective.train):
        restart()
        if objective.training:
            objective(batch_of(torch.ones(2, 1, 8, 8)))["loss"].backward()
        assert all(p.grad is None for p in objective.model.encoder.parameters())
        for name, value in objective.model.encoder.state_dict().items():
            assert torch.equal(value, encoder[name]), name
    assert objective.model.scale1[1].num_batches_tracked == 3
    assert objective.model.scale1[1].weight.grad.norm() > 0
    with pytest.raises(ValueError, match="'encoder' is frozen as a whole"):
        objective.start_stage(("encoder",))


def test_eval_mode_reaches_every_part():
    objective = Objective(Parts()).eval()
    assert not any(module.training for module in objective.modules())
    objective.start_stage(("scale1",))
    assert not any(module.training for module in objective.modules())


def test_freezing_an_encoder_that_is_not_there_is_refused():
    config = SupervisedConfig("supervised", freeze_encoder=True)
    with pytest.raises(ValueError, match="Given has no encoder of its own; its parts are maps"):
        Supervised(config, Given(grid([1.0])), None)
