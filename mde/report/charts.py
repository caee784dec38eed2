"""Plots that compare models: by depth, by image, by size. Each model has its colour on all."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from mde.visualize import model_styles

SIZE = (4.6, 3.0)
"""Inches: small, so that texts stay legible on a page for phones."""
BASELINE: dict[str, Any] = {"color": "#8a8f98", "linestyle": "--", "linewidth": 1.0}


def draw_ranges(named: Mapping[str, Mapping[tuple[float, float], float]], metric: str) -> Figure:
    """A metric by range of true depth. named: {(low, high) in m: value} of each model."""
    figure, axis = _plot(f"{metric} by depth", "true depth (m)", metric)
    ranges = sorted({edges for values in named.values() for edges in values})
    for name, style in model_styles(named).items():
        heights = [named[name].get(edges, np.nan) for edges in ranges]
        axis.plot(range(len(ranges)), heights, marker="o", markersize=4, **style)
    axis.set_xticks(range(len(ranges)), [f"{low:g}–{high:g}" for low, high in ranges])
    axis.set_xlim(-0.4, len(ranges) - 0.6)
    axis.set_ylim(0, 1.05 if metric.startswith("a1") else None)
    return figure


def draw_images(
    named: Mapping[str, ArrayLike], metric: str, baseline: ArrayLike | None = None
) -> Figure:
    """A metric of each image, from the smallest to the largest, as in a cumulative distribution.

    named: values (N,) by model, N may differ; baseline: those of the constant depth.
    """
    figure, axis = _plot(f"{metric} of single images", "images, from best to worst (%)", metric)
    for name, style in model_styles(named).items():
        _plot_sorted(axis, named[name], **style)
    if baseline is not None:
        _plot_sorted(axis, baseline, **BASELINE)
        axis.plot([], [], label="constant depth", **BASELINE)
        axis.legend()
    axis.set_xlim(0, 100)
    axis.set_ylim(0)
    return figure


def draw_sizes(
    named: Mapping[str, tuple[int, float]], metric: str, baseline: float | None = None
) -> Figure:
    """A metric against the number of parameters. named: (parameters, value) of each model."""
    figure, axis = _plot(f"{metric} by model size", "parameters (millions)", metric)
    for name, style in model_styles(named).items():
        parameters, value = named[name]
        axis.plot(parameters / 1e6, value, marker="o", markersize=8, color=style["color"])
    if baseline is not None:
        axis.axhline(baseline, label="constant depth", **BASELINE)
        axis.legend()
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(low / 1.6, high * 1.6)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    return figure


def _plot(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    axis.set_title(title)
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.grid()
    return figure, axis


def _plot_sorted(axis: Axes, values: ArrayLike, **style: Any) -> None:
    ordered = np.sort(np.asarray(values, float))
    shares = 100 * (np.arange(len(ordered)) + 0.5) / len(ordered)
    axis.plot(shares, ordered, **style)
