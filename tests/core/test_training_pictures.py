"""The sheets of a training: their sizes, labels and colours."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mde.picture_grid import MOST_WIDTH, Cell, Strip, cell_size, draw_grid
from mde.train.loop import train
from mde.training_pictures import Frame, Prediction, draw_frames, draw_training, to_png
from mde.visualize import colorize, depth_norm
from tests.core.test_train import PROVENANCE, RECIPE, InMemory, LocalContext, build

ROOM, STREET = (24, 32), (32, 96)
TAGGED = 16
"""Rows of a cell that its tag may cover, px."""


def image(shape: tuple[int, int], grey: int = 100) -> np.ndarray:
    return np.full((*shape, 3), grey, np.uint8)


def slope(shape: tuple[int, int], near: float = 2.0, far: float = 10.0) -> np.ndarray:
    """Depth that falls from top to bottom."""
    return np.linspace(far, near, shape[0], dtype=np.float32)[:, None].repeat(shape[1], 1)


def sparse(depth: np.ndarray) -> np.ndarray:
    points = np.zeros_like(depth)
    points[::4, ::4] = depth[::4, ::4]
    return points


def cell(sheet: Image.Image, shape: tuple[int, int], number: int) -> np.ndarray:
    """A cell of the first strip, below its tag."""
    height, width = cell_size([shape])
    left, top = 16 + number * (width + 6), 58 + 20
    return np.asarray(sheet)[top + TAGGED : top + height, left : left + width]


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the sheets say, which pixels do not tell."""
    written: list[str] = []
    kept = Cell.__new__

    def note(kind: type[Cell], tag: str, picture: Any) -> Cell:
        written.append(tag)
        return kept(kind, tag, picture)

    monkeypatch.setattr(Cell, "__new__", note)
    return written


