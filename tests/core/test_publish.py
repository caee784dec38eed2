"""A converted dataset goes to shared storage whole, once, and next to its other versions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mde.data.publish import published
from mde.data.shards import (
    Manifest,
    read_manifest,
    verified_sha256,
    write_manifest,
    write_shard,
)
from mde.errors import InputError
from mde.schema import Row
from mde.storage import join_uri, open_storage
from tests.conftest import flip_a_bit


@pytest.fixture(params=["folder", "bucket"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "nfs")
    return join_uri(request.getfixturevalue("bucket"), tmp_path.name)


@pytest.fixture
def shards(tmp_path: Path, make_row: Callable[..., Row]) -> Path:
    folder = tmp_path / "data/shards/rooms"
    folder.mkdir(parents=True)
    made = [write_shard(folder, "train", i, [make_row(2 * i), make_row(2 * i + 1)]) for i in (0, 1)]
    write_manifest(folder, Manifest("folder", {}, made, [], {}))
    return folder


def test_a_dataset_is_brought_to_shared_storage_once(
    shards: Path, shared: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = published(shards, shared)
    assert verified_sha256(place) == verified_sha256(shards)
    assert "rooms: 2 of 2 shards" in capsys.readouterr().err
    assert published(shards, shared) == place
    assert capsys.readouterr().err == ""
    assert published(shards, None) == shards


def test_another_version_leaves_the_first_as_it_is(shards: Path, shared: str) -> None:
    first = published(shards, shared)
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps({**manifest, "source": "another"}))
    second = published(shards, shared)
    assert read_manifest(first).source == "folder"
    assert read_manifest(second).source == "another"


def test_what_was_interrupted_is_no_dataset_and_is_completed(
    shards: Path, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = published(shards, shared)
    storage = open_storage(place)
    gone, cut = read_manifest(shards).shards
    storage.delete(gone.file)
    storage.write(cut.file, b"half")

    def fail(*_: object) -> None:
        raise OSError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(type(storage), "put_file", fail)
        with pytest.raises(InputError, match=r"the line is cut; .*start again"):
            published(shards, shared)
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        read_manifest(place)
    assert published(shards, shared) == place
    assert verified_sha256(place) == verified_sha256(shards)


def test_a_damaged_shard_is_not_published(shards: Path, shared: str) -> None:
    name = read_manifest(shards).shards[0].file
    flip_a_bit(shards / name)
    with pytest.raises(InputError, match=f"{name}: SHA-256 differs"):
        published(shards, shared)
    storage = open_storage(shared)
    assert not [v for v in storage.names() if "manifest.json" in storage.names(f"{v}/rooms")]


def test_a_dataset_that_lies_there_already_is_read_there(shards: Path, shared: str) -> None:
    storage = open_storage(join_uri(shared, shards.name))
    for file in shards.iterdir():
        storage.put_file(file.name, file)
    assert published(shards, shared) == join_uri(shared, shards.name)
    assert published(shards.with_name("gone") / shards.name, shared) == storage.uri
    assert open_storage(shared).names() == [shards.name]
