"""Self-supervised loss: SSIM + L1, the best source of each pixel, auto-mask, smoothness.

Source: Godard et al. 2019, "Digging into self-supervised monocular depth", arXiv:1806.01260.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_WEIGHT = 0.85
OverSources = Literal["min", "average"]


class PhotometricError:
    """How different images are from a target: 0.85·SSIM error + 0.15·L1 (eq. 3).

    What depends on the target alone is computed once: it is compared with every source at every
    scale. target: (B,3,H,W) in [0,1]. ssim: False leaves plain L1, with weight 1.
    """

    def __init__(self, target: Tensor, ssim: bool = True) -> None:
        self.target = target.unsqueeze(1)
        self.ssim = ssim
        if ssim:
            self.padded = _pad(self.target)
            self.mean, self.var = _window_moments(self.padded)

    def __call__(self, pred: Tensor) -> Tensor:
        """pred: (B,S,3,H,W), S views of each target. Returns (B,S,H,W), mean over channels."""
        l1 = (pred - self.target).abs().mean(2)
        if not self.ssim:
            return l1
        return SSIM_WEIGHT * self.ssim_error(pred).mean(2) + (1 - SSIM_WEIGHT) * l1

    def ssim_error(self, pred: Tensor) -> Tensor:
        """(1 - SSIM) / 2, clipped to [0,1], per pixel and channel: (B,S,3,H,W).

        3x3 box window after reflection padding; C1 = 0.01², C2 = 0.03².
        """
        padded = _pad(pred)
        mean, var = _window_moments(padded)
        product = mean * self.mean
        covariance = _window_mean(padded * self.padded) - product
        c1, c2 = 0.01**2, 0.03**2
        numerator = (2 * product + c1) * (2 * covariance + c2)
        denominator = (mean**2 + self.mean**2 + c1) * (var + self.var + c2)
        return ((1 - numerator / denominator) / 2).clamp(0, 1)


def _pad(image: Tensor) -> Tensor:
    """(B,S,3,H,W) → (B,S,3,H+2,W+2), reflected at the border."""
    padded = F.pad(image.flatten(0, 1), (1, 1, 1, 1), mode="reflect")
    return padded.unflatten(0, image.shape[:2])


def _window_moments(padded: Tensor) -> tuple[Tensor, Tensor]:
    mean = _window_mean(padded)
    return mean, _window_mean(padded * padded) - mean**2


def _window_mean(padded: Tensor) -> Tensor:
    """Mean over the 3x3 windows of (…,H+2,W+2): (…,H,W).

    Sums of slices: torch's pooling is three times slower on a CPU, forward and backward.
    """
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def reprojection_loss(
    reprojection: Tensor, identity: Tensor | None, over_sources: OverSources = "min"
) -> tuple[Tensor, Tensor]:
    """Minimum (eq. 4) or average over sources, with auto-masking against unwarped ones (eq. 5).

    reprojection, identity: (B,S,H,W) photometric errors of warped and of unwarped sources;
    identity None switches the auto-mask off. over_sources is applied to both.
    Returns the mean over pixels, and the mask (B,H,W): True where the warped sources win.
    """
    best = combine(reprojection, over_sources)
    if identity is None:
        return best.mean(), torch.ones_like(best, dtype=torch.bool)
    unwarped = combine(identity, over_sources)
    # A tie counts as masked; the reference breaks it with noise.
    mask = best < unwarped
    return torch.where(mask, best, unwarped).mean(), mask


def combine(errors: Tensor, over_sources: OverSources) -> Tensor:
    """Errors (B,S,H,W) of S sources → (B,H,W): of the best one at each pixel, or their mean."""
    return errors.amin(1) if over_sources == "min" else errors.mean(1)


def mask_penalty(mask: Tensor) -> Tensor:
    """Binary cross-entropy of a predictive mask to one, so that it does not hide everything.

    mask: any shape, in [0,1]. Returns a scalar; finite at 0 and at 1.
    Source: Zhou et al. 2017, "Unsupervised learning of depth and ego-motion from video", sec. 3.3.
    """
    return F.binary_cross_entropy(mask, torch.ones_like(mask))


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
