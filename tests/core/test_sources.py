"""Sources, and raw NYU Depth v2 → rows: right pixels, right numbers, and clear errors."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from mde.data.codecs import decode_depth, decode_image
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected
from mde.data.sources import get_source, kitti, nyu_labeled
from mde.errors import InputError
from mde.schema import Row


def test_an_unknown_source_is_refused_with_the_known_ones():
    known = "folder, kitti, nyu_h5, nyu_labeled, nyu_pairs"
    with pytest.raises(InputError, match=f"unknown source 'nyu'; known: {known}"):
        get_source("nyu")
    assert get_source("kitti") is kitti


@pytest.mark.parametrize(
    "change", [{"height": 0}, {"width": -1}, {"rows_per_shard": 0}, {"max_rejected": 1.5}]
)
def test_a_setting_out_of_range_is_refused_by_its_name(change: dict):
    settings = {"source": "kitti", "raw": "x", "height": 8, "width": 8}
    with pytest.raises(ValueError, match=next(iter(change))):
        kitti.Config(**settings | change)


# --- NYU Depth v2, labeled --------------------------------------------------------------------


def nyu_config(folder: Path, **changes) -> nyu_labeled.Config:
    config = nyu_labeled.Config(
        source="nyu_labeled", raw=str(folder), height=480, width=640, val_scenes=1 / 3
    )
    return replace(config, **changes)


def nyu_frames(folder: Path, **changes) -> list[Frame]:
    return nyu_labeled.list_frames(nyu_config(folder, **changes), folder, folder)


def nyu_result(folder: Path, sample_id: str, **changes) -> Row | Rejected:
    """Read the frame of that name alone."""
    frame = next(frame for frame in nyu_frames(folder) if frame.sample_id == sample_id)
    config = nyu_config(folder, **changes)
    encoder = Encoder(config.size, config.lossless)
    (result,) = nyu_labeled.read_frames(config, folder, folder, [frame], encoder)
    return result


def nyu_row(folder: Path, sample_id: str, **changes) -> Row:
    row = nyu_result(folder, sample_id, **changes)
    assert not isinstance(row, Rejected), row
    return row


def test_nyu_frames_are_in_the_official_split_which_counts_from_one(nyu_raw: Path):
    split_of = {frame.sample_id: frame.split for frame in nyu_frames(nyu_raw)}
    assert [name for name, split in split_of.items() if split == "test"] == [
        "nyu_0001", "nyu_0002", "nyu_0009", "nyu_0010",
    ]  # fmt: skip
    assert sorted(split_of) == [f"nyu_{i:04d}" for i in range(1, 11)]


@pytest.mark.parametrize("number", [1, 2, 9, 10])
def test_nyu_sample_n_is_the_nth_image_of_the_file(nyu_raw: Path, number: int):
    image = decode_image(nyu_row(nyu_raw, f"nyu_{number:04d}")["image"])
    # Image i, counted from zero, is grey 20 i.
    assert abs(int(image[300, 300, 0]) - 20 * (number - 1)) <= 2


def test_nyu_validation_holds_out_whole_training_scenes(nyu_raw: Path):
    frames = nyu_frames(nyu_raw)
    scenes = {split: {f.scene for f in frames if f.split == split} for split in ("train", "val")}
    assert (len(scenes["train"]), len(scenes["val"])) == (2, 1)
    assert not scenes["train"] & scenes["val"]
    assert scenes["train"] | scenes["val"] == {"office_0002", "bedroom_0003", "bedroom_0004"}


def test_nyu_validation_scenes_are_a_matter_of_the_seed(nyu_raw: Path):
    def val(seed: int) -> list[str]:
        return [f.scene for f in nyu_frames(nyu_raw, seed=seed) if f.split == "val"]

    assert val(0) == val(0)
    assert len({tuple(val(seed)) for seed in range(8)}) > 1


def test_nyu_image_and_depth_are_turned_the_right_way(nyu_raw: Path):
    row = nyu_row(nyu_raw, "nyu_0003")
    image = decode_image(row["image"])
    assert image.shape == (480, 640, 3)
    # The block is in rows 100:140, columns 500:560.
    assert image[120, 530].min() > 240
    assert image[90, 530].max() < 60 > image[120, 490].max()
    depth = decode_depth(row["depth"], 480, 640, row["depth_scale"])
    # The plane: 1 + i/10 + u/640 + 2 v/480.
    for v, u in ((0, 0), (0, 639), (479, 0), (123, 456)):
        assert depth[v, u] == pytest.approx(1.2 + u / 640 + 2 * v / 480, abs=0.5e-3 + 1e-6)


def test_nyu_depth_is_in_metres_within_half_a_millimetre(nyu_raw: Path):
    row = nyu_row(nyu_raw, "nyu_0004")
    v, u = np.mgrid[:480, :640]
    decoded = decode_depth(row["depth"], 480, 640, row["depth_scale"])
    assert np.abs(decoded - (1.3 + u / 640 + 2 * v / 480)).max() <= 0.5e-3 + 1e-6


def test_nyu_ground_truth_is_filled_or_raw_and_at_full_size_when_rows_are_smaller(nyu_raw: Path):
    for gt, holes in (("filled", 0), ("raw", 8 * 640)):
        row = nyu_row(nyu_raw, "nyu_0001", height=96, width=128, gt=gt)
        assert decode_image(row["image"]).shape == (96, 128, 3)
        assert decode_depth(row["depth"], 96, 128, row["depth_scale"]).min() > 0
        assert (row["gt_height"], row["gt_width"]) == (480, 640)
        truth = decode_depth(row["gt_depth"], 480, 640, row["depth_scale"])
        assert int((truth == 0).sum()) == holes
        # What the sensor missed are the first eight rows of the image.
        assert truth[8:].min() > 0


def test_nyu_training_rows_carry_no_second_depth(nyu_raw: Path):
    frame = next(f for f in nyu_frames(nyu_raw) if f.split == "train")
    assert nyu_row(nyu_raw, frame.sample_id)["gt_depth"] is None


def test_nyu_intrinsics_follow_the_size(nyu_raw: Path):
    row = nyu_row(nyu_raw, "nyu_0001", height=240, width=160)
    K = np.array(row["K"]).reshape(3, 3)
    assert K[0, 0] == pytest.approx(518.8579 / 4)
    assert K[1, 1] == pytest.approx(519.4696 / 2)
    assert (K[0, 2] + 0.5) / 160 == pytest.approx((325.5824 + 0.5) / 640)
    assert (K[1, 2] + 0.5) / 240 == pytest.approx((253.7362 + 0.5) / 480)


def test_nyu_frame_without_depth_is_rejected_with_the_reason(tmp_path: Path, nyu_raw: Path):
    shutil.copytree(nyu_raw, tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / nyu_labeled.MAT, "r+") as mat:
        mat["depths"][2] = 0
        mat["depths"][3, 5, 5] = 70.0
    empty = nyu_result(tmp_path, "nyu_0003")
    assert isinstance(empty, Rejected)
    assert (empty.sample_id, empty.reason) == ("nyu_0003", "no valid depth")
    far = nyu_result(tmp_path, "nyu_0004")
    assert isinstance(far, Rejected)
    assert far.reason == "depth out of range"
    assert "70.0 m is beyond" in far.detail


def test_nyu_missing_files_are_named(tmp_path: Path, nyu_raw: Path):
    with pytest.raises(InputError, match=r"nyu_depth_v2_labeled\.mat: no such file"):
        nyu_frames(tmp_path)
    shutil.copy(nyu_raw / nyu_labeled.MAT, tmp_path)
    with pytest.raises(InputError, match=r"splits\.mat: no such file"):
        nyu_frames(tmp_path)


@pytest.mark.parametrize("keep", [0, 300, 600, -1000])
def test_nyu_truncated_file_is_named_with_its_size(tmp_path: Path, nyu_raw: Path, keep: int):
    data = (nyu_raw / nyu_labeled.MAT).read_bytes()[:keep]
    (tmp_path / nyu_labeled.MAT).write_bytes(data)
    message = rf"nyu_depth_v2_labeled\.mat: not a whole .* {len(data)} bytes found"
    with pytest.raises(InputError, match=message):
        nyu_frames(tmp_path)


@pytest.mark.parametrize("key", ["images", "depths", "rawDepths", "scenes"])
def test_nyu_file_without_a_key_is_refused(tmp_path: Path, write_nyu_mat: Callable, key: str):
    write_nyu_mat(tmp_path / nyu_labeled.MAT, 1, leave_out=(key,))
    with pytest.raises(InputError, match=f"no dataset '{key}'; found: "):
        nyu_frames(tmp_path)


def replace_depths(tmp_path: Path, write_nyu_mat: Callable, put: Callable) -> None:
    write_nyu_mat(tmp_path / nyu_labeled.MAT, 1, leave_out=("depths",))
    with h5py.File(tmp_path / nyu_labeled.MAT, "r+") as mat:
        put(mat)


def external_dataset(mat: h5py.File) -> None:
    secret = Path(mat.filename).with_name("secret")
    secret.write_bytes(bytes(4 * 640 * 480))
    mat.create_dataset("depths", (1, 640, 480), "f4", external=[(str(secret), 0, 4 * 640 * 480)])


def virtual_dataset(mat: h5py.File) -> None:
    layout = h5py.VirtualLayout((1, 640, 480), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "depths", (1, 640, 480))
    mat.create_virtual_dataset("depths", layout)


def external_link(mat: h5py.File) -> None:
    mat["depths"] = h5py.ExternalLink("other.h5", "/depths")


def swapped_axes(mat: h5py.File) -> None:
    mat["depths"] = np.ones((1, 480, 640), np.float32)


def too_many(mat: h5py.File) -> None:
    mat["depths"] = np.ones((2, 640, 480), np.float32)


def doubles(mat: h5py.File) -> None:
    mat["depths"] = np.ones((1, 640, 480), np.float64)


def group(mat: h5py.File) -> None:
    mat.create_group("depths")


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (external_dataset, "'depths' points to other files; refused"),
        (virtual_dataset, "'depths' points to other files; refused"),
        (external_link, "'depths'"),
        (swapped_axes, r"'depths' is \(1, 480, 640\) float32, expected \(1, 640, 480\)"),
        (too_many, r"'depths' is \(2, 640, 480\) float32, expected \(1, 640, 480\)"),
        (doubles, r"'depths' is \(1, 640, 480\) float64, expected .* float32"),
        (group, "'depths'"),
    ],
)
def test_nyu_depths_that_are_not_what_they_should_be_are_refused(
    tmp_path: Path, write_nyu_mat: Callable, put: Callable, message: str
):
    replace_depths(tmp_path, write_nyu_mat, put)
    with pytest.raises(InputError, match=message):
        nyu_frames(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"),
    [([1, 2, 3], [3, 4]), ([0, 1], [2, 3]), ([1, 2], [3, 11])],
    ids=["one in both", "counted from zero", "beyond the last image"],
)
def test_nyu_impossible_splits_are_refused(nyu_raw: Path, tmp_path: Path, train, test):
    shutil.copy(nyu_raw / nyu_labeled.MAT, tmp_path)
    columns = {"trainNdxs": np.array([train]).T, "testNdxs": np.array([test]).T}
    scipy.io.savemat(tmp_path / "splits.mat", columns)
    with pytest.raises(InputError, match=r"splits\.mat: indices must be .* within 1\.\.10"):
        nyu_frames(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "text", "half", "a flipped bit", "other keys"])
def test_nyu_damaged_splits_are_refused(nyu_raw: Path, tmp_path: Path, damage: str):
    shutil.copytree(nyu_raw, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "splits.mat"
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[150] ^= 0x10
    contents = {"empty": b"", "text": b"404 not found " * 20, "half": data[:160]}
    if damage == "other keys":
        scipy.io.savemat(path, {"trainNdxs": [[1]]})
    else:
        path.write_bytes(contents.get(damage, bytes(flipped)))
    with pytest.raises(InputError, match=r"splits\.mat"):
        nyu_frames(tmp_path)


def test_nyu_damage_ends_in_an_error_for_people_a_rejection_or_a_row(tmp_path: Path):
    with h5py.File(tmp_path / nyu_labeled.MAT, "w") as mat:
        for key, shape in nyu_labeled.SHAPES.items():
            values = np.full((1, *shape), 7, nyu_labeled.KINDS[key])
            mat.create_dataset(key, data=values, compression="gzip", chunks=(1, *shape))
        codes = np.array([[ord(letter)] for letter in "room"], np.uint16)
        cell = mat.create_dataset("#refs#/a", data=codes).ref
        mat.create_dataset("scenes", (1, 1), h5py.ref_dtype)[0, 0] = cell
    whole, path = (tmp_path / nyu_labeled.MAT).read_bytes(), tmp_path / nyu_labeled.MAT
    config = nyu_config(tmp_path, split="random", ratios=(1.0, 0.0, 0.0), height=24, width=32)
    random, outcomes = np.random.default_rng(0), []
    for trial in range(200):
        data = bytearray(whole)
        # What is not pixels lies mostly at the start.
        end = len(data) if trial % 2 else 4096
        place = int(random.integers(end))
        data[place] ^= 1 << int(random.integers(8))
        path.write_bytes(data[:place] if trial % 5 == 0 else data)
        try:
            frames = nyu_labeled.list_frames(config, tmp_path, tmp_path)
            encoder = Encoder(config.size)
            (result,) = nyu_labeled.read_frames(config, tmp_path, tmp_path, frames, encoder)
            outcomes.append("rejected" if isinstance(result, Rejected) else "row")
        except InputError as error:
            outcomes.append("error" if nyu_labeled.MAT in str(error) else "nameless")
    assert set(outcomes) == {"rejected", "row", "error"}
