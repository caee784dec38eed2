"""Depth metrics of single images. Means over a test set are sums and counts of these.

Sources: Eigen et al. 2014 (arXiv:1406.2283) for abs_rel … a3; sq_rel divides by the target, not by
its square, as that paper's numbers do.
"""

import torch
from torch import Tensor

METRICS = (
    "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "mae", "a1", "a2", "a3",
)  # fmt: skip
HIGHER_IS_BETTER = frozenset({"a1", "a2", "a3"})


def depth_metrics(pred: Tensor, target: Tensor, valid: Tensor) -> dict[str, float]:
    """All METRICS of one image.

    pred, target: depth in m, any one shape, > 0 where valid. valid: bool.
    Returns abs_rel, sq_rel (m), rmse (m), rmse_log, log10, silog (x100), mae (m) and a1, a2, a3:
    the shares of pixels with max(pred/target, target/pred) below 1.25, 1.25², 1.25³.
    Raises ValueError when no pixel is valid or a prediction is not positive and finite.
    """
    pred, target = pred[valid].double(), target[valid].double()
    if not len(pred):
        raise ValueError("no valid pixel: count such an image as rejected, do not average it")
    if not bool((torch.isfinite(pred) & (pred > 0)).all()):
        raise ValueError("predictions must be positive and finite: clamp them to the depth range")
    error = pred - target
    log_error = pred.log() - target.log()
    ratio = torch.maximum(pred / target, target / pred)
    values = {
        "abs_rel": (error.abs() / target).mean(),
        "sq_rel": (error**2 / target).mean(),
        "rmse": (error**2).mean().sqrt(),
        "rmse_log": (log_error**2).mean().sqrt(),
        "log10": (pred.log10() - target.log10()).abs().mean(),
        "silog": 100 * ((log_error**2).mean() - log_error.mean() ** 2).clamp(min=0).sqrt(),
        "mae": error.abs().mean(),
        **{f"a{n}": (ratio < 1.25**n).double().mean() for n in (1, 2, 3)},
    }
    return {name: float(value) for name, value in values.items()}


def mean_over_images(per_image: list[dict[str, float]]) -> dict[str, float]:
    """Image-weighted means. Raises ValueError for an empty list."""
    if not per_image:
        raise ValueError("no images to average")
    return {name: sum(values[name] for values in per_image) / len(per_image) for name in METRICS}
