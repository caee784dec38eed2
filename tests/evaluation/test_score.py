"""`mde score`: what is read, what is refused, and what must not matter."""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from numpy.lib import format as npy
from numpy.typing import NDArray
from typer.testing import CliRunner

from mde.cli.score import PROTOCOL_NAMES, protocols
from mde.cli.score import score as score_command
from mde.errors import InputError
from mde.protocols import PROTOCOLS
from mde.score import Submission, score
from mde.score.map_files import Maps, Reading, open_maps

SIZE = 40, 120
METRES = Reading(1000)


def depths(number: int = 4, seed: int = 0) -> NDArray[np.float32]:
    """(N,H,W) in m, in steps of a millimetre, so that 16-bit PNGs hold them."""
    codes = np.random.default_rng(seed).integers(500, 9500, (number, *SIZE))
    return (codes / np.float32(1000)).astype(np.float32)


def ragged(maps: list[Any]) -> NDArray[Any]:
    array = np.empty(len(maps), object)
    array[:] = maps
    return array


def saved(path: Path, array: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def as_folder(folder: Path, maps: NDArray[Any], names: list[str], suffix: str) -> Path:
    for name, depth in zip(names, maps, strict=True):
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(path, depth)
        else:
            cv2.imwrite(str(path), np.rint(depth * 1000).astype(np.uint16))
    return folder


def number_up(folder: Path, preds: Any, targets: Any, name: str = "nyu_labeled") -> dict[str, Any]:
    given = open_maps(saved(folder / "depths.npy", preds), METRES)
    truth = open_maps(saved(folder / "gt.npy", targets), METRES)
    return score(Submission(given, "depth"), truth, PROTOCOLS[name]).summary


# --- Identities -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nyu_labeled", "kitti_eigen_mono", "kitti_benchmark"])
def test_a_perfect_prediction_has_no_error(tmp_path: Path, name: str):
    metrics = number_up(tmp_path, depths(), depths(), name)["metrics"]
    errors = [k for k in metrics if k.startswith(("abs", "sq", "rmse", "log10", "silog", "mae"))]
    assert {metrics[k] for k in errors} <= {0.0, None}
    assert (metrics["a1"], metrics["irmse"]) == (1, 0)


def test_median_scaling_forgives_a_factor_of_each_image_and_shows_it(tmp_path: Path):
    factors = np.float32([0.25, 0.5, 2, 4])
    preds = depths() * factors[:, None, None]
    summary = number_up(tmp_path, preds, depths(), "kitti_eigen_mono")
    assert summary["metrics"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    ratios = 1 / factors.astype(float)
    median = np.median(ratios)
    expected = {"median": median, "spread": np.std(ratios / median)}
    assert summary["scale"] == pytest.approx(expected, rel=1e-6)


def test_the_order_of_images_does_not_matter(tmp_path: Path):
    preds, targets, order = depths(seed=1), depths(), [2, 0, 3, 1]
    first = number_up(tmp_path, preds, targets)["metrics"]
    again = number_up(tmp_path, preds[order], targets[order])["metrics"]
    assert again == pytest.approx(first, rel=1e-12)


def test_the_same_maps_give_the_same_numbers_in_every_kind_of_file(tmp_path: Path):
    preds, targets = depths(seed=1), depths()
    names = ["b/0", "a/1", "c", "a/0"]
    expected = number_up(tmp_path, preds, targets)["metrics"]
    np.savez(tmp_path / "one.npz", data=preds, other=np.zeros(3))
    np.savez_compressed(tmp_path / "two.npz", anything=preds[:, None])
    saved(tmp_path / "ragged.npy", ragged(list(preds)))
    saved(tmp_path / "double.npy", preds.astype(np.float64))
    truth = open_maps(tmp_path / "gt.npy", METRES)
    for file in ("one.npz", "two.npz", "ragged.npy", "double.npy"):
        given = Submission(open_maps(tmp_path / file, METRES), "depth")
        found = score(given, truth, PROTOCOLS["nyu_labeled"]).summary["metrics"]
        assert found == pytest.approx(expected, 1e-6, 1e-7), file
    for suffix in (".npy", ".png"):
        folder = tmp_path / f"as{suffix}"
        given = open_maps(as_folder(folder / "pred", preds, names, suffix), METRES)
        truth = open_maps(as_folder(folder / "gt", targets, names, suffix), METRES)
        result = score(Submission(given, "depth"), truth, PROTOCOLS["nyu_labeled"])
        assert result.summary["metrics"] == pytest.approx(expected, 1e-6, 1e-7)
        assert result.per_image["sample_id"].to_pylist() == sorted(names)
        assert result.per_image["scene"].to_pylist() == ["a", "a", "b", ""]


def test_disparities_are_the_depths_that_they_stand_for(tmp_path: Path):
    preds, targets = depths(seed=1), depths()
    expected = number_up(tmp_path, preds, targets)["metrics"]
    given = open_maps(saved(tmp_path / "x.npy", 1 / preds.astype(np.float64)), METRES)
    truth = open_maps(tmp_path / "gt.npy", METRES)
    found = score(Submission(given, "disparity"), truth, PROTOCOLS["nyu_labeled"]).summary
    assert found["metrics"] == pytest.approx(expected, 1e-5, 1e-7)


def test_metres_per_unit_is_a_factor_and_under_median_scaling_what_the_ratio_relates_to(
    tmp_path: Path,
):
    millimetres = open_maps(saved(tmp_path / "mm.npy", depths() * 1000), METRES)
    truth = open_maps(saved(tmp_path / "gt.npy", depths()), METRES)
    given = Submission(millimetres, "depth", metres_per_unit=1e-3)
    for name in ("nyu_labeled", "kitti_eigen_mono"):
        summary = score(given, truth, PROTOCOLS[name]).summary
        assert summary["metrics"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert summary["scale"]["median"] == pytest.approx(1, rel=1e-6)


# --- Pickles ----------------------------------------------------------------------------------


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, suffix: str):
    mark, path = tmp_path / "executed", tmp_path / f"gt{suffix}"
    array = ragged([depths(1)[0], Bomb(mark)])
    np.save(path, array) if suffix == ".npy" else np.savez(path, data=array)
    with pytest.raises(InputError, match=r"holds '_?io\.open'.*not loaded"):
        open_maps(path, METRES)
    assert not mark.exists()
    # It is armed: NumPy itself would run it.
    loaded = np.load(path, allow_pickle=True)
    assert loaded["data" if suffix == ".npz" else 1] is not None
    assert mark.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_ragged_arrays_of_every_pickle_protocol_are_read(tmp_path: Path, protocol: int):
    path, maps = tmp_path / "gt.npy", [depths(1)[0], depths(1)[0, :30, :70]]
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(ragged(maps)))
        pickle.dump(ragged(maps), file, protocol=protocol)
    found = open_maps(path, METRES)
    assert len(found) == 2
    assert all(np.array_equal(found.read(i), maps[i]) for i in range(2))


@pytest.mark.parametrize("content", [["text"], [{"a": 1}], [np.array(["text"])]])
def test_pickles_of_something_else_are_refused(tmp_path: Path, content: list[Any]):
    with pytest.raises(InputError, match=r"gt\.npy: "):
        open_maps(saved(tmp_path / "gt.npy", ragged(content)), METRES)


def test_a_damaged_pickle_is_an_error_with_the_file_in_it(tmp_path: Path):
    path = saved(tmp_path / "gt.npy", ragged([depths(1)[0], depths(1)[0, :9]]))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"gt\.npy: its pickled array cannot be read"):
        open_maps(path, METRES)