def self_supervised_maps(batch: int, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    colours, plane = (batch, 3, *shape), (batch, 1, *shape)
    return {
        "image": np.full(colours, 0.4, np.float32),
        "disparity": np.linspace(0, 1, np.prod(plane), dtype=np.float32).reshape(plane),
        "warped_prev": np.full(colours, 0.6, np.float32),
        "warped_next": np.full(colours, 0.6, np.float32),
        "warped_stereo": np.full(colours, 0.6, np.float32),
        "automask": np.arange(np.prod(plane)).reshape(plane) % 4 > 0,
        "photometric": np.full(plane, 0.25, np.float32),
    }


# --- The training -----------------------------------------------------------------------------


def test_every_map_has_a_cell_and_says_what_it_is(tags: list[str]):
    sheet = draw_training("run", ["a", "b"], self_supervised_maps(2, STREET))
    assert tags[:7] == [
        "image", "disparity · own range, to its percentile 95", "from previous frame",
        "from next frame", "from stereo image", "auto-mask · 75% used",
        "photometric error · mean 0.250",
    ]  # fmt: skip
    assert len(tags) == 14
    # Seven wide pictures of a frame stand in two lines.
    height, width = cell_size([STREET])
    assert sheet.size == (4 * (width + 6) - 6 + 32, 58 + 2 * (20 + 2 * (height + 6) + 6))


def test_supervised_depth_has_the_colours_of_its_target(tags: list[str]):
    depth = slope(ROOM)[None, None]
    maps = {"image": np.zeros((1, 3, *ROOM), np.float32), "depth": depth, "target": depth}
    sheet = draw_training("run", ["a"], maps | {"error": np.zeros_like(depth)})
    assert tags[-1] == "relative error · mean 0.000"
    difference = cell(sheet, ROOM, 1).astype(int) - cell(sheet, ROOM, 2)
    assert np.abs(difference).mean() < 6


# --- Watched frames ---------------------------------------------------------------------------


def test_the_colour_of_a_depth_is_the_same_in_every_epoch_and_run():
    frame = Frame("a", image(ROOM), slope(ROOM))
    half = np.where(np.arange(ROOM[1]) < 16, 4.0, 9.0)[None].repeat(ROOM[0], 0).astype(np.float32)
    first = draw_frames("epoch 1", [frame], [Prediction(half)])
    later = draw_frames("epoch 2", [frame], [Prediction(np.full(ROOM, 4.0, np.float32))])
    expected = colorize(np.full((1, 1), 4.0), depth_norm(slope(ROOM)))[0, 0]
    for sheet in (first, later):
        np.testing.assert_array_equal(cell(sheet, ROOM, 1)[60, 20], expected)
    assert (cell(first, ROOM, 1)[60, -20] != expected).any()


def test_a_frame_with_truth_has_four_cells_and_its_mean_error(tags: list[str]):
    frame = Frame("a", image(STREET), sparse(slope(STREET)))
    draw_frames("run", [frame], [Prediction(1.5 * slope(STREET))])
    assert [tag.split(" · ")[0] for tag in tags] == ["image", "depth", "truth", "relative error"]
    assert tags[3] == "relative error · mean 0.500"


def test_depth_up_to_scale_is_brought_to_the_median_of_the_truth(tags: list[str]):
    frame = Frame("a", image(STREET), sparse(slope(STREET)))
    draw_frames("run", [frame], [Prediction(slope(STREET) / 5, is_metric=False)])
    assert tags[1].endswith("by median x 5")
    assert tags[3] == "relative error · mean 0.000"


def test_a_truth_of_another_size_is_compared_at_its_own(tags: list[str]):
    truth = np.full((96, 288), 5.0, np.float32)
    draw_frames("run", [Frame("a", image(STREET), truth)], [Prediction(np.full(STREET, 4.0, "f4"))])
    assert tags[3] == "relative error · mean 0.200"


@pytest.mark.parametrize("truth", [None, np.zeros(STREET, np.float32)], ids=["none", "empty"])
def test_without_truth_a_map_has_a_range_of_its_own_and_says_so(truth, tags: list[str]):
    frame = Frame("a", image(STREET), truth)
    disparity = np.linspace(0, 1, STREET[1], dtype=np.float32)[None].repeat(STREET[0], 0)
    draw_frames("run", [frame], [Prediction(slope(STREET), disparity)])
    draw_frames("run", [frame], [Prediction(slope(STREET))])
    assert tags == [
        "image", "disparity · own range, to its percentile 95",
        "image", "depth · median 6.00 m · own range",
    ]  # fmt: skip


def test_depths_that_are_not_positive_count_as_near_and_not_as_unknown():
    frame = Frame("a", image(ROOM), slope(ROOM))
    sheet = draw_frames("run", [frame], [Prediction(np.full(ROOM, -1.0, np.float32))])
    nearest = colorize(np.full((1, 1), 0.01), depth_norm(slope(ROOM)))[0, 0]
    np.testing.assert_array_equal(cell(sheet, ROOM, 1)[60, 20], nearest)


# --- The sheet --------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "across"), [(ROOM, 2), (STREET, 1)])
def test_small_pictures_stand_side_by_side_and_no_sheet_is_too_wide(shape, across: int):
    frames = [Frame(f"frame_{i}", image(shape), slope(shape)) for i in range(14)]
    sheet = draw_frames("run", frames, 14 * [Prediction(slope(shape))])
    height, _ = cell_size([shape])
    assert sheet.width <= MOST_WIDTH
    assert sheet.height == 58 + 14 // across * (20 + height + 12)


def test_frames_are_labelled():
    plain = draw_grid("run", [], [Strip("", [Cell("image", image((60, 188)))])], (60, 188))
    named = draw_grid("run", [], [Strip("0001", [Cell("image", image((60, 188)))])], (60, 188))
    rows, _ = np.nonzero((np.asarray(plain) != np.asarray(named)).any(-1))
    assert 58 <= rows.min() <= rows.max() < 78


def test_a_file_keeps_black_white_and_all_colours_within_three_steps():
    pixels = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    read = np.asarray(Image.open(io.BytesIO(to_png(Image.fromarray(pixels)))))
    assert np.abs(read.astype(int) - pixels).max() <= 3
    assert read[0, [0, -1]].tolist() == [[0, 0, 0], [255, 255, 255]]


# --- The hook of the loop ---------------------------------------------------------------------


def run(folder: Path, paint: Callable[[Any, int, int], None], rank: int = 0) -> list[str]:
    """Train for three epochs; the notes."""
    context, notes = LocalContext(folder), []
    context.rank = rank
    batches = InMemory(sizes=(4, 4))
    train(
        build(), batches, replace(RECIPE, epochs=3), context, PROVENANCE,
        show=lambda progress: notes.append(progress.line()), paint=paint,
    )  # fmt: skip
    return [note for note in notes if "pictures" in note]


def test_the_first_worker_paints_after_every_epoch(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    assert not run(tmp_path / "0", lambda objective, *when: calls.append(when))
    assert calls == [(1, 2), (2, 4), (3, 6)]
    run(tmp_path / "1", lambda objective, *when: calls.append(when), rank=1)
    assert len(calls) == 3


def test_what_cannot_be_painted_is_told_of_and_does_not_end_the_training(tmp_path: Path):
    def fail(objective: Any, epoch: int, step: int) -> None:
        raise OSError("no space\nleft")

    notes = run(tmp_path, fail)
    assert len(notes) == 3
    assert all("no pictures: no space left" in note for note in notes)
