"""Supervised losses: pure functions of (pred, target, valid), and the table LOSSES.

The contract of every loss, tested over the table: pred and target (B,1,H,W) depth in m, valid
(B,1,H,W) bool → float32 scalar; finite value and gradient at pred == target; 0 with zero gradient
when nothing is valid; what stands in invalid pixels changes nothing; computed in float32 inside
autocast. Raises ValueError when shapes differ.

Pixels are pooled over the batch, except where a term is defined over one image (`silog`,
`eigen2015`): there each image with valid pixels counts the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

LOG_FLOOR_M = 1e-3
SSIM_WINDOW = 11
SSIM_SIGMA_PX = 1.5
DENSEDEPTH_L1_WEIGHT = 0.1


# (pred, target, valid) → scalar; options are keyword arguments with defaults.
Loss = Callable[..., Tensor]


def mse(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over valid pixels, in m²."""
    return masked_mean(_difference(pred, target, valid) ** 2, valid)


def l1(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error over valid pixels, in m."""
    return masked_mean(_difference(pred, target, valid).abs(), valid)


def berhu(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Reverse Huber loss: |e| up to c, (e² + c²) / 2c above, mean over valid pixels, in m.

    c is a fifth of the batch's largest |e|, a constant to the gradient.
    Source: Laina et al. 2016, arXiv:1606.00373, eq. 1.
    """
    error = _difference(pred, target, valid).abs()
    # Without any error c would be 0, and 0/0 would reach the gradient.
    c = (0.2 * error.detach().amax()).clamp(min=torch.finfo(torch.float32).tiny)
    return masked_mean(torch.where(error <= c, error, (error**2 + c**2) / (2 * c)), valid)


def silog(pred: Tensor, target: Tensor, valid: Tensor, lam: float = 0.5) -> Tensor:
    """Scale-invariant log error: mean(d²) - lam·mean(d)² of an image, d = log pred - log target.

    lam: 0 = squared log error, 1 = blind to the scale. Predictions of 1 mm and less, where the log
    ends, see `mirror_below`.
    Source: Eigen et al. 2014, arXiv:1406.2283, eq. 4.
    """
    return _image_mean(_silog_of_images(_log_difference(pred, target, valid), valid, lam), valid)


def eigen2015(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """`silog` with lam 0.5, plus the sum of squared forward differences of d by valid pixels.

    A difference counts when both of its pixels are valid.
    Source: Eigen and Fergus 2015, arXiv:1411.4734, eq. 1.
    """
    d = _log_difference(pred, target, valid)
    gradients = _sum(_forward_differences(d, valid) ** 2) / _count(valid)
    return _image_mean(_silog_of_images(d, valid, 0.5) + gradients, valid)


def densedepth(pred: Tensor, target: Tensor, valid: Tensor, data_range: float = 100.0) -> Tensor:
    """0.1·L1 + L1 of forward differences + (1 - SSIM) / 2, made for inverse depth y = m / depth.

    A difference counts when both of its pixels are valid; its sum is divided by all valid pixels.
    data_range: L of SSIM; of y it is max_depth / min_depth.
    Raises ValueError when a side is shorter than SSIM's window.
    Source: Alhashim and Wonka 2018, arXiv:1812.11941, eq. 1 to 4.
    """
    error = _difference(pred, target, valid)
    gradients = masked_mean(_forward_differences(error, valid).abs(), valid)
    similarity, windows = ssim(pred, target, valid, data_range)
    structure = masked_mean(torch.where(windows, (1 - similarity) / 2, 0.0).clamp(0, 1), windows)
    return DENSEDEPTH_L1_WEIGHT * masked_mean(error.abs(), valid) + gradients + structure


def ssim(
    pred: Tensor, target: Tensor, valid: Tensor, data_range: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Structural similarity in windows of 11x11 px, Gaussian with sigma 1.5 px.

    Invalid pixels weigh nothing and the weights of the others are scaled to 1, so that the values
    are the usual ones where all are valid. Returns the map (B,1,H-10,W-10) of windows inside the
    image, and which of them have a valid pixel in the middle; the others mean nothing.
    data_range: one, or those of R maps of one image as (R,1,1,1), which makes the map (R,1,…).
    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13, K1 = 0.01, K2 = 0.03.
    """
    if min(pred.shape[-2:]) < SSIM_WINDOW:
        height, width = pred.shape[-2:]
        raise ValueError(
            f"SSIM needs maps of at least {SSIM_WINDOW}x{SSIM_WINDOW} px, found {height}x{width}"
        )
    x, y = _fill(pred, target, valid, 0.0)
    # Apart, so that the half without a gradient costs none.
    mean_y, weight = _gaussian_sums(torch.cat([y, valid.float()], 1)).split(1, 1)
    sums = _gaussian_sums(torch.cat([x, x**2 + y**2, (x - y) ** 2], 1))
    margin = SSIM_WINDOW // 2
    windows = valid[..., margin:-margin, margin:-margin]
    weight = torch.where(windows, weight, 1.0)
    mean_y = mean_y / weight
    mean_x, squares, error_squares = (sums / weight).split(1, 1)
    # Variances of the error instead of covariances: exactly 1 at pred == target, and no small
    # differences of large numbers. var(x) + var(y) - 2·cov(x, y) = var(x - y).
    variances = (squares - mean_x**2 - mean_y**2).clamp(min=0)
    error_variance = (error_squares - (mean_x - mean_y) ** 2).clamp(min=0)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = 1 - (mean_x - mean_y) ** 2 / (mean_x**2 + mean_y**2 + c1)
    return luminance * (1 - error_variance / (variances + c2)), windows


def mirror_below(floor: float, function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """A function such as log, continued below `floor` by its point reflection at the floor.

    Above it, nothing changes. Below, where the function would end in infinity, the result stays
    finite, and its slope is the one at the same distance above: unlike behind a clamp, a
    prediction of 0 or less is pulled back, and unlike on a tangent, not by a huge gradient.
    """
    inside = values >= floor
    mirrored = function(torch.where(inside, values, 2 * floor - values))
    at_floor = function(torch.full_like(values, floor))
    return torch.where(inside, mirrored, 2 * at_floor - mirrored)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` (0 where not valid) over the valid pixels; 0 when there are none."""
    return values.sum() / valid.sum().clamp(min=1)


def _fill(pred: Tensor, target: Tensor, valid: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """Both in float32, with `value` in invalid pixels: NaN times zero is NaN, in gradients too."""
    if not pred.shape == target.shape == valid.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (pred, target, valid))
        raise ValueError(f"pred, target and valid must have one shape, found {shapes}")
    return torch.where(valid, pred.float(), value), torch.where(valid, target.float(), value)


def _difference(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    pred, target = _fill(pred, target, valid, 0.0)
    return pred - target


def _log_difference(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    logs = [mirror_below(LOG_FLOOR_M, torch.log, x) for x in _fill(pred, target, valid, 1.0)]
    return logs[0] - logs[1]


def _forward_differences(values: Tensor, valid: Tensor) -> Tensor:
    """(B,1,H,W) → (B,2,H,W): to the right and downwards; 0 where a pixel of the pair is invalid."""
    maps = []
    for axis, padding in ((3, (0, 1)), (2, (0, 0, 0, 1))):
        pairs = valid.narrow(axis, 1, valid.shape[axis] - 1) & valid.narrow(
            axis, 0, valid.shape[axis] - 1
        )
        difference = torch.where(pairs, torch.diff(values, dim=axis), 0.0)
        maps.append(torch.nn.functional.pad(difference, padding))
    return torch.cat(maps, 1)


def _silog_of_images(d: Tensor, valid: Tensor, lam: float) -> Tensor:
    """(B,): mean(d²) - lam·mean(d)² of every image."""
    count = _count(valid)
    return _sum(d**2) / count - lam * (_sum(d) / count) ** 2


def _image_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B,) values over the images that have valid pixels; without any, the value is 0."""
    return values.sum() / valid.flatten(1).any(1).sum().clamp(min=1)


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def _count(valid: Tensor) -> Tensor:
    return _sum(valid).clamp(min=1)


def _gaussian_sums(maps: Tensor) -> Tensor:
    """Weighted sums in windows: (B,C,H,W) → (B,C,H-10,W-10).

    Sums of slices: convolutions would run in bfloat16 inside autocast and in TF32 on a GPU, which
    is too coarse for variances.
    """
    middle = SSIM_WINDOW // 2
    taps = [math.exp(-((i - middle) ** 2) / (2 * SSIM_SIGMA_PX**2)) for i in range(SSIM_WINDOW)]
    for axis in (2, 3):
        size = maps.shape[axis] - SSIM_WINDOW + 1
        sums = torch.zeros_like(maps.narrow(axis, 0, size))
        for i, tap in enumerate(taps):
            sums = torch.add(sums, maps.narrow(axis, i, size), alpha=tap / sum(taps))
        maps = sums
    return maps


LOSSES: dict[str, Loss] = {
    "l1": l1,
    "mse": mse,
    "berhu": berhu,
    "silog": silog,
    "eigen2015": eigen2015,
    "densedepth": densedepth,
}
