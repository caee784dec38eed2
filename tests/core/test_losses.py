"""Supervised losses: the contract of every loss in the table, and values computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from mde.losses import LOSSES, masked_mean

SHAPE = (3, 1, 6, 8)
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
    with pytest.raises(ValueError, match=r"\(1, 1, 6, 8\)"):
        loss(**named)


def test_values_by_hand():
    pred = torch.tensor([[[[1.0, 2.0, 4.0, 9.0]]]])
    target = torch.tensor([[[[2.0, 2.0, 1.0, 0.0]]]])
    valid = target > 0
    by_hand = {"l1": (1 + 0 + 3) / 3, "mse": (1 + 0 + 9) / 3}
    assert {name: float(LOSSES[name](pred, target, valid)) for name in by_hand} == pytest.approx(
        by_hand
    )


def test_masked_mean_counts_the_valid_pixels_only():
    values = torch.tensor([3.0, 5.0, 0.0, 0.0])
    assert masked_mean(values, torch.tensor([True, True, False, False])) == 4
    assert masked_mean(torch.tensor([3.0, 0.0]), torch.tensor([True, False])) == 3
    assert masked_mean(torch.zeros(4), torch.zeros(4, dtype=torch.bool)) == 0
