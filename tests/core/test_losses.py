"""Supervised losses: the contract of every loss in the table, and values computed by hand."""

import functools
import math

import pytest
import torch
from torch import Tensor

from mde.losses import LOSSES, densedepth, eigen2015, masked_mean, mirror_below, silog, ssim

SHAPE = (3, 1, 12, 14)
all_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def maps(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred, target = (0.5 + 5 * torch.rand(SHAPE, generator=generator) for _ in range(2))
    return pred, target, torch.rand(SHAPE, generator=generator) > 0.3


def value_and_gradient(loss, pred: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    pred = pred.clone().requires_grad_()
    value = loss(pred, target, valid)
    value.backward()
    assert pred.grad is not None
    return value.detach(), pred.grad


@all_losses
def test_is_positive_for_a_wrong_prediction_and_pulls_every_valid_pixel(loss):
    pred, target, valid = maps()
    value, gradient = value_and_gradient(loss, pred, target, valid)
    assert value.shape == ()
    assert value > 0
    assert (gradient[valid] != 0).all()
    assert (gradient[~valid] == 0).all()


@all_losses
def test_a_step_against_the_gradient_lowers_it(loss):
    pred, target, valid = maps()
    value, gradient = value_and_gradient(loss, pred, target, valid)
    assert loss(pred - 1e-2 * gradient, target, valid) < value


@all_losses
def test_value_and_gradient_are_finite_at_the_target(loss):
    _, target, valid = maps()
    value, gradient = value_and_gradient(loss, target, target, valid)
    assert value == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(gradient).all()


@all_losses
def test_is_exactly_zero_with_zero_gradient_when_nothing_is_valid(loss):
    pred, target, valid = maps()
    value, gradient = value_and_gradient(loss, pred, target, torch.zeros_like(valid))
    assert value == 0
    assert (gradient == 0).all()


@all_losses
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 0.0, -1.0, 3e38])
@pytest.mark.parametrize("where", ["pred", "target", "both"])
def test_what_stands_in_invalid_pixels_changes_nothing(loss, junk: float, where: str):
    pred, target, valid = maps()
    clean = value_and_gradient(loss, pred, target, valid)
    if where != "target":
        pred = torch.where(valid, pred, junk)
    if where != "pred":
        target = torch.where(valid, target, junk)
    value, gradient = value_and_gradient(loss, pred, target, valid)
    assert value == clean[0]
    assert torch.equal(gradient, clean[1])


@all_losses
def test_the_order_of_the_batch_does_not_matter(loss):
    pred, target, valid = maps()
    order = torch.tensor([2, 0, 1])
    value, gradient = value_and_gradient(loss, pred, target, valid)
    turned = value_and_gradient(loss, pred[order], target[order], valid[order])
    torch.testing.assert_close(turned[0], value)
    torch.testing.assert_close(turned[1], gradient[order])


@all_losses
def test_is_computed_in_float32_inside_autocast(loss):
    pred, target, valid = maps()
    expected = loss(pred, target, valid)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(pred, target, valid)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


@all_losses
def test_takes_bfloat16_predictions_and_returns_float32(loss):
    pred, target, valid = maps()
    rounded = pred.bfloat16()
    assert loss(rounded, target, valid).dtype == torch.float32
    torch.testing.assert_close(loss(rounded, target, valid), loss(rounded.float(), target, valid))


@all_losses
@pytest.mark.parametrize("which", ["pred", "target", "valid"])
def test_refuses_shapes_that_differ_even_when_they_would_broadcast(loss, which: str):
    named = dict(zip(("pred", "target", "valid"), maps(), strict=True))
    named[which] = named[which][:1]
    with pytest.raises(ValueError, match=r"\(1, 1, 12, 14\)"):
        loss(**named)


@all_losses
def test_an_image_without_valid_pixels_does_not_count(loss):
    pred, target, valid = maps()
    value, gradient = value_and_gradient(loss, pred[:2], target[:2], valid[:2])
    valid[2] = False
    with_third = value_and_gradient(loss, pred, target, valid)
    torch.testing.assert_close(with_third[0], value)
    torch.testing.assert_close(with_third[1][:2], gradient)
    assert (with_third[1][2] == 0).all()


