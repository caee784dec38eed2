"""Shards of other settings or of other raw files than those of today are refused."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data.convert import convert, run_one_by_one
from mde.data.current import check_current
from mde.data.raw import fingerprint
from mde.data.raw.fingerprint import raw_state
from mde.data.shards import read_manifest, write_manifest
from mde.data.sources import load_source_config
from mde.errors import InputError

PARAMS = """
datasets:
  mine:
    source: folder
    raw: raw
    height: 48
    width: 64
    ratios: [0.5, 0.25, 0.25]
"""
CAMERA = "fx: 60.0\nfy: 60.0\ncx: 39.5\ncy: 29.5\nwidth: 80\nheight: 60\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four scenes of an image with depth, converted into `shards`."""
    noise = np.random.default_rng(0)
    for scene in range(4):
        for kind, dtype in (("images", np.uint8), ("depth", np.uint16)):
            folder = tmp_path / "raw" / kind / f"room_{scene}"
            folder.mkdir(parents=True)
            shape = (60, 80, 3) if kind == "images" else (60, 80)
            cv2.imwrite(str(folder / "0.png"), noise.integers(1, 200, shape).astype(dtype))
    (tmp_path / "raw/camera.yaml").write_text(CAMERA)
    (tmp_path / "params.yaml").write_text(PARAMS)
    config = load_source_config(tmp_path / "params.yaml", "mine")
    convert(config, tmp_path, tmp_path / "shards", run_one_by_one)
    return tmp_path


def check(root: Path) -> None:
    check_current(root / "params.yaml", "mine", root, root / "shards")


def refusal(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        check(root)
    assert str(caught.value).startswith(f"{root / 'shards'}: converted before this was changed:")
    assert "dvc repro convert@mine" in str(caught.value)
    return str(caught.value)


def test_shards_of_today_pass(root: Path):
    check(root)


def test_a_copy_with_other_times_and_hidden_files_pass(root: Path):
    shutil.copytree(root / "raw", root / "copy")
    for path in (root / "copy").rglob("*"):
        os.utime(path, (1, 1))
    (root / "copy/.DS_Store").write_text("x")
    shutil.rmtree(root / "raw")
    (root / "copy").rename(root / "raw")
    check(root)


def test_where_there_are_no_raw_files_nothing_is_asked_of_them(root: Path):
    shutil.rmtree(root / "raw")
    check(root)


def test_a_manifest_that_is_older_than_this_check_passes(root: Path):
    write_manifest(root / "shards", replace(read_manifest(root / "shards"), raw={}))
    (root / "raw/camera.yaml").unlink()
    check(root)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file more": (
        lambda raw: (raw / "images/room_0/1.png").write_bytes(b"x"),
        "9 files of .* then, 10 of .* now; the latest change is in images/room_0/1.png",
    ),
    "a file less": (lambda raw: (raw / "depth/room_3/0.png").unlink(), "9 files .*, 8 of"),
    "another size": (
        lambda raw: (raw / "camera.yaml").write_text(CAMERA + "\n"),
        "9 files of .* then, 9 of .* now; the latest change is in camera.yaml",
    ),
    "the same size": (
        lambda raw: (raw / "camera.yaml").write_text(CAMERA.replace("60.0", "61.0")),
        "the same 9 files and .* other content or names; the latest change is in camera.yaml",
    ),
    "another name": (
        lambda raw: (raw / "images/room_0").rename(raw / "images/room_9"),
        "the same 9 files and .* other content or names",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_raw_files_are_refused_and_told(change: str, root: Path):
    edit, message = CHANGES[change]
    edit(root / "raw")
    with pytest.raises(InputError, match=rf"raw files in {root / 'raw'}: {message}"):
        check(root)
    refusal(root)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("height: 48", "height: 32", "height: 48 then, 32 in the params file now"),
        ("0.5, 0.25, 0.25", "0.25, 0.5, 0.25", r"ratios: [0.5, 0.25, 0.25] then, [0.25, 0.5"),
        ("width: 64", "width: 64\n    lossless: true", "lossless: false then, true in"),
        ("width: 64", "width: 64\n    rows_per_shard: 8", "rows_per_shard: 256 then, 8 in"),
    ],
)
def test_changed_settings_are_refused_and_told(root: Path, before: str, after: str, message: str):
    (root / "params.yaml").write_text(PARAMS.replace(before, after))
    assert message in refusal(root)


def test_a_setting_that_was_taken_out_counts_as_changed(root: Path):
    (root / "params.yaml").write_text(PARAMS.replace("    ratios: [0.5, 0.25, 0.25]\n", ""))
    assert "ratios: [0.5, 0.25, 0.25] then, [0.8, 0.1, 0.1] in" in refusal(root)


def test_all_changes_are_told_at_once(root: Path):
    (root / "params.yaml").write_text(
        PARAMS.replace("width: 64", "width: 96").replace("height: 48", "height: 64")
    )
    (root / "raw/camera.yaml").unlink()
    message = refusal(root)
    assert all(word in message for word in ("height: 48", "width: 64", "raw files in"))


def test_what_does_not_make_a_dataset_may_change(root: Path):
    # Where the raw files lie, limits, and defaults that are written out.
    (root / "raw").rename(root / "moved")
    text = PARAMS.replace("raw: raw", "raw: moved\n    max_rejected: 0.5\n    lossless: false")
    (root / "params.yaml").write_text(text)
    check(root)


def test_a_setting_that_is_younger_than_the_shards_had_its_default(root: Path):
    path = root / "shards/manifest.json"
    content = json.loads(path.read_text())
    del content["config"]["allow_duplicates"]
    path.write_text(json.dumps(content))
    check(root)
    (root / "params.yaml").write_text(PARAMS + "    allow_duplicates: true\n")
    assert "allow_duplicates: false then, true in" in refusal(root)


@pytest.mark.parametrize("position", [0, 0.5, 1])
def test_of_a_large_archive_start_middle_and_end_are_seen(position: float, tmp_path: Path):
    path = tmp_path / "raw.zip"
    path.write_bytes(bytes(fingerprint.LARGE_BYTES + 12345))
    before = raw_state(path)
    assert (before.files, before.bytes) == (1, fingerprint.LARGE_BYTES + 12345)
    with path.open("r+b") as file:
        file.seek(int(position * (fingerprint.LARGE_BYTES + 12345 - 2**19)))
        file.write(b"\1" * 2**19)
    after = raw_state(path)
    assert after.sha256 != before.sha256
    assert after.bytes == before.bytes


def test_a_raw_file_that_is_gone_behind_its_link_is_named(tmp_path: Path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"a\.png: a raw file that cannot be read"):
        raw_state(tmp_path)
