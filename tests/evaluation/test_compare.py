"""Models side by side: the same images, the same numbers where they are the same model."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer import Typer
from typer.testing import CliRunner

from mde.cli.compare import compare as command
from mde.compare import (
    Comparison,
    Options,
    compare,
    find_contenders,
    given_data,
    given_protocol,
    write_comparison,
)
from mde.compare.comparison import Guess, SharedPanel
from mde.compare.outputs import markdown
from mde.compare.pictures import draw_costs, draw_shared_panel
from mde.compare.sections import sections
from mde.cost import Cost
from mde.errors import InputError
from mde.evaluate import evaluate
from mde.layout import Layout
from mde.protocols import PROTOCOLS
from tests.evaluation.compare_data import IMAGES, write_checkpoint, write_data

PROTOCOL = PROTOCOLS["kitti_eigen_mono"]
NO_COST = Options(num_panels=2, cost_seconds=0)
COST = Cost("a processor", 2, 32, 96, 3_000_000, 2_000_000_000, 50, 7.0, 9.0, growth_mib=12.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained variants and the data that the first one has seen."""
    root = tmp_path_factory.mktemp("root")
    write_data(Layout(root).shards("streets"))
    write_checkpoint(Layout(root).model("one") / "checkpoint", "one", 1, dataset="streets")
    write_checkpoint(Layout(root).model("two") / "checkpoint", "two", 2, contrast=100)
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> Comparison:
    """One, two, and one again."""
    contenders = find_contenders(root, ["one", "two", "one"], root / "downloads")
    return compare(contenders, Layout(root).shards("streets"), PROTOCOL, NO_COST)


def in_modes(found: Comparison, *modes: str) -> Comparison:
    """As if the models had been trained in these modes."""
    entries = [
        replace(entry, summary={**entry.summary, "mode": mode})
        for entry, mode in zip(found.entries, modes, strict=True)
    ]
    return replace(found, entries=entries)


def test_numbers_are_those_of_an_evaluation_of_each_alone(found: Comparison, root: Path) -> None:
    for entry in found.entries:
        alone = evaluate(entry.contender.checkpoint, found.data, PROTOCOL, num_panels=0)
        assert entry.summary["metrics"] == alone.summary["metrics"]
        assert entry.summary["test_sha256"] == alone.summary["test_sha256"]
        assert entry.parameters == 3_960_930
        assert int(entry.histogram.sum()) == sum(alone.per_image["pixels"].to_pylist())


def test_a_model_given_twice_has_equal_rows_and_no_winner(found: Comparison) -> None:
    assert [e.contender.label for e in found.entries] == ["one #1", "two", "one #2"]
    for section in sections(found)[:-1]:
        rows = {row["name"]: row for row in section["rows"]}
        assert rows["one #1"]["cells"] == rows["one #2"]["cells"]
    (*_, differences) = sections(found)
    words = {row["name"]: [text for text, _ in row["cells"]] for row in differences["rows"]}
    assert words["one #2"] == ["+0.0", "+0.0", "+0.0", "may be chance"]
    one, two = found.entries[0], found.entries[1]
    assert two.improvement is not None
    better = one.summary["metrics"]["abs_rel"] > two.summary["metrics"]["abs_rel"]
    assert (two.improvement[0] > 0) == better
    assert two.improvement[1] <= two.improvement[0] <= two.improvement[2]


def test_the_markdown_table_groups_m_s_ms_and_has_the_best_in_bold(found: Comparison) -> None:
    lines = markdown(in_modes(found, "supervised", "ms", "m")).splitlines()
    start = lines.index("## Metrics") + 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start : start + 7]]
    head, _, *models = rows
    assert [row[:2] for row in models] == [
        ["one #2", "M"], ["two", "MS"], ["one #1", "supervised"],
        ["constant", "baseline"], ["random", "baseline"],
    ]  # fmt: skip
    column = head.index("abs_rel ↓")
    values = [float(row[column].strip("*")) for row in models[:3]]
    assert [row[column].startswith("**") for row in models] == [
        value == min(values) for value in values
    ] + [False, False]
    column = head.index("a1 ↑")
    values = [float(row[column].strip("*")) for row in models[:3]]
    assert [row[column].startswith("**") for row in models[:3]] == [
        value == max(values) for value in values
    ]


def test_panels_show_every_model_on_the_same_images(found: Comparison) -> None:
    assert [panel.sample_id for panel in found.panels] == ["street_0000", "street_0004"]
    for panel in found.panels:
        assert list(panel.guesses) == ["one #1", "two", "one #2"]
        first, second, third = panel.guesses.values()
        np.testing.assert_array_equal(first.depth, third.depth)
        assert not np.array_equal(first.depth, second.depth)
        assert first.abs_rel == third.abs_rel != second.abs_rel


@pytest.mark.parametrize(("width", "shape"), [(96, (4, 2)), (40, (2, 5))])
def test_a_panel_names_each_model_and_the_best_is_in_bold(
    width: int, shape: tuple[int, int]
) -> None:
    depth = np.linspace(1, 9, 32 * width, dtype=np.float32).reshape(32, width)
    guesses = {name: Guess(depth * (1 + i), 0.1 * (3 - i)) for i, name in enumerate("abc")}
    figure = draw_shared_panel(
        SharedPanel("street_7", np.zeros((32, width, 3), np.uint8), depth, guesses, 80.0)
    )
    titles = {axis.get_title(): axis.title.get_fontweight() for axis in figure.axes}
    assert {"ground truth (m)", "a (m)", "b (m)", "c (m)"} <= titles.keys()
    assert titles["relative error · abs_rel 0.100"] == "bold"
    assert titles["relative error · abs_rel 0.300"] == "normal"
    assert sum(bool(axis.images) for axis in figure.axes) == 8
    grid = figure.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == shape


