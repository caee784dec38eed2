"""Real NYUv2 pairs, packed as the labeled file, through the importer."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from mde.data.codecs import decode_depth, decode_image
from mde.data.encode import Encoder
from mde.data.frames import Rejected
from mde.data.raw.files import Folder
from mde.data.sources import nyu_labeled
from tests.conftest import REPOSITORY

PAIRS = REPOSITORY.parent / "shared/samples/nyu_depth_v2/sync/basement_demo"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not PAIRS.is_dir(), reason="no real NYUv2 pairs in ../shared/samples"),
]


def write_mat(folder: Path, images: list[np.ndarray], depths: list[np.ndarray]) -> None:
    """The pairs in the layout of `nyu_depth_v2_labeled.mat`, one scene each."""
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as mat:
        mat["images"] = np.stack([image.transpose(2, 1, 0) for image in images])
        mat["depths"] = mat["rawDepths"] = np.stack([depth.T for depth in depths])
        cells = mat.create_dataset("scenes", (1, len(images)), h5py.ref_dtype)
        for i in range(len(images)):
            codes = np.array([ord(c) for c in f"basement_{i:04d}"], np.uint16)[:, None]
            cells[0, i] = mat.create_dataset(f"#refs#/{i}", data=codes).ref
    splits = {"trainNdxs": [[1], [2]], "testNdxs": [[3]]}
    scipy.io.savemat(folder / "splits.mat", splits)


def test_real_pairs_keep_their_depth_and_their_look(tmp_path: Path) -> None:
    names = ("00000", "00050", "00100")
    images = [Folder(PAIRS).image(f"rgb_{name}.jpg") for name in names]
    codes = [cv2.imread(str(PAIRS / f"sync_depth_{n}.png"), cv2.IMREAD_UNCHANGED) for n in names]
    depths = [(code / 1000).astype(np.float32) for code in codes if code is not None]
    write_mat(tmp_path, images, depths)
    config = nyu_labeled.Config(
        source="nyu_labeled", raw=str(tmp_path), height=192, width=256, val_scenes=0.0
    )
    frames = nyu_labeled.list_frames(config, tmp_path, tmp_path)
    assert [frame.split for frame in frames] == ["train", "train", "test"]
    frames = [frame for frame in frames if not isinstance(frame, Rejected)]
    rows = list(nyu_labeled.read_frames(config, tmp_path, tmp_path, frames, Encoder(config.size)))
    for row, image, depth in zip(rows, images, depths, strict=True):
        assert not isinstance(row, Rejected)
        assert row["depth"] is not None
        stored = decode_depth(row["depth"], 192, 256, row["depth_scale"])
        expected = cv2.resize(depth, (256, 192), interpolation=cv2.INTER_NEAREST_EXACT)
        assert np.abs(stored - expected).max() <= 0.0005 + 1e-6
        small = cv2.resize(image, (256, 192), interpolation=cv2.INTER_AREA)
        difference = decode_image(row["image"]).astype(float) - small
        assert np.sqrt((difference**2).mean()) < 4
    last = rows[-1]
    assert not isinstance(last, Rejected)
    assert last["gt_depth"] is not None
    truth = decode_depth(last["gt_depth"], 480, 640, last["depth_scale"])
    assert np.abs(truth - depths[-1]).max() <= 0.0005 + 1e-6
    assert 0.6 < (truth > 0).mean() < 0.8


def test_the_official_split_counts_from_one() -> None:
    splits = PAIRS.parents[1] / "splits" / "splits.mat"
    train, test = nyu_labeled.read_splits(splits, 1449)
    assert (len(train), len(test)) == (795, 654)
    # Other projects' lists of the test images start with 00000, 00001, 00008 and 00013.
    assert test[:4] == [0, 1, 8, 13]
    assert sorted(train + test) == list(range(1449))
