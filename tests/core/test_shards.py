"""Shards on disk: exact rows, the same bytes for the same rows, and damage that is noticed."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mde.data.shards import (
    ROWS_PER_GROUP,
    Manifest,
    Rejected,
    Shard,
    read_manifest,
    read_row_group,
    read_rows,
    verified_sha256,
    verify_shards,
    write_manifest,
    write_shard,
)
from mde.errors import InputError


@pytest.fixture
def dataset(tmp_path: Path, make_row) -> Path:
    """Two training shards (20 and 5 rows) and a test shard (3 rows), with their manifest."""
    shards = [
        write_shard(tmp_path, "train", 0, [make_row(i) for i in range(20)]),
        write_shard(tmp_path, "train", 1, [make_row(i) for i in range(20, 25)]),
        write_shard(tmp_path, "test", 0, [make_row(i) for i in range(25, 28)]),
    ]
    rejected = [Rejected("sample_9999", "train", "no valid depth")]
    statistics = {"train": {"depth_mean": 3.0}, "val": {}, "test": {}}
    write_manifest(tmp_path, Manifest("made", {"height": 24}, shards, rejected, statistics))
    return tmp_path


def flip_bit(data: bytes, position: int, bit: int = 3) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def test_rows_come_back_exactly_and_in_order(dataset: Path, make_row):
    assert list(read_rows(dataset, "train")) == [make_row(i) for i in range(25)]
    assert list(read_rows(dataset, "test")) == [make_row(i) for i in range(25, 28)]
    assert list(read_rows(dataset, "val")) == []


def test_absent_images_and_depth_come_back_as_none(tmp_path: Path, make_row):
    absent = dict.fromkeys(
        ("image_prev", "image_next", "image_stereo", "baseline_m", "depth", "gt_depth")
    )
    row = make_row(**absent)
    shard = write_shard(tmp_path, "train", 0, [row])
    assert read_row_group(tmp_path / shard.file, 0).to_pylist() == [row]


def test_a_shard_describes_itself(dataset: Path):
    first = read_manifest(dataset).shards[0]
    assert (first.file, first.split, first.rows, first.row_groups) == (
        "train-00000.parquet", "train", 20, 2,
    )  # fmt: skip
    assert first.bytes == (dataset / first.file).stat().st_size
    with pq.ParquetFile(dataset / first.file) as file:
        assert file.metadata.num_row_groups == first.row_groups
        assert file.metadata.row_group(0).num_rows == ROWS_PER_GROUP


def test_only_the_columns_that_are_asked_for_are_read(dataset: Path):
    table = read_row_group(dataset / "train-00000.parquet", 1, ["sample_id", "K"])
    assert table.column_names == ["sample_id", "K"]
    assert table.num_rows == 4


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, make_row):
    rows = [make_row(i) for i in range(18)]
    first, again = write_shard(tmp_path, "train", 0, rows), write_shard(tmp_path, "val", 0, rows)
    assert first.sha256 == again.sha256
    assert (tmp_path / first.file).read_bytes() == (tmp_path / again.file).read_bytes()


def test_nothing_but_the_shard_is_left_behind(tmp_path: Path, make_row):
    write_shard(tmp_path, "train", 0, [make_row()])
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.parquet"]
    with pytest.raises(TypeError, match="Expected bytes"):
        write_shard(tmp_path, "train", 1, [make_row(image=5)])
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.parquet"]


def test_a_flipped_bit_anywhere_in_the_pages_is_noticed_when_it_is_read(tmp_path: Path, make_row):
    path = tmp_path / write_shard(tmp_path, "train", 0, [make_row(i) for i in range(4)]).file
    whole, expected = path.read_bytes(), read_row_group(path, 0)
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
    rng = random.Random(0)
    noticed = 0
    for _ in range(100):
        chunk = rng.choice(chunks)
        position = chunk.data_page_offset + rng.randrange(chunk.total_compressed_size)
        path.write_bytes(flip_bit(whole, position, rng.randrange(8)))
        try:
            # A bit of a page header that no reader looks at may pass: the rows are right then.
            assert read_row_group(path, 0).equals(expected)
        except InputError as error:
            assert f"{path}: row group 0 is damaged" in str(error)  # noqa: PT017
            noticed += 1
    assert noticed > 70


@pytest.mark.parametrize("column", ["image", "depth", "image_stereo"])
def test_a_flipped_bit_in_the_payload_is_an_error_that_names_file_and_row_group(
    tmp_path: Path, make_row, column: str
):
    rows = [make_row(i) for i in range(ROWS_PER_GROUP + 2)]
    path = tmp_path / write_shard(tmp_path, "train", 0, rows).file
    whole = path.read_bytes()
    position = whole.rindex(rows[-1][column]) + len(rows[-1][column]) // 2
    path.write_bytes(flip_bit(whole, position))
    assert read_row_group(path, 0).num_rows == ROWS_PER_GROUP
    with pytest.raises(InputError, match=r"train-00000\.parquet: row group 1 is damaged"):
        read_row_group(path, 1)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_cut_off_shard_is_an_error_that_names_it(dataset: Path, keep: int):
    path = dataset / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"train-00000\.parquet"):
        read_row_group(path, 0)


# --- Manifest ---------------------------------------------------------------------------------


def test_the_manifest_comes_back_as_it_was(dataset: Path):
    manifest = read_manifest(dataset)
    assert manifest.counts == {"train": 25, "val": 0, "test": 3}
    assert manifest.rejected == [Rejected("sample_9999", "train", "no valid depth")]
    assert [shard.file for shard in manifest.of_split("train")] == [
        "train-00000.parquet",
        "train-00001.parquet",
    ]
    before = verified_sha256(dataset)
    write_manifest(dataset, manifest)
    assert verified_sha256(dataset) == before


def test_whole_shards_pass(dataset: Path):
    verify_shards(dataset, read_manifest(dataset))


def test_a_changed_shard_is_named(dataset: Path):
    path = dataset / "train-00001.parquet"
    path.write_bytes(flip_bit(path.read_bytes(), 1000))
    with pytest.raises(InputError, match=r"train-00001\.parquet: SHA-256 differs"):
        verify_shards(dataset, read_manifest(dataset))


def test_a_missing_shard_is_named(dataset: Path):
    (dataset / "test-00000.parquet").unlink()
    with pytest.raises(InputError, match=r"test-00000\.parquet: in the manifest, but not there"):
        verify_shards(dataset, read_manifest(dataset))


def test_a_shard_of_another_conversion_is_named(dataset: Path, make_row):
    write_shard(dataset, "train", 7, [make_row()])
    with pytest.raises(InputError, match=r"not in the manifest: train-00007\.parquet"):
        verify_shards(dataset, read_manifest(dataset))


def test_a_folder_without_a_manifest_is_no_dataset(tmp_path: Path, make_row):
    write_shard(tmp_path, "train", 0, [make_row()])
    with pytest.raises(InputError, match=r"manifest\.json is missing; convert it first"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_a_damaged_manifest_is_an_error_that_names_it(dataset: Path, text: str):
    (dataset / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_manifest(dataset)


def test_a_manifest_of_another_version_asks_for_a_new_conversion(dataset: Path):
    path = dataset / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 0}))
    with pytest.raises(InputError, match="convert the data again"):
        read_manifest(dataset)


def test_counts_are_sums_over_the_shards():
    shards = [Shard(f"{i}", "val", 3, 1, 10, "") for i in range(4)]
    assert Manifest("made", {}, shards, [], {}).counts == {"train": 0, "val": 12, "test": 0}
