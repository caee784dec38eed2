"""`mde score` with what `mde` itself has made: converted datasets and folders of predictions."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mde.data.codecs import encode_depth
from mde.data.shards import Manifest, write_manifest, write_shard
from mde.errors import InputError
from mde.evaluate import evaluate
from mde.files import write_json
from mde.models import ModelConfig, build_model
from mde.predictions import predict_split, read_prediction_manifest, read_predictions
from mde.protocols import PROTOCOLS, Protocol
from mde.schema import Row
from mde.score import Submission, score
from mde.score.map_files import Reading, open_maps
from mde.train.checkpoint import save_model

MODEL = ModelConfig("fastdepth", "mobilenet_v1", "scratch", 0.5, 20.0)
WHOLE = Protocol("whole", 1, 1e-3, 20.0, "none", "none")
HOW = Reading(256)
SIZE = 48, 64


@pytest.fixture
def data(tmp_path: Path, make_row: Callable[..., Row]) -> Path:
    """20 test images in two shards, whose ground truth is as large as the images."""
    folder, rows = tmp_path / "data", []
    folder.mkdir()
    for i in range(20):
        rng = np.random.default_rng(i)
        depth = rng.uniform(1, 15, SIZE) * (rng.random(SIZE) < 0.4)
        truth = None if i == 3 else encode_depth(depth, 1 / 256)
        sizes = {"gt_height": SIZE[0], "gt_width": SIZE[1]}
        rows.append(make_row(i, *SIZE, gt_depth=truth, depth_scale=1 / 256, **sizes))
    shards = [write_shard(folder, "test", k, rows[10 * k : 10 * k + 10]) for k in range(2)]
    statistics = {"depth_min": 1.0, "depth_max": 15.0, "depth_mean": 8.0}
    write_manifest(folder, Manifest("folder", {}, shards, [], {"train": statistics}))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    state = {"variant": {"name": "tiny", "model": asdict(MODEL)}, "data_sha256": "0" * 64}
    save_model(folder, build_model(MODEL), state)
    return folder


def test_predictions_kept_and_scored_have_the_numbers_of_the_evaluation(
    tmp_path: Path, data: Path, checkpoint: Path
):
    predict_split(checkpoint, data, "test", tmp_path / "predictions")
    expected = evaluate(checkpoint, data, WHOLE, num_panels=0, num_extremes=0)
    preds, truth = open_maps(tmp_path / "predictions", HOW), open_maps(data, HOW)
    result = score(Submission(preds, "depth"), truth, WHOLE)
    for name, value in expected.summary["metrics"].items():
        # The predictions were rounded to 16 bits.
        assert result.summary["metrics"][name] == pytest.approx(value, rel=1e-3), name
    for key in ("images", "skipped", "test_sha256"):
        assert result.summary[key] == expected.summary[key]
    for column in ("sample_id", "scene", "target_sha256", "pixels"):
        assert result.per_image[column] == expected.per_image[column]


def test_a_dataset_takes_a_folder_of_pngs_named_by_sample_or_a_stack_in_its_order(
    tmp_path: Path, data: Path, checkpoint: Path
):
    predict_split(checkpoint, data, "test", tmp_path / "predictions")
    made = list(read_predictions(tmp_path / "predictions"))
    for prediction in made:
        path = tmp_path / "pngs" / f"{prediction.sample_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.rint(prediction.depth * 256).astype(np.uint16))
    np.save(tmp_path / "stack.npy", np.stack([prediction.depth for prediction in made]))
    truth = open_maps(data, HOW)
    found = [
        score(Submission(open_maps(tmp_path / name, HOW), "depth"), truth, WHOLE, by_order)
        for name, by_order in (("predictions", False), ("stack.npy", True), ("pngs", False))
    ]
    kept, stack, pngs = (result.summary["metrics"]["abs_rel"] for result in found)
    assert stack == kept
    assert pngs == pytest.approx(kept, rel=1e-3)


def test_predictions_up_to_scale_need_a_protocol_that_scales(
    tmp_path: Path, data: Path, checkpoint: Path
):
    folder = tmp_path / "predictions"
    predict_split(checkpoint, data, "test", folder)
    manifest = replace(read_prediction_manifest(folder), is_metric=False)
    write_json(folder / "manifest.json", asdict(manifest))
    preds, truth = open_maps(folder, HOW), open_maps(data, HOW)
    with pytest.raises(InputError, match="right up to a factor, and whole@1 does not scale"):
        score(Submission(preds, "depth"), truth, WHOLE)
    summary = score(Submission(preds, "depth"), truth, PROTOCOLS["kitti_eigen_stereo"]).summary
    assert summary["metres_per_unit"] == 5.4
    metric = replace(preds, is_metric=True)
    summary = score(Submission(metric, "depth"), truth, PROTOCOLS["kitti_eigen_stereo"]).summary
    assert summary["metres_per_unit"] == 1
