"""Depth metrics of single images, and how they become numbers of a test set.

Sources: Eigen et al. 2014 (arXiv:1406.2283) for abs_rel … a3 and si_rmse; the KITTI depth benchmark
(Uhrig et al. 2017, arXiv:1708.06500) for silog, irmse and imae. sq_rel divides by the target, not
by its square, as published numbers do.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

METRICS = (
    "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "si_rmse", "mae", "irmse", "imae",
    "a1", "a2", "a3",
)  # fmt: skip
HIGHER_IS_BETTER_PREFIXES = ("a1", "a2", "a3", "mssim", "edge")
UNITS = {"sq_rel": "m", "rmse": "m", "mae": "m", "irmse": "1/km", "imae": "1/km"}
ROOTS = ("rmse", "rmse_log", "irmse")
"""Roots of means: pooled, their squares are averaged."""
Averaging = Literal["image", "pixel"]
Values = Mapping[str, float | None]


def higher_is_better(name: str) -> bool:
    """Whether a larger value of a metric is better."""
    return name.startswith(HIGHER_IS_BETTER_PREFIXES)


def depth_metrics(pred: Tensor, target: Tensor, valid: Tensor) -> dict[str, float]:
    """All METRICS of one image, and what pooling over images needs of it.

    pred, target: depth in m, any one shape, > 0 where valid. valid: bool.
    Returns abs_rel, sq_rel (m), rmse (m), rmse_log, log10, silog (x100), si_rmse (silog / 100),
    mae (m), irmse and imae (1/km) and a1, a2, a3: the shares of pixels with
    max(pred/target, target/pred) below 1.25, 1.25², 1.25³; `pixels`, how many are valid, and
    `log_bias`, the mean of log pred - log target.
    Raises ValueError when no pixel is valid or a prediction is not positive and finite.
    """
    pred, target = pred[valid], target[valid]
    if not len(pred):
        raise ValueError("no valid pixel: count such an image as rejected, do not average it")
    if not bool((torch.isfinite(pred) & (pred > 0)).all()):
        raise ValueError("predictions must be positive and finite: clamp them to the depth range")
    # In the precision of the maps, as published evaluators do it: of depths that were stored as
    # codes, many have a ratio of just 1.25, and rounding decides.
    ratio = torch.maximum(pred / target, target / pred)
    pred, target = pred.double(), target.double()
    error = pred - target
    log_error = pred.log() - target.log()
    # Around their mean, so that equal errors give exactly zero.
    si_rmse = ((log_error - log_error.mean()) ** 2).mean().sqrt()
    inverse_error = 1000 * (1 / pred - 1 / target)
    values = {
        "abs_rel": (error.abs() / target).mean(),
        "sq_rel": (error**2 / target).mean(),
        "rmse": (error**2).mean().sqrt(),
        "rmse_log": (log_error**2).mean().sqrt(),
        "log10": log_error.abs().mean() / math.log(10),
        "silog": 100 * si_rmse,
        "si_rmse": si_rmse,
        "mae": error.abs().mean(),
        "irmse": (inverse_error**2).mean().sqrt(),
        "imae": inverse_error.abs().mean(),
        **{f"a{n}": (ratio < 1.25**n).double().mean() for n in (1, 2, 3)},
        "log_bias": log_error.mean(),
    }
    return {**{name: float(value) for name, value in values.items()}, "pixels": len(pred)}


def bin_metrics(
    pred: Tensor, target: Tensor, valid: Tensor, edges: Sequence[float]
) -> dict[str, float | None]:
    """abs_rel and a1 of one image by ranges of true depth [edge, next edge), in m.

    pred, target, valid: as in `depth_metrics`. Names are those of `bin_names`; a range without a
    pixel has None.
    """
    if not edges:
        return {}
    pred, target = pred[valid], target[valid]
    # In the precision of the maps, see `depth_metrics`.
    accurate = torch.maximum(pred / target, target / pred) < 1.25
    pred, target = pred.double(), target.double()
    inner = target.new_tensor(edges[1:])
    numbers = torch.bucketize(target, inner, right=True)
    inside = (target >= edges[0]) & (numbers < len(inner))
    pred, target, numbers = pred[inside], target[inside], numbers[inside]
    counts = torch.bincount(numbers, minlength=len(inner))

    def means(values: Tensor) -> list[float]:
        return (torch.bincount(numbers, values, len(inner)) / counts).tolist()

    abs_rel = means((pred - target).abs() / target)
    a1 = means(accurate[inside].double())
    pairs = [value for pair in zip(abs_rel, a1, strict=True) for value in pair]
    found = zip(bin_names(edges), pairs, strict=True)
    return {name: None if math.isnan(value) else value for name, value in found}


def bin_names(edges: Sequence[float]) -> list[str]:
    """Names of `bin_metrics`, such as `abs_rel_0_25m`."""
    return [
        f"{name}_{low:g}_{high:g}m"
        for low, high in itertools.pairwise(edges)
        for name in ("abs_rel", "a1")
    ]


def average(
    per_image: Sequence[Values], names: Iterable[str], averaging: Averaging = "image"
) -> dict[str, float | None]:
    """One number of each name over a test set.

    image: each image counts the same; one whose value is None is left out, and without any the
    result is None. pixel: each pixel counts the same, so that the METRICS become those of all
    pixels pooled; other names have no pixels to pool and are averaged over images.
    Raises ValueError for an empty list.
    """
    if not per_image:
        raise ValueError("no images to average")
    pooled = _pooled(per_image) if averaging == "pixel" else {}
    return {name: pooled[name] if name in pooled else _mean(per_image, name) for name in names}


def _mean(per_image: Sequence[Values], name: str) -> float | None:
    found = [value for values in per_image if (value := values[name]) is not None]
    return math.fsum(found) / len(found) if found else None


def _pooled(per_image: Sequence[Values]) -> dict[str, float]:
    total = math.fsum(_number(values, "pixels") for values in per_image)

    def mean(name: str, power: int = 1) -> float:
        terms = (_number(v, "pixels") * _number(v, name) ** power for v in per_image)
        return math.fsum(terms) / total

    pooled = {name: math.sqrt(mean(name, 2)) if name in ROOTS else mean(name) for name in METRICS}
    variance = mean("rmse_log", 2) - mean("log_bias") ** 2
    pooled["si_rmse"] = math.sqrt(max(variance, 0.0))
    pooled["silog"] = 100 * pooled["si_rmse"]
    return pooled


def _number(values: Values, name: str) -> float:
    value = values[name]
    assert value is not None, f"{name} is there for every image"
    return value
