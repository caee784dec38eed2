"""Loss curves: a plot for each variant, three in a row, with lines between stages."""

from typing import Any

from mde.visualize import draw_history, figure_to_png


def history(*stages: int, val: bool = True) -> list[dict[str, Any]]:
    losses = {"train_loss": 1.0, **({"val_loss": 2.0} if val else {})}
    return [{"epoch": i, "stage": stage} | losses for i, stage in enumerate(stages, 1)]


def test_there_is_a_plot_for_each_variant_and_none_beside():
    figure = draw_history({f"variant-{i}": history(0, 0) for i in range(4)})
    used = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in used] == [f"variant-{i}" for i in range(4)]
    assert figure.get_size_inches().tolist() == [16.5, 6.4]
    assert figure_to_png(figure).startswith(b"\x89PNG")


def test_a_line_stands_between_stages():
    figure = draw_history({"staged": history(0, 0, 1, 1), "whole": history(0, 0, val=False)})
    staged, whole = (axis.get_lines() for axis in figure.axes)
    assert [line.get_label() for line in staged][:2] == ["train", "val"]
    assert staged[2].get_xdata() == [2.5, 2.5]
    assert len(staged) == 3
    assert len(whole) == 1
