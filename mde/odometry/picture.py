"""The picture of a path: from above, in the plane of the first camera's x and z."""

from matplotlib.figure import Figure

from mde.trajectory import Align, Poses, align, ate

TRUTH, PREDICTION, ALIGNED = "#303030", "#d1495b", "#2e86ab"


def draw_paths(pred: Poses, truth: Poses | None, is_metric: bool) -> Figure:
    """Predicted and true trajectories T_first_cam (N,4,4) from above, with one scale for both axes.

    The prediction stands there as it is, or, when it is not metric, scaled to the truth; and
    once more after the best similarity.
    """
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    unit = "m" if is_metric or truth is not None else "units of the model"
    lines: list[tuple[Poses, Align, str, str, str]] = []
    if truth is None:
        lines.append((pred, "none", "prediction", PREDICTION, "-"))
    else:
        lines.append((truth, "none", "truth", TRUTH, "-"))
        how: Align = "none" if is_metric else "scale"
        name = "prediction" if is_metric else "prediction, scaled"
        for kind, label, color, style in (
            (how, name, PREDICTION, "-"),
            ("sim3", "prediction, best similarity", ALIGNED, "--"),
        ):
            label = f"{label}: RMSE {ate(pred, truth, kind):.3g} m"
            lines.append((pred, kind, label, color, style))
    for poses, kind, label, color, style in lines:
        moved = poses[:, :3, 3]
        if truth is not None and poses is pred:
            moved = align(pred, truth, kind).apply(moved)
        axis.plot(moved[:, 0], moved[:, 2], style, color=color, label=label, linewidth=1.8)
    axis.plot(0, 0, "o", color=TRUTH, markersize=8, label="start")
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_xlabel(f"x, to the right of the first camera ({unit})")
    axis.set_ylabel(f"z, ahead of the first camera ({unit})")
    axis.set_title(f"{len(pred)} frames, from above")
    axis.grid(alpha=0.3)
    # Below: a path may go anywhere.
    figure.legend(loc="outside lower center", ncols=2)
    return figure
