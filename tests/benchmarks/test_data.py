"""The benchmarks compare like with like: same samples, same recipes; no locked version moves."""

import dataclasses
import re
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from benchmarks import formats
from benchmarks.made_data import vary_room
from benchmarks.peers import FASTDEPTH, MONODEPTH2, FastDepthFiles, Monodepth2Files
from benchmarks.timing import compare, time_parts
from mde.data.augment import load_sample
from mde.data.codecs import encode_depth, encode_image, resize_depth, resize_image
from mde.data.shards import Manifest, write_manifest, write_shard

REPOSITORY = Path(__file__).parents[2]
STORED = (240, 320)


def smooth_room() -> tuple[np.ndarray, np.ndarray]:
    """An image (480,640,3) and its depth (480,640) in m, without edges."""
    v, u = np.mgrid[:480, :640] / 480
    image = np.stack([60 + 100 * u, 40 + 150 * v, 200 - 80 * u], -1).astype(np.uint8)
    return image, (1 + u + 2 * v).astype(np.float32)


def test_the_libraries_that_are_compared_replace_no_locked_version() -> None:
    def names(path: Path) -> set[str]:
        lines = path.read_text().splitlines()
        return {line.split("==")[0].lower() for line in lines if re.match(r"[A-Za-z]\S*==", line)}

    ours = names(REPOSITORY / "requirements.lock")
    assert "numpy" in ours
    assert not names(REPOSITORY / "benchmarks/requirements.txt") & ours


def test_fastdepths_recipe_shows_what_ours_shows(tmp_path: Path, make_row) -> None:
    image, depth = smooth_room()
    with h5py.File(tmp_path / "00002.h5", "w") as file:
        file["rgb"], file["depth"] = image.transpose(2, 0, 1), depth
    theirs = FastDepthFiles([tmp_path / "00002.h5"], still=True)[0]
    row = make_row(
        height=STORED[0], width=STORED[1], image=encode_image(resize_image(image, STORED)),
        depth=encode_depth(resize_depth(depth, STORED), 1e-3),
    )  # fmt: skip
    ours = load_sample(row, ("image",), True, FASTDEPTH.still(), [0, 0])
    assert theirs["image"].shape == (3, 224, 224)
    difference = theirs["image"].numpy().transpose(1, 2, 0) * 255 - ours["image"]
    assert np.abs(difference).mean() < 3
    assert np.abs(theirs["depth"][0].numpy() - ours["depth"]).max() < 0.05


def test_monodepth2s_recipe_shows_what_ours_shows(tmp_path: Path, make_row) -> None:
    size = (192, 640)
    pictures = [np.roll(smooth_room()[0][:375], 40 * i, 2) for i in range(3)]
    paths = tuple(tmp_path / f"{i}.png" for i in range(3))
    for picture, path in zip(pictures, paths, strict=True):
        Image.fromarray(cv2.resize(picture, (1242, 375))).save(path)
    theirs = Monodepth2Files([paths], size, still=True)[0]
    stored = [encode_image(resize_image(np.asarray(Image.open(p)), size)) for p in paths]
    row = make_row(
        height=size[0], width=size[1], image_prev=stored[0], image=stored[1], image_next=stored[2]
    )
    images = ("image", "image_prev", "image_next")
    ours = load_sample(row, images, False, MONODEPTH2.still(), [0, 0])
    for name in images:
        difference = theirs[name].numpy().transpose(1, 2, 0) * 255 - ours[name]
        assert np.abs(difference).mean() < 2


def test_no_two_made_frames_are_equal() -> None:
    image, depth = smooth_room()
    made = [vary_room(image, depth, number) for number in (0, 1, 1)]
    assert not np.array_equal(made[0][0], made[1][0])
    assert np.array_equal(made[1][0], made[2][0])
    assert made[0][1].dtype == np.float32
    assert made[0][1].min() > 0


def test_the_last_part_is_the_one_that_counts() -> None:
    run = time_parts([[1000], [4] * 8])
    assert run["samples"] == 32
    assert run["samples_per_s"] > 0
    assert run["first_batch_s"] < run["wall_s"]


def test_a_ratio_is_the_median_over_rounds_and_not_of_the_medians() -> None:
    def runs(*rates: float) -> list[dict[str, float]]:
        return [{"samples_per_s": rate, "cpu_ms_per_sample": 1 / rate} for rate in rates]

    sides = {"ours": runs(10, 100, 30), "peer": runs(5, 50, 60)}
    found = compare("x", sides, "ours", "peer", target=2.0)
    assert (found.ratio, found.ours, found.peer, found.met) == (2.0, 30, 50, True)
    assert found.cpu_ratio == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "module"),
    [("WebDataset", "webdataset"), ("LitData", "litdata"), ("MosaicML", "streaming")],
)
def test_other_formats_give_our_samples(name: str, module: str, tmp_path: Path, make_row) -> None:
    pytest.importorskip(module, reason="make bench installs it")
    folder = tmp_path / "ours"
    folder.mkdir()
    rows = [make_row(i) for i in range(10)]
    shard = write_shard(folder, "train", 0, rows)
    write_manifest(folder, Manifest("x", {}, [shard], [], {}))
    augment = dataclasses.replace(FASTDEPTH, height=16, width=16)
    packed = formats.pack(folder, tmp_path, 5, [name])[name]
    found = {}
    for batch in formats.open_loader(name, packed, augment, 4, workers=0):
        for place, sample_id in enumerate(batch["sample_id"]):
            assert sample_id not in found
            found[sample_id] = batch["image"][place], batch["depth"][place]
    assert found.keys() == {row["sample_id"] for row in rows}
    for row in rows:
        ours = load_sample(row, ("image",), True, augment, [0, 0])
        image, depth = found[row["sample_id"]]
        assert np.array_equal(image.permute(1, 2, 0), ours["image"])
        assert np.array_equal(depth[0], ours["depth"])
