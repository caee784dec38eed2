"""The parts of the self-supervised loss: by hand, by loops and by an independent library."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from mde.photometric import PhotometricError, mask_penalty, reprojection_loss, smoothness


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- SSIM -------------------------------------------------------------------------------------


def ssim_error(pred: Tensor, target: Tensor) -> Tensor:
    return PhotometricError(target).ssim_error(pred[:, None])[:, 0]


def photometric_error(pred: Tensor, target: Tensor) -> Tensor:
    return PhotometricError(target)(pred)


def ssim_error_by_loops(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(H,W) → (H,W): the formula of Wang et al. 2004 over 3x3 boxes, one pixel at a time."""
    p, t = (np.pad(image.astype(np.float64), 1, mode="reflect") for image in (pred, target))
    error = np.empty(pred.shape)
    for y, x in np.ndindex(pred.shape):
        a, b = p[y : y + 3, x : x + 3].ravel(), t[y : y + 3, x : x + 3].ravel()
        cov = np.cov(a, b, bias=True)
        luminance = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
        structure = (2 * cov[0, 1] + 9e-4) / (cov[0, 0] + cov[1, 1] + 9e-4)
        error[y, x] = np.clip((1 - luminance * structure) / 2, 0, 1)
    return error


def test_ssim_error_is_the_published_formula():
    pred, target = random_image(2, 3, 7, 9), random_image(2, 3, 7, 9, seed=1)
    error = ssim_error(pred, target).numpy()
    for n, c in np.ndindex(2, 3):
        expected = ssim_error_by_loops(pred[n, c].numpy(), target[n, c].numpy())
        np.testing.assert_allclose(error[n, c], expected, atol=1e-5)