@all_losses
@pytest.mark.parametrize("bad", [1e-4, 0.0, -1e-6, -3.0, -1e4])
def test_a_prediction_of_nothing_or_less_is_finite_and_is_pulled_up(loss, bad: float):
    pred, target, valid = maps()
    pred[:, :, 3:6, 3:6] = bad
    valid[:, :, 3:6, 3:6] = True
    value, gradient = value_and_gradient(loss, pred, target, valid)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    # Together: SSIM alone may push a single pixel of a region the other way.
    assert gradient[:, :, 3:6, 3:6].sum() < 0


def row(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_l1_mse_and_berhu_by_hand():
    pred = row(1.0, 2.0, 4.0, 1.5, 9.0)
    target = row(2.0, 2.0, 1.0, 1.0, 0.0)
    valid = target > 0
    # Errors 1, 0, 3, 0.5; berHu's c is 3 / 5 = 0.6.
    by_hand = {
        "l1": (1 + 0 + 3 + 0.5) / 4,
        "mse": (1 + 0 + 9 + 0.25) / 4,
        "berhu": ((1 + 0.36) / 1.2 + 0 + (9 + 0.36) / 1.2 + 0.5) / 4,
    }
    assert {name: float(LOSSES[name](pred, target, valid)) for name in by_hand} == pytest.approx(
        by_hand
    )


def test_berhu_holds_its_threshold_constant_and_takes_it_from_the_whole_batch():
    pred = torch.tensor([10.0, 1.0, 4.0]).view(3, 1, 1, 1)
    target = torch.zeros_like(pred)
    _, gradient = value_and_gradient(LOSSES["berhu"], pred, target, torch.ones_like(pred) > 0)
    # c = 2: above it the slope is e / c, below it 1.
    assert (gradient * 3).flatten().tolist() == pytest.approx([10 / 2, 1, 4 / 2])


def test_silog_by_hand_for_every_image_apart():
    target = torch.tensor([[2.0, 1.0, 3.0, 0.0], [5.0, 0.0, 0.0, 0.0]]).view(2, 1, 1, 4)
    d = torch.tensor([[2.0, 0.0, 1.0, 9.0], [1.0, 9.0, 9.0, 9.0]]).view(2, 1, 1, 4)
    pred, valid = target * d.exp(), target > 0
    first, second = (4 + 0 + 1) / 3 - 0.5 * ((2 + 0 + 1) / 3) ** 2, 1 - 0.5 * 1
    assert float(silog(pred[:1], target[:1], valid[:1])) == pytest.approx(first)
    assert float(silog(pred, target, valid)) == pytest.approx((first + second) / 2)
    without = (5 / 3 + 1) / 2
    assert float(silog(pred, target, valid, lam=0.0)) == pytest.approx(without)


def test_silog_with_lambda_one_does_not_see_the_scale_of_each_image():
    pred, target, valid = maps()
    scaled = pred * torch.tensor([0.5, 1.0, 3.0]).view(3, 1, 1, 1)
    full, half = (functools.partial(silog, lam=lam) for lam in (1.0, 0.5))
    torch.testing.assert_close(full(scaled, target, valid), full(pred, target, valid))
    assert half(scaled, target, valid) > 1.05 * half(pred, target, valid)


def test_eigen2015_by_hand_with_gradients_between_valid_neighbours_only():
    d = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 7.0]]).view(1, 1, 2, 3)
    target = torch.tensor([[1.0, 2.0, 1.0], [3.0, 1.0, 0.0]]).view(1, 1, 2, 3)
    # Five valid pixels; to the right 1, 2 and 0, downwards 0 and -1.
    by_hand = (1 + 9) / 5 - 0.5 * (4 / 5) ** 2 + (1 + 4 + 0 + 0 + 1) / 5
    assert float(eigen2015(target * d.exp(), target, target > 0)) == pytest.approx(by_hand)


