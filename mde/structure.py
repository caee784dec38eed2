"""How well the structure of a depth map is met: SSIM, and the edges of objects.

Sources: SSIM of depth maps, Alhashim and Wonka 2018 (arXiv:1812.11941); precision, recall and F1 of
edges, Hu et al. 2019 (arXiv:1803.08673), sec. 4.1.2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mde.losses import SSIM_WINDOW, ssim

EDGES = {"norm_0.2": (8, 0.2), "raw_0.5": (1, 0.5)}
"""Edge maps by name: what Sobel sums are divided by, and above which magnitude there is an edge.

Divided by 8, as kornia does by default, a step of h metres has a magnitude of h / 2.
"""
EDGE_NAMES = tuple(
    f"edge_{of}_sobel_{kind}" for kind in EDGES for of in ("precision", "recall", "f1")
)
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def structure_names(data_ranges: tuple[float, ...]) -> list[str]:
    """Names of what `structure_metrics` gives: mssim by data range in m, edges by threshold."""
    return [*(f"mssim_range{data_range:g}" for data_range in data_ranges), *EDGE_NAMES]


def structure_metrics(
    pred: Tensor, target: Tensor, valid: Tensor, data_ranges: tuple[float, ...]
) -> dict[str, float | None]:
    """SSIM and edge precision, recall and F1 of one image.

    pred, target: (H,W) depth in m, > 0 where valid. valid: (H,W) bool. data_ranges: L of SSIM, m;
    a mean SSIM depends so much on it that it is part of the name.
    Only windows around valid pixels count (SSIM), and pixels all of whose neighbours are valid
    (edges). None where nothing counts: where there is no edge at all, for instance.
    """
    values = _mean_ssim(pred, target, valid, data_ranges)
    known = _all_neighbours_valid(valid)
    steps = [sobel_magnitude(torch.where(valid, depth, 0.0)) for depth in (pred, target)]
    for kind, (divisor, threshold) in EDGES.items():
        found, true = ((step / divisor > threshold) & known for step in steps)
        scores = _edge_scores(found, true)
        values |= {f"edge_{of}_sobel_{kind}": score for of, score in scores.items()}
    return values


def sobel_magnitude(depth: Tensor) -> Tensor:
    """Depth (H,W) in m → length of its Sobel gradient (H,W), not normalised: 4h at a step of h m.

    The border is continued with its own values.
    """
    padded = F.pad(depth.double()[None, None], (1, 1, 1, 1), mode="replicate")
    kernel = padded.new_tensor(SOBEL)
    gradients = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])
    return gradients[0].square().sum(0).sqrt()


def _mean_ssim(
    pred: Tensor, target: Tensor, valid: Tensor, data_ranges: tuple[float, ...]
) -> dict[str, float | None]:
    names = [f"mssim_range{data_range:g}" for data_range in data_ranges]
    if min(pred.shape) < SSIM_WINDOW:
        return dict.fromkeys(names)
    ranges = pred.new_tensor(data_ranges).view(-1, 1, 1, 1)
    similarity, windows = ssim(pred[None, None], target[None, None], valid[None, None], ranges)
    if not bool(windows.any()):
        return dict.fromkeys(names)
    means = similarity[:, windows[0]].double().mean(1)
    return dict(zip(names, means.tolist(), strict=True))


def _all_neighbours_valid(valid: Tensor) -> Tensor:
    holes = F.pad((~valid).float()[None, None], (1, 1, 1, 1), mode="replicate")
    return F.max_pool2d(holes, 3, stride=1)[0, 0] == 0


def _edge_scores(found: Tensor, true: Tensor) -> dict[str, float | None]:
    num_found, num_true = int(found.sum()), int(true.sum())
    hits = int((found & true).sum())
    return {
        "precision": hits / num_found if num_found else None,
        "recall": hits / num_true if num_true else None,
        # 2PR / (P + R), which has a value where one of both has none.
        "f1": 2 * hits / (num_found + num_true) if num_found + num_true else None,
    }
