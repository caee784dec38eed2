"""The section `pictures`: which frames of a dataset are watched."""

import re
from pathlib import Path

import pytest

from mde.data.curated import PicturesConfig, choose_rows, load_pictures
from mde.data.shards import Manifest, write_manifest, write_shard
from mde.errors import InputError
from mde.storage import join_uri, open_storage

REPOSITORY = Path(__file__).parents[2]


def load(folder: Path, section: str, dataset: str = "streets") -> PicturesConfig:
    params = folder / "params.yaml"
    params.write_text(f"datasets: {{streets: {{}}, rooms: {{}}}}\n{section}\n")
    return load_pictures(params, dataset)


def make_dataset(folder: Path, make_row, counts: dict[str, int]) -> Manifest:
    shards, start = [], 0
    for split, count in counts.items():
        rows = [make_row(i) for i in range(start, start + count)]
        shards += [write_shard(folder, split, 0, rows)] if rows else []
        start += count
    manifest = Manifest("made", {}, shards, [], {})
    write_manifest(folder, manifest)
    return manifest


def names(rows: list) -> list[str]:
    return [row["sample_id"] for row in rows]


@pytest.mark.parametrize("section", ["", "pictures:", "pictures: {rooms: {count: 2}}"])
def test_what_is_not_said_has_its_default(tmp_path: Path, section: str):
    assert load(tmp_path, section) == PicturesConfig(frames=None, count=6, every_epochs=1)


def test_frames_are_given_by_name(tmp_path: Path):
    config = load(tmp_path, "pictures: {streets: {frames: [a, b], every_epochs: 0}}")
    assert config == PicturesConfig(("a", "b"), every_epochs=0)


def test_frames_are_given_by_a_file_beside_the_params_file(tmp_path: Path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/mine.txt").write_text("# Turns.\na\n\n  b  \n")
    assert load(tmp_path, "pictures: {streets: {frames: lists/mine.txt}}").frames == ("a", "b")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{street: {}}", "pictures: unknown key 'street'; did you mean 'streets'"),
        ("{streets: {frame: [a]}}", "pictures.streets.frame: unknown key 'frame'; did you mean"),
        ("{streets: {count: 0}}", "pictures.streets: count must be at least 1, found 0"),
        ("{streets: {every_epochs: -1}}", r"every_epochs must be 0 \(no pictures\) or more"),
        ("{streets: {frames: []}}", "frames: expected sample_ids or a text file, found none"),
        ("{streets: {frames: no.txt}}", r"pictures.streets.frames: .*no.txt cannot be read"),
        ("{streets: {frames: empty.txt}}", "empty.txt holds no sample_id; write one a line"),
        ("[streets]", "pictures: expected a mapping, found"),
    ],
)
def test_a_section_that_is_wrong_is_explained(tmp_path: Path, section: str, message: str):
    (tmp_path / "empty.txt").write_text("# Nothing yet.\n")
    with pytest.raises(InputError, match=message):
        load(tmp_path, f"pictures: {section}")


def test_named_frames_are_found_in_any_split_and_keep_their_order(tmp_path: Path, make_row):
    manifest = make_dataset(tmp_path, make_row, {"train": 20, "val": 2, "test": 20})
    config = PicturesConfig(("sample_0041", "sample_0018", "sample_0020"))
    rows = choose_rows(str(tmp_path), manifest, config)
    assert rows == [make_row(41), make_row(18), make_row(20)]


def test_an_unknown_frame_is_named_with_the_nearest_one(tmp_path: Path, make_row):
    manifest = make_dataset(tmp_path, make_row, {"train": 20, "val": 2, "test": 0})
    message = r"pictures.*frames: .*no sample 'sample_00z7'; did you mean 'sample_0017'"
    with pytest.raises(InputError, match=message):
        choose_rows(tmp_path, manifest, PicturesConfig(("sample_00z7",)))


def test_frames_in_an_object_store_are_found_too(bucket: str, tmp_path: Path, make_row):
    manifest = make_dataset(tmp_path, make_row, {"train": 20, "val": 2, "test": 0})
    place = join_uri(bucket, "streets")
    for file in tmp_path.iterdir():
        open_storage(place).write(file.name, file.read_bytes())
    for config in (PicturesConfig(("sample_0017", "sample_0020")), PicturesConfig(count=2)):
        assert choose_rows(place, manifest, config) == choose_rows(tmp_path, manifest, config)
    with pytest.raises(InputError, match=r"^pictures.streets.frames: s3://runs/streets: no sample"):
        choose_rows(place, manifest, PicturesConfig(("sample_99",)))


@pytest.mark.parametrize(
    ("counts", "stretches"),
    [
        ({"train": 8, "val": 6, "test": 6}, [{8, 9}, {10, 11}, {12, 13}]),
        ({"train": 8, "val": 0, "test": 6}, [{8, 9}, {10, 11}, {12, 13}]),
        ({"train": 6, "val": 0, "test": 0}, [{0, 1}, {2, 3}, {4, 5}]),
    ],
)
def test_else_they_are_spread_over_the_validation_or_over_what_is_there(
    tmp_path: Path, make_row, counts: dict[str, int], stretches: list[set[int]]
):
    manifest = make_dataset(tmp_path, make_row, counts)
    rows = choose_rows(tmp_path, manifest, PicturesConfig(count=3))
    assert rows == choose_rows(tmp_path, manifest, PicturesConfig(count=3))
    numbers = [int(name[-4:]) for name in names(rows)]
    assert all(n in stretch for n, stretch in zip(numbers, stretches, strict=True))


@pytest.mark.parametrize("name", ["kitti.txt", "ddsr2020.txt"])
def test_shipped_frames_have_the_names_that_kitti_rows_have(tmp_path: Path, name: str):
    file = REPOSITORY / "recipes/frames" / name
    frames = load(tmp_path, f"pictures: {{streets: {{frames: {file}}}}}").frames
    assert isinstance(frames, tuple)
    assert len(set(frames)) == len(frames) == 14
    pattern = r"2011_\d\d_\d\d_drive_\d{4}_sync_\d{10}_l"
    assert not [frame for frame in frames if not re.fullmatch(pattern, frame)]
