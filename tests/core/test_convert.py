"""The conversion: the same bytes in any order, resumable, and nothing lost or half-written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from mde.data.codecs import decode_image
from mde.data.convert import convert, run_one_by_one
from mde.data.encode import Encoder
from mde.data.frames import Frame
from mde.data.shards import read_manifest, read_rows, verify_shards
from mde.data.sources import nyu_labeled
from mde.data.tasks import Job, Task, run_task
from mde.errors import InputError


@pytest.fixture
def config(nyu_raw: Path) -> nyu_labeled.Config:
    """Four train, two val and four test images, in shards of two rows: six tasks or so."""
    return nyu_labeled.Config(
        source="nyu_labeled",
        raw=str(nyu_raw),
        height=48,
        width=64,
        rows_per_shard=2,
        val_scenes=1 / 3,
    )


def backwards(job: Job, tasks: list[Task]) -> Iterator[dict]:
    return (run_task(job, task) for task in reversed(tasks))


def stop_after(count: int) -> Callable[[Job, list[Task]], Iterator[dict]]:
    """Runs `count` tasks and is interrupted then."""

    def execute(job: Job, tasks: list[Task]) -> Iterator[dict]:
        for task in tasks[:count]:
            yield run_task(job, task)
        raise KeyboardInterrupt

    return execute


def only(*names: str) -> Callable[[Job, list[Task]], Iterator[dict]]:
    """Runs all tasks, and asserts that just these are really done, not found finished."""

    def execute(job: Job, tasks: list[Task]) -> Iterator[dict]:
        before = {path: path.stat().st_mtime_ns for path in job.shards.iterdir()}
        for task in tasks:
            yield run_task(job, task)
        after = {path: path.stat().st_mtime_ns for path in job.shards.iterdir()}
        assert sorted(p.stem for p in after if before.get(p) != after[p]) == sorted(names)

    return execute


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def interrupted(config: nyu_labeled.Config, out: Path, count: int = 3) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(config, Path("/"), out, stop_after(count))
    assert not out.exists()


def test_every_frame_becomes_a_row_in_the_listed_order(config, tmp_path: Path):
    manifest = convert(config, Path("/"), tmp_path / "nyu", run_one_by_one)
    assert manifest.counts == {"train": 4, "val": 2, "test": 4}
    frames = nyu_labeled.list_frames(config, Path(config.raw), tmp_path)
    for split in ("train", "val", "test"):
        rows = [row["sample_id"] for row in read_rows(tmp_path / "nyu", split)]
        assert rows == [f.sample_id for f in frames if f.split == split]
    assert read_manifest(tmp_path / "nyu") == replace(
        manifest, config={**manifest.config, "ratios": list(config.ratios)}
    )
    verify_shards(tmp_path / "nyu", manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["nyu"]


def test_the_bytes_do_not_depend_on_the_order_of_completion(config, tmp_path: Path):
    for name, execute in (("a", run_one_by_one), ("b", backwards)):
        convert(config, Path("/"), tmp_path / name, execute)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_an_interrupted_conversion_goes_on_and_ends_in_the_same_bytes(config, tmp_path: Path):
    convert(config, Path("/"), tmp_path / "whole", run_one_by_one)
    interrupted(config, tmp_path / "nyu")
    convert(config, Path("/"), tmp_path / "nyu", only("test-00000", "test-00001"))
    assert content(tmp_path / "whole") == content(tmp_path / "nyu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nyu", "whole"]


def test_finished_shards_are_made_again_when_a_setting_or_the_raw_file_has_changed(
    config, nyu_raw: Path, tmp_path: Path
):
    raw = shutil.copytree(nyu_raw, tmp_path / "raw")
    config = replace(config, raw=str(raw))
    everything = ["train-00000", "train-00001", "val-00000", "test-00000", "test-00001"]
    interrupted(config, tmp_path / "nyu")
    smaller = replace(config, height=24)
    convert(smaller, Path("/"), tmp_path / "nyu", only(*everything))
    assert next(read_rows(tmp_path / "nyu", "train"))["height"] == 24
    shutil.rmtree(tmp_path / "nyu")
    interrupted(config, tmp_path / "nyu")
    with h5py.File(raw / "nyu_depth_v2_labeled.mat", "r+") as mat:
        images = np.full((10, 3, 640, 480), 77, np.uint8)
        # Else every image is the same, in all splits.
        images[:, 0, :, :10] = np.arange(10).reshape(10, 1, 1) * 20
        mat["images"][...] = images
    convert(config, Path("/"), tmp_path / "nyu", only(*everything))
    row = next(read_rows(tmp_path / "nyu", "train"))
    assert abs(int(decode_image(row["image"])[24, 50, 1]) - 77) < 3


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_finished_shard_that_is_damaged_is_made_again(config, tmp_path: Path, damage: str):
    interrupted(config, tmp_path / "nyu")
    shard = tmp_path / ".nyu.partial" / "shards" / "train-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.unlink()
    if damage != "remove":
        shard.write_bytes(data if damage == "flip" else data[:1000])
    remaining = ["train-00001", "test-00000", "test-00001"]
    convert(config, Path("/"), tmp_path / "nyu", only(*remaining))
    verify_shards(tmp_path / "nyu", read_manifest(tmp_path / "nyu"))


def test_what_an_earlier_plan_left_behind_does_not_get_into_the_dataset(config, tmp_path: Path):
    interrupted(replace(config, rows_per_shard=1), tmp_path / "nyu", 6)
    (tmp_path / ".nyu.partial" / "shards" / "train-00001.tmp").write_bytes(b"half a shard")
    manifest = convert(config, Path("/"), tmp_path / "nyu", run_one_by_one)
    files = {shard.file for shard in manifest.shards}
    assert set(content(tmp_path / "nyu")) == files | {"manifest.json"}


def test_the_former_dataset_stays_until_the_new_one_is_whole(config, tmp_path: Path):
    convert(config, Path("/"), tmp_path / "nyu", run_one_by_one)
    before = content(tmp_path / "nyu")
    with pytest.raises(KeyboardInterrupt):
        convert(replace(config, height=24), Path("/"), tmp_path / "nyu", stop_after(2))
    assert content(tmp_path / "nyu") == before
    convert(replace(config, height=24), Path("/"), tmp_path / "nyu", run_one_by_one)
    assert content(tmp_path / "nyu") != before


def test_a_rejected_frame_is_in_the_manifest_with_its_reason_or_stops_the_conversion(
    config, nyu_raw: Path, tmp_path: Path
):
    raw = shutil.copytree(nyu_raw, tmp_path / "raw")
    with h5py.File(raw / "nyu_depth_v2_labeled.mat", "r+") as mat:
        mat["depths"][3] = 0
        mat["depths"][4, :5, 0] = np.nan
    config = replace(config, raw=str(raw))
    with pytest.raises(InputError, match="1 of 10 frames cannot be used") as error:
        convert(config, Path("/"), tmp_path / "nyu", run_one_by_one)
    listed = tmp_path / ".nyu.partial" / "rejected.json"
    assert str(listed) in str(error.value)
    assert [frame["sample_id"] for frame in json.loads(listed.read_text())] == ["nyu_0004"]
    assert not (tmp_path / "nyu").exists()
    # What was done so far is used when the limit is raised.
    manifest = convert(replace(config, max_rejected=0.1), Path("/"), tmp_path / "nyu", only())
    (rejected,) = manifest.rejected
    assert (rejected.sample_id, rejected.reason) == ("nyu_0004", "no valid depth")
    assert "307200 zero" in rejected.detail
    assert sum(manifest.counts.values()) == 9
    assert [shard.invalid for shard in manifest.shards if shard.invalid] == [{"nan": 5}]


def test_the_same_image_in_two_splits_is_refused_and_within_one_it_is_reported(
    config, nyu_raw: Path, tmp_path: Path
):
    raw = shutil.copytree(nyu_raw, tmp_path / "raw")
    config = replace(config, raw=str(raw), height=480, width=640)
    with h5py.File(raw / "nyu_depth_v2_labeled.mat", "r+") as mat:
        mat["images"][1] = mat["images"][0]
    manifest = convert(config, Path("/"), tmp_path / "nyu", run_one_by_one)
    assert manifest.duplicates == [["nyu_0001", "nyu_0002"]]
    with h5py.File(raw / "nyu_depth_v2_labeled.mat", "r+") as mat:
        mat["images"][4] = mat["images"][0]
    with pytest.raises(InputError, match=r"1 images are in more than one split: .*nyu_0005"):
        convert(config, Path("/"), tmp_path / "nyu", run_one_by_one)
    allowed = replace(config, allow_duplicates=True)
    manifest = convert(allowed, Path("/"), tmp_path / "nyu", run_one_by_one)
    assert [sorted(names) for names in manifest.duplicates] == [
        ["nyu_0001", "nyu_0002", "nyu_0005"]
    ]


def test_the_manifest_states_what_the_codecs_have_changed(config, tmp_path: Path):
    precision = convert(config, Path("/"), tmp_path / "nyu", run_one_by_one).precision
    assert precision["image"]["codec"] == "jpeg, quality 92, 4:4:4"
    assert precision["image"]["psnr_db"] > 35
    assert 0 < precision["depth"]["max_error_m"] <= 0.5e-3 + 1e-6
    exact = convert(
        replace(config, lossless=True), Path("/"), tmp_path / "exact", run_one_by_one
    ).precision
    assert (exact["image"]["psnr_db"], exact["depth"]["max_error_m"]) == (None, 0)


def test_the_manifest_knows_nothing_of_where_the_raw_files_lay(config, tmp_path: Path):
    convert(config, Path("/"), tmp_path / "nyu", run_one_by_one)
    text = (tmp_path / "nyu" / "manifest.json").read_text()
    assert config.raw not in text
    assert os.sep + "tmp" not in text


def test_raw_data_that_is_not_there_is_an_error_that_names_the_key(config, tmp_path: Path):
    missing = replace(config, raw="data/raw/nowhere")
    with pytest.raises(InputError, match=r"data/raw/nowhere: not there; set datasets\.nyu\.raw"):
        convert(missing, tmp_path, tmp_path / "nyu", run_one_by_one)


def test_a_conversion_that_has_done_nothing_leaves_nothing(config, tmp_path: Path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "nyu_depth_v2_labeled.mat").write_bytes(b"half a download")
    with pytest.raises(InputError, match="15 bytes found"):
        convert(replace(config, raw=str(raw)), Path("/"), tmp_path / "nyu", run_one_by_one)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


# --- A .mat whose chunks span images ----------------------------------------------------------


def rechunk(source: Path, target: Path, chunks: dict[str, tuple[int, ...]]) -> None:
    with h5py.File(source) as old, h5py.File(target, "w", userblock_size=512) as new:
        for key in ("images", "depths", "rawDepths"):
            new.create_dataset(key, data=old[key][()], chunks=chunks[key], compression="gzip")
        old.copy("#refs#", new)
        cells = new.create_dataset("scenes", old["scenes"].shape, h5py.ref_dtype)
        for place in np.ndindex(cells.shape):
            cells[place] = new[old[old["scenes"][place]].name].ref


def test_chunks_that_span_images_are_read_once_each_and_give_the_same_rows(
    config, nyu_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "nyu_depth_v2_labeled.mat"
    chunks = {"images": (4, 1, 40, 30), "depths": (3, 64, 48), "rawDepths": (4, 640, 480)}
    rechunk(nyu_raw / target.name, target, chunks)
    frames = [
        Frame(f"nyu_{i:04d}", "test", "room", {"mat": target.name}, (i,)) for i in (0, 1, 4, 7, 8)
    ]
    reads: list[str] = []
    read = h5py.Dataset.__getitem__

    def count(dataset: h5py.Dataset, place):
        reads.append(dataset.name)
        return read(dataset, place)

    def rows(raw: Path) -> list:
        raw_truth = replace(config, gt="raw")
        return list(nyu_labeled.read_frames(raw_truth, raw, raw, frames, Encoder(None)))

    expected = rows(nyu_raw)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", count)
    assert rows(tmp_path) == expected
    # 640 / 40 strips for each of the three windows of four images.
    assert reads.count("/images") == 3 * 16
    assert json.dumps(sorted(set(reads))) == '["/depths", "/images", "/rawDepths"]'


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"split": "random", "allow_shared_scenes": True}, {"train": 8, "val": 1, "test": 1}),
        ({"split": "scenes", "ratios": (0.6, 0.2, 0.2)}, {"train": 6, "val": 2, "test": 2}),
        (
            {"split": "random", "ratios": (0.9, 0.0, 0.1), "allow_shared_scenes": True},
            {"train": 9, "val": 0, "test": 1},
        ),
    ],
)
def test_nyu_can_be_split_by_ratio(config, tmp_path: Path, change: dict, counts: dict):
    manifest = convert(replace(config, **change), Path("/"), tmp_path / "nyu", run_one_by_one)
    assert manifest.counts == counts
