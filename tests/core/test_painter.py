"""What a training's first worker draws: which rows, how they are prepared, where pictures go."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mde.cluster.feed import Feed
from mde.cluster.painter import Painter
from mde.data.augment import Augment
from mde.data.codecs import encode_depth
from mde.data.curated import PicturesConfig
from mde.data.shards import Manifest, write_manifest, write_shard
from mde.models import ModelConfig, build_model, build_pose
from mde.storage import open_storage
from mde.train.objectives import Objective, SelfSupervisedConfig, build_objective

IMAGES = ("image", "image_prev", "image_next")


@pytest.fixture
def dataset(tmp_path: Path, make_row) -> Path:
    """Five rows to train on; a test row without neighbours, with ground truth of another size."""
    folder = tmp_path / "streets"
    folder.mkdir()
    truth = np.arange(1, 1 + 50 * 100, dtype=np.float32).reshape(50, 100) / 100
    bare = {"image_prev": None, "image_next": None, "image_stereo": None, "depth": None}
    gt = {"gt_depth": encode_depth(truth, 1e-3), "gt_height": 50, "gt_width": 100}
    shards = [
        write_shard(folder, "train", 0, [make_row(i, 64, 128) for i in range(5)]),
        write_shard(folder, "test", 0, [make_row(9, 64, 128, **bare, **gt)]),
    ]
    write_manifest(folder, Manifest("made", {}, shards, [], {}))
    return folder


@pytest.fixture(scope="module")
def objective() -> Objective:
    torch.manual_seed(0)
    model = ModelConfig("monodepth2", "resnet18", "scratch", 0.1, 100.0)
    config = SelfSupervisedConfig("self_supervised", "m")
    return build_objective(config, build_model(model), build_pose(model))


def painter(dataset: Path, run: Path, every_epochs: int = 1, crop: float = 1.0) -> Painter:
    augment = Augment(height=64, width=128, crop=crop, zoom=1.5, flip=1.0, color=1.0)
    feed = Feed(dataset, IMAGES, False, 4, 0, augment, 0, 1)
    return Painter(feed, PicturesConfig(every_epochs=every_epochs), open_storage(run), "m")


def test_each_sheet_goes_below_its_name_by_step(dataset: Path, tmp_path: Path, objective):
    paint = painter(dataset, tmp_path / "run", every_epochs=2)
    for epoch in (1, 2, 3, 4):
        paint(objective, epoch, 10 * epoch)
    drawn = sorted((tmp_path / "run").rglob("*.png"))
    assert [str(file.relative_to(tmp_path / "run")) for file in drawn] == [
        f"pictures/{key}/0000000{step}.png" for key in ("frames", "training") for step in (20, 40)
    ]
    assert all(np.asarray(Image.open(file)).std() > 20 for file in drawn)
    # From the same weights, the same bytes: a resumed run writes what there was.
    before = [file.read_bytes() for file in drawn]
    painter(dataset, tmp_path / "run")(objective, 2, 20)
    assert [file.read_bytes() for file in drawn] == before
    assert objective.training


def test_rows_are_drawn_as_they_are_stored_without_chance(dataset: Path, tmp_path: Path):
    paint = painter(dataset, tmp_path)
    (batch, frame), *more = paint.frames
    assert not more
    assert frame.name == "sample_0009"
    # Red grows to the right: nothing is mirrored.
    assert frame.image[:, -8:, 0].mean() > frame.image[:, :8, 0].mean() + 100
    torch.testing.assert_close(batch["color_matrix"], torch.eye(3, 4)[None])
    assert paint.batch["image_prev"].shape == (3, 3, 64, 128)


def test_the_truth_is_cut_as_the_image_is(dataset: Path, tmp_path: Path):
    whole, middle = (painter(dataset, tmp_path, crop=c).frames[0][1].truth for c in (1.0, 0.5))
    assert whole.shape == (50, 100)
    np.testing.assert_array_equal(middle, whole[12:38, 25:75])
