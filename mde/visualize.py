"""Pictures of depth: colour maps, panels of image | truth | prediction | error, loss curves."""

import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

DEPTH_MAP, ERROR_MAP = "viridis_r", "magma"
INVALID = "#404040"
MODEL_COLORS = (
    "#3f74e0", "#e07b1f", "#1f9d78", "#c2479f", "#8b6cd9", "#b59a1e", "#1aa3c4", "#d9534f",
)  # fmt: skip
"""Of models in plots; they show on white and on black."""
LINE_STYLES = ("-", "--", ":")
ErrorKind = Literal["signed", "absolute"]


def colorize(
    values: NDArray[np.floating], norm: Normalize, cmap: str = DEPTH_MAP
) -> NDArray[np.uint8]:
    """Map (H,W) values to RGB (H,W,3) uint8; values <= 0 or NaN are dark grey."""
    invalid = ~(np.isfinite(values) & (values > 0))
    scaled = norm(np.where(invalid, norm.vmin, np.clip(values, norm.vmin, norm.vmax)))
    colors = matplotlib.colormaps[cmap].with_extremes(bad=INVALID)(
        np.ma.masked_array(scaled, invalid), bytes=True
    )
    return np.ascontiguousarray(colors[..., :3])


def depth_norm(depth: NDArray[np.floating], max_depth: float = 1000.0) -> LogNorm:
    """Colours for depths (m, any shape): from the 1st to the 99th percentile of what is known.

    Known is > 0 and < max_depth. Logarithmic, so that a car at 5 m shows beside a house at 50 m.
    """
    known = depth[(depth > 0) & (depth < max_depth)]
    low, high = np.percentile(known, (1, 99)) if known.size else (max_depth / 100, max_depth)
    return LogNorm(low, max(high, low * 1.01))


def thicken(depth: NDArray[np.float32], size: int = 5) -> NDArray[np.float32]:
    """Grow the points of a sparse depth map (H,W) to `size` px, for the eye only."""
    if (depth > 0).mean() > 0.5:
        return depth
    # Dilation keeps the largest value, so the nearest depth needs the inverse.
    inverse = np.divide(1, depth, where=depth > 0, out=np.zeros_like(depth))
    grown = cv2.dilate(inverse, np.ones((size, size), np.uint8))
    return np.divide(1, grown, where=grown > 0, out=np.zeros_like(depth))


