"""Self-supervised loss: SSIM + L1, minimum reprojection, auto-mask, smoothness.

Source: Godard et al. 2019, "Digging into self-supervised monocular depth", arXiv:1806.01260.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_WEIGHT = 0.85


class PhotometricError:
    """How different images are from a target: 0.85·SSIM error + 0.15·L1 (eq. 3).

    What depends on the target alone is computed once: it is compared with every source at every
    scale. target: (B,3,H,W) in [0,1].
    """

    def __init__(self, target: Tensor) -> None:
        self.target = target.unsqueeze(1)
        self.mean, self.var = _window_moments(self.target)

    def __call__(self, pred: Tensor) -> Tensor:
        """pred: (B,S,3,H,W), S views of each target. Returns (B,S,H,W), mean over channels."""
        l1 = (pred - self.target).abs().mean(2)
        return SSIM_WEIGHT * self.ssim_error(pred).mean(2) + (1 - SSIM_WEIGHT) * l1

    def ssim_error(self, pred: Tensor) -> Tensor:
        """(1 - SSIM) / 2, clipped to [0,1], per pixel and channel: (B,S,3,H,W).

        3x3 box window after reflection padding; C1 = 0.01², C2 = 0.03².
        """
        mean, var = _window_moments(pred)
        covariance = _window_mean(pred * self.target) - mean * self.mean
        c1, c2 = 0.01**2, 0.03**2
        numerator = (2 * mean * self.mean + c1) * (2 * covariance + c2)
        denominator = (mean**2 + self.mean**2 + c1) * (var + self.var + c2)
        return ((1 - numerator / denominator) / 2).clamp(0, 1)


def _window_moments(image: Tensor) -> tuple[Tensor, Tensor]:
    mean = _window_mean(image)
    return mean, _window_mean(image * image) - mean**2


def _window_mean(image: Tensor) -> Tensor:
    """Mean over 3x3 windows of (…,H,W), reflected at the border.

    Sums of slices: torch's pooling is three times slower on a CPU, forward and backward.
    """
    padded = F.pad(image.flatten(0, -4), (1, 1, 1, 1), mode="reflect").view(
        *image.shape[:-2], image.shape[-2] + 2, image.shape[-1] + 2
    )
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


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
