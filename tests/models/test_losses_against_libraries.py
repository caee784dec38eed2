"""Supervised losses against independent implementations: kornia, torchmetrics, pytorch-msssim."""

import kornia.metrics
import numpy as np
import pytest
import pytorch_msssim
import torch
from torch import Tensor
from torch.nn import functional as F

from mde.losses import LOSSES, silog, ssim
from mde.photometric import PhotometricError

DATA_RANGE = 100.0


@pytest.fixture(scope="module")
def maps() -> tuple[Tensor, Tensor]:
    """Two images of inverse depth from 1 to 100: slopes with a step, and a noisy copy."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(1, 60, 40).expand(2, 1, 30, 40).clone()
    slope[1] = slope[1].flip(-1)
    slope[:, :, 10:20, 15:30] += 30
    return slope + 8 * torch.rand(slope.shape, generator=generator), slope


@pytest.fixture(scope="module")
def valid() -> Tensor:
    return torch.rand((2, 1, 30, 40), generator=torch.Generator().manual_seed(1)) > 0.4


@pytest.fixture(scope="module")
def torchmetrics():
    """Imported by the tests that need it only: it takes several seconds."""
    import torchmetrics.functional

    return torchmetrics.functional


def everywhere(values: Tensor) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def test_ssim_is_kornias_map_where_all_pixels_are_valid(maps):
    pred, target = maps
    similarity, windows = ssim(pred, target, everywhere(pred), DATA_RANGE)
    # In float64: in float32 its variances are off by more than ours.
    theirs = kornia.metrics.ssim(
        pred.double(), target.double(), 11, max_val=DATA_RANGE, padding="valid"
    )
    assert windows.all()
    assert theirs.std() > 0.05
    torch.testing.assert_close(similarity.double(), theirs, rtol=0, atol=4e-5)


def test_ssim_is_the_mean_of_pytorch_msssim(maps):
    pred, target = maps
    mean = ssim(pred, target, everywhere(pred), DATA_RANGE)[0].mean()
    theirs = pytorch_msssim.ssim(pred, target, data_range=DATA_RANGE)
    torch.testing.assert_close(mean, theirs, rtol=0, atol=1e-5)


def test_ssim_and_forward_differences_are_those_of_torchmetrics(maps, torchmetrics):
    pred, target = maps
    _, theirs = torchmetrics.image.structural_similarity_index_measure(
        pred.double(), target.double(), data_range=DATA_RANGE, return_full_image=True
    )
    # Its border is reflected; ours takes the windows inside the image.
    similarity, _ = ssim(pred, target, everywhere(pred), DATA_RANGE)
    torch.testing.assert_close(similarity.double(), theirs[..., 5:-5, 5:-5], rtol=0, atol=4e-5)
    dy, dx = torchmetrics.image.image_gradients(pred.log() - target.log())
    expected = silog(pred, target, everywhere(pred)) + (dy**2 + dx**2).mean()
    torch.testing.assert_close(LOSSES["eigen2015"](pred, target, everywhere(pred)), expected)


def test_ssim_has_the_gradient_of_pytorch_msssim(maps):
    pred, target = (x.clone() for x in maps)
    pred.requires_grad_()
    ours = ssim(pred, target, everywhere(pred), DATA_RANGE)[0].mean()
    theirs = pytorch_msssim.ssim(pred, target, data_range=DATA_RANGE)
    gradients = [torch.autograd.grad(value, pred)[0] for value in (ours, theirs)]
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-8)


def test_ssim_with_invalid_pixels_is_numpys_weighted_moments_window_by_window(maps, valid):
    similarity, windows = ssim(*maps, valid, DATA_RANGE)
    x, y, mask = (m[0, 0].double().numpy() for m in (*maps, valid))
    offsets = np.arange(11) - 5
    gaussian = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    assert torch.equal(windows, valid[..., 5:-5, 5:-5])
    for row, column in windows[0, 0].nonzero()[::29].tolist():
        window = np.s_[row : row + 11, column : column + 11]
        weights = (gaussian * mask[window]).ravel()
        pair = np.stack([x[window].ravel(), y[window].ravel()])
        mean_x, mean_y = np.average(pair, axis=1, weights=weights)
        (var_x, covariance), (_, var_y) = np.cov(pair, aweights=weights, ddof=0)
        theirs = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        theirs *= (2 * covariance + c2) / (var_x + var_y + c2)
        assert float(similarity[0, 0, row, column]) == pytest.approx(theirs, abs=4e-5)


def test_densedepth_is_put_together_from_their_parts(maps):
    pred, target = maps
    error = (pred - target).double().numpy()
    parts = [
        0.1 * np.abs(error).mean(),
        np.abs(np.diff(error, axis=2)).sum() / error.size,
        np.abs(np.diff(error, axis=3)).sum() / error.size,
        (1 - pytorch_msssim.ssim(pred, target, data_range=DATA_RANGE).item()) / 2,
    ]
    value = LOSSES["densedepth"](pred, target, everywhere(pred))
    assert float(value) == pytest.approx(sum(parts), rel=1e-5)


def test_l1_and_mse_are_torchs_of_the_valid_pixels(maps, valid):
    pred, target = maps
    for name, theirs in (("l1", F.l1_loss), ("mse", F.mse_loss)):
        torch.testing.assert_close(
            LOSSES[name](pred, target, valid), theirs(pred[valid], target[valid])
        )


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.85, 1.0])
def test_silog_is_numpys_second_moment_of_the_log_ratio(maps, valid, lam: float):
    expected = []
    for pred, target, mask in zip(*(m.double().numpy() for m in maps), valid.numpy(), strict=True):
        d = np.log(pred[mask]) - np.log(target[mask])
        # lam 1 is the variance; less adds the square of the mean.
        expected.append(np.var(d) + (1 - lam) * np.mean(d) ** 2)
    assert float(silog(*maps, valid, lam)) == pytest.approx(np.mean(expected), rel=1e-4)


def test_eigen2015_is_numpys_masked_arrays(maps, valid):
    expected = []
    for pred, target, mask in zip(*(m.double().numpy() for m in maps), valid.numpy(), strict=True):
        d = np.ma.masked_array(np.log(pred) - np.log(target), ~mask)[0]
        # Masked arrays leave out every difference with a masked neighbour.
        slopes = (np.ma.diff(d, axis=0) ** 2).sum() + (np.ma.diff(d, axis=1) ** 2).sum()
        expected.append((d**2).mean() - 0.5 * d.mean() ** 2 + slopes / d.count())
    value = LOSSES["eigen2015"](*maps, valid)
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-5)


def test_berhu_is_its_equation_in_numpy(maps, valid):
    error = np.abs((maps[0] - maps[1])[valid].double().numpy())
    c = error.max() / 5
    expected = np.piecewise(error, [error <= c], [lambda e: e, lambda e: (e * e + c * c) / (2 * c)])
    assert float(LOSSES["berhu"](*maps, valid)) == pytest.approx(expected.mean(), rel=1e-5)


def test_the_photometric_ssim_error_is_that_of_torchmetrics(torchmetrics):
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.rand((2, 2, 3, 7, 9), generator=generator)
    _, similarity = torchmetrics.image.structural_similarity_index_measure(
        pred, target, gaussian_kernel=False, kernel_size=3, data_range=1.0, return_full_image=True
    )
    error = PhotometricError(target).ssim_error(pred[:, None])[:, 0]
    torch.testing.assert_close(error, ((1 - similarity) / 2).clamp(0, 1), rtol=0, atol=1e-5)
