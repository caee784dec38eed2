"""Evaluation and prediction in one process: every number against a slow and simple way."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mde.data.codecs import decode_depth, decode_image, encode_depth
from mde.data.frames import Rejected
from mde.data.shards import Manifest, file_sha256, read_rows, write_manifest, write_shard
from mde.errors import InputError
from mde.evaluate import error_histogram, evaluate, write_evaluation
from mde.inference import RowGroup, Work, row_groups, run_one_by_one
from mde.metrics import METRICS
from mde.models import ModelConfig, build_model
from mde.predictions import predict_split, read_prediction_manifest, read_predictions
from mde.predictor import load_depth_model
from mde.protocols import PROTOCOLS, Protocol
from mde.schema import Row
from mde.scoring import RandomDepth, per_image_schema
from mde.train.checkpoint import save_model
from tests.conftest import flip_a_bit

PROTOCOL = PROTOCOLS["kitti_eigen_mono"]
WHOLE = Protocol("whole", 1, 1e-3, 20.0, "none", "none")
MODEL = ModelConfig("fastdepth", "mobilenet_v1", "scratch", 0.5, 20.0)
NO_DEPTH, TOO_FAR = "sample_0003", "sample_0007"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def write_checkpoint(folder: Path, change: Callable[[torch.nn.Module], None] | None = None) -> Path:
    torch.manual_seed(0)
    model = build_model(MODEL)
    if change:
        change(model)
    variant = {"name": "tiny", "model": asdict(MODEL)}
    folder.mkdir()
    save_model(folder, model, {"variant": variant, "data_sha256": "0" * 64})
    return folder


def gt(i: int, height: int, width: int, factor: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(i)
    depth = rng.uniform(1, 15, (height, width)) * (rng.random((height, width)) < 0.4) * factor
    code = {"gt_depth": encode_depth(depth, 1 / 256), "depth_scale": 1 / 256}
    return {**code, "gt_height": height, "gt_width": width}


@pytest.fixture
def data(tmp_path: Path, make_row: Callable[..., Row]) -> Path:
    """40 test images in shards of 20 rows, two sizes, three of ground truth, two unusable."""
    folder, rows = tmp_path / "data", []
    folder.mkdir()
    for i in range(40):
        size = (48, 64) if i % 5 else (64, 48)
        truth = gt(i, 60 + 4 * (i % 3), 90)
        if f"sample_{i:04d}" == NO_DEPTH:
            truth["gt_depth"] = None
        if f"sample_{i:04d}" == TOO_FAR:
            truth = gt(i, 60, 90, factor=0) | {"gt_depth": encode_depth(np.full((60, 90), 90), 0.1)}
            truth["depth_scale"] = 0.1
        rows.append(make_row(i, *size, **truth))
    shards = [write_shard(folder, "test", k, rows[20 * k : 20 * k + 20]) for k in range(2)]
    statistics = {"depth_min": 1.0, "depth_max": 15.0, "depth_mean": 8.0}
    no_frames: list[Rejected] = []
    write_manifest(folder, Manifest("folder", {}, shards, no_frames, {"train": statistics}))
    return folder


def test_every_image_is_scored_as_it_would_be_alone(checkpoint: Path, data: Path) -> None:
    found = {
        row["sample_id"]: row for row in evaluate(checkpoint, data, PROTOCOL).per_image.to_pylist()
    }
    model, _ = load_depth_model(checkpoint)
    for row in read_rows(data, "test"):
        values = found[row["sample_id"]]
        if row["sample_id"] in (NO_DEPTH, TOO_FAR):
            assert all(values[name] is None for name in (*METRICS, "scale", "random_abs_rel"))
            continue
        size = row["gt_height"], row["gt_width"]
        image = torch.from_numpy(decode_image(row["image"])).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            depth = model.predict_depth(image, size)[0, 0]
        target = torch.from_numpy(decode_depth(row["gt_depth"] or b"", *size, row["depth_scale"]))
        for name, expected in PROTOCOL.compare(depth, target).items():
            if expected is None:
                assert values[name] is None
            else:
                assert values[name] == pytest.approx(expected, rel=1e-4, abs=1e-6), name
        constant = PROTOCOL.compare(torch.full(size, 8.0), target)
        assert values["constant_rmse"] == pytest.approx(constant["rmse"], rel=1e-9)
        assert values["constant_scale"] == pytest.approx(constant["scale"], rel=1e-9)


def test_the_table_keeps_the_stored_order_and_the_means_are_its_means(
    checkpoint: Path, data: Path
) -> None:
    evaluation = evaluate(checkpoint, data, PROTOCOL, num_panels=0)
    table, summary = evaluation.per_image, evaluation.summary
    assert table["sample_id"].to_pylist() == [row["sample_id"] for row in read_rows(data, "test")]
    assert table["scene"].to_pylist() == [row["scene"] for row in read_rows(data, "test")]
    reasons = [[NO_DEPTH, "no ground truth"], [TOO_FAR, f"no pixel that {PROTOCOL.id} counts"]]
    assert summary["skipped"] == reasons
    assert [r for r in table["skipped"].to_pylist() if r] == [reason for _, reason in reasons]
    assert summary["images"] == 38
    for name in METRICS:
        values = [v for v in table[name].to_pylist() if v is not None]
        assert summary["metrics"][name] == pytest.approx(sum(values) / 38, rel=1e-12)
        values = [v for v in table[f"random_{name}"].to_pylist() if v is not None]
        assert summary["baselines"]["random"][name] == pytest.approx(sum(values) / 38, rel=1e-12)


def test_median_scaled_results_tell_the_scale_and_its_spread(checkpoint: Path, data: Path) -> None:
    evaluation = evaluate(checkpoint, data, PROTOCOL, num_panels=0, num_extremes=0)
    scales = np.array([s for s in evaluation.per_image["scale"].to_pylist() if s is not None])
    found = evaluation.summary["scale"]
    assert found["median"] == pytest.approx(np.median(scales), rel=1e-12)
    assert found["spread"] == pytest.approx(np.std(scales / np.median(scales)), rel=1e-9)
    unscaled = evaluate(checkpoint, data, WHOLE, num_panels=0, num_extremes=0)
    assert "scale" not in unscaled.summary


def test_a_test_set_is_its_names_and_ground_truths_whatever_the_model(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    def of(folder: Path) -> str:
        found = evaluate(folder, data, WHOLE, num_panels=0, num_extremes=0).summary
        return str(found["test_sha256"])

    def spoil(model: torch.nn.Module) -> None:
        list(model.parameters())[-1].data.fill_(0.3)

    before = of(checkpoint)
    assert of(write_checkpoint(tmp_path / "other", spoil)) == before
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"].pop()
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert of(checkpoint) != before


def test_a_model_up_to_scale_needs_a_protocol_that_scales(tmp_path: Path, data: Path) -> None:
    model = ModelConfig("monodepth2", "resnet18", "scratch", 0.1, 100.0, metric=False)
    folder = tmp_path / "relative"
    folder.mkdir()
    variant = {"name": "relative", "model": asdict(model)}
    save_model(folder, build_model(model), {"variant": variant, "data_sha256": "0" * 64})
    with pytest.raises(InputError, match=r"right up to a factor, and whole@1 does not scale"):
        evaluate(folder, data, WHOLE)


def test_the_error_histogram_has_every_pixel_once(checkpoint: Path, data: Path) -> None:
    evaluation = evaluate(checkpoint, data, PROTOCOL, num_panels=0, num_extremes=0)
    pixels = sum(n for n in evaluation.per_image["pixels"].to_pylist() if n is not None)
    assert int(error_histogram(evaluation.per_image).sum()) == pixels


def test_the_size_of_batches_changes_no_result(checkpoint: Path, data: Path) -> None:
    tables = [
        evaluate(checkpoint, data, PROTOCOL, num_panels=0, batch_size=n).per_image
        for n in (1, 3, 16)
    ]
    for name in [field.name for field in per_image_schema(PROTOCOL) if field.type == pa.float64()]:
        columns = [np.array(table[name].to_pylist(), float) for table in tables]
        for other in columns[1:]:
            np.testing.assert_allclose(other, columns[0], rtol=1e-5, atol=1e-6)


def test_random_depth_is_a_function_of_the_sample_alone() -> None:
    noise = RandomDepth(1.0, 3.0)
    first = noise("a", (40, 50))
    assert not torch.equal(first, noise("b", (40, 50)))
    assert torch.equal(first, noise("a", (40, 50)))
    assert 1 <= float(first.min()) < 1.1 < 2.9 < float(first.max()) <= 3


def test_an_evaluation_is_written_for_people_and_programs(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    evaluation = evaluate(checkpoint, data, PROTOCOL, num_panels=3, num_extremes=1)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_evaluation(tmp_path / name, evaluation)
    table = pq.read_table(tmp_path / "first/per_image.parquet")
    assert table.equals(evaluation.per_image)
    about = json.loads(table.schema.metadata[b"mde"])
    assert (about["protocol"], about["split"]) == (PROTOCOL.id, "test")
    summary = json.loads((tmp_path / "first/metrics.json").read_text())
    assert summary["metrics"] == evaluation.summary["metrics"]
    assert [path.name for path in sorted((tmp_path / "first/panels").iterdir())] == [
        "best-00.png", "index.json", "spread-00.png", "spread-01.png", "spread-02.png",
        "worst-00.png",
    ]  # fmt: skip
    for name in ("metrics.json", "per_image.parquet"):
        assert file_sha256(tmp_path / "first" / name) == file_sha256(tmp_path / "second" / name)


def test_panels_are_spread_over_the_scored_images_and_show_their_numbers(
    checkpoint: Path, data: Path
) -> None:
    evaluation = evaluate(checkpoint, data, PROTOCOL, num_panels=6)
    rows = {row["sample_id"]: row for row in evaluation.per_image.to_pylist()}
    shown = {choice: [] for choice in ("spread", "worst", "best")}
    for panel in evaluation.panels:
        shown[panel.choice].append(panel.sample_id)
    assert shown["spread"] == [f"sample_{i:04d}" for i in (0, 9, 17, 24, 32, 39)]
    scored = [row for row in rows.values() if row["skipped"] is None]
    ranked = [row["sample_id"] for row in sorted(scored, key=lambda row: row["abs_rel"])]
    assert (shown["best"], shown["worst"]) == (ranked[:3], ranked[:-4:-1])
    for panel in evaluation.panels:
        values = PROTOCOL.compare(torch.from_numpy(panel.pred), torch.from_numpy(panel.target))
        assert values["abs_rel"] == pytest.approx(rows[panel.sample_id]["abs_rel"], rel=1e-4)
        assert panel.abs_rel == rows[panel.sample_id]["abs_rel"]


def test_a_split_without_ground_truth_cannot_be_scored(
    checkpoint: Path, data: Path, make_row: Callable[..., Row]
) -> None:
    shard = write_shard(data, "val", 0, [make_row(i) for i in range(3)])
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"].append(asdict(shard))
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="no image of the val split has ground truth"):
        evaluate(checkpoint, data, PROTOCOL, split="val")
    with pytest.raises(InputError, match="the train split is empty"):
        evaluate(checkpoint, data, PROTOCOL, split="train")
    with pytest.raises(InputError, match=r"no split 'tests'.*train, val, test"):
        evaluate(checkpoint, data, PROTOCOL, split="tests")


def test_faults_of_model_data_and_protocol_name_the_place(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    def spoil(model: torch.nn.Module) -> None:
        list(model.parameters())[-1].data.fill_(torch.nan)

    spoilt = write_checkpoint(tmp_path / "spoilt", spoil)
    with pytest.raises(InputError, match=r"spoilt: predicts depths of sample_0000 .* not finite"):
        evaluate(spoilt, data, PROTOCOL)
    with pytest.raises(InputError, match=r"test-00000.parquet: sample_0000: crop 'eigen_nyu'"):
        evaluate(checkpoint, data, PROTOCOLS["nyu_eigen"])
    flip_a_bit(data / "test-00001.parquet")
    with pytest.raises(InputError, match=r"test-00001.parquet: row group 0 is damaged"):
        evaluate(checkpoint, data, PROTOCOL)


def test_a_runner_that_loses_or_doubles_results_is_found_out(checkpoint: Path, data: Path) -> None:
    def lose(work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
        yield from list(run_one_by_one(work, groups))[:-1]

    def double(work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
        tables = list(run_one_by_one(work, groups))
        yield from [*tables, tables[-1]]

    def shorten(work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
        yield from (table.slice(1) for table in run_one_by_one(work, groups))

    for run, problem in ((lose, "shorter"), (double, "longer"), (shorten, "15 results")):
        with pytest.raises((ValueError, RuntimeError), match=problem):
            evaluate(checkpoint, data, PROTOCOL, run)


def test_row_groups_hold_every_row_of_the_manifest(data: Path) -> None:
    groups = row_groups(data, "test")
    assert [(Path(group.place).name, group.index, group.rows) for group in groups] == [
        ("test-00000.parquet", 0, 16), ("test-00000.parquet", 1, 4),
        ("test-00001.parquet", 0, 16), ("test-00001.parquet", 1, 4),
    ]  # fmt: skip


def test_predicted_depths_come_back_within_half_a_code(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mde.predictions.SHARD_BYTES", 20_000)
    manifest = predict_split(checkpoint, data, "test", tmp_path / "out")
    assert manifest == read_prediction_manifest(tmp_path / "out")
    assert manifest.data_sha256 == file_sha256(data / "manifest.json")
    assert manifest.checkpoint_sha256 == file_sha256(checkpoint / "model.safetensors")
    assert (manifest.variant, manifest.is_metric, manifest.rows) == ("tiny", True, 40)
    assert manifest.scale == pytest.approx(20 / 65535, rel=1e-4)
    assert len(manifest.shards) > 1
    model, _ = load_depth_model(checkpoint)
    predictions = list(read_predictions(tmp_path / "out"))
    for prediction, row in zip(predictions, read_rows(data, "test"), strict=True):
        assert prediction.sample_id == row["sample_id"]
        image = torch.from_numpy(decode_image(row["image"])).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            depth = model.predict_depth(image)[0, 0].numpy()
        np.testing.assert_allclose(prediction.depth, depth, atol=manifest.scale * 0.55)


def test_predictions_are_there_whole_or_not_at_all(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    def stop(work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
        yield work(groups[0], torch.device("cpu"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_split(checkpoint, data, "test", tmp_path / "out", stop)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".*out*"))
    predict_split(checkpoint, data, "test", tmp_path / "out")
    with pytest.raises(InputError, match="is there already"):
        predict_split(checkpoint, data, "test", tmp_path / "out")


def test_damaged_predictions_are_refused(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_split(checkpoint, data, "test", out)
    shard = out / "depths-00000.parquet"
    whole = shard.read_bytes()
    flip_a_bit(shard, "depth")
    with pytest.raises(InputError, match=r"depths-00000.parquet: row group \d is damaged"):
        list(read_predictions(out))
    shard.write_bytes(whole)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(InputError, match="format 99, expected 1"):
        read_prediction_manifest(out)
    (out / "manifest.json").unlink()
    with pytest.raises(InputError, match="no predictions here"):
        read_prediction_manifest(out)
