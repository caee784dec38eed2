"""Verification: a whole dataset passes, and every kind of damage is named, all of it at once."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lz4.block
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mde.cli import app
from mde.data.codecs import decode_depth, encode_depth, encode_image
from mde.data.convert import convert, run_one_by_one
from mde.data.frames import Rejected
from mde.data.row_checks import IMAGES, Expected, check_row
from mde.data.shards import (
    Manifest,
    find_duplicates,
    image_digest,
    read_manifest,
    write_manifest,
    write_shard,
)
from mde.data.sources import nyu_labeled
from mde.data.verify import verify
from mde.errors import InputError
from mde.schema import SPLITS, Row

PRECISION = {
    "image": {"codec": "jpeg", "checked": 3, "psnr_db": 41.25, "psnr_db_min": 39.0},
    "depth": {"codec": "uint16, lz4", "max_error_m": 0.0005},
}


def write_dataset(folder: Path, **rows_of: list[list[Row]]) -> Path:
    """Shards of these rows by split, and a manifest that agrees with them."""
    folder.mkdir(exist_ok=True)
    shards = [
        write_shard(folder, split, index, rows)
        for split in SPLITS
        for index, rows in enumerate(rows_of.get(split, []))
    ]
    rows = {split: [row for rows in rows_of.get(split, []) for row in rows] for split in SPLITS}
    images = [(s, row["sample_id"], image_digest(row["image"])) for s in SPLITS for row in rows[s]]
    try:
        duplicates = find_duplicates(images)
    except InputError:
        duplicates = []
    manifest = Manifest(
        source="made",
        config={"height": 24, "width": 32},
        shards=shards,
        rejected=[Rejected("sample_9999", "val", "no valid depth")],
        statistics={split: statistics(rows[split]) for split in SPLITS},
        duplicates=duplicates,
        precision=PRECISION,
    )
    write_manifest(folder, manifest)
    return folder


def statistics(rows: list[Row]) -> dict:
    maps = []
    for row in rows:
        try:
            maps.append(decode_depth(row["depth"], 24, 32, row["depth_scale"]))
        except (ValueError, TypeError):
            continue
    depth = np.concatenate([m[m > 0] for m in maps] or [np.zeros(0)]).astype(float)
    if not depth.size:
        return {"rows": len(rows), "invalid": {}}
    return {
        "rows": len(rows),
        "invalid": {},
        "depth_pixels": depth.size,
        "depth_mean": float(depth.mean()),
        "depth_min": float(depth.min()),
        "depth_max": float(depth.max()),
    }


@pytest.fixture
def dataset(tmp_path: Path, make_row) -> Path:
    """Two training shards (20 and 4 rows), one of val (4), one of test (4)."""
    rows = [make_row(i) for i in range(32)]
    train = [rows[:20], rows[20:24]]
    return write_dataset(tmp_path / "made", train=train, val=[rows[24:28]], test=[rows[28:]])


@pytest.fixture
def dataset_with(tmp_path: Path, make_row) -> Callable[..., Path]:
    """Factory of a dataset whose second row, of four, has these changes."""

    def make(**changes: object) -> Path:
        rows = [make_row(i) for i in range(4)]
        return write_dataset(
            tmp_path / "made", train=[[rows[0], {**rows[1], **changes}, *rows[2:]]]
        )

    return make


def edit_manifest(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def one_problem(folder: Path, quick: bool = False) -> str:
    (problem,) = verify(folder, quick).problems
    return problem


# --- Nothing wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_dataset_is_fine(dataset: Path, quick: bool):
    found = verify(dataset, quick)
    assert found.problems == []
    assert found.skipped == []
    assert {name: len(split.samples) for name, split in found.splits.items()} == {
        "train": 24, "val": 4, "test": 4,
    }  # fmt: skip
    found.raise_problems()


@pytest.mark.parametrize(("lossless", "gt"), [(False, "raw"), (True, "filled")])
def test_what_the_conversion_writes_is_fine(nyu_raw: Path, tmp_path: Path, lossless: bool, gt):
    config = nyu_labeled.Config(
        source="nyu_labeled", raw=str(nyu_raw), height=48, width=64, lossless=lossless, gt=gt
    )
    convert(config, tmp_path, tmp_path / "nyu", run_one_by_one)
    assert verify(tmp_path / "nyu").problems == []


def test_the_command_prints_a_line_for_each_split(dataset: Path):
    result = CliRunner().invoke(app, ["data", "verify", str(dataset)])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    size = sum(p.stat().st_size for p in dataset.glob("train-*.parquet")) / 1e6
    # Row i is 2 + u/32 + v/24 + i % 5: of 24 rows 2 + 15.5/32 + 11.5/24 + 46/24 on average.
    row = f"train 2 24 6 {size:.1f} 2.00 · 4.88 · 7.93 100.0% 0 0"
    assert row.split() in lines
    assert [line[-2:] for line in lines if line[:1] == ["val"]] == [["1", "0"]]
    assert "PSNR 41.2 dB, 39.0 dB at worst (3 checked)" in result.output
    assert "error up to 0.5 mm" in result.output
    assert f"{dataset} is fine" in result.output


def test_absent_images_and_depth_are_fine(tmp_path: Path, make_row):
    absent = dict.fromkeys(("image_prev", "image_next", "image_stereo", "baseline_m", "depth"))
    rows = [make_row(i, **absent) for i in range(3)]
    assert verify(write_dataset(tmp_path / "made", train=[rows])).problems == []


def test_a_dataset_in_the_working_folder_is_fine(dataset: Path, monkeypatch):
    monkeypatch.chdir(dataset)
    (dataset / "test-00000.parquet").unlink()
    assert "test-00000.parquet: in the manifest, but not there" in verify(Path()).problems[0]


# --- Files ------------------------------------------------------------------------------------


def remove(folder: Path) -> None:
    (folder / "val-00000.parquet").unlink()


def flip_a_bit(folder: Path) -> None:
    path = folder / "val-00000.parquet"
    content = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(file.schema_arrow.names.index("image"))
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    os.truncate(folder / "val-00000.parquet", 5000)


def empty(folder: Path) -> None:
    (folder / "val-00000.parquet").write_bytes(b"")


def replace_by_a_folder(folder: Path) -> None:
    remove(folder)
    (folder / "val-00000.parquet").mkdir()


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (remove, ["in the manifest, but not there"]),
        (flip_a_bit, ["SHA-256 differs", "row group 0 is damaged"]),
        (truncate, ["SHA-256 differs", "5000 bytes, the manifest says", "not a whole Parquet"]),
        (empty, ["SHA-256 differs", "0 bytes, the manifest says", "not a whole Parquet file"]),
        (replace_by_a_folder, ["in the manifest, but not there"]),
    ],
)
def test_a_damaged_shard_is_named_with_all_that_is_wrong(dataset: Path, damage, messages):
    damage(dataset)
    found = verify(dataset)
    assert len(found.problems) == len(messages)
    for problem, message in zip(found.problems, messages, strict=True):
        assert problem.startswith("val-00000.parquet: ")
        assert message in problem
    assert found.skipped == ["counts and statistics of val"]
    assert [p for p in verify(dataset, quick=True).problems if "val-00000" in p]


def test_an_extra_shard_is_named(dataset: Path, make_row):
    write_shard(dataset, "train", 7, [make_row(99)])
    assert one_problem(dataset).endswith("not in the manifest: train-00007.parquet")


@pytest.mark.parametrize("quick", [False, True])
def test_two_shards_with_their_contents_exchanged_are_both_named(dataset: Path, quick: bool):
    paths = [dataset / "train-00001.parquet", dataset / "val-00000.parquet"]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    text = "\n".join(verify(dataset, quick).problems)
    assert "train-00001.parquet: SHA-256 differs from the manifest (it is val-00000.pa" in text
    assert "val-00000.parquet: SHA-256 differs from the manifest (it is train-00001.pa" in text


def test_columns_that_are_missing_added_or_of_another_type_are_named(dataset: Path):
    path = dataset / "train-00001.parquet"
    table = pq.read_table(path)
    width = table.schema.names.index("width")
    table = table.set_column(width, "width", table["width"].cast(pa.int64()))
    table = table.drop_columns(["scene"]).append_column("colour", table["scene"])
    pq.write_table(table, path)
    problems = [p for p in verify(dataset).problems if "column" in p]
    assert problems == [
        "train-00001.parquet: column scene is missing",
        "train-00001.parquet: column 'pyarrow.Field<width: int64>' must be "
        "'pyarrow.Field<width: int32 not null>'",
        "train-00001.parquet: column colour is not part of a row",
    ]


# --- The manifest -----------------------------------------------------------------------------


def shard_of(content: dict, name: str) -> dict:
    return next(shard for shard in content["shards"] if shard["file"] == name)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: shard_of(c, "test-00000.parquet").update(rows=5), "test-00000.parquet: 4 rows"),
        (lambda c: shard_of(c, "test-00000.parquet").update(row_groups=2), "1 row groups, the"),
        (lambda c: shard_of(c, "test-00000.parquet").update(bytes=9), "the manifest says 9"),
        (lambda c: shard_of(c, "test-00000.parquet").update(sha256=""), "SHA-256 differs"),
        (lambda c: c["shards"].append(c["shards"][0]), "train-00000.parquet is listed 2 times"),
        (lambda c: c["shards"].pop(), "not in the manifest: test-00000.parquet"),
        (lambda c: c["shards"].clear(), "no shard in it"),
        (lambda c: c["shards"][-1].update(split="train"), "'test-00000.parquet' of split 'train'"),
        (lambda c: c["shards"][-1].update(file="../test-00000.parquet"), "'../test-00000.parquet'"),
        (lambda c: c["counts"].update(train=23), "counts.train is 23, found 24"),
        (lambda c: c.pop("counts"), "counts.train is None, found 24"),
        (lambda c: c["statistics"].pop("val"), "statistics.val.rows is None, found 4"),
        (
            lambda c: c["statistics"]["val"].update(depth_pixels=3071),
            "depth_pixels is 3071, found 3072",
        ),
        (lambda c: c["statistics"]["val"].update(depth_mean=4.0), "val.depth_mean is 4.0, found"),
        (lambda c: c["statistics"]["val"].update(depth_min=1.9), "val.depth_min is 1.9, found"),
        (lambda c: c["statistics"]["val"].update(depth_max="far"), "val.depth_max is far, found"),
        (lambda c: c["statistics"]["val"].update(depth_max=5.0), "beyond the manifest's 2 to 5 m"),
        (lambda c: c["duplicates"].append(["sample_0001", "sample_0002"]), "not the same image"),
        (lambda c: c["rejected"][0].update(sample_id="sample_0003"), "rejected: sample_0003"),
        (lambda c: c["config"].update(height=48), "not of the dataset's size: 20 rows"),
    ],
)
def test_an_edited_manifest_is_noticed(dataset: Path, edit, message: str):
    edit_manifest(dataset, edit)
    assert message in "\n".join(verify(dataset).problems)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(schema_version=1), "not of schema version 2"),
        (lambda c: c["shards"][0].update(rows="20"), r"manifest\.shards\.0\.rows: .* found '20'"),
        (lambda c: c["shards"][0].pop("sha256"), "not a manifest .*sha256"),
        (lambda c: c.update(statistics=[]), r"manifest\.statistics"),
        (lambda c: c.update(author="me"), "not a manifest .*author"),
    ],
)
def test_a_manifest_that_is_none_is_an_error(dataset: Path, edit, message: str):
    edit_manifest(dataset, edit)
    with pytest.raises(InputError, match=message):
        verify(dataset)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00"])
def test_a_damaged_manifest_is_an_error_that_names_it(dataset: Path, content: bytes):
    (dataset / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json: not "):
        verify(dataset)


def test_a_folder_that_is_no_dataset_is_an_error_that_says_so(dataset: Path, tmp_path: Path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a dataset, but it holds some: made"):
        verify(tmp_path)
    (dataset / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"no dataset here: manifest\.json is missing"):
        verify(dataset)


# --- Rows -------------------------------------------------------------------------------------


SMALL = encode_image(np.zeros((20, 32, 3), np.uint8))
K = [20.0, 0, 15.5, 0, 20, 11.5, 0, 0, 1]


def floats(value: float) -> bytes:
    """A lossless depth map, 24x32, with one pixel of that value."""
    depth = np.full((24, 32), 3.0, "<f4")
    depth[5, 5] = value
    return lz4.block.compress(depth.tobytes(), store_size=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": b"GIF89a"}, "image cannot be decoded"),
        ({"image": SMALL}, "image is of another size: 1 row: sample_0001 (20x32 px, the row says"),
        ({"image_prev": b""}, "image_prev cannot be decoded"),
        ({"image_next": SMALL}, "image_next is of another size"),
        ({"image_stereo": SMALL}, "image_stereo is of another size"),
        ({"depth": b"1234"}, "depth cannot be decoded as 24x32 px"),
        ({"depth": encode_depth(np.ones((24, 31)), 1e-3)}, "depth cannot be decoded as 24x32 px"),
        ({"depth": floats(np.nan), "depth_scale": 0.0}, "depth is NaN, infinite or negative: 1"),
        ({"depth": floats(np.inf), "depth_scale": 0.0}, "depth is NaN, infinite or negative: 1"),
        ({"depth": floats(-1), "depth_scale": 0.0}, "depth is NaN, infinite or negative: 1 row"),
        ({"depth": encode_depth(np.zeros((24, 32)), 1e-3)}, "depth has no valid pixel"),
        ({"depth_scale": float("nan")}, "depth_scale is not in metres per code"),
        ({"gt_depth": encode_depth(np.ones((9, 9)), 1e-3)}, "gt_depth cannot be decoded as 24x32"),
        ({"K": [float("nan"), *K[1:]]}, "K is not a matrix of intrinsics"),
        ({"K": [*K[:8], 2]}, "K is not a matrix of intrinsics"),
        ({"K": [-20.0, *K[1:]]}, "K has a focal length that is not positive"),
        ({"K": [20.0, 0, 1e3, *K[3:]]}, "K has its principal point outside of the image"),
        ({"baseline_m": None}, "a stereo image without baseline_m"),
        ({"baseline_m": 0.0}, "baseline_m is no distance"),
    ],
)
def test_a_bad_row_is_named_with_its_shard(dataset_with, changes, message: str):
    problem = one_problem(dataset_with(**changes))
    assert problem.startswith(f"train-00000.parquet: {message}")
    assert "sample_0001 (" in problem


def test_ground_truth_is_in_range_where_there_is_no_depth_to_train_on(dataset_with):
    folder = dataset_with(depth=None, gt_depth=encode_depth(np.full((24, 32), 60.0), 1e-3))
    assert verify(folder).problems[0] == (
        "train-00000.parquet: depth beyond the manifest's 2 to 6.927 m: 1 row: "
        "sample_0001 (60 to 60 m)"
    )


def test_faults_of_one_kind_make_one_message_and_nothing_hides_the_others(dataset: Path, make_row):
    rows = [make_row(i, image_prev=b"", K=[0.0] * 9) for i in range(8)]
    folder = write_dataset(dataset, train=[rows], val=[[make_row(9, image=b"")]])
    (folder / "train-00001.parquet").unlink()
    (folder / "test-00000.parquet").unlink()
    problems = verify(folder).problems
    assert len(problems) == 3
    assert "K is not a matrix of intrinsics: 8 rows: sample_0000 (" in problems[0]
    assert "image_prev cannot be decoded: 8 rows: sample_0000 (" in problems[1]
    assert problems[1].endswith(", and 3 more")
    assert problems[2].startswith("val-00000.parquet: image cannot be decoded: 1 row: sample_0009")


def test_an_image_that_rows_share_is_decoded_once(make_row):
    decoded: set[str] = set()
    assert check_row(make_row(0), Expected(), decoded).faults == []
    assert len(decoded) == 1
    wrong = check_row({**make_row(0), "height": 20, "depth": None}, Expected(), decoded)
    assert [fault.kind for _, fault in wrong.faults] == [
        f"{name} is of another size" for name in IMAGES
    ]


def test_a_quick_check_decodes_nothing(dataset_with):
    folder = dataset_with(image=b"GIF89a")
    assert verify(folder, quick=True).problems == []
    assert len(verify(folder).problems) == 1


def test_a_quick_check_notices_a_flipped_bit_and_reads_no_image(dataset: Path):
    flip_a_bit(dataset)
    assert "val-00000.parquet: SHA-256 differs" in one_problem(dataset, quick=True)


# --- All rows together ------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
def test_a_scene_of_test_in_another_split_is_an_error_unless_it_is_allowed(
    dataset: Path, make_row, quick: bool
):
    rows = [make_row(i) for i in range(4)]
    folder = write_dataset(dataset, train=[rows[:2]], val=[rows[2:3]], test=[rows[3:]])
    (folder / "train-00001.parquet").unlink()
    assert one_problem(folder, quick) == "1 scenes of test are in train or val too: scene_0"
    manifest = read_manifest(folder)
    config = {**manifest.config, "allow_shared_scenes": True}
    write_manifest(folder, replace(manifest, config=config))
    assert verify(folder, quick).problems == []


@pytest.mark.parametrize("quick", [False, True])
def test_a_sample_id_that_is_there_twice_is_an_error(tmp_path: Path, make_row, quick: bool):
    rows = [make_row(1), make_row(2), make_row(3, sample_id="sample_0001")]
    folder = write_dataset(tmp_path / "made", train=[rows[:2], rows[2:]])
    assert one_problem(folder, quick) == (
        "1 sample_ids are there more than once: sample_0001 "
        "(train-00000.parquet, train-00001.parquet)"
    )


def test_an_image_in_two_splits_is_an_error(tmp_path: Path, make_row):
    rows = [make_row(1), make_row(40, image=make_row(1)["image"])]
    folder = write_dataset(tmp_path / "made", train=[rows[:1]], test=[rows[1:]])
    assert one_problem(folder).startswith(
        "1 images are in more than one split: train sample_0001 = test sample_0040"
    )


def test_the_same_image_twice_in_a_split_is_fine_when_the_manifest_says_so(
    tmp_path: Path, make_row
):
    rows = [make_row(1), make_row(2), make_row(3, image=make_row(1)["image"])]
    folder = write_dataset(tmp_path / "made", train=[rows])
    assert verify(folder).problems == []
    result = CliRunner().invoke(app, ["data", "verify", str(folder), "--quick"])
    assert [line.split()[-1] for line in result.output.splitlines() if "train" in line] == ["1"]
    edit_manifest(folder, lambda content: content["duplicates"].clear())
    assert one_problem(folder) == (
        "the same image, and not in the manifest's duplicates: sample_0001, sample_0003"
    )


def test_the_command_lists_all_problems_and_exits_with_1(dataset: Path):
    remove(dataset)
    edit_manifest(dataset, lambda content: content["counts"].update(test=5))
    result = CliRunner().invoke(app, ["data", "verify", str(dataset)])
    assert result.exit_code == 1
    assert f"error: {dataset}: 2 problems" in result.output
    assert "  val-00000.parquet: in the manifest, but not there" in result.output
    assert "  manifest.json: counts.test is 5, found 4" in result.output
    assert "not checked, because of the above: counts and statistics of val" in result.output
    assert "is fine" not in result.output
    assert "Traceback" not in result.output