def test_densedepth_of_constant_maps_by_hand():
    target = torch.ones(2, 1, 12, 13)
    value = densedepth(3 * target, target, target > 0, data_range=100.0)
    # C1 = (0.01 · 100)² = 1; without variance only SSIM's luminance is left.
    similarity = (2 * 3 * 1 + 1) / (9 + 1 + 1)
    assert float(value) == pytest.approx(0.1 * 2 + 0 + (1 - similarity) / 2)


def test_densedepth_of_one_wrong_pixel_by_hand():
    target = torch.ones(1, 1, 11, 11)
    pred, valid = target.clone(), target > 0
    pred[..., 5, 5] = 3
    # With a data range this large SSIM is 1.
    l1_and_gradients = functools.partial(densedepth, data_range=1e6)
    assert float(l1_and_gradients(pred, target, valid)) == pytest.approx((0.1 * 2 + 4 * 2) / 121)
    valid[..., 5, 6] = False
    assert float(l1_and_gradients(pred, target, valid)) == pytest.approx((0.1 * 2 + 3 * 2) / 120)


def test_ssim_of_two_valid_pixels_by_hand():
    pred, target = torch.zeros(1, 1, 11, 11), torch.zeros(1, 1, 11, 11)
    pred[..., 5, 5:7] = torch.tensor([4.0, 2.0])
    target[..., 5, 5:7] = torch.tensor([1.0, 5.0])
    similarity, windows = ssim(pred, target, target > 0, data_range=100.0)
    assert similarity.shape == windows.shape == (1, 1, 1, 1)
    assert windows.all()
    near = math.exp(-1 / (2 * 1.5**2))
    a, b = 1 / (1 + near), near / (1 + near)
    mean_x, mean_y = 4 * a + 2 * b, 1 * a + 5 * b
    var_x, var_y = 16 * a + 4 * b - mean_x**2, a + 25 * b - mean_y**2
    covariance = 4 * a + 10 * b - mean_x * mean_y
    by_hand = (2 * mean_x * mean_y + 1) / (mean_x**2 + mean_y**2 + 1)
    by_hand *= (2 * covariance + 9) / (var_x + var_y + 9)
    assert float(similarity) == pytest.approx(by_hand, rel=1e-5)


def test_ssim_is_exactly_one_where_nothing_differs_even_far_from_zero():
    flat = torch.full((1, 1, 11, 12), 5000.0)
    similarity, _ = ssim(flat, flat, flat > 0, data_range=1.0)
    assert (similarity == 1).all()


def test_ssim_refuses_maps_smaller_than_its_window():
    small = torch.ones(1, 1, 10, 40)
    with pytest.raises(ValueError, match="at least 11x11 px, found 10x40"):
        densedepth(small, small, small > 0)


def test_the_mirrored_logarithm_goes_on_without_a_jump_or_a_kink_and_keeps_rising():
    floor = 1e-3
    values = torch.tensor([-3e38, -5.0, 0.0, 0.5e-3, 0.99999e-3, 1.00001e-3, 2e-3, 7.0])
    values.requires_grad_()
    logs = mirror_below(floor, torch.log, values)
    (slopes,) = torch.autograd.grad(logs.sum(), values)
    logs, values = logs.detach(), values.detach()
    assert torch.isfinite(logs).all()
    assert (logs.diff() > 0).all()
    assert torch.equal(logs[5:], values[5:].log())
    # The point reflection of log at the floor: 2 log(floor) - log(2 floor - x).
    assert float(logs[2]) == pytest.approx(2 * math.log(floor) - math.log(2 * floor))
    assert float(slopes[1]) == pytest.approx(1 / (5 + 2 * floor))
    assert float(slopes[4]) == pytest.approx(float(slopes[5]), rel=1e-3)


def test_masked_mean_counts_the_valid_pixels_only():
    values = torch.tensor([3.0, 5.0, 0.0, 0.0])
    assert masked_mean(values, torch.tensor([True, True, False, False])) == 4
    assert masked_mean(torch.tensor([3.0, 0.0]), torch.tensor([True, False])) == 3
    assert masked_mean(torch.zeros(4), torch.zeros(4, dtype=torch.bool)) == 0
