"""The contact sheet: which rows it shows, and that each picture shows what is stored."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont
from typer.testing import CliRunner

from mde.cli import app
from mde.contact_sheet import BLANK, Sheet, decode_row, draw_sheet, save_sheet
from mde.data.codecs import encode_depth, encode_image
from mde.data.pick import find_rows, pick_rows, share_out
from mde.data.shards import Manifest, write_manifest, write_shard
from mde.data.verify import open_dataset
from mde.errors import InputError
from mde.visualize import colorize, depth_norm, overlay_depth

ABSENT = dict.fromkeys(("image_prev", "image_next", "image_stereo", "depth", "gt_depth"))
BLANK_RGB = tuple(int(BLANK[i : i + 2], 16) for i in (1, 3, 5))


@pytest.fixture
def manifest() -> Manifest:
    """Of no shards; for the header."""
    return Manifest("made", {}, [], [], {})


@pytest.fixture
def dataset(tmp_path: Path, make_row) -> Path:
    """Train: 20 + 20 rows, val: 2, test: 20."""
    folder = tmp_path / "streets"
    folder.mkdir()
    rows = [make_row(i) for i in range(62)]
    shards = [
        write_shard(folder, "train", 0, rows[:20]),
        write_shard(folder, "train", 1, rows[20:40]),
        write_shard(folder, "val", 0, rows[40:42]),
        write_shard(folder, "test", 0, rows[42:]),
    ]
    write_manifest(folder, Manifest("made", {}, shards, [], {}))
    return folder


def names(rows: list) -> list[tuple[str, str]]:
    return [(split, row["sample_id"]) for split, row in rows]


def plain(color: tuple[int, int, int], height: int = 24, width: int = 32) -> bytes:
    return encode_image(np.full((height, width, 3), color, np.uint8))


def cells(sheet: Image.Image, layout: Sheet, number: int = 0) -> list[np.ndarray]:
    """The pictures of a row, left to right, without the line of their tags."""
    line, column = divmod(number, layout.across)
    x0, y0 = 28 + column * (layout.block + 28), 96 + 28 + line * layout.step + layout.title
    height, width = layout.cell
    pixels = np.asarray(sheet)
    steps = range(len(layout.columns))
    return [
        pixels[y0 + 18 : y0 + height, x0 + n * (width + 8) : x0 + n * (width + 8) + width]
        for n in steps
    ]


# --- Which rows -------------------------------------------------------------------------------


def test_rows_are_shared_out_evenly_as_far_as_there_are_rows():
    assert share_out(12, {"train": 40, "val": 2, "test": 20}) == {"train": 5, "val": 2, "test": 5}
    assert share_out(4, {"train": 9, "val": 0, "test": 9}) == {"train": 2, "val": 0, "test": 2}
    assert share_out(9, {"train": 1, "val": 2, "test": 0}) == {"train": 1, "val": 2, "test": 0}


def test_rows_are_drawn_from_every_stretch_of_every_split(dataset: Path, make_row):
    manifest = open_dataset(dataset)
    rows = pick_rows(dataset, manifest, 12)
    numbers = {split: [] for split in ("train", "val", "test")}
    for split, row in rows:
        i = int(row["sample_id"].split("_")[1])
        assert row == make_row(i)
        numbers[split].append(i)
    assert [i // 8 for i in numbers["train"]] == [0, 1, 2, 3, 4]
    assert numbers["val"] == [40, 41]
    assert [(i - 42) // 4 for i in numbers["test"]] == [0, 1, 2, 3, 4]


def test_the_same_seed_draws_the_same_rows_and_another_seed_others(dataset: Path):
    manifest = open_dataset(dataset)
    first, again, other = (names(pick_rows(dataset, manifest, 12, seed=s)) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_one_split_alone_can_be_drawn_as_a_whole(dataset: Path):
    manifest = open_dataset(dataset)
    rows = pick_rows(dataset, manifest, 99, "test")
    assert names(rows) == [("test", f"sample_{i:04d}") for i in range(42, 62)]


def test_rows_are_found_by_name_in_the_order_of_the_names(dataset: Path, make_row):
    manifest = open_dataset(dataset)
    rows = find_rows(dataset, manifest, ["sample_0061", "sample_0017", "sample_0040"])
    assert rows == [("test", make_row(61)), ("train", make_row(17)), ("val", make_row(40))]
    with pytest.raises(InputError, match=r"no sample 'sample_00z1'; did you mean 'sample_00.1'"):
        find_rows(dataset, manifest, ["sample_00z1"])


def test_a_split_without_rows_is_an_error_that_lists_the_others(dataset: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no rows of split 'tset'; there are: train, val, test"):
        pick_rows(dataset, open_dataset(dataset), 3, "tset")


# --- What it shows ----------------------------------------------------------------------------


def test_each_column_shows_its_own_image(make_row, manifest: Manifest):
    colors = {
        "image": (200, 30, 30),
        "image_prev": (30, 200, 30),
        "image_next": (30, 30, 200),
        "image_stereo": (200, 200, 30),
    }
    images = {name: plain(color) for name, color in colors.items()}
    row = make_row(**images, depth=None)
    layout = Sheet([decode_row("train", row)])
    assert layout.columns == list(colors)
    for cell, color in zip(
        cells(draw_sheet("x", manifest, [("train", row)]), layout), colors.values(), strict=True
    ):
        assert np.abs(cell.astype(int) - color).max() <= 4


def test_there_are_no_columns_for_what_no_row_has_and_blanks_for_what_some_have(
    make_row, manifest: Manifest
):
    rows = [make_row(0, **ABSENT), make_row(1, **{**ABSENT, "image_next": plain((9, 9, 9))})]
    items = [decode_row("train", row) for row in rows]
    assert Sheet(items[:1]).columns == ["image"]
    layout = Sheet(items)
    assert layout.columns == ["image", "image_next"]
    sheet = draw_sheet("x", manifest, [("train", row) for row in rows])
    assert (cells(sheet, layout, 0)[1] == BLANK_RGB).all()
    assert (cells(sheet, layout, 1)[1] <= 13).all()


def test_dense_depth_is_drawn_in_the_colours_of_the_bar(make_row, manifest: Manifest):
    depth = np.full((24, 32), 2.0, np.float32)
    depth[:, 16:] = 8
    row = make_row(**{**ABSENT, "depth": encode_depth(depth, 1e-3), "image": plain((0, 0, 0))})
    layout = Sheet([decode_row("train", row)])
    sheet = draw_sheet("x", manifest, [("train", row)])
    image, alone, on_image = cells(sheet, layout)
    bar = np.asarray(sheet)[50, -28 - 420 : -28]
    half = alone.shape[1] // 2
    for part, color in ((slice(0, half), bar[0]), (slice(half, None), bar[-1])):
        assert (alone[:, part] == color).all()
        # Two thirds of the colour and a third of the image, which is black.
        assert np.abs(on_image[:, part].astype(int) - color * (2 / 3)).max() <= 2
    assert (image == 0).all()


def test_sparse_ground_truth_is_drawn_where_it_lies_on_the_darkened_image():
    truth = np.zeros((100, 400), np.float32)
    truth[80, 100], truth[20, 300] = 5, 50
    norm = depth_norm(np.geomspace(1, 100, 50))
    picture = overlay_depth(np.full((50, 200, 3), 100, np.uint8), truth, norm)
    drawn = np.argwhere((picture != 50).any(-1))
    points = {(40, 50): 5.0, (10, 150): 50.0}
    assert len(drawn) == 8
    for (row, column), depth in points.items():
        color = colorize(np.full((1, 1), depth), norm)[0, 0]
        assert (picture[row, column] == color).all()
        near = np.abs(drawn - (row, column)).max(1) <= 1
        assert near.sum() == 4


def test_of_points_too_close_to_show_apart_the_nearest_is_drawn():
    truth = np.zeros((100, 400), np.float32)
    truth[80:84, 100:104] = 50
    truth[82, 102] = 5
    norm = depth_norm(np.geomspace(1, 100, 50))
    picture = overlay_depth(np.zeros((50, 200, 3), np.uint8), truth, norm)
    assert (picture[41, 51] == colorize(np.full((1, 1), 5.0), norm)[0, 0]).all()
    assert len(np.argwhere(picture.any(-1))) == 4


@pytest.mark.parametrize(
    ("height", "width", "absent"),
    [(64, 192, ()), (320, 1024, ()), (128, 160, tuple(ABSENT)[:3]), (480, 640, tuple(ABSENT)[:3])],
)
def test_pictures_are_neither_tiny_nor_squeezed(make_row, height: int, width: int, absent):
    flat = encode_depth(np.ones((height, width)), 1e-3)
    image = plain((5, 5, 5), height, width)
    images = {name: None if name in absent else image for name in tuple(ABSENT)[:3]}
    row = make_row(0, height, width, image=image, depth=flat, **images)
    layout = Sheet([decode_row("train", row)] * 12)
    assert layout.cell[1] >= (420 if width > 2 * height else 300)
    assert layout.cell[0] / layout.cell[1] == pytest.approx(height / width, rel=0.02)
    assert layout.width <= 2800
    assert 1500 < layout.picture.height < 2800
    last = layout.across * (layout.block + 28) + 28
    assert last <= layout.width + 28


def test_long_names_are_shortened_in_the_middle(make_row):
    sheet = Sheet([decode_row("train", make_row())])
    font = ImageFont.load_default(14)
    text = sheet.shorten("a" * 60 + "z" * 60, font, 200)
    assert text.startswith("aaa")
    assert text.endswith("zzz")
    assert "…" in text
    assert 170 < sheet.draw.textlength(text, font) <= 200
    assert sheet.shorten("short", font, 200) == "short"


def test_a_row_that_cannot_be_decoded_is_named(make_row, manifest: Manifest):
    with pytest.raises(InputError, match="sample_0003: image_next: not a readable image"):
        draw_sheet("x", manifest, [("train", make_row(3, image_next=b"GIF"))])


# --- The command ------------------------------------------------------------------------------


def test_the_command_writes_a_png_named_after_the_dataset(
    dataset: Path, tmp_path: Path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = CliRunner().invoke(app, ["data", "show", "../streets", "--n", "3"])
    assert result.exit_code == 0, result.output
    path = tmp_path / "here" / "streets-contact.png"
    assert str(path) in result.output.replace("\n", "")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 1920


def test_the_command_shows_the_named_samples(dataset: Path, tmp_path: Path):
    out = tmp_path / "new" / "sheet.png"
    options = ["--ids", "sample_0003,sample_0050", "--out", str(out)]
    result = CliRunner().invoke(app, ["data", "show", str(dataset), *options])
    assert result.exit_code == 0, result.output
    assert "2 of 62 rows" in result.output
    assert out.is_file()


def test_the_command_names_what_is_wrong_with_its_options(dataset: Path, tmp_path: Path):
    for options, message in [
        ([str(tmp_path / "nowhere")], "no such folder"),
        ([str(dataset), "--split", "tset"], "no rows of split 'tset'"),
        ([str(dataset), "--ids", "nobody"], "no sample 'nobody'"),
        ([str(dataset), "--out", str(tmp_path / "sheet.jpg")], "a name ending in .png"),
    ]:
        result = CliRunner().invoke(app, ["data", "show", *options])
        assert result.exit_code == 1
        assert message in result.output


def test_a_sheet_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"sheet\.png: cannot be written"):
        save_sheet(Image.new("RGB", (4, 4)), tmp_path / "file" / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