def test_all_files_are_written_and_the_page_needs_none_of_the_others(
    found: Comparison, tmp_path: Path
) -> None:
    entries = [replace(entry, cost=COST) for entry in found.entries]
    write_comparison(tmp_path, replace(found, entries=entries), fps=4)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")} == {
        "index.html", "table.csv", "table.md", "metrics.json", "per_image.parquet",
        "panels/00.png", "panels/01.png", "sequence.gif", "sequence.mp4", "histograms.png",
        "cost.png",
    }  # fmt: skip
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r'(src|srcset)="(?!data:)', page)
    assert not re.search(r"@import|url\((?!data:|#|\"#)", page)
    for entry in found.entries:
        assert entry.contender.label in page
    table = pq.read_table(tmp_path / "per_image.parquet")
    assert table["model"].to_pylist() == [n for n in ("one #1", "two", "one #2") for _ in range(5)]
    assert table["sample_id"].to_pylist() == 3 * [f"street_{i:04d}" for i in range(IMAGES)]
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert [model["source"] for model in content["models"]] == ["one", "two", "one"]
    assert content["models"][0]["cost"]["p95_ms"] == 9
    assert content["models"][0]["improvement"] is None
    assert content["sequence"]["frames"] == [f"street_{i:04d}" for i in range(IMAGES)]
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == 4
    assert {"model", "abs_rel", "median_ms", "scale_median"} <= set(lines[0].split(","))


def test_costs_are_plotted_apart_though_models_are_alike() -> None:
    costs = {name: (0.2, replace(COST, median_ms=7.0 + i)) for i, name in enumerate("ab")}
    figure = draw_costs(costs)
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "parameters (M)", "latency of one 32x96 image (ms)", "memory of prediction (MiB)",
    ]  # fmt: skip
    low, high = figure.axes[0].get_ylim()
    assert low < 0.2 < high
    assert all(axis.get_xlim()[0] == 0 for axis in figure.axes)


def test_labels_differ_and_say_where_a_model_is_from(root: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "one", 3)
    found = find_contenders(root, ["one", str(other), "two"], tmp_path / "downloads")
    assert [one.label for one in found] == ["one", f"one ({other})", "two"]
    again = find_contenders(root, [str(Layout(root).model("one")), "two"], tmp_path / "downloads")
    assert again[0].checkpoint == Layout(root).model("one") / "checkpoint"


def test_bad_sources_say_what_is_allowed(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"three: no model is there; expected .*: one, two$"):
        find_contenders(root, ["one", "three"], tmp_path)
    with pytest.raises(InputError, match=r"found 1 model to compare, two are needed"):
        find_contenders(root, ["one"], tmp_path)
    with pytest.raises(InputError, match=r"streets: no model is there"):
        find_contenders(root, ["one", str(Layout(root).shards("streets"))], tmp_path)


def test_data_and_protocol_are_those_of_the_first_model_unless_given(root: Path) -> None:
    one, two = find_contenders(root, ["one", "two"], root / "downloads")
    assert given_data(root, None, one) == Layout(root).shards("streets")
    assert given_data(root, "elsewhere", one) == Path("elsewhere")
    with pytest.raises(InputError, match=r"two: does not say which dataset .* --data"):
        given_data(root, None, two)
    assert given_protocol(None, one) == PROTOCOL
    assert given_protocol("nyu_eigen@1", one) == PROTOCOLS["nyu_eigen"]
    with pytest.raises(InputError, match=r"no protocol 'eigen'; there are: kitti_eigen_mono, "):
        given_protocol("eigen", one)
    imported = replace(one, state={"variant": {"name": "one"}})
    with pytest.raises(InputError, match=r"one: does not say its protocol; give --protocol: "):
        given_protocol(None, imported)


def test_depth_up_to_scale_needs_a_protocol_that_scales(root: Path, tmp_path: Path) -> None:
    from dataclasses import asdict

    import torch

    from mde.models import ModelConfig, build_model
    from mde.train.checkpoint import save_model

    config = ModelConfig("monodepth2", "resnet18", "scratch", 0.1, 100.0, metric=False)
    torch.manual_seed(0)
    save_model(tmp_path, build_model(config), {"variant": {"name": "m", "model": asdict(config)}})
    found = find_contenders(root, ["one", str(tmp_path)], tmp_path)
    data = Layout(root).shards("streets")
    with pytest.raises(InputError, match=r"right up to a factor.*--protocol: kitti_eigen_mono"):
        compare(found, data, PROTOCOLS["kitti_eigen_supervised"], NO_COST)


@pytest.fixture
def mde() -> Callable[..., str]:
    """Run the command; what it prints, with its exit code in front."""
    app = Typer(pretty_exceptions_enable=False)
    app.command()(command)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        return f"{done.exit_code} {done.output}"

    return run


def test_the_command_refuses_before_it_works(
    mde: Callable[..., str], root: Path, tmp_path: Path
) -> None:
    where = ("one", "two", "--root", str(root), "--out", str(tmp_path))
    assert re.match(r"1 error: .*is there already.*--force", mde(*where))
    for size in ("192", "0x640", "192x0", "axb"):
        assert f"1 error: --size {size}: expected" in mde(*where, "--force", "--size", size)
    message = mde("one", "two", "--root", str(root), "--out", "new", "--sequence", "alley")
    assert re.match(r"1 error: .*no scene 'alley' in the test split; there are: street", message)
