"""Still pictures of several models: panels with shared colours, and accuracy against costs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mde.compare.comparison import SharedPanel
from mde.cost import Cost
from mde.film import resize_frame
from mde.visualize import (
    DEPTH_MAP,
    ERROR_MAP,
    colorize,
    depth_norm,
    model_styles,
    thicken,
)

ERRORS = Normalize(0, 0.5)


def draw_shared_panel(panel: SharedPanel) -> Figure:
    """Image and truth, then each model's depth and its relative error; the best abs_rel in bold.

    Depths share their colours, whose range is that of the truth up to `max_depth`. Narrow images
    stand in two rows, wide ones in two columns.
    """
    height, width = panel.target.shape
    norm, wide = depth_norm(panel.target, panel.max_depth), width > 2 * height
    lines = 1 + len(panel.guesses) if wide else 2 + len(panel.guesses)
    cell = (6.6, 6.6 * height / width) if wide else (2.9, 2.9 * height / width)
    across, down = (2, lines) if wide else (lines, 2)
    size = across * cell[0] + (0.2 if wide else 0.9), down * (cell[1] + 0.28) + 0.9 * wide
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    cells = axes if wide else axes.T
    for axis in axes.flat:
        axis.set_axis_off()
    image = resize_frame(panel.image, (height, width))
    truth = colorize(thicken(panel.target), norm)
    first, second = (cells[0, 0], cells[0, 1]) if wide else (cells[0, 0], cells[1, 0])
    _show(first, image, panel.sample_id)
    _show(second, truth, "ground truth (m)")
    best = min(guess.abs_rel for guess in panel.guesses.values())
    for (label, guess), row in zip(panel.guesses.items(), cells[1 if wide else 2 :], strict=True):
        weight = "bold" if guess.abs_rel == best else "normal"
        _show(row[0], colorize(guess.depth, norm), f"{label} (m)")
        error = colorize(_relative_error(panel, guess.depth), ERRORS, ERROR_MAP)
        _show(row[1], error, f"relative error · abs_rel {guess.abs_rel:.3f}", weight)
    _add_scales(figure, axes, norm, wide)
    return figure


def _relative_error(panel: SharedPanel, depth: NDArray[np.float32]) -> NDArray[np.float32]:
    known = panel.target > 0
    error = np.where(known, np.abs(depth - panel.target) / np.where(known, panel.target, 1), 0)
    # An error of exactly 0 is known too, and 0 would be drawn as unknown.
    return thicken(np.where(known, np.maximum(error, 1e-6), 0).astype(np.float32))


def _show(axis: Axes, picture: NDArray[np.uint8], title: str, weight: str = "normal") -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=9, fontweight=weight)


def _add_scales(figure: Figure, axes: NDArray[np.object_], norm: LogNorm, wide: bool) -> None:
    """A scale for the depths and one for the errors: below columns, or right of rows."""
    lines = (axes[:, 0], axes[:, 1]) if wide else (axes[0], axes[1])
    where = "bottom" if wide else "right"
    shades = ((norm, DEPTH_MAP, "depth (m)"), (ERRORS, ERROR_MAP, "relative error"))
    for line, (colors, cmap, title) in zip(lines, shades, strict=True):
        bar = figure.colorbar(
            ScalarMappable(colors, cmap), ax=list(line), location=where, fraction=0.05,
            aspect=40 if wide else 20, pad=0.02,
        )  # fmt: skip
        bar.minorticks_off()
        ticks = np.geomspace(*norm_range(norm), 5) if colors is norm else np.linspace(0, 0.5, 6)
        bar.set_ticks([float(tick) for tick in ticks], labels=[f"{tick:.2g}" for tick in ticks])
        bar.set_label(title, fontsize=9)


def norm_range(norm: Normalize) -> tuple[float, float]:
    """The lowest and the highest value that a norm tells apart."""
    assert norm.vmin is not None, "it was made with both"
    assert norm.vmax is not None, "it was made with both"
    return float(norm.vmin), float(norm.vmax)


def draw_costs(costs: Mapping[str, tuple[float, Cost]], legend: bool = True) -> Figure:
    """abs_rel against parameters, latency and memory, each model a point.

    costs: abs_rel and cost by label. The line right of a latency goes to its 95th percentile.
    """
    some = next(iter(costs.values()))[1]
    of_gpu = some.growth_mib is None
    memory = "peak memory of the GPU (MiB)" if of_gpu else "memory of prediction (MiB)"
    figure = Figure(figsize=(11.5, 3.2 + 0.25 * legend), layout="constrained")
    plots = figure.subplots(1, 3, sharey=True)
    for name, style in model_styles(costs).items():
        abs_rel, cost = costs[name]
        numbers = (cost.parameters / 1e6, cost.median_ms, cost.memory_mib)
        for axis, number in zip(plots, numbers, strict=True):
            axis.plot([number], [abs_rel], "o", color=style["color"], markersize=8, label=name)
        plots[1].plot(
            [cost.median_ms, cost.p95_ms], [abs_rel] * 2, color=style["color"], linewidth=1.5
        )
    latency = f"latency of one {some.height}x{some.width} image (ms)"
    for axis, title in zip(plots, ("parameters (M)", latency, memory), strict=True):
        axis.set_xlabel(title)
        axis.set_xlim(0, 1.12 * axis.dataLim.x1)
        axis.grid(visible=True)
    plots[0].set_ylabel("abs_rel ↓")
    values = [abs_rel for abs_rel, _ in costs.values()]
    # At least a tenth of the value: what differs by less should not look far apart.
    margin = max(0.2 * (max(values) - min(values)), 0.05 * max(values))
    plots[0].set_ylim(min(values) - margin, max(values) + margin)
    if legend:
        figure.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
