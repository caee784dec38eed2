"""Own images → rows: which frames there are, what is in their rows, and clear errors."""

import re
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import PIL.Image
import pytest

from mde.data.codecs import decode_depth, decode_image
from mde.data.convert import convert, run_one_by_one
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected, check_leaks
from mde.data.shards import read_rows
from mde.data.sources import folder, load_source_config
from mde.data.sources.folder.video import index_video
from mde.errors import InputError
from mde.schema import SPLITS, Row

from .test_video import damage, spoil_frame, write_video

HEIGHT, WIDTH = 24, 32
CAMERA = "width: 64\nheight: 48\nfx: 50.0\nfy: 51.0\ncx: 30.0\ncy: 25.0\n"
BOTH = ("image_prev", "image_next")


def image(i: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Grey 10 i."""
    return np.full((height, width, 3), 10 * i, np.uint8)


def depth(i: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H,W) m: rises to the right, from 1 + i."""
    return np.tile(1 + i + np.arange(width, dtype=np.float32) / 64, (height, 1))


def put(raw: Path, name: str, content: np.ndarray | bytes | str) -> Path:
    """Write a file of any type."""
    path = raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".exr":
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        with OpenEXR.File(header, {"Z": content.astype(np.float32)}) as file:
            file.write(str(path))
    elif content.ndim == 2 and content.dtype != np.uint8:
        cv2.imwrite(str(path), np.rint(content * 1000).astype(np.uint16))
    else:
        cv2.imwrite(str(path), content)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Ten scenes of four images with depth; image i of each is grey 10 i."""
    raw = tmp_path / "raw"
    put(raw, "camera.yaml", CAMERA)
    for scene in range(10):
        for i in (1, 2, 3, 10):
            pixels = image(i)
            pixels[:8, :8] = 20 * scene
            put(raw, f"images/house/room_{scene}/{i}.png", pixels)
            put(raw, f"depth/house/room_{scene}/{i}.png", depth(i))
    return raw


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """One scene of five images, `a/8.jpg` to `a/12.jpg`, without depth."""
    raw = tmp_path / "raw"
    put(raw, "camera.yaml", CAMERA)
    for i in range(8, 13):
        put(raw, f"images/a/{i}.jpg", image(i))
    return raw


def config(raw: Path, **changes) -> folder.Config:
    return folder.Config(source="folder", raw=str(raw), height=HEIGHT, width=WIDTH, **changes)


def only(split: str) -> tuple[float, float, float]:
    """Ratios that put everything into one split."""
    return tuple(float(split == name) for name in ("train", "val", "test"))


TRAIN, VAL, TEST = only("train"), only("val"), only("test")


def listed(raw: Path, **changes) -> list[Frame | Rejected]:
    return folder.list_frames(config(raw, **changes), raw, raw)


def frames(raw: Path, **changes) -> list[Frame]:
    return [item for item in listed(raw, **changes) if isinstance(item, Frame)]


def rejected(raw: Path, **changes) -> list[Rejected]:
    return [item for item in listed(raw, **changes) if isinstance(item, Rejected)]


def results(raw: Path, **changes) -> dict[str, Row | Rejected]:
    settings = config(raw, **changes)
    encoder = Encoder(settings.size, settings.lossless)
    read = folder.read_frames(settings, raw, raw, frames(raw, **changes), encoder)
    return {r.sample_id if isinstance(r, Rejected) else r["sample_id"]: r for r in read}


def rows(raw: Path, **changes) -> dict[str, Row]:
    found = results(raw, **changes)
    assert not [result for result in found.values() if isinstance(result, Rejected)]
    return found


def grey(data: bytes | None) -> int:
    """10 i → i."""
    assert data is not None
    return round(float(decode_image(data)[-4:, -4:].mean()) / 10)


# --- Which frames there are -------------------------------------------------------------------


def test_whole_scenes_are_dealt_to_the_splits(raw: Path):
    found = frames(raw)
    assert Counter(frame.split for frame in found) == {"train": 32, "val": 4, "test": 4}
    assert len({(frame.scene, frame.split) for frame in found}) == 10
    assert len({tuple(f.split for f in frames(raw, seed=seed)) for seed in range(5)}) > 1
    assert [frame.sample_id for frame in found[:4]] == [
        "house__room_0__1", "house__room_0__2", "house__room_0__3", "house__room_0__10",
    ]  # fmt: skip
    assert found[0].files == {
        "image": "images/house/room_0/1.png",
        "depth": "depth/house/room_0/1.png",
        "camera": "camera.yaml",
    }


def test_single_images_are_dealt_out_only_when_shared_scenes_are_allowed(raw: Path):
    found = frames(raw, split_by="image")
    assert Counter(frame.split for frame in found) == {"train": 32, "val": 4, "test": 4}
    with pytest.raises(InputError, match="allow_shared_scenes: true"):
        check_leaks(found, allow_shared_scenes=False)


def test_too_few_scenes_for_a_split_are_told_with_what_to_do(sequence: Path):
    with pytest.raises(InputError, match=r"leave the val split without a frame: there are 1 sc"):
        listed(sequence)
    with pytest.raises(InputError, match=r"leave the test split .* split_by: image"):
        listed(sequence, ratios=(0.5, 0, 0.5))
    assert len(frames(sequence, ratios=(0.6, 0.2, 0.2), split_by="image")) == 5


def test_neighbours_are_those_in_natural_order_and_sequence_ends_are_no_frames(sequence: Path):
    found = listed(sequence, ratios=TRAIN, images=BOTH)
    assert [frame.sample_id for frame in found] == [f"a__{i}" for i in range(8, 13)]
    assert [(f.reason, f.expected) for f in found if isinstance(f, Rejected)] == [
        ("sequence end", True)
    ] * 2
    row = rows(sequence, ratios=TRAIN, images=BOTH)["a__10"]
    names = ("image_prev", "image", "image_next")
    assert [grey(row[name]) for name in names] == [9, 10, 11]


def test_only_the_needed_neighbours_make_a_sequence_end(sequence: Path):
    ends = rejected(sequence, ratios=TRAIN, images=("image_next",))
    assert [frame.sample_id for frame in ends] == ["a__12"]
    row = rows(sequence, ratios=TRAIN, images=("image_next",))["a__8"]
    assert (grey(row["image_next"]), row["image_prev"]) == (9, None)


def test_test_frames_need_no_neighbours(sequence: Path):
    found = rows(sequence, ratios=TEST, images=BOTH)
    assert len(found) == 5
    assert found["a__10"]["image_prev"] is None


def test_neighbours_are_never_of_another_scene(raw: Path):
    for frame in frames(raw, images=BOTH):
        if frame.split != "test":
            folders = {Path(frame.files[role]).parent for role in ("image", *BOTH)}
            assert len(folders) == 1


def test_stride_takes_every_nth_image_and_its_neighbours_as_far(sequence: Path):
    found = rows(sequence, ratios=TRAIN, images=BOTH, stride=2)
    assert list(found) == ["a__10"]
    assert (grey(found["a__10"]["image_prev"]), grey(found["a__10"]["image_next"])) == (8, 12)
    assert [f.sample_id for f in frames(sequence, ratios=TRAIN, stride=3)] == ["a__8", "a__11"]


def test_sequences_too_short_for_their_neighbours_are_told(sequence: Path):
    with pytest.raises(InputError, match="2 images, 2 of them the ends of sequences"):
        listed(sequence, ratios=TRAIN, images=BOTH, stride=4)


def test_images_outside_of_sub_folders_are_one_scene(tmp_path: Path):
    put(tmp_path, "camera.yaml", CAMERA)
    for i in range(3):
        put(tmp_path, f"images/{i}.png", image(i))
        put(tmp_path, f"depth/{i}.png", depth(i))
    found = frames(tmp_path, ratios=TRAIN)
    assert [(f.scene, f.sample_id) for f in found] == [("images", f"images__{i}") for i in range(3)]


def test_a_frame_without_depth_and_depth_without_an_image_are_counted(raw: Path):
    (raw / "depth/house/room_3/2.png").rename(raw / "depth/house/room_3/two.png")
    found = rejected(raw)
    assert [(frame.sample_id, frame.reason) for frame in found] == [
        ("house__room_3__2", "missing depth"),
        ("depth/house/room_3/two.png", "depth without an image"),
    ]
    assert found[0].detail == "no depth/house/room_3/2 of type .png, .exr, .npy"


def test_depth_of_an_unknown_type_is_not_the_absence_of_depth(sequence: Path):
    for i in range(8, 13):
        put(sequence, f"depth/a/{i}.tiff", b"?")
    reasons = Counter(frame.reason for frame in rejected(sequence, ratios=TRAIN))
    assert reasons == {"missing depth": 5, "unknown file type": 5}


def test_a_file_that_is_no_image_is_counted(sequence: Path):
    put(sequence, "images/a/13.heic", b"?")
    put(sequence, "images/a/Thumbs.db", b"?")
    put(sequence, "images/a/.hidden", b"?")
    (stray,) = rejected(sequence, ratios=TRAIN)
    assert (stray.sample_id, stray.reason) == ("images/a/13.heic", "unknown file type")
    assert not stray.expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("images/a/8.jpg", "images/a/8.PNG"),
        ("images/x/y/1.png", "images/x__y/1.png"),
        ("depth/a/8.png", "depth/a/8.npy"),
    ],
)
def test_two_files_for_one_sample_are_refused(sequence: Path, one: str, other: str):
    put(sequence, one, depth(1) if "depth" in one else image(1))
    put(sequence, other, depth(1) if "depth" in one else image(1))
    with pytest.raises(InputError) as caught:
        listed(sequence, ratios=TRAIN)
    assert one in str(caught.value)
    assert other in str(caught.value)


def test_a_folder_without_images_shows_the_layout(tmp_path: Path):
    with pytest.raises(InputError, match=r"no image or video in its folder images/; the layout is"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ratios", (0.5, 0.5, 0.5)),
        ("seed", -1),
        ("stride", 0),
        ("depth_scale", 0.0),
        ("depth_step_m", float("nan")),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(tmp_path: Path, key: str, value: object):
    with pytest.raises(ValueError, match=key):
        config(tmp_path, **{key: value})


def test_the_settings_are_read_from_the_params_file(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "datasets:\n  own:\n    source: folder\n    raw: x\n    height: 192\n    width: 320\n"
        "    ratios: [0.7, 0.2, 0.1]\n    images: [image_prev, image_next]\n    stride: 5\n"
    )
    settings = load_source_config(path, "own")
    assert isinstance(settings, folder.Config)
    assert (settings.images, settings.ratios) == (BOTH, (0.7, 0.2, 0.1))
    path.write_text(path.read_text().replace("image_prev", "image_before"))
    with pytest.raises(InputError, match=r"datasets\.own\.images\.0"):
        load_source_config(path, "own")


# --- Depth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "exr", "npy"])
def test_depth_is_in_metres_whatever_the_file(sequence: Path, suffix: str):
    for i in range(8, 13):
        put(sequence, f"depth/a/{i}.{suffix}", depth(i))
    row = rows(sequence, ratios=TRAIN)["a__9"]
    found = decode_depth(row["depth"], HEIGHT, WIDTH, row["depth_scale"])
    assert np.abs(found - depth(9)).max() <= 0.5e-3 + 1e-6
    assert row["gt_depth"] is None


@pytest.mark.parametrize("split", ["val", "test"])
def test_ground_truth_keeps_its_size(sequence: Path, split: str):
    for i in range(8, 13):
        put(sequence, f"depth/a/{i}.npy", depth(i, 2 * HEIGHT, 2 * WIDTH)[..., None])
    row = rows(sequence, ratios=only(split))["a__9"]
    assert (row["gt_height"], row["gt_width"]) == (2 * HEIGHT, 2 * WIDTH)
    truth = decode_depth(row["gt_depth"], 2 * HEIGHT, 2 * WIDTH, row["depth_scale"])
    assert np.abs(truth - depth(9, 2 * HEIGHT, 2 * WIDTH)).max() <= 0.5e-3 + 1e-6
    assert decode_depth(row["depth"], HEIGHT, WIDTH, row["depth_scale"]).min() > 9.9


def test_without_a_depth_folder_rows_have_none(sequence: Path):
    for ratios in (TRAIN, TEST):
        row = rows(sequence, ratios=ratios)["a__9"]
        assert (row["depth"], row["gt_depth"]) == (None, None)


def test_all_codes_of_a_png_are_stored_exactly(sequence: Path):
    codes = np.linspace(1, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    for i in range(8, 13):
        cv2.imwrite(str(put(sequence, f"depth/a/{i}.png", b"")), codes)
    row = rows(sequence, ratios=TRAIN, depth_scale=1 / 256)["a__9"]
    stored = decode_depth(row["depth"], HEIGHT, WIDTH, row["depth_scale"])
    assert np.array_equal(np.rint(stored * 256), codes)


def test_depth_out_of_range_names_the_key_to_change(sequence: Path):
    for i in range(8, 13):
        put(sequence, f"depth/a/{i}.npy", depth(i) + (60 if i == 9 else 0))
    bad = results(sequence, ratios=TRAIN)["a__9"]
    assert isinstance(bad, Rejected)
    assert bad.reason == "depth out of range"
    assert bad.detail.startswith("depth/a/9.npy: 70.48 m is beyond 65.53 m")
    assert "set depth_step_m to 0.001" in bad.detail
    assert len(rows(sequence, ratios=TRAIN, depth_step_m=0.002)) == 5
    assert len(rows(sequence, ratios=TRAIN, lossless=True)) == 5


def test_points_of_sparse_depth_survive_a_smaller_size(sequence: Path):
    points = np.zeros((2 * HEIGHT, 2 * WIDTH), np.float32)
    points[5, 7], points[21, 40] = 3.0, 4.0
    for i in range(8, 13):
        put(sequence, f"depth/a/{i}.npy", points)
    row = rows(sequence, ratios=TRAIN, sparse=True)["a__9"]
    found = decode_depth(row["depth"], HEIGHT, WIDTH, row["depth_scale"])
    assert (found[2, 3], found[10, 20], np.count_nonzero(found)) == pytest.approx((3, 4, 2))


@pytest.mark.parametrize(
    ("name", "content", "reason", "detail"),
    [
        ("9.npy", np.full((24, 24), 2.0), "wrong size", "24x24 px is another shape than 32x24"),
        ("9.npy", np.zeros((24, 32)), "no valid depth", "depth/a/9.npy: no pixel"),
        ("9.npy", np.full((24, 32), np.nan), "no valid depth", "no pixel"),
        ("9.npy", np.full((24, 32), 2), "not a depth image", "an array of int64; metres as float"),
        ("9.npy", np.full((3, 24, 32), 2.0), "not a depth image", r"shape \(3, 24, 32\)"),
        ("9.npy", np.array([[{}]]), "not a depth image", "an array of object"),
        ("9.png", np.full((24, 32), 9, np.uint8), "not a depth image", "8 bits are too few"),
        ("9.png", np.full((24, 32, 3), 9, np.uint8), "not a depth image", "one channel"),
        ("9.exr", b"v/1\x01", "unreadable file", "depth/a/9.exr: not a readable EXR"),
        ("9.npy", b"", "unreadable file", "depth/a/9.npy: not a readable .npy"),
    ],
)
def test_depth_that_cannot_be_is_rejected_with_the_reason(
    sequence: Path, name: str, content, reason: str, detail: str
):
    for i in (8, 10, 11, 12):
        put(sequence, f"depth/a/{i}.npy", depth(i))
    put(sequence, f"depth/a/{name}", content)
    found = results(sequence, ratios=TRAIN)
    bad = found.pop("a__9")
    assert isinstance(bad, Rejected)
    assert bad.reason == reason
    assert re.search(detail, bad.detail)
    assert not any(isinstance(other, Rejected) for other in found.values())


def test_exr_depth_is_the_channel_z_of_the_whole_image(sequence: Path):
    z, other = depth(9), np.ones((HEIGHT, WIDTH), np.float32)

    def write(channels: dict[str, np.ndarray], **header) -> Row | Rejected:
        content = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage} | header
        path = put(sequence, "depth/a/9.exr", b"")
        with OpenEXR.File(content, channels) as file:
            file.write(str(path))
        return results(sequence, ratios=TRAIN)["a__9"]

    for channels in ({"Y": z}, {"R": other, "View.Z": z}, {"Z": z.astype(np.float16)}):
        row = write(channels)
        assert not isinstance(row, Rejected)
        found = decode_depth(row["depth"], HEIGHT, WIDTH, row["depth_scale"])
        assert np.abs(found - z).max() < 0.01
    for channels in ({"R": z, "G": z}, {"Z": np.ones((HEIGHT, WIDTH), np.uint32)}):
        bad = write(channels)
        assert isinstance(bad, Rejected)
        assert "one part with one channel, or one named Z" in bad.detail
    window = np.array([0, 0], np.int32), np.array([99, 99], np.int32)
    assert "a crop of the image" in write({"Z": z}, displayWindow=window).detail


# --- Camera -----------------------------------------------------------------------------------


def K_of(raw: Path, sample_id: str = "a__9", **changes) -> np.ndarray:
    return np.array(rows(raw, ratios=TRAIN, **changes)[sample_id]["K"]).reshape(3, 3)


def test_intrinsics_follow_the_size_of_the_image(sequence: Path):
    # The file is for 64x48 px, the images have 32x24.
    K = K_of(sequence)
    assert K[0, 0] == pytest.approx(25)
    assert K[1, 1] == pytest.approx(25.5)
    assert K[0, 2] == pytest.approx((30 + 0.5) / 2 - 0.5)
    assert K[1, 2] == pytest.approx((25 + 0.5) / 2 - 0.5)


def test_the_nearest_camera_file_counts(sequence: Path):
    put(sequence, "images/camera.yaml", CAMERA.replace("50.0", "60"))
    assert K_of(sequence)[0, 0] == pytest.approx(30)
    put(sequence, "images/a/camera.yaml", CAMERA.replace("50.0", "70"))
    assert K_of(sequence)[0, 0] == pytest.approx(35)
    assert frames(sequence, ratios=TRAIN)[0].files["camera"] == "images/a/camera.yaml"


@pytest.mark.parametrize(
    "camera",
    ["K: [[16, 0, 15.5], [0, 16, 11.5], [0, 0, 1]]", "fov_x_deg: 90"],
)
def test_a_camera_is_a_matrix_or_a_field_of_view_too(sequence: Path, camera: str):
    put(sequence, "camera.yaml", f"width: 32\nheight: 24\n{camera}\n")
    assert K_of(sequence) == pytest.approx(np.array([[16, 0, 15.5], [0, 16, 11.5], [0, 0, 1]]))


def test_images_of_another_shape_than_the_camera_are_rejected(sequence: Path):
    put(sequence, "images/a/9.jpg", image(9, 32, 24))
    bad = results(sequence, ratios=TRAIN)["a__9"]
    assert isinstance(bad, Rejected)
    assert bad.reason == "wrong size"
    assert bad.detail.startswith("images/a/9.jpg: the image has 24x32 px, camera.yaml is for 64x48")


def test_a_missing_camera_file_is_told_with_an_example_that_works(sequence: Path):
    (sequence / "camera.yaml").unlink()
    with pytest.raises(InputError, match=r"no camera\.yaml for images/a/8\.jpg") as caught:
        listed(sequence, ratios=TRAIN)
    put(sequence, "camera.yaml", str(caught.value).partition("\n\n")[2])
    assert len(frames(sequence, ratios=TRAIN)) == 5


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (CAMERA + "fxx: 3\n", r"camera\.fxx: unknown key 'fxx'; did you mean 'fx'"),
        (CAMERA.replace("50.0", ".nan"), "fx: Input should be a valid number, found 'NaN'"),
        (CAMERA.replace("51.0", "-51.0"), "fy must be a positive number, found -51"),
        (CAMERA.replace("30.0", ".inf"), "cx: Input should be a valid number, found 'Infinity'"),
        (CAMERA.replace("50.0", "'50'"), r"camera\.fx: .* found '50'"),
        (CAMERA.replace("50.0", "0.58"), "fx must be in px, found 0.58 .* multiplied by 64"),
        (CAMERA.replace("width: 64", "width: 64.5"), r"camera\.width: .* found 64\.5"),
        (CAMERA.replace("width: 64\n", ""), r"camera\.width: this key is required"),
        (CAMERA.replace("height: 48", "height: 0"), "height must be positive, found 0"),
        (CAMERA.replace("cy: 25.0\n", ""), "give all of fx, fy, cx, cy, .* found fx, fy, cx"),
        (CAMERA + "fov_x_deg: 60\n", "give all of .* found fx, fy, cx, cy, fov_x_deg"),
        (CAMERA + "baseline_m: 0\n", "baseline_m must be a number but 0"),
        ("width: 64\nheight: 48\n", "give all of .* found none of them"),
        ("width: 64\nheight: 48\nfov_x_deg: 190\n", "fov_x_deg must be above 0 and below 175"),
        ("width: 64\nheight: 48\nK: [[9, 1, 3], [0, 9, 3], [0, 0, 1]]\n", "K must be .* found"),
        ("fx: [", "not readable as YAML"),
        ("fx: 2001-99-99", "not readable as YAML"),
        ("[" * 500, "not readable as YAML"),
        ("fx 50", "expected keys and values, such as"),
    ],
)
def test_a_wrong_camera_file_is_refused_by_its_name_and_key(
    sequence: Path, camera: str, message: str
):
    put(sequence, "camera.yaml", camera)
    with pytest.raises(InputError, match=message) as caught:
        listed(sequence, ratios=TRAIN)
    assert str(caught.value).startswith(f"{sequence}/camera.yaml: ")


def test_a_stereo_pair_has_its_other_image_and_its_baseline(sequence: Path):
    for i in range(8, 13):
        put(sequence, f"stereo/a/{i}.png", image(i + 5))
    with pytest.raises(InputError, match=r"camera\.yaml: baseline_m: this key is required"):
        listed(sequence, ratios=TRAIN, images=("image_stereo",))
    put(sequence, "camera.yaml", CAMERA + "baseline_m: -0.12\n")
    row = rows(sequence, ratios=TRAIN, images=("image_stereo",))["a__9"]
    assert (grey(row["image"]), grey(row["image_stereo"]), row["baseline_m"]) == (9, 14, -0.12)
    assert rows(sequence, ratios=TRAIN)["a__9"]["baseline_m"] is None
    (sequence / "stereo/a/9.png").unlink()
    (missing,) = rejected(sequence, ratios=TRAIN, images=("image_stereo",))
    assert (missing.sample_id, missing.reason) == ("a__9", "missing stereo")
    assert not rejected(sequence, ratios=TEST, images=("image_stereo",))


# --- Images and videos ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp", "bmp", "tif"])
def test_images_of_all_types_are_read_in_colour(sequence: Path, suffix: str):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0] = 200
    path = put(sequence, f"images/b/1.{suffix}", b"")
    PIL.Image.fromarray(pixels).save(path)
    found = decode_image(rows(sequence, ratios=TRAIN)["b__1"]["image"])
    assert np.abs(found.astype(int) - pixels).max() < 8


def test_a_photo_of_a_phone_is_upright(sequence: Path):
    pixels = image(5, WIDTH, HEIGHT)
    pixels[:, 8:] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = put(sequence, "images/b/1.jpg", b"")
    PIL.Image.fromarray(pixels).save(path, exif=exif)
    found = decode_image(rows(sequence, ratios=TRAIN)["b__1"]["image"])
    # It is stored lying on its left side: what was on the left is on top.
    assert abs(int(found[2, 16, 0]) - 50) < 8
    assert found[20, 2].min() > 240


def test_an_unreadable_neighbour_is_named(sequence: Path):
    put(sequence, "images/a/9.jpg", (sequence / "images/a/9.jpg").read_bytes()[:-20])
    found = results(sequence, ratios=TRAIN, images=BOTH)
    assert list(found) == ["a__9", "a__10", "a__11"]
    for sample_id in ("a__9", "a__10"):
        assert found[sample_id].reason == "unreadable file"
        assert found[sample_id].detail.startswith("images/a/9.jpg: damaged JPEG")
    assert not isinstance(found["a__11"], Rejected)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video of thirty frames, frame i grey 8 i, of the camera."""
    raw = tmp_path / "raw"
    put(raw, "camera.yaml", CAMERA)
    write_video(put(raw, "images/walks/park.MP4", b""))
    return raw


def test_the_frames_of_a_video_are_a_sequence(video: Path):
    found = rows(video, ratios=TRAIN, images=BOTH)
    assert list(found) == [f"walks__park__{i:06d}" for i in range(1, 29)]
    for i, row in enumerate(found.values(), 1):
        names = ("image_prev", "image", "image_next")
        levels = [decode_image(row[name])[-4:, -4:].mean() / 8 for name in names]
        assert levels == pytest.approx([i - 1, i, i + 1], abs=0.4)
    (frame,) = {(f.scene, f.files["image"]) for f in frames(video, ratios=TRAIN)}
    assert frame == ("walks/park", "images/walks/park.MP4")


def test_the_frames_of_a_video_are_the_same_in_any_shard(video: Path):
    settings = config(video, ratios=TRAIN, images=BOTH, stride=3)
    found = frames(video, ratios=TRAIN, images=BOTH, stride=3)

    def read(some: list[Frame]) -> dict[str, Row]:
        encoder = Encoder(settings.size)
        return {
            r["sample_id"]: r for r in folder.read_frames(settings, video, video, some, encoder)
        }

    together = read(found[::-1])
    assert len(together) == 8
    for frame in found:
        assert read([frame]) == {frame.sample_id: together[frame.sample_id]}


def test_depth_of_a_video_goes_by_the_number_of_the_frame(video: Path):
    for i in range(30):
        put(video, f"depth/walks/park/{i:06d}.npy", depth(i, 48, 64))
    row = rows(video, ratios=TEST)["walks__park__000007"]
    found = decode_depth(row["gt_depth"], 48, 64, row["depth_scale"])
    assert found[0, 0] == pytest.approx(8, abs=1e-3)


def test_a_video_that_cannot_be_read_is_rejected_by_its_name(video: Path):
    put(video, "images/walks/lake.mp4", (video / "images/walks/park.MP4").read_bytes()[:-200])
    for i in range(30):
        put(video, f"depth/walks/park/{i:06d}.npy", depth(i, 48, 64))
    put(video, "depth/walks/lake/000000.npy", depth(1))
    (bad,) = rejected(video, ratios=TRAIN)
    assert bad.reason in ("truncated video", "unreadable video")
    assert bad.detail.startswith("images/walks/lake.mp4: ")


def test_a_frame_of_a_video_that_cannot_be_decoded_is_rejected_with_its_neighbours(video: Path):
    path = video / "images/walks/park.MP4"
    spoil_frame(path, index_video(path)[29])
    found = results(video, ratios=TRAIN, images=BOTH)
    bad = found["walks__park__000028"]
    assert isinstance(bad, Rejected)
    assert bad.detail.startswith("images/walks/park.MP4: ")
    assert not isinstance(found["walks__park__000020"], Rejected)


def test_videos_in_an_archive_are_refused(video: Path, tmp_path: Path):
    archive = tmp_path / "raw.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (video / "camera.yaml", video / "images/walks/park.MP4"):
            file.write(path, path.relative_to(video).as_posix())
    with pytest.raises(InputError, match=r"park\.MP4: videos are not read from an archive"):
        listed(archive, ratios=TRAIN)


def test_images_are_read_from_an_archive(sequence: Path, tmp_path: Path):
    archive = tmp_path / "raw.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(sequence.rglob("*.*")):
            file.write(path, path.relative_to(sequence).as_posix())
    settings = config(archive, ratios=TRAIN)
    found = [f for f in folder.list_frames(settings, archive, tmp_path) if isinstance(f, Frame)]
    read = folder.read_frames(settings, archive, tmp_path, found, Encoder(settings.size))
    assert {row["sample_id"]: row for row in read} == rows(sequence, ratios=TRAIN)


# --- As a whole -------------------------------------------------------------------------------


def test_every_image_ends_in_a_shard_or_among_the_rejected(raw: Path, tmp_path: Path):
    put(raw, "images/house/room_0/2.png", b"no image")
    write_video(put(raw, "images/park.mp4", b""))
    for i in range(30):
        put(raw, f"depth/park/{i:06d}.npy", depth(i, 48, 64))
    settings = config(raw, images=BOTH, max_rejected=0.05, rows_per_shard=16)
    manifest = convert(settings, raw, tmp_path / "out", run_one_by_one)
    ids = {row["sample_id"] for split in SPLITS for row in read_rows(tmp_path / "out", split)}
    assert ids.isdisjoint(frame.sample_id for frame in manifest.rejected)
    assert len(ids) + len(manifest.rejected) == 10 * 4 + 30
    reasons = Counter(frame.reason for frame in manifest.rejected)
    assert reasons.keys() == {"sequence end", "unreadable file"}
    with pytest.raises(InputError, match="unreadable file"):
        convert(replace(settings, max_rejected=0.0), raw, tmp_path / "other", run_one_by_one)


def test_sequence_ends_do_not_stop_a_conversion(sequence: Path, tmp_path: Path):
    settings = config(sequence, ratios=TRAIN, images=BOTH)
    manifest = convert(settings, sequence, tmp_path / "out", run_one_by_one)
    assert [frame.expected for frame in manifest.rejected] == [True, True]


FUZZED = ["images/a/9.jpg", "images/a/9.png", "depth/a/9.png", "depth/a/9.npy", "depth/a/9.exr"]


@pytest.mark.parametrize("name", FUZZED)
def test_damaged_files_give_a_row_or_a_reason_and_nothing_else(sequence: Path, name: str):
    for i in (8, 10, 11, 12):
        put(sequence, f"depth/a/{i}.npy", depth(i))
    if name.startswith("images"):
        put(sequence, "depth/a/9.npy", depth(9))
        (sequence / "images/a/9.jpg").unlink()
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH, 3))
    content = (255 * noise).astype(np.uint8) if name.startswith("images") else 9 * noise[..., 0] + 1
    data = put(sequence, name, content).read_bytes()
    settings = config(sequence, ratios=TRAIN)
    (frame,) = (f for f in frames(sequence, ratios=TRAIN) if f.sample_id == "a__9")
    encoder = Encoder(settings.size)
    bad = 0
    for seed in range(100):
        put(sequence, name, damage(data, np.random.default_rng(seed)))
        (result,) = folder.read_frames(settings, sequence, sequence, [frame], encoder)
        if isinstance(result, Rejected):
            bad += 1
            assert result.detail.startswith(f"{name}: ")
    assert bad > 25