def test_ssim_error_is_zero_for_equal_images_and_near_one_for_inverted_ones():
    image = (torch.arange(64).view(1, 1, 8, 8) // 8 + torch.arange(8)) % 2 * 1.0
    assert ssim_error(image, image).abs().max() < 1e-6
    assert ssim_error(image, 1 - image).min() > 0.9


def test_ssim_error_stays_within_zero_and_one():
    error = ssim_error(random_image(4, 3, 16, 16), random_image(4, 3, 16, 16, seed=1))
    assert error.min() >= 0
    assert error.max() <= 1


# --- Photometric error ------------------------------------------------------------------------


def test_photometric_error_of_constant_images_by_hand():
    pred = torch.full((1, 1, 3, 4, 4), 0.5)
    target = torch.full((1, 3, 4, 4), 0.3)
    # Constant images have no variance, so SSIM is its luminance term.
    ssim = (2 * 0.5 * 0.3 + 1e-4) / (0.5**2 + 0.3**2 + 1e-4)
    expected = 0.85 * (1 - ssim) / 2 + 0.15 * 0.2
    error = photometric_error(pred, target)
    assert error.shape == (1, 1, 4, 4)
    torch.testing.assert_close(error, torch.full_like(error, expected), rtol=1e-4, atol=1e-6)


def test_photometric_error_compares_every_source_with_its_own_target():
    target = random_image(2, 3, 8, 8)
    sources = torch.stack([target, target.flip(0)], 1)
    error = photometric_error(sources, target)
    assert error[:, 0].abs().max() < 1e-6
    assert error[:, 1].mean() > 0.1


def test_photometric_error_without_ssim_is_plain_l1_by_hand():
    target = torch.tensor([0.1, 0.2, 0.6]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    pred = torch.tensor([0.2, 0.4, 0.9]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 4, 4)
    error = PhotometricError(target, ssim=False)(pred)
    torch.testing.assert_close(error, torch.full((1, 1, 4, 4), (0.1 + 0.2 + 0.3) / 3))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ssim", [True, False])
def test_photometric_error_and_gradient_are_zero_and_finite_at_the_target(value: float, ssim: bool):
    target = torch.full((1, 3, 5, 6), value)
    for image in (target, random_image(1, 3, 5, 6)):
        pred = image[:, None].clone().requires_grad_()
        error = PhotometricError(image, ssim)(pred)
        error.mean().backward()
        assert pred.grad is not None
        torch.testing.assert_close(error, torch.zeros_like(error), rtol=0, atol=1e-6)
        assert pred.grad.abs().max() < 1e-5


def test_photometric_error_has_right_gradients():
    target = random_image(1, 3, 4, 5, seed=1).double()
    pred = random_image(1, 2, 3, 4, 5).double().requires_grad_()
    assert gradcheck(PhotometricError(target), (pred,))


# --- Over the sources -------------------------------------------------------------------------


def test_the_best_source_of_each_pixel_counts():
    reprojection = torch.tensor([[[[0.1, 0.9]], [[0.8, 0.2]]]])
    value, mask = reprojection_loss(reprojection, None)
    assert float(value) == pytest.approx((0.1 + 0.2) / 2)
    assert mask.tolist() == [[[True, True]]]


def test_or_all_sources_count_alike():
    reprojection = torch.tensor([[[[0.1, 0.9]], [[0.8, 0.2]]]])
    value, mask = reprojection_loss(reprojection, None, "average")
    assert float(value) == pytest.approx((0.45 + 0.55) / 2)
    assert mask.tolist() == [[[True, True]]]


def test_auto_mask_leaves_out_pixels_that_an_unwarped_source_explains_better():
    reprojection = torch.tensor([[[[0.1, 0.9]], [[0.8, 0.7]]]], requires_grad=True)
    identity = torch.tensor([[[[0.5, 0.6]], [[0.4, 0.3]]]])
    value, mask = reprojection_loss(reprojection, identity)
    assert mask.tolist() == [[[True, False]]]
    torch.testing.assert_close(value, torch.tensor((0.1 + 0.3) / 2))
    value.backward()
    # Only the winner of a used pixel learns.
    assert reprojection.grad is not None
    assert reprojection.grad.tolist() == [[[[0.5, 0.0]], [[0.0, 0.0]]]]


def test_auto_mask_compares_averages_with_averages():
    # By their minima both pixels would be decided the other way.
    reprojection = torch.tensor([[[[0.3, 0.1]], [[0.3, 0.9]]]], requires_grad=True)
    identity = torch.tensor([[[[0.2, 0.3]], [[0.6, 0.3]]]])
    value, mask = reprojection_loss(reprojection, identity, "average")
    assert mask.tolist() == [[[True, False]]]
    torch.testing.assert_close(value, torch.tensor((0.3 + 0.3) / 2))
    value.backward()
    assert reprojection.grad is not None
    assert reprojection.grad.tolist() == [[[[0.25, 0.0]], [[0.25, 0.0]]]]


@pytest.mark.parametrize("over_sources", ["min", "average"])
def test_a_tie_with_an_unwarped_source_counts_as_masked(over_sources):
    errors = random_image(2, 3, 4, 5)
    value, mask = reprojection_loss(errors, errors, over_sources)
    assert not mask.any()
    assert value > 0


def test_mask_penalty_by_hand_and_finite_at_its_ends():
    mask = torch.tensor([0.5, 1.0, 0.25])
    assert float(mask_penalty(mask)) == pytest.approx((math.log(2) + 0 + math.log(4)) / 3)
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    penalty = mask_penalty(torch.sigmoid(logits))
    penalty.backward()
    assert torch.isfinite(penalty)
    assert torch.isfinite(logits.grad).all()


# --- Smoothness -------------------------------------------------------------------------------


def test_smoothness_is_zero_for_a_constant_disparity():
    assert smoothness(torch.full((2, 1, 6, 6), 0.3), random_image(2, 3, 6, 6)) == 0


def test_smoothness_by_hand():
    disparity = torch.tensor([[[[1.0, 3.0]]]])  # mean 2, so the normalised step is 1
    image = torch.tensor([0.2, 0.7]).expand(1, 3, 1, 2)
    padded = [F.pad(x, (0, 0, 0, 1), mode="replicate") for x in (disparity, image)]
    assert float(smoothness(*padded)) == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_smoothness_does_not_depend_on_the_scale_of_the_disparity():
    disparity, image = 0.1 + random_image(2, 1, 6, 8), random_image(2, 3, 6, 8, seed=1)
    torch.testing.assert_close(smoothness(7 * disparity, image), smoothness(disparity, image))


def test_a_step_costs_less_where_the_image_has_an_edge():
    disparity = torch.ones(1, 1, 4, 8)
    disparity[..., 4:] = 2
    with_edge = torch.zeros(1, 3, 4, 8)
    with_edge[..., 4:] = 1
    on_edge = smoothness(disparity, with_edge)
    assert on_edge < 0.5 * smoothness(disparity, torch.zeros_like(with_edge))
    torch.testing.assert_close(on_edge, smoothness(disparity.mT, with_edge.mT))
