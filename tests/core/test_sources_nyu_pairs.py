"""NYU pairs by list, as DenseDepth's zip and the BTS folder → rows, and clear errors."""

import random
import struct
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data.codecs import decode_depth, decode_image
from mde.data.convert import convert, run_one_by_one
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected
from mde.data.sources import nyu_pairs
from mde.errors import InputError
from mde.schema import Row

SIZE = (24, 32)
"""Whole images, resized, so that the tests are quick; one is at the official size."""
TRAIN, TEST = "data/nyu2_train.csv", "data/nyu2_test.csv"


def rgb_of(i: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H,W,3): red rises to the right, green downwards, blue is 20 i."""
    v, u = np.mgrid[: size[0], : size[1]]
    rgb = [u * 255 // size[1], v * 255 // size[0], np.full(size, 20 * i)]
    return np.stack(rgb, -1).astype(np.uint8)


def codes_of(i: int, dtype: type, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H,W) depth codes: an invalid corner, the largest 8-bit one or 10 m, and slopes."""
    v, u = np.mgrid[: size[0], : size[1]]
    codes = 30 + i + u + 2 * v if dtype == np.uint8 else 1000 + 100 * i + 31 * u + 7 * v
    codes[0, 0], codes[-1, -1] = 0, 255 if dtype == np.uint8 else 10000
    return codes.astype(dtype)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def jpg(i: int, size: tuple[int, int] = SIZE) -> bytes:
    bgr = cv2.cvtColor(rgb_of(i, size), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()


def dense_depth() -> dict[str, bytes]:
    """DenseDepth's layout: two scenes of three 8-bit pairs, and two 16-bit test pairs."""
    files, lines = {}, []
    for scene in ("office_0007_out", "kitchen_0028b_out"):
        for i in (1, 2, 3):
            base = f"data/nyu2_train/{scene}/{i}"
            files |= {f"{base}.jpg": jpg(i), f"{base}.png": png(codes_of(i, np.uint8))}
            lines.append(f"{base}.jpg,{base}.png")
    tests = []
    for i in (0, 8):
        base = f"data/nyu2_test/{i:05d}"
        files[f"{base}_colors.png"] = png(cv2.cvtColor(rgb_of(i), cv2.COLOR_RGB2BGR))
        files[f"{base}_depth.png"] = png(codes_of(i, np.uint16))
        tests.append(f"{base}_colors.png,{base}_depth.png")
    return files | {TRAIN: "\n".join(lines).encode(), TEST: "\r\n".join(tests).encode()}


def bts() -> dict[str, bytes]:
    """BTS's layout: two scenes of two 16-bit pairs below `sync`."""
    files, lines = {}, []
    for scene in ("kitchen_0028b", "office_0007"):
        for i in (45, 3):
            base = f"{scene}/rgb_{i:05d}.jpg", f"{scene}/sync_depth_{i:05d}.png"
            files |= {
                f"sync/{base[0]}": jpg(i % 10),
                f"sync/{base[1]}": png(codes_of(1, np.uint16)),
            }
            lines.append(f"/{base[0]} /{base[1]} 518.8579")
    return files | {"train.txt": "\n".join([*lines, ""]).encode()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def config_of(**changes) -> nyu_pairs.Config:
    config = nyu_pairs.Config(
        source="nyu_pairs", raw="", height="native", width="native", train=TRAIN
    )
    return replace(config, **changes)


def list_all(raw: Path, **changes) -> list[Frame | Rejected]:
    return nyu_pairs.list_frames(config_of(**changes), raw, raw.parent / "work")


def list_bts(raw: Path, **changes) -> list[Frame | Rejected]:
    return list_all(raw, **{"train": "train.txt", "base": "sync"} | changes)


def read_all(raw: Path, frames: list, **changes) -> dict[str, Row | Rejected]:
    encoder = Encoder(config_of(**changes).size)
    work = raw.parent / "work"
    results = nyu_pairs.read_frames(config_of(**changes), raw, work, frames, encoder)
    return {r["sample_id"] if isinstance(r, dict) else r.sample_id: r for r in results}


def read_row(raw: Path, frames: list, sample_id: str) -> Row:
    row = read_all(raw, [f for f in frames if f.sample_id == sample_id])[sample_id]
    assert isinstance(row, dict), row
    return row


@pytest.fixture(params=["folder", "zip"])
def raw(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """DenseDepth's data, unpacked or not."""
    if request.param == "zip":
        return pack(tmp_path / "nyu_data.zip", dense_depth())
    return write(tmp_path / "nyu_data", dense_depth())


def test_dense_depth_is_read_from_its_zip_as_from_a_folder(raw: Path):
    frames = list_all(raw, test=TEST)
    assert [(f.sample_id, f.split) for f in frames] == [
        ("nyu2_test__00000_colors", "test"),
        ("nyu2_test__00008_colors", "test"),
        ("kitchen_0028b_out__1", "train"),
        ("kitchen_0028b_out__2", "train"),
        ("kitchen_0028b_out__3", "train"),
        ("office_0007_out__1", "train"),
        ("office_0007_out__2", "train"),
        ("office_0007_out__3", "train"),
    ]
    for name, row in read_all(raw, frames).items():
        assert isinstance(row, dict)
        i = int(name.split("__")[1].split("_")[0])
        assert np.abs(decode_image(row["image"]).astype(int) - rgb_of(i)).mean() < 6


def test_an_8_bit_depth_is_tenths_of_255ths_of_a_hundred_metres_and_16_bit_are_millimetres(raw):
    frames = list_all(raw, test=TEST)
    train = read_row(raw, frames, "kitchen_0028b_out__2")
    depth = decode_depth(train["depth"], *SIZE, train["depth_scale"])
    assert np.abs(depth - codes_of(2, np.uint8) / 255 * 10).max() <= 0.5e-3 + 1e-6
    assert depth[-1, -1] == pytest.approx(10)
    test = read_row(raw, frames, "nyu2_test__00008_colors")
    for key in ("depth", "gt_depth"):
        depth = decode_depth(test[key], *SIZE, test["depth_scale"])
        assert np.abs(depth - codes_of(8, np.uint16) / 1000).max() <= 1e-6
    assert train["gt_depth"] is None


def test_invalid_pixels_stay_invalid(raw: Path):
    frames = list_all(raw, test=TEST)
    for name in ("office_0007_out__1", "nyu2_test__00000_colors"):
        row = read_row(raw, frames, name)
        assert decode_depth(row["depth"], *SIZE, row["depth_scale"])[0, 0] == 0


def test_bts_lists_have_a_leading_slash_and_a_base_folder(tmp_path: Path):
    raw = write(tmp_path / "raw", bts())
    frames = list_bts(raw)
    assert [f.sample_id for f in frames] == [
        "kitchen_0028b__rgb_00003",
        "kitchen_0028b__rgb_00045",
        "office_0007__rgb_00003",
        "office_0007__rgb_00045",
    ]
    assert {f.scene for f in frames if isinstance(f, Frame)} == {"kitchen_0028b", "office_0007"}
    row = read_row(raw, frames, "kitchen_0028b__rgb_00045")
    depth = decode_depth(row["depth"], *SIZE, 1e-3)
    assert np.abs(depth - codes_of(1, np.uint16) / 1000).max() <= 1e-6


def test_a_list_may_be_somewhere_else(tmp_path: Path):
    files = bts()
    (tmp_path / "list.txt").write_bytes(files.pop("train.txt"))
    raw = write(tmp_path / "raw", files)
    assert len(list_bts(raw, train=str(tmp_path / "list.txt"))) == 4


def test_a_header_a_mark_of_the_byte_order_and_empty_lines_are_no_pairs(tmp_path: Path):
    files = dense_depth()
    files[TRAIN] = b"\xef\xbb\xbfrgb,depth\n\n" + files[TRAIN].replace(b"\n", b"\r\n\r\n")
    assert len(list_all(write(tmp_path / "raw", files))) == 6


def test_a_pair_that_says_none_has_no_ground_truth(tmp_path: Path):
    files = bts()
    files["train.txt"] += b"/office_0007/rgb_00099.jpg None 518.8579\n"
    (rejected,) = (f for f in list_bts(write(tmp_path, files)) if isinstance(f, Rejected))
    assert (rejected.sample_id, rejected.reason) == ("office_0007__rgb_00099", "no ground truth")
    assert "train.txt, line 5" in rejected.detail
    # It was never meant to have one.
    assert rejected.expected


def test_two_images_of_one_name_get_names_of_their_own(tmp_path: Path):
    files = {
        f"{part}/kitchen/1.{kind}": data
        for part in "ab"
        for kind, data in (("jpg", jpg(1)), ("png", png(codes_of(1, np.uint8))))
    }
    lines = [f"{part}/kitchen/1.jpg {part}/kitchen/1.png" for part in "ab"]
    frames = list_bts(
        write(tmp_path / "raw", files | {"train.txt": "\n".join(lines).encode()}), base=""
    )
    assert [f.sample_id for f in frames] == ["a__kitchen__1.jpg", "b__kitchen__1.jpg"]


# --- Held-out scenes --------------------------------------------------------------------------


def test_validation_holds_out_whole_training_scenes(raw: Path):
    def scenes(seed: int, split: str) -> set[str]:
        frames = list_all(raw, test=TEST, val_scenes=0.5, seed=seed)
        return {f.scene for f in frames if isinstance(f, Frame) and f.split == split}

    for seed in range(8):
        assert len(scenes(seed, "train")) == len(scenes(seed, "val")) == 1
        assert not scenes(seed, "train") & scenes(seed, "val")
        assert scenes(seed, "test") == {"nyu2_test"}
    assert len({tuple(scenes(seed, "val")) for seed in range(8)}) == 2


def test_held_out_pairs_have_their_ground_truth(raw: Path):
    frames = [f for f in list_all(raw, val_scenes=0.5) if f.split == "val"]
    rows = read_all(raw, frames, height=12, width=16)
    assert len(rows) == 3
    for row in rows.values():
        assert isinstance(row, dict)
        assert (row["height"], row["gt_height"], row["gt_width"]) == (12, *SIZE)
        assert row["gt_depth"] is not None


@pytest.mark.parametrize(
    "change",
    [
        {"train": None},
        {"val_scenes": 1.0},
        {"val_scenes": -0.1},
        {"val_scenes": 0.1, "val": "x"},
        {"val_scenes": 0.1, "train": None, "test": "x"},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_named(change: dict):
    with pytest.raises(ValueError, match="train" if "train" in change else next(iter(change))):
        config_of(**change)


# --- Sizes ------------------------------------------------------------------------------------


def pair(tmp_path: Path, image: bytes, depth: bytes) -> Row | Rejected:
    """The result of one pair."""
    files = {"s/1.jpg": image, "s/1.png": depth, "list": b"s/1.jpg,s/1.png"}
    raw = write(tmp_path / "raw", files)
    (result,) = read_all(raw, list_all(raw, train="list")).values()
    return result


def test_intrinsics_belong_to_the_size_of_the_image(tmp_path: Path):
    whole, half = (480, 640), (240, 320)
    row = pair(tmp_path, jpg(1, whole), png(codes_of(1, np.uint16, whole)))
    assert isinstance(row, dict)
    assert row["K"] == pytest.approx([518.8579, 0, 325.5824, 0, 519.4696, 253.7362, 0, 0, 1])
    row = pair(tmp_path, jpg(1, half), png(codes_of(1, np.uint16, half)))
    assert isinstance(row, dict)
    assert row["K"][0] == pytest.approx(518.8579 / 2)
    assert (row["K"][2] + 0.5) / 320 == pytest.approx((325.5824 + 0.5) / 640)


def test_images_and_depths_of_two_sizes_or_another_aspect_are_rejected(tmp_path: Path):
    for image, depth, detail in (
        ((24, 32), (12, 16), "(12, 16) px (height, width), its image has (24, 32)"),
        ((23, 32), (23, 32), "23x32 px; NYUv2 images have 480x640 px"),
    ):
        result = pair(tmp_path, jpg(1, image), png(codes_of(1, np.uint16, depth)))
        assert isinstance(result, Rejected)
        assert result.reason == "wrong size"
        assert detail in result.detail


@pytest.mark.parametrize(
    ("depth", "reason"),
    [
        (png(rgb_of(1)), "not a depth image"),
        (jpg(1), "not a depth image"),
        (b"", "not a depth image"),
        (png(codes_of(1, np.uint16))[:-20], "unreadable file"),
        (png(codes_of(1, np.uint16) * 0), "no valid depth"),
    ],
)
def test_a_depth_that_is_none_is_rejected_by_its_name(tmp_path: Path, depth: bytes, reason: str):
    result = pair(tmp_path, jpg(1), depth)
    assert isinstance(result, Rejected)
    assert result.reason == reason
    assert result.detail.startswith("s/1.png: ")


def test_a_depth_of_four_bits_is_rejected(tmp_path: Path):
    # OpenCV stretches it to 8 bits, so its unit would be taken for another.
    data = bytearray(png(codes_of(1, np.uint8)))
    data[24] = 4
    result = pair(tmp_path, jpg(1), bytes(data))
    assert isinstance(result, Rejected)
    assert "PNG of 4 bits" in result.detail


# --- Lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"list: no line in it"),
        ("rgb,depth\n", r"list: no line in it"),
        ("a/1.jpg", r"list, line 1: expected .*, found 'a/1\.jpg'"),
        ("a/1.jpg,a/1.png\na b c d", r"list, line 2: expected .*, found 'a b c d'"),
        ("a/1.jpg a/1.png focal", r"list, line 1: expected"),
        ("a/1.jpg,", r"list, line 1: expected"),
        ("../1.jpg,a/1.png", r"list, line 1: expected names of files in the raw data"),
        ("a/1.jpg,a/1.png\n\na/1.jpg,a/1.png", r"list, line 3: a/1\.jpg is in line 1, too"),
        ("/a/1.jpg a/1.png\na/1.jpg,a/2.png", r"list, line 2: a/1\.jpg is in line 1, too"),
        (b"\xff\xfe\x00a", r"list: cannot read this list"),
        ('"a' + "a" * 200_000 + ",b", r"list, line 1: expected"),
    ],
)
def test_a_malformed_list_is_named_with_the_line(tmp_path: Path, text: str | bytes, message: str):
    data = text if isinstance(text, bytes) else text.encode()
    raw = write(tmp_path / "raw", {"list": data, "a/1.jpg": b"", "a/1.png": b""})
    with pytest.raises(InputError, match=message):
        list_all(raw, train="list")


def test_a_missing_list_is_named(raw: Path):
    for name in ("nowhere.csv", "/nowhere.csv"):
        with pytest.raises(InputError, match=r"nowhere\.csv: cannot read .*datasets\.<name>\.val"):
            list_all(raw, val=name)


def test_missing_files_are_rejected_one_by_one(tmp_path: Path):
    files = dense_depth()
    del (
        files["data/nyu2_train/office_0007_out/2.jpg"],
        files["data/nyu2_train/office_0007_out/3.png"],
    )
    rejected = [f for f in list_all(write(tmp_path, files)) if isinstance(f, Rejected)]
    assert [(r.sample_id, r.reason) for r in rejected] == [
        ("office_0007_out__2", "missing file"),
        ("office_0007_out__3", "missing file"),
    ]
    place = "nyu2_train.csv, line 2: data/nyu2_train/office_0007_out/2.jpg is not there"
    assert rejected[0].detail == place


def test_a_list_with_another_base_is_one_error(tmp_path: Path):
    raw = write(tmp_path / "raw", bts())
    with pytest.raises(InputError, match=r"none of the 4 listed .* is sync/kitchen.*\.base"):
        list_bts(raw, base="")


def pack_empty(path: Path, names: list[str]) -> None:
    """A zip of empty files; zipfile takes seconds to write so many."""
    members, directory, start = [], [], 0
    for name in map(str.encode, names):
        fields = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0)
        members.append(b"PK\3\4" + fields + name)
        place = struct.pack("<3H2I", 0, 0, 0, 0, start)
        directory.append(b"PK\1\2" + struct.pack("<H", 20) + fields + place + name)
        start += len(members[-1])
    size, count = sum(map(len, directory)), len(names)
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, size, start, 0)
    path.write_bytes(b"".join([*members, *directory, end]))


def test_lists_of_the_official_sizes_are_read_in_seconds(tmp_path: Path):
    pairs = [f"data/nyu2_train/scene_{i // 180:04d}_out/{i % 180}" for i in range(50688)]
    raw = tmp_path / "nyu_data.zip"
    pack_empty(raw, [f"{pair}.{kind}" for pair in pairs for kind in ("jpg", "png")])
    csv, bts = tmp_path / "dense_depth.csv", tmp_path / "bts.txt"
    csv.write_text("\n".join(f"{pair}.jpg,{pair}.png" for pair in pairs))
    bts.write_text("\n".join(f"/{p}.jpg /{p}.png 518.8579" for p in pairs[:24231]))
    start = time.process_time()
    assert len(list_all(raw, train=str(csv))) == 50688
    assert len(list_all(raw, train=str(bts))) == 24231
    assert time.process_time() - start < 6


# --- Damage -----------------------------------------------------------------------------------


def test_random_damage_ends_in_a_row_or_a_rejection(tmp_path: Path):
    raw = tmp_path / "raw"
    image, depth = jpg(1), png(codes_of(1, np.uint16))
    files = {"s/1.jpg": image, "s/1.png": depth, "list": b"s/1.jpg,s/1.png"}
    frames = list_all(write(raw, files), train="list")
    outcomes = {"row": 0, "image": 0, "depth": 0}
    for seed in range(150):
        chance, name = random.Random(seed), ("s/1.jpg", "s/1.png")[seed % 2]
        data = bytearray(files[name])
        for _ in range(1 + seed % 3):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        write(raw, files | {name: bytes(data if seed % 5 else data[: chance.randrange(len(data))])})
        (result,) = read_all(raw, frames).values()
        if isinstance(result, Rejected):
            assert result.detail.startswith(name)
            outcomes["image" if name == "s/1.jpg" else "depth"] += 1
        else:
            # A PNG has checksums, a JPEG none.
            stored = decode_depth(result["depth"], *SIZE, result["depth_scale"])
            assert np.abs(stored - codes_of(1, np.uint16) / 1000).max() <= 1e-6
            outcomes["row"] += 1
    assert min(outcomes.values()) > 10, outcomes


def test_the_coarse_steps_of_8_bit_depth_stand_in_the_manifest(tmp_path: Path):
    raw = write(tmp_path / "raw", dense_depth())
    manifest = convert(config_of(raw=str(raw)), Path("/"), tmp_path / "out", run_one_by_one)
    assert manifest.precision["depth"]["source_step_m"] == pytest.approx(10 / 255)
