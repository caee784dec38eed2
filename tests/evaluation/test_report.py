"""The report's tables, words and drawings; tests/e2e/test_report_page.py opens the page."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from mde.errors import InputError
from mde.files import write_json
from mde.layout import Layout
from mde.models import build_model
from mde.protocol_words import CROPS, FLIPS, SCALINGS
from mde.protocols import PROTOCOLS
from mde.report import read_summaries, tables
from mde.report.charts import draw_images, draw_ranges, draw_sizes
from mde.report.definitions import definition
from mde.report.pages import STYLE, svg
from mde.report.results import count_parameters, read_histogram
from mde.report.tabulation import KEY, ranges_of, split_name
from mde.train.checkpoint import save_model
from mde.visualize import LINE_STYLES, MODEL_COLORS, draw_error_histograms, model_styles
from tests.evaluation.report_tree import MODEL


def summary(variant: str = "a", mode: str = "supervised", **changes: Any) -> dict[str, Any]:
    metrics = {"abs_rel": 0.2, "rmse": 0.5, "a1": 0.7, **changes.pop("metrics", {})}
    return {
        "variant": variant, "dataset": "rooms", "split": "test", "protocol": "nyu_labeled@1",
        "ground_truth": "as stored", "test_sha256": "1" * 64, "mode": mode, "images": 5,
        "skipped": [["x", "no ground truth"]], "metrics": metrics, "clipped": 0.0125,
        "baselines": {"constant": {"abs_rel": 0.1, "rmse": 0.9, "a1": 0.99}}, **changes,
    }  # fmt: skip


def column(table: dict[str, Any], name: str) -> list[tuple[str, bool]]:
    index = [found for found, _, _ in table["columns"]].index(name)
    return [row["cells"][index] for row in table["rows"]]


@pytest.mark.parametrize("key", KEY)
def test_numbers_that_do_not_compare_stand_in_two_tables(key: str) -> None:
    found = tables([summary("a"), summary("b", **{key: "another"}), summary("c")])
    assert sorted(table["variants"] for table in found) == [["a", "c"], ["b"]]
    assert {table[key] for table in found} == {"another", summary()[key]}


def test_rows_are_grouped_by_what_a_model_was_trained_on_and_baselines_come_last() -> None:
    modes = {"z": "supervised", "y": "supervised", "x": "ms", "w": "s", "v": "m", "u": "ms"}
    table = tables([summary(name, mode) for name, mode in modes.items()])[0]
    assert [row["name"] for row in table["rows"]] == ["v", "w", "u", "x", "y", "z", "constant"]
    assert [row["mode"] for row in table["rows"]] == [
        "M", "S", "MS", "MS", "supervised", "supervised", "",
    ]  # fmt: skip
    starts = [row["name"] for row in table["rows"] if row["starts_group"]]
    assert starts == ["w", "u", "y"]
    assert [row["baseline"] for row in table["rows"]] == [False] * 6 + [True]


def test_the_best_of_a_column_is_a_model_and_only_if_it_has_a_rival() -> None:
    good = {"abs_rel": 0.15, "a1": 0.7, "rmse": 0.4}
    table = tables([summary("a"), summary("b", metrics=good)])[0]
    assert column(table, "abs_rel") == [("0.200", False), ("0.150", True), ("0.100", False)]
    assert [best for _, best in column(table, "rmse")] == [False, True, False]
    assert not any(best for _, best in column(table, "a1"))
    alone = tables([summary("a"), summary("b", metrics={"rmse": None})])[0]
    assert column(alone, "rmse") == [("0.500", False), ("–", False), ("0.900", False)]
    larger = tables([summary("a"), summary("b", metrics={"a1": 0.8})])[0]
    assert [best for _, best in column(larger, "a1")] == [False, True, False]


def test_scale_stands_in_the_table_under_median_scaling_alone() -> None:
    scale = {"median": 5.4321, "spread": 0.0987}
    table = tables([summary("a", scale=scale, parameters=14_842_236)])[0]
    assert column(table, "scale median") == [("5.432", False), ("–", False)]
    assert column(table, "scale spread")[0] == ("0.099", False)
    assert column(table, "clipped") == [("1.2", False), ("–", False)]
    assert column(table, "params")[0] == ("14.84", False)
    names = [name for name, _, _ in tables([summary("a")])[0]["columns"]]
    assert names == ["abs_rel", "rmse", "a1", "clipped"]


def test_structure_and_ranges_have_tables_of_their_own() -> None:
    others = {"mssim_range10": 0.9, "abs_rel_0_25m": 0.1, "a1_0_25m": None, "abs_rel_25_50m": 0.3}
    table = tables([summary("a", metrics=others)])[0]
    names = {s["title"]: [name for name, _, _ in s["columns"]] for s in table["sections"]}
    assert names == {
        "Metrics": ["abs_rel", "rmse", "a1", "clipped"],
        "Structure": ["mssim_range10"],
        "Ranges of true depth": ["abs_rel_0_25m", "abs_rel_25_50m", "a1_0_25m"],
    }
    assert table["columns"] == [
        ("abs_rel", "", False), ("rmse", "m", False), ("a1", "", True), ("clipped", "%", None),
    ]  # fmt: skip
    assert ranges_of(others, "abs_rel") == {(0, 25): 0.1, (25, 50): 0.3}
    assert ranges_of(others, "a1") == {}
    assert (table["skipped"], table["reasons"]) == (1, {"no ground truth": 1})


def test_headings_are_split_for_narrow_columns() -> None:
    assert split_name("abs_rel_0_25m") == ("abs_rel", "0–25 m")
    assert split_name("edge_f1_sobel_norm_0.2") == ("edge f1", "sobel_norm_0.2")
    assert split_name("mssim_range255") == ("mssim", "range 255 m")
    assert split_name("scale median") == ("scale", "median")
    assert split_name("a1") == ("a1", "")


def test_results_of_an_older_format_are_refused_with_a_way_out(tmp_path: Path) -> None:
    old = {key: value for key, value in summary().items() if key not in ("test_sha256", "mode")}
    write_json(tmp_path / "results/a/metrics.json", old)
    with pytest.raises(InputError, match=r"a/metrics.json: no test_sha256, mode: .*dvc repro"):
        read_summaries(Layout(tmp_path))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_defined_in_words(name: str) -> None:
    protocol = PROTOCOLS[name]
    found = definition(protocol.id)
    assert found["Crop"] == CROPS[protocol.crop]
    assert found["Scaling"] == SCALINGS[protocol.scaling]
    assert found["Mirrored image"] == FLIPS[protocol.flip]
    limit = "no upper limit" if protocol.max_depth == math.inf else f"{protocol.max_depth:g} m"
    assert limit in found["Range of predictions"]
    peculiar = protocol.swapped, protocol.fastdepth_view, protocol.kb_crop
    assert ("Peculiar" in found) == any(peculiar)
    assert definition(f"{name}@99") == {}


def test_parameters_are_those_of_the_depth_model(tmp_path: Path) -> None:
    model = build_model(MODEL)
    save_model(tmp_path, model, {"variant": {"name": "tiny"}})
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(tmp_path / "model.safetensors") == expected
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"model.safetensors: not a file of tensors"):
        count_parameters(tmp_path / "model.safetensors")


def test_errors_are_folded_at_zero_for_all_models_on_the_same_axes() -> None:
    named = {"a": [1, 2, 3, 4], "b": [10, 0, 0, 0]}
    figure = draw_error_histograms(named, [-2, -1, 0, 1, 2])
    signed, absolute = figure.axes
    assert [p.get_data().values.tolist() for p in signed.patches] == [
        [10, 20, 30, 40], [100, 0, 0, 0],
    ]  # fmt: skip
    assert [p.get_data().values.tolist() for p in absolute.patches] == [[50, 50], [0, 100]]
    assert absolute.patches[0].get_data().edges.tolist() == [0, 1, 2]
    assert [text.get_text() for text in signed.get_legend().get_texts()] == ["a", "b"]


def test_many_models_can_be_told_apart() -> None:
    names = [f"model-{i}" for i in range(len(MODEL_COLORS) * len(LINE_STYLES))]
    styles = model_styles(names)
    assert len({(s["color"], s["linestyle"]) for s in styles.values()}) == len(names)
    assert model_styles(names[:3]) == {name: styles[name] for name in names[:3]}


def test_drawings_take_the_colours_of_the_page_and_are_the_same_each_time() -> None:
    def draw() -> str:
        with matplotlib.rc_context(STYLE):
            return svg(draw_sizes({"a": (4_000_000, 0.1), "b": (9_000_000, 0.2)}, "abs_rel", 0.3))

    drawing = draw()
    assert drawing == draw()
    assert drawing.startswith("<svg")
    for found in ("currentColor", "<text", *MODEL_COLORS[:2]):
        assert found in drawing


def test_ranges_without_a_value_are_gaps_and_images_are_sorted() -> None:
    named = {"a": {(0.0, 2.0): 0.1, (4.0, 8.0): 0.2}, "b": {(2.0, 4.0): 0.3}}
    axis = draw_ranges(named, "abs_rel").axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0–2", "2–4", "4–8"]
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [0.1, np.nan, 0.2])
    axis = draw_images({"a": [0.3, 0.1], "b": [0.2]}, "abs_rel", [0.4, 0.2]).axes[0]
    assert axis.lines[0].get_ydata().tolist() == [0.1, 0.3]
    assert axis.lines[0].get_xdata().tolist() == [25, 75]
    assert axis.lines[2].get_ydata().tolist() == [0.2, 0.4]


def test_histograms_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "error_histogram.csv"
    path.write_text("error_m,share\n-1.5,0.1\n-0.5,0.2\n0.5,0.3\n1.5,0.4\n")
    edges, shares = read_histogram(path)
    np.testing.assert_allclose(edges, [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.3, 0.4])
    path.write_text("error_m,part\n1,2\n")
    with pytest.raises(InputError, match=r"error_histogram.csv: no error histogram"):
        read_histogram(path)