# --- What is refused --------------------------------------------------------------------------


def test_files_that_are_not_maps_are_refused_with_what_is_expected(tmp_path: Path):
    np.savez(tmp_path / "two.npz", a=depths(), b=depths())
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty").mkdir()
    saved(tmp_path / "flat.npy", np.zeros(5, np.float32))
    saved(tmp_path / "codes.npy", np.ones((1, *SIZE), np.uint16))
    for name, message in {
        "absent.npy": "no such file", "two.npz": "name one with --key: a, b",
        "bad.npz": "not a readable .npz", "text.npy": "not a readable .npy",
        "flat.npy": r"shape \(5,\); expected maps", "empty": r"no \.npy or \.png file",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            open_maps(tmp_path / name, METRES)
    with pytest.raises(InputError, match="integers"):
        open_maps(tmp_path / "codes.npy", METRES).read(0)
    assert np.all(open_maps(tmp_path / "codes.npy", Reading(1, scale=4)).read(0) == 0.25)
    assert len(open_maps(tmp_path / "two.npz", Reading(1, key="b"))) == 4


def test_pngs_of_8_bits_are_refused_unless_their_scale_is_given(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full(SIZE, 100, np.uint8))
    with pytest.raises(InputError, match=r"a\.png: 8 bits"):
        open_maps(tmp_path, METRES).read(0)
    found = open_maps(tmp_path, Reading(256, scale=20)).read(0)
    assert found is not None
    assert np.all(found == 5)


def both(tmp_path: Path, preds: list[str], targets: list[str]) -> tuple[Maps, Maps]:
    found = [
        open_maps(as_folder(tmp_path / of, depths(len(names)), names, ".npy"), METRES)
        for of, names in {"pred": preds, "gt": targets}.items()
    ]
    return found[0], found[1]


def test_every_ground_truth_needs_a_prediction_and_others_are_counted(tmp_path: Path):
    preds, truth = both(tmp_path, ["a", "c", "d"], ["a", "b", "c"])
    with pytest.raises(InputError, match=r"no prediction for 1 of 3 ground truths: b;"):
        score(Submission(preds, "depth"), truth, PROTOCOLS["nyu_labeled"])
    preds, truth = both(tmp_path / "more", ["a", "b", "c", "d"], ["a", "b"])
    summary = score(Submission(preds, "depth"), truth, PROTOCOLS["nyu_labeled"]).summary
    assert summary["unused_predictions"] == ["c", "d"]


def test_file_names_alone_say_whose_it_is_where_they_are_unique(tmp_path: Path):
    preds, truth = both(tmp_path, ["0002", "0001"], ["drive/image/0001", "drive/image/0002"])
    summary = score(Submission(preds, "depth"), truth, PROTOCOLS["nyu_labeled"]).summary
    assert summary["images"] == 2
    preds, truth = both(tmp_path / "twice", ["0001"], ["one/0001", "two/0001"])
    with pytest.raises(InputError, match="no prediction for 2 of 2"):
        score(Submission(preds, "depth"), truth, PROTOCOLS["nyu_labeled"])


def test_stacks_must_be_as_long_and_are_paired_with_folders_on_demand_only(tmp_path: Path):
    with pytest.raises(InputError, match=r"has 3 maps, .* has 4"):
        number_up(tmp_path, depths(3), depths(4))
    folder = as_folder(tmp_path / "gt", depths(), ["d", "a", "b", "c"], ".npy")
    stack = open_maps(saved(tmp_path / "x.npy", depths()[[1, 2, 3, 0]]), METRES)
    submission, truth = Submission(stack, "depth"), open_maps(folder, METRES)
    with pytest.raises(InputError, match="--by-order"):
        score(submission, truth, PROTOCOLS["nyu_labeled"])
    summary = score(submission, truth, PROTOCOLS["nyu_labeled"], by_order=True).summary
    assert summary["metrics"]["rmse"] == 0


def test_images_without_a_pixel_that_counts_are_skipped_with_the_reason(tmp_path: Path):
    targets = depths()
    targets[1] = 0
    targets[2, 5, 5] = np.nan
    summary = number_up(tmp_path, depths(), targets)
    assert summary["images"] == 3
    assert summary["skipped"] == [["000001", "no pixel that nyu_labeled@1 counts"]]
    with pytest.raises(InputError, match=r"gt\.npy: none of 4 images can be scored"):
        number_up(tmp_path, depths(), np.zeros_like(targets))


def test_values_out_of_range_are_clipped_and_counted_and_nan_is_an_error(tmp_path: Path):
    preds = depths()
    preds[:, :4] = np.float32([-1, 0, np.inf, 1e9])[:, None]
    summary = number_up(tmp_path, preds, depths())
    assert summary["clipped"] == pytest.approx(4 / SIZE[0])
    preds[2, 7, 7] = np.nan
    with pytest.raises(InputError, match=r"depths\.npy: 000002: 1 predicted pixels are NaN"):
        number_up(tmp_path, preds, depths())


def test_a_crop_that_is_not_defined_at_a_size_names_the_ground_truth(tmp_path: Path):
    with pytest.raises(InputError, match=r"gt\.npy: 000000: crop 'eigen_nyu' is defined at 480"):
        number_up(tmp_path, depths(), depths(), "nyu_eigen")


def test_mirrored_predictions_need_a_protocol_that_joins_them(tmp_path: Path):
    preds = open_maps(saved(tmp_path / "x.npy", depths()), METRES)
    with pytest.raises(InputError, match="leave --flipped out"):
        score(Submission(preds, "depth", preds), preds, PROTOCOLS["nyu_labeled"])


# --- The command ------------------------------------------------------------------------------

app = typer.Typer()
app.command()(score_command)
app.command()(protocols)


def run(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["score", *map(str, arguments)])


def test_the_table_is_printed_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "disps.npy", 1 / depths(seed=1))
    np.savez("gt_depths.npz", data=ragged([d[: 30 + i] for i, d in enumerate(depths())]))
    result = run("disps.npy", "gt_depths.npz", "--protocol", "kitti_eigen_mono")
    assert result.exit_code == 0, result.output
    for text in (
        "kitti_eigen_mono@1", "Garg et al. 2016", "taken as: disparity; 1 m per unit", "abs_rel ↓",
        "rmse (m) ↓", "a1 ↑", "4 images · 0 skipped", "scale ratio: median", "worst abs_rel: 00000",
    ):  # fmt: skip
        assert text in result.output
    out = tmp_path / "score-disps-kitti_eigen_mono"
    summary = json.loads((out / "metrics.json").read_text())
    assert (summary["kind"], summary["flip"], summary["images"]) == ("disparity", "as given", 4)
    assert summary["definition"]["crop"] == "garg"
    assert len(summary["inputs"]["predictions"]["sha256"]) == 64
    rows = pq.read_table(out / "per_image.parquet").to_pylist()
    mean = np.mean([row["abs_rel"] for row in rows])
    assert summary["metrics"]["abs_rel"] == pytest.approx(mean)
    with (out / "table.csv").open() as file:
        assert float(next(csv.DictReader(file))["abs_rel"]) == summary["metrics"]["abs_rel"]
    header, rule, cells = (out / "table.md").read_text().splitlines()
    assert header.count("|") == rule.count("|") == cells.count("|")
    assert f"{mean:.4f}" in cells


def test_json_is_all_that_is_printed_and_a_score_can_be_repeated_in_its_folder(tmp_path: Path):
    path, out = saved(tmp_path / "maps.npy", depths()), tmp_path / "out"
    for _ in range(2):
        result = run(path, path, "--protocol", "nyu_labeled", "--json", "--out", out)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["metrics"]["rmse"] == 0
    (out / "mine.txt").write_text("keep me")
    result = run(path, path, "--protocol", "nyu_labeled", "--out", out)
    assert (result.exit_code, (out / "mine.txt").read_text()) == (1, "keep me")


def test_bad_input_ends_with_1_and_one_message(tmp_path: Path):
    path = saved(tmp_path / "maps.npy", depths())
    result = run(path, tmp_path / "absent", "--protocol", "nyu_labeled", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [f"error: {tmp_path / 'absent'}: no such file or folder"]
    assert not (tmp_path / "out").exists()


def test_help_and_the_list_name_every_protocol():
    assert set(PROTOCOLS) == {*PROTOCOL_NAMES}
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["protocols"])
    assert all(protocol.id in result.output for protocol in PROTOCOLS.values())
