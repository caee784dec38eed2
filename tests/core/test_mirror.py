"""Raw files in a bucket of a real S3 server: the folder on disk becomes and stays equal to them."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data.convert import convert, run_one_by_one
from mde.data.current import check_current
from mde.data.raw import mirror
from mde.data.raw.mirror import fetch_raw, raw_path
from mde.data.shards import verified_sha256
from mde.data.sources import load_source_config
from mde.errors import InputError
from mde.storage import Storage, join_uri, open_storage

PARAMS = """
datasets:
  mine:
    source: folder
    raw: {raw}
    height: 48
    width: 64
    ratios: [0.5, 0.25, 0.25]
"""


@pytest.fixture
def raw(bucket: str, tmp_path: Path) -> Storage:
    """Three raw files in a bucket."""
    storage = open_storage(join_uri(bucket, f"{tmp_path.name}/rooms"))
    for name in ("camera.yaml", "images/a/0.png", "images/b/0.png"):
        storage.write(name, name.encode())
    return storage


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.partition("\n")[0]


def test_a_bucket_becomes_a_folder_and_is_fetched_once(
    raw: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fetch_raw(raw.uri, tmp_path, "mine")
    assert folder == raw_path(raw.uri, tmp_path, "mine") == tmp_path / "data/mirror/mine/rooms"
    names = ("camera.yaml", "images/a/0.png", "images/b/0.png")
    assert content(folder) == {name: name.encode() for name in names}
    assert "3 of 3 files" in said(capsys)
    fetch_raw(raw.uri, tmp_path, "mine")
    assert said(capsys) == ""


def test_what_has_changed_on_either_side_is_fetched_and_what_is_gone_goes(
    raw: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fetch_raw(raw.uri, tmp_path, "mine")
    raw.delete("images/b")
    raw.write("camera.yaml", b"CAMERA.YAML")
    (folder / "images/a/0.png").write_bytes(b"of the same si")
    os.utime(folder / "images/a/0.png", (1, 1))
    (folder / ".images.partial").write_bytes(b"of a killed process")
    said(capsys)
    fetch_raw(raw.uri, tmp_path, "mine")
    assert "2 of 2 files" in (line := said(capsys))
    assert "1 removed" in line
    assert content(folder) == {"camera.yaml": b"CAMERA.YAML", "images/a/0.png": b"images/a/0.png"}


def test_an_interrupted_fetch_goes_on_from_its_files(
    raw: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fetch = mirror._Getter.get

    def fail_late(self: mirror._Getter, file: mirror.RemoteFile) -> int:
        if file.name == "images/b/0.png":
            raise OSError("the line is cut")
        return fetch(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(mirror._Getter, "get", fail_late)
        with pytest.raises(InputError, match="the line is cut; start again to go on"):
            fetch_raw(raw.uri, tmp_path, "mine")
    with (tmp_path / "data/mirror/mine" / mirror.JOURNAL).open("a") as journal:
        journal.write('{"name": "ima')
    said(capsys)
    fetch_raw(raw.uri, tmp_path, "mine")
    assert "1 of 3 files" in said(capsys)
    fetch_raw(raw.uri, tmp_path, "mine")
    assert said(capsys) == ""


def test_a_file_that_changes_meanwhile_is_noticed(
    raw: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = mirror._Getter.get

    def change(self: mirror._Getter, file: mirror.RemoteFile) -> int:
        size = fetch(self, file)
        raw.write("camera.yaml", b"later")
        return size

    with monkeypatch.context() as patch:
        patch.setattr(mirror._Getter, "get", change)
        with pytest.raises(InputError, match=r"changed while it was fetched \(camera.yaml\)"):
            fetch_raw(raw.uri, tmp_path, "mine")
    assert content(fetch_raw(raw.uri, tmp_path, "mine"))["camera.yaml"] == b"later"


def test_an_archive_keeps_its_name(raw: Storage, tmp_path: Path) -> None:
    raw.write("frames.tar.gz", b"packed")
    path = fetch_raw(join_uri(raw.uri, "frames.tar.gz"), tmp_path, "mine")
    assert (path.name, path.read_bytes()) == ("frames.tar.gz", b"packed")


def test_nothing_at_a_uri_is_said(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing there; set datasets\.<name>\.raw"):
        fetch_raw(join_uri(bucket, "nothing"), tmp_path, "mine")
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch_raw("s3://no-such-bucket/raw", tmp_path, "mine")


def test_a_path_is_read_where_it_is(tmp_path: Path) -> None:
    assert fetch_raw("data/raw/x", tmp_path, "mine") == tmp_path / "data/raw/x"
    assert fetch_raw("/data/raw/x", tmp_path, "mine") == Path("/data/raw/x")
    assert fetch_raw("file:///data/raw/x", tmp_path, "mine") == Path("/data/raw/x")


def test_a_conversion_from_a_bucket_gives_the_shards_of_a_local_one(
    bucket: str, tmp_path: Path
) -> None:
    raw, noise = tmp_path / "raw", np.random.default_rng(0)
    storage = open_storage(join_uri(bucket, f"{tmp_path.name}/raw"))
    for scene in range(4):
        for kind, dtype in (("images", np.uint8), ("depth", np.uint16)):
            shape = (60, 80, 3) if kind == "images" else (60, 80)
            picture = noise.integers(1, 200, shape).astype(dtype)
            (raw / kind / f"room_{scene}").mkdir(parents=True)
            cv2.imwrite(str(raw / kind / f"room_{scene}/0.png"), picture)
    (raw / "camera.yaml").write_text("{fx: 60, fy: 60, cx: 39.5, cy: 29.5, width: 80, height: 60}")
    for path in raw.rglob("*.*"):
        storage.put_file(path.relative_to(raw).as_posix(), path)
    found = []
    for name, place in (("local", str(raw)), ("remote", storage.uri)):
        root = tmp_path / name
        root.mkdir()
        (root / "params.yaml").write_text(PARAMS.format(raw=place))
        config = load_source_config(root / "params.yaml", "mine")
        convert(config, root, root / "shards/mine", run_one_by_one)
        check_current(root / "params.yaml", "mine", root, root / "shards/mine")
        found.append(verified_sha256(root / "shards/mine"))
    assert found[0] == found[1]
    (tmp_path / "remote/data/mirror/mine/raw/camera.yaml").write_text("fx: 61")
    with pytest.raises(InputError, match=r"the latest change is in camera\.yaml"):
        check_current(root / "params.yaml", "mine", root, root / "shards/mine")
