"""Real NYUv2 pairs of the BTS layout, in a folder, a zip and a .tar.gz, through the importer."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data.codecs import decode_depth, decode_image, decode_raw_image
from mde.data.encode import Encoder
from mde.data.frames import Frame
from mde.data.sources import nyu_pairs
from tests.conftest import REPOSITORY

SYNC = REPOSITORY.parent / "shared/samples/nyu_depth_v2/sync"
NAMES = ("00000", "00050", "00100")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not SYNC.is_dir(), reason="no real NYUv2 pairs in ../shared/samples"),
]


@pytest.fixture(params=["folder", "zip", "tar.gz"])
def raw(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The pairs and a list of them."""
    scene = "basement_demo"
    lines = [f"/{scene}/rgb_{name}.jpg /{scene}/sync_depth_{name}.png 518.8579\n" for name in NAMES]
    folder = shutil.copytree(SYNC, tmp_path / "sync")
    (folder / "list.txt").write_text("".join(lines))
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "sync.zip", "w") as archive:
            for path in folder.rglob("*.*"):
                archive.write(path, path.relative_to(folder))
        return tmp_path / "sync.zip"
    if request.param == "tar.gz":
        with tarfile.open(tmp_path / "sync.tar.gz", "w:gz", compresslevel=1) as tar:
            tar.add(folder, ".")
        return tmp_path / "sync.tar.gz"
    return folder


def test_real_pairs_keep_their_depth_and_their_look(raw: Path, tmp_path: Path) -> None:
    config = nyu_pairs.Config(
        source="nyu_pairs", raw=str(raw), height=480, width=640, test="list.txt"
    )
    frames = nyu_pairs.list_frames(config, raw, tmp_path / "work")
    assert [f.sample_id for f in frames] == [f"basement_demo__rgb_{name}" for name in NAMES]
    chosen = [frame for frame in frames if isinstance(frame, Frame)]
    encoder = Encoder(config.size)
    rows = list(nyu_pairs.read_frames(config, raw, tmp_path / "work", chosen, encoder))
    assert len(rows) == 3
    for row in rows:
        assert isinstance(row, dict), row
        name = row["sample_id"][-5:]
        image = decode_raw_image((SYNC / f"basement_demo/rgb_{name}.jpg").read_bytes())
        path = SYNC / f"basement_demo/sync_depth_{name}.png"
        codes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert codes is not None
        depth = decode_depth(row["depth"], 480, 640, row["depth_scale"])
        assert np.array_equal(np.rint(depth * 1000), codes)
        assert row["depth"] == row["gt_depth"]
        error = decode_image(row["image"]).astype(float) - image
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 38
    # About 67 to 75 % of the pixels are valid, between 0.7 and 8.3 m.
    found = encoder.statistics
    assert 0.67 < found.depth_pixels / (3 * 480 * 640) < 0.75
    assert 0.7 < found.depth_min < found.depth_max < 8.4
