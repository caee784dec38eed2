"""Datasets in an object store: a real S3-compatible server, read by the feed on a real Ray."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mde.cluster.feed import Feed
from mde.cluster.session import find_input_error
from mde.data.codecs import encode_image
from mde.data.shards import (
    Manifest,
    read_manifest,
    read_row_group,
    verified_sha256,
    write_manifest,
    write_shard,
)
from mde.errors import InputError
from mde.storage import open_storage
from tests.conftest import flip_a_bit
from tests.s3 import S3Server

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("dataset"), np.random.default_rng(0)

    def row(number: int) -> dict:
        return {
            "sample_id": f"sample_{number:04d}",
            "scene": "room",
            "height": 24,
            "width": 32,
            "image": encode_image(draw.integers(0, 256, (24, 32, 3), np.uint8)),
            "K": [30.0, 0, 15.5, 0, 30, 11.5, 0, 0, 1],
            "depth_scale": 1e-3,
            "gt_height": 0,
            "gt_width": 0,
        }

    rows = [[row(i) for i in range(start, start + 24)] for start in (0, 24, 48)]
    shards = [write_shard(folder, "train", i, part) for i, part in enumerate(rows)]  # type: ignore[arg-type]
    write_manifest(folder, Manifest("made", {}, shards, [], {}))
    return folder


def upload(folder: Path, name: str) -> str:
    """Copy a dataset into the bucket; its URI."""
    uri = f"s3://mde/{name}/shards"
    for file in folder.iterdir():
        open_storage(uri).put_file(file.name, file)
    return uri


def options(s3: S3Server) -> str:
    return f"?endpoint_override={s3.address}&scheme=http"


@pytest.fixture(scope="module")
def remote(local: Path, s3: S3Server) -> str:
    """With the server's address in the URI, as older params files have it."""
    return upload(local, "whole") + options(s3)


def feed(folder: Path | str) -> Feed:
    return Feed(folder, ("image",), False, 8, 0, None, 0, 1)


def test_a_dataset_in_a_bucket_gives_the_batches_of_its_local_copy(
    local: Path, remote: str
) -> None:
    assert read_manifest(remote) == read_manifest(local)
    batches = list(feed(remote).train(0))
    expected = list(feed(local).train(0))
    assert len(batches) == len(expected) == 9
    for (batch, _), (other, _) in zip(batches, expected, strict=True):
        assert batch["sample_id"] == other["sample_id"]
        assert np.array_equal(batch["image"], other["image"])


def test_a_file_uri_is_a_path(local: Path) -> None:
    assert read_manifest(f"file://{local}") == read_manifest(local)
    assert len(list(feed(f"file://{local}").train(0))) == 9


def test_a_row_group_is_read_without_the_rest_of_its_shard(remote: str, local: Path) -> None:
    shard = read_manifest(local).shards[0].file
    uri = remote.replace("/shards?", f"/shards/{shard}?")
    table = read_row_group(uri, 1, ["sample_id"])
    assert table.equals(read_row_group(local / shard, 1, ["sample_id"]))


def test_a_whole_dataset_in_a_bucket_has_the_identity_of_its_local_copy(
    local: Path, remote: str
) -> None:
    assert verified_sha256(remote) == verified_sha256(local)


@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "extra"])
def test_a_damaged_dataset_in_a_bucket_is_refused_by_the_name_of_its_shard(
    local: Path, s3: S3Server, tmp_path: Path, fault: str
) -> None:
    for file in local.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    bad = tmp_path / "train-00001.parquet"
    if fault == "flipped":
        flip_a_bit(bad)
    elif fault == "cut":
        os.truncate(bad, 1000)
    elif fault == "missing":
        bad.unlink()
    else:
        bad = tmp_path / "train-00009.parquet"
        bad.write_bytes(b"more")
    with pytest.raises(InputError, match=bad.name) as caught:
        verified_sha256(upload(tmp_path, fault) + options(s3))
    assert "endpoint_override" not in str(caught.value)


def test_a_flipped_bit_in_a_bucket_stops_the_epoch(
    local: Path, s3: S3Server, tmp_path: Path
) -> None:
    for file in local.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    flip_a_bit(tmp_path / "train-00002.parquet")
    assert pq.read_metadata(tmp_path / "train-00002.parquet").num_rows == 24
    with pytest.raises(Exception, match="damaged") as caught:
        list(feed(upload(tmp_path, "rotten")).train(0))
    assert "train-00002.parquet: row group 0 is damaged" in str(find_input_error(caught.value))


def test_a_bucket_without_a_manifest_is_no_dataset(s3: S3Server) -> None:
    with pytest.raises(InputError, match=r"manifest\.json is missing; convert it first"):
        read_manifest("s3://mde/nothing")
