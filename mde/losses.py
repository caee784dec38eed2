"""Supervised losses: pure functions of (pred, target, valid), and the table LOSSES.

The contract of every loss, tested over the table: pred and target (B,1,H,W) depth in m, valid
(B,1,H,W) bool → float32 scalar; finite value and gradient at pred == target; 0 with zero gradient
when nothing is valid; what stands in invalid pixels changes nothing; computed in float32 inside
autocast. Raises ValueError when shapes differ.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def mse(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over valid pixels, in m²."""
    return masked_mean(_difference(pred, target, valid) ** 2, valid)


def l1(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error over valid pixels, in m."""
    return masked_mean(_difference(pred, target, valid).abs(), valid)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` (0 where not valid) over the valid pixels; 0 when there are none."""
    return values.sum() / valid.sum().clamp(min=1)


def _difference(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    if not pred.shape == target.shape == valid.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (pred, target, valid))
        raise ValueError(f"pred, target and valid must have one shape, found {shapes}")
    # Invalid pixels are replaced before the subtraction: NaN times zero is NaN, also in gradients.
    pred = torch.where(valid, pred.float(), 0.0)
    return pred - torch.where(valid, target.float(), 0.0)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"l1": l1, "mse": mse}
