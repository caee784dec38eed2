"""FastDepth's NYU .h5 files, in a folder or an archive → rows, and clear rejections."""

import random
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from mde.data.codecs import decode_depth, decode_image
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected
from mde.data.sources import nyu_h5
from mde.errors import InputError
from mde.schema import Row

SIZE = (24, 32)
"""Whole images, resized, so that the tests are quick; one is at the official size."""
SCENES = ("kitchen_0001a", "office_0002")
NUMBERS = ("00001", "00101", "00201", "00301")


def depth_of(i: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H,W) m, not symmetric in any axis."""
    v, u = np.mgrid[: size[0], : size[1]]
    return (1 + i / 10 + u / size[1] + 2 * v / size[0]).astype(np.float32)


def rgb_of(i: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(3,H,W): red rises to the right, green downwards, blue is 20 i."""
    v, u = np.mgrid[: size[0], : size[1]]
    rgb = [u * 255 // size[1], v * 255 // size[0], np.full(size, 20 * i)]
    return np.stack(rgb).astype(np.uint8)


def write_h5(path: Path, i: int = 0, **changes: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in ({"rgb": rgb_of(i), "depth": depth_of(i)} | changes).items():
            if value is not None:
                file[key] = value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training scenes of four frames, and two test frames; read only."""
    root = tmp_path_factory.mktemp("h5")
    names = [f"train/{scene}/{number}" for scene in SCENES for number in NUMBERS]
    for i, name in enumerate([*names, "val/official/00001", "val/official/00002"]):
        write_h5(root / "nyudepthv2" / f"{name}.h5", i)
    return root


def list_all(raw: Path, **changes) -> list[Frame | Rejected]:
    config = nyu_h5.Config(source="nyu_h5", raw=str(raw), height="native", width="native")
    return nyu_h5.list_frames(replace(config, **changes), raw, raw.parent / "work")


def read_all(raw: Path, frames: list[Frame], **changes) -> dict[str, Row | Rejected]:
    config = nyu_h5.Config(source="nyu_h5", raw=str(raw), height="native", width="native")
    config = replace(config, **changes)
    encoder = Encoder(config.size, config.lossless)
    results = nyu_h5.read_frames(config, raw, raw.parent / "work", frames, encoder)
    return {r["sample_id"] if isinstance(r, dict) else r.sample_id: r for r in results}


@pytest.fixture
def read_one(tmp_path: Path) -> Callable[..., Row | Rejected]:
    """Write one training frame with these datasets, or let `write` write it, and read it."""

    def read(write: Callable[[Path], None] | None = None, **changes) -> Row | Rejected:
        path = tmp_path / "raw/train/scene/00101.h5"
        write_h5(path, **changes)
        if write is not None:
            write(path)
        (result,) = read_all(tmp_path / "raw", list_all(tmp_path / "raw")).values()
        return result

    return read


def pack(folder: Path, target: Path, mode: str, prefix: str) -> Path:
    """A tar of the folder, backwards, its names begun with `prefix`."""
    with tarfile.open(target, mode) as tar:
        for path in sorted(folder.rglob("*"), reverse=True):
            tar.add(path, prefix + path.relative_to(folder).as_posix(), recursive=False)
    return target


def test_splits_are_the_official_ones(folder: Path):
    frames = list_all(folder)
    split_of = {frame.sample_id: frame.split for frame in frames}
    held_out = {f"{scene}__{number}" for scene in SCENES for number in ("00001", "00201")}
    assert {name for name, split in split_of.items() if split == "val"} == held_out
    tested = {name for name, split in split_of.items() if split == "test"}
    assert tested == {"official__00001", "official__00002"}
    assert len(split_of) == len(frames) == 10
    assert {f.scene for f in frames if isinstance(f, Frame)} == {*SCENES, "official"}


def test_rows_have_image_and_depth_the_right_way_round(folder: Path):
    frames = [f for f in list_all(folder) if isinstance(f, Frame)]
    rows = read_all(folder, frames)
    order = sorted(rows, key=lambda name: (name.startswith("official"), name))
    for i, name in enumerate(order):
        row = rows[name]
        assert isinstance(row, dict)
        image = decode_image(row["image"]).astype(int)
        assert np.abs(image - rgb_of(i).transpose(1, 2, 0)).mean() < 6
        depth = decode_depth(row["depth"], *SIZE, row["depth_scale"])
        assert np.abs(depth - depth_of(i)).max() <= 0.5e-3 + 1e-6


def test_ground_truth_is_kept_at_its_size_for_val_and_test(folder: Path):
    frames = {f.sample_id: f for f in list_all(folder) if isinstance(f, Frame)}
    rows = read_all(folder, list(frames.values()), height=12, width=16)
    for name, frame in frames.items():
        row = rows[name]
        assert isinstance(row, dict)
        assert (row["height"], row["width"]) == (12, 16)
        if frame.split == "train":
            assert row["gt_depth"] is None
        else:
            assert (row["gt_height"], row["gt_width"]) == SIZE
            assert decode_depth(row["gt_depth"], *SIZE, 1e-3).min() > 0.9


def test_the_official_size_has_the_official_intrinsics(read_one):
    size = (480, 640)
    row = read_one(rgb=rgb_of(1, size), depth=depth_of(1, size).astype(np.float64))
    assert isinstance(row, dict)
    assert row["K"] == pytest.approx([518.8579, 0, 325.5824, 0, 519.4696, 253.7362, 0, 0, 1])
    assert row["depth_scale"] == 1e-3


@pytest.mark.parametrize(("mode", "prefix"), [("w", ""), ("w:gz", "./"), ("w:gz", "strip")])
def test_an_archive_gives_the_same_rows_as_the_folder(
    folder: Path, tmp_path: Path, mode: str, prefix: str
):
    inner = folder / "nyudepthv2" if prefix == "strip" else folder
    archive = pack(inner, tmp_path / "nyudepthv2.tar.gz", mode, prefix.removeprefix("strip"))
    of_folder, of_archive = list_all(folder), list_all(archive)
    assert [f.sample_id for f in of_archive] == [f.sample_id for f in of_folder]
    assert read_all(archive, of_archive) == read_all(folder, of_folder)


def test_an_archive_is_read_in_its_own_order(folder: Path, tmp_path: Path):
    archive = pack(folder, tmp_path / "nyu.tar", "w", "")
    frames = list_all(archive)
    assert list(read_all(archive, frames)) == [f.sample_id for f in reversed(frames)]


# --- Subset -----------------------------------------------------------------------------------


def test_a_subset_is_drawn_from_training_and_held_out_frames_by_the_seed(folder: Path):
    def drawn(seed: int) -> dict[str, str]:
        frames = list_all(folder, subset=5, seed=seed)
        return {frame.sample_id: frame.split for frame in frames}

    everything = {frame.sample_id: frame.split for frame in list_all(folder)}
    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 4
    for seed in range(8):
        subset = drawn(seed)
        assert subset.items() <= everything.items()
        assert sum(split != "test" for split in subset.values()) == 5
        assert sum(split == "test" for split in subset.values()) == 2
    # Uniform: each of the eight pairs is drawn now and then.
    assert len(set().union(*(drawn(seed) for seed in range(20)))) == 10


def test_a_subset_larger_than_the_data_is_refused(folder: Path):
    with pytest.raises(InputError, match=r"subset is 9, but there are 8 pairs"):
        list_all(folder, subset=9)
    assert len(list_all(folder, subset=8)) == 10


@pytest.mark.parametrize("change", [{"subset": 0}, {"subset": -1}, {"seed": -1}])
def test_a_setting_out_of_range_is_named(folder: Path, change: dict):
    with pytest.raises(ValueError, match=next(iter(change))):
        list_all(folder, **change)


# --- What is refused --------------------------------------------------------------------------


def test_a_folder_without_the_layout_is_refused_with_what_was_found(tmp_path: Path):
    raw = tmp_path / "raw"
    raw.mkdir()
    expected = r"expected files \[nyudepthv2/\]\{train,val\}/<scene>/<%05d>\.h5"
    with pytest.raises(InputError, match=rf"raw: found no \.h5 file; {expected}"):
        list_all(raw)
    write_h5(raw / "train/scene/00001.h5")
    write_h5(raw / "training/scene/00001.h5")
    with pytest.raises(InputError, match=rf"1 others, such as training/scene.*{expected}"):
        list_all(raw)


HWC = np.zeros((*SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"rgb": None}, "no dataset 'rgb'", "found: depth"),
        ({"depth": None}, "no dataset 'depth'", "found: rgb"),
        ({"rgb": HWC}, "wrong rgb", "(24, 32, 3) uint8, expected (3, 480, 640)"),
        ({"rgb": rgb_of(0) / 255}, "wrong rgb", "float64"),
        ({"rgb": rgb_of(0)[0]}, "wrong rgb", "(24, 32)"),
        ({"depth": depth_of(0)[:-1]}, "wrong depth", "(23, 32) float32, expected (24, 32)"),
        ({"depth": depth_of(0).T}, "wrong depth", "(32, 24)"),
        ({"depth": depth_of(0).astype(np.uint16)}, "wrong depth", "uint16"),
        ({"depth": depth_of(0).astype(np.float16)}, "wrong depth", "float16"),
        ({"rgb": rgb_of(0)[:, 2:], "depth": depth_of(0)[2:]}, "wrong size", "22x32 px"),
        ({"depth": depth_of(0) * 0}, "no valid depth", "768 zero"),
        ({"depth": depth_of(0) + 70}, "depth out of range", "m is beyond"),
        ({"depth": h5py.Empty("f4")}, "damaged HDF5", "'depth'"),
    ],
)
def test_a_frame_that_is_not_in_the_layout_is_rejected(read_one, changes, reason, detail):
    result = read_one(**changes)
    assert isinstance(result, Rejected)
    assert (result.sample_id, result.split, result.reason) == ("scene__00101", "train", reason)
    assert result.detail.startswith("train/scene/00101.h5: ")
    assert detail in result.detail


def test_invalid_depths_are_counted_and_become_zero(tmp_path: Path):
    depth = depth_of(0).astype(np.float64)
    depth[0, :4] = np.nan, -1, np.inf, 1e300
    write_h5(tmp_path / "raw/train/scene/00101.h5", depth=depth)
    (frame,) = list_all(tmp_path / "raw")
    encoder = Encoder(None)
    config = nyu_h5.Config(source="nyu_h5", raw="", height="native", width="native")
    (row,) = nyu_h5.read_frames(config, tmp_path / "raw", tmp_path, [frame], encoder)
    assert isinstance(row, dict)
    found = encoder.statistics
    assert (found.nan, found.negative, found.infinite) == (1, 1, 2)
    stored = decode_depth(row["depth"], *SIZE, 1e-3)
    assert not stored[0, :4].any()
    assert stored[0, 4] > 1


def external_dataset(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(bytes(4 * 24 * 32))
    with h5py.File(path, "a") as file:
        del file["depth"]
        file.create_dataset("depth", SIZE, "f4", external=[(str(secret), 0, 4 * 24 * 32)])


def virtual_dataset(path: Path) -> None:
    layout = h5py.VirtualLayout(SIZE, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "depth", SIZE)
    with h5py.File(path, "a") as file:
        del file["depth"]
        file.create_virtual_dataset("depth", layout)


def link(value: object) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        with h5py.File(path, "a") as file:
            file["deep"] = depth_of(0)
            del file["depth"]
            file["depth"] = value

    return put


def oversized_chunk(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["depth"]
        file.create_dataset("depth", SIZE, "f4", chunks=(2**14, 2**15), maxshape=(None, None))


def huge_shape(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["depth"], file["rgb"]
        file.create_dataset("depth", (480000, 640000), "f4", chunks=(480, 640))
        file.create_dataset("rgb", (3, 480000, 640000), "u1", chunks=(3, 480, 640))


def foreign_filter(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["depth"]
        file.create_dataset("depth", SIZE, "f4", chunks=SIZE, scaleoffset=2)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (external_dataset, "HDF5 data in other files"),
        (virtual_dataset, "HDF5 data in other files"),
        (link(h5py.ExternalLink("other.h5", "/depth")), "HDF5 link"),
        (link(h5py.SoftLink("/deep")), "HDF5 link"),
        (oversized_chunk, "oversized HDF5 chunk"),
        (huge_shape, "wrong size"),
        (foreign_filter, "unknown HDF5 filter"),
        (lambda path: path.write_bytes(b"not found"), "not an HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-900]), "not an HDF5 file"),
        (lambda path: path.unlink(), "missing file"),
    ],
)
def test_files_that_must_not_be_followed_are_rejected(tmp_path: Path, write, reason: str):
    path = tmp_path / "raw/train/scene/00101.h5"
    write_h5(path)
    frames = list_all(tmp_path / "raw")
    write(path)
    (result,) = read_all(tmp_path / "raw", frames).values()
    assert isinstance(result, Rejected)
    assert result.reason == reason, result.detail


def test_other_compressions_of_hdf5_are_read(read_one):
    def compress(path: Path) -> None:
        with h5py.File(path, "w") as file:
            options = {"chunks": True, "shuffle": True, "fletcher32": True}
            file.create_dataset("rgb", data=rgb_of(3), compression="gzip", **options)
            file.create_dataset("depth", data=depth_of(3), compression="lzf", **options)

    row = read_one(compress)
    assert isinstance(row, dict)
    assert np.abs(decode_depth(row["depth"], *SIZE, 1e-3) - depth_of(3)).max() < 1e-3


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_random_damage_ends_in_a_row_or_a_rejection(tmp_path: Path, compression: str | None):
    path = tmp_path / "raw/train/scene/00101.h5"
    write_h5(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("rgb", data=rgb_of(1), compression=compression)
        file.create_dataset("depth", data=depth_of(1), compression=compression)
    frames, whole = list_all(tmp_path / "raw"), path.read_bytes()
    outcomes = {True: 0, False: 0}
    for seed in range(150):
        chance, data = random.Random(seed), bytearray(whole)
        # Most of a file is pixels, so every second change is to what describes them.
        span = len(data) if seed % 2 else 2200
        for _ in range(1 + seed % 4):
            data[chance.randrange(span)] ^= 1 << chance.randrange(8)
        path.write_bytes(data if seed % 5 else data[: chance.randrange(len(data))])
        (result,) = read_all(tmp_path / "raw", frames).values()
        outcomes[isinstance(result, Rejected)] += 1
    assert min(outcomes.values()) > 15, outcomes
