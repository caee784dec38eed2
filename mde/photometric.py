"""Self-supervised loss: SSIM + L1, minimum reprojection, auto-mask, smoothness.

Source: Godard et al. 2019, "Digging into self-supervised monocular depth", arXiv:1806.01260.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_WEIGHT = 0.85


def ssim_error(pred: Tensor, target: Tensor) -> Tensor:
    """(1 - SSIM) / 2, clipped to [0,1], per pixel and channel; 3x3 box window (eq. 3).

    pred, target: (N,C,H,W) in [0,1]. Returns (N,C,H,W). C1 = 0.01², C2 = 0.03².
    """
    pred, target = (F.pad(image, (1, 1, 1, 1), mode="reflect") for image in (pred, target))
    # One pooling call for the five moments.
    moments = F.avg_pool2d(
        torch.cat([pred, target, pred * pred, target * target, pred * target], 1), 3, 1
    )
    mean_p, mean_t, square_p, square_t, product = moments.chunk(5, 1)
    var_p, var_t = square_p - mean_p**2, square_t - mean_t**2
    covariance = product - mean_p * mean_t
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_p * mean_t + c1) * (2 * covariance + c2)
    denominator = (mean_p**2 + mean_t**2 + c1) * (var_p + var_t + c2)
    return ((1 - numerator / denominator) / 2).clamp(0, 1)


def photometric_error(pred: Tensor, target: Tensor) -> Tensor:
    """0.85·SSIM error + 0.15·L1, mean over channels (eq. 3).

    pred: (B,S,3,H,W), S views of each target. target: (B,3,H,W). Both in [0,1].
    Returns (B,S,H,W).
    """
    target = target.unsqueeze(1).expand_as(pred)
    l1 = (pred - target).abs().mean(2)
    ssim = ssim_error(pred.flatten(0, 1), target.flatten(0, 1)).mean(1).view_as(l1)
    return SSIM_WEIGHT * ssim + (1 - SSIM_WEIGHT) * l1


def min_reprojection(reprojection: Tensor, identity: Tensor | None) -> tuple[Tensor, Tensor]:
    """Per-pixel minimum over sources, with auto-masking against unwarped sources (eq. 4, 5).

    reprojection, identity: (B,S,H,W) photometric errors of warped and of unwarped sources;
    identity None switches the auto-mask off.
    Returns the mean of the minimum, and the mask (B,H,W): True where a warped source wins.
    """
    best = reprojection.amin(1)
    if identity is None:
        return best.mean(), torch.ones_like(best, dtype=torch.bool)
    unwarped = identity.amin(1)
    # A tie counts as masked; the reference breaks it with noise.
    mask = best < unwarped
    return torch.where(mask, best, unwarped).mean(), mask


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness of mean-normalised disparity (sec. 3.3).

    disparity: (B,1,H,W). image: (B,3,H,W) in [0,1], of the same size. Returns a scalar.
    """
    normalised = disparity / (disparity.mean((2, 3), keepdim=True) + 1e-7)
    total = disparity.new_zeros(())
    for axis in (2, 3):
        weight = torch.exp(-torch.diff(image, dim=axis).abs().mean(1, keepdim=True))
        total = total + (torch.diff(normalised, dim=axis).abs() * weight).mean()
    return total