def overlay_depth(
    image: NDArray[np.uint8], depth: NDArray[np.float32], norm: Normalize, cmap: str = DEPTH_MAP
) -> NDArray[np.uint8]:
    """Depth of any size (m; 0 = unknown) in colours on the darkened RGB image (H,W,3) uint8.

    Sparse depth as dots, spaced so that the image stays visible; dense depth lets it shine
    through. Either way the edges of both must meet.
    """
    size = image.shape[:2]
    if (depth > 0).mean() > 0.5:
        dense: NDArray[np.float32] = cv2.resize(  # type: ignore[assignment]
            depth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT
        )
        mixed = colorize(dense, norm, cmap) // 3 * 2 + image // 3
        return np.where(dense[..., None] > 0, mixed, image // 3)
    v, u = np.nonzero(depth > 0)
    order = np.argsort(depth[v, u], kind="stable")
    v, u = v[order], u[order]
    rows, columns = v * size[0] // depth.shape[0], u * size[1] // depth.shape[1]
    # Of the points in a block of 4x4 px the nearest one; a dot is 2x2 px.
    _, first = np.unique(rows // 4 * size[1] + columns // 4, return_index=True)
    dots = np.zeros(size, np.float32)
    dots[rows[first], columns[first]] = depth[v[first], u[first]]
    dots = thicken(dots, 2)
    return np.where(dots[..., None] > 0, colorize(dots, norm, cmap), image // 2)


def draw_panel(
    image: NDArray[np.uint8],
    target: NDArray[np.float32],
    pred: NDArray[np.float32],
    max_depth: float,
    title: str,
) -> Figure:
    """Image (any size) | ground truth | prediction | relative error, in one row or in two.

    target, pred: (H,W) depth in m, target 0 = unknown. Truth and prediction share their colours,
    whose range is that of the truth up to `max_depth`.
    """
    norm = depth_norm(target, max_depth)
    error = np.where(target > 0, np.abs(pred - target) / np.maximum(target, 1e-6), 0)
    height, width = target.shape
    # Wide street images are too small four in a row.
    rows, columns = (2, 2) if width > 2 * height else (1, 4)
    cell = 16 / columns
    figure = Figure(figsize=(16, rows * (cell * 0.93 * height / width + 0.6)), layout="constrained")
    axes = figure.subplots(rows, columns).ravel()
    axes[0].imshow(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    axes[0].set_title(title, fontsize=9)
    _show(figure, axes[1], thicken(target), norm, DEPTH_MAP, "ground truth (m)")
    _show(figure, axes[2], pred, norm, DEPTH_MAP, "prediction (m)")
    sparse_error = thicken(error.astype(np.float32))
    _show(figure, axes[3], sparse_error, Normalize(0, 0.5), ERROR_MAP, "relative error")
    for axis in axes:
        axis.set_axis_off()
    return figure


def draw_history(histories: dict[str, Sequence[dict[str, Any]]]) -> Figure:
    """Training and validation loss by epoch, one plot for each variant, three in a row.

    A dashed line stands where a stage of the training begins, which may have another loss.
    """
    count = max(1, len(histories))
    rows, columns = math.ceil(count / 3), min(count, 3)
    figure = Figure(figsize=(5.5 * columns, 3.2 * rows), layout="constrained")
    plots = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis, (name, history) in zip(plots, histories.items(), strict=False):
        _plot_losses(axis, history)
        axis.set_title(name, fontsize=10)
    for axis in plots[len(histories) :]:
        axis.set_axis_off()
    return figure


def _plot_losses(axis: Axes, history: Sequence[dict[str, Any]]) -> None:
    epochs = [point["epoch"] for point in history]
    for key, label in (("train_loss", "train"), ("val_loss", "val")):
        if history and key in history[0]:
            axis.plot(epochs, [point[key] for point in history], label=label, marker=".")
    for before, after in itertools.pairwise(history):
        if before.get("stage") != after.get("stage"):
            axis.axvline(after["epoch"] - 0.5, color="gray", linestyle="--", linewidth=1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.2)
    axis.legend()


def model_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`color` and `linestyle` of each model, so that it is the same one in all plots of a page."""
    return {
        name: {
            "color": MODEL_COLORS[i % len(MODEL_COLORS)],
            "linestyle": LINE_STYLES[i // len(MODEL_COLORS) % len(LINE_STYLES)],
        }
        for i, name in enumerate(names)
    }


def draw_error_histograms(
    named: Mapping[str, ArrayLike],
    edges: ArrayLike,
    kinds: Sequence[ErrorKind] = ("signed", "absolute"),
    legend: bool = True,
) -> Figure:
    """How the errors of several models are distributed: one plot for each kind, on the same axes.

    named: counts or shares (N,) of pixels by model; edges: (N+1,) of signed errors in m, the same
    for all and symmetric about 0. Pixels beyond the ends are in the outermost bins. An absolute
    error takes both signs together.
    """
    limits = np.asarray(edges, float)
    figure = Figure(figsize=(4.6 * len(kinds), 3.0), layout="constrained")
    plots = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, kind in zip(plots, kinds, strict=True):
        for name, style in model_styles(named).items():
            shares, ends = _error_shares(np.asarray(named[name], float), limits, kind)
            axis.stairs(100 * shares, ends, label=name, **style)
        # Less than one pixel in 100 000 is noise.
        axis.set_yscale("log")
        axis.set_ylim(bottom=1e-3)
        axis.set_xlim(ends[0], ends[-1])
        axis.set_title(f"{kind} error, all pixels")
        axis.set_xlabel(f"{kind} error (m); what is beyond stands at the ends")
        axis.set_ylabel("share of pixels (%)")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.grid()
    if legend:
        plots[0].legend()
    return figure


def _error_shares(
    counts: NDArray[np.float64], edges: NDArray[np.float64], kind: ErrorKind
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares (M,) of bins, and their edges (M+1,); those of absolute errors are folded at 0."""
    shares = counts / counts.sum()
    if kind == "signed":
        return shares, edges
    half = len(shares) // 2
    return shares[half:] + shares[:half][::-1], edges[half:]


def figure_to_png(figure: Figure, dpi: int = 80) -> bytes:
    """Render a figure; no screen is needed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _show(
    figure: Figure,
    axis: Axes,
    values: NDArray[np.floating],
    norm: Normalize,
    cmap: str,
    title: str,
) -> None:
    axis.imshow(colorize(values, norm, cmap))
    axis.set_title(title, fontsize=9)
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=axis, shrink=0.8, format="%g")
    bar.minorticks_off()
    if isinstance(norm, LogNorm):
        low, high = bar.ax.get_ylim()
        ticks = [float(tick) for tick in np.geomspace(low, high, 5)]
        bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
