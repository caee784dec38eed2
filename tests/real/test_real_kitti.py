"""The KITTI raw fragment with LiDAR: convert, train in MS mode, evaluate, report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from mde import geometry
from mde.data.codecs import decode_depth, decode_image
from mde.data.encode import Encoder
from mde.data.frames import Rejected
from mde.data.shards import read_manifest, read_rows
from mde.data.sources import kitti
from tests.conftest import PARAMS, REPOSITORY, Stage

SAMPLES = REPOSITORY.parent / "shared" / "samples"
KITTI = SAMPLES / "kitti" / "raw"
DRIVE = "2011_09_26/2011_09_26_drive_0009_sync"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not KITTI.is_dir(), reason="no real KITTI frames in ../shared/samples"),
]


@pytest.fixture
def fragment(tiny_root: Path) -> Path:
    """A root whose kitti is the real fragment: frames 1-5 to train, 8 to test."""
    frames = {
        "train": [f"{DRIVE} {i} {side}" for i in range(1, 6) for side in "lr"],
        "test": [f"{DRIVE} 8 l"],
    }
    for split, lines in frames.items():
        (tiny_root / f"{split}_files.txt").write_text("\n".join(lines) + "\n")
    params = YAML(typ="safe").load(PARAMS)
    params["datasets"]["kitti"] = {
        "source": "kitti",
        "raw": str(KITTI),
        **{split: str(tiny_root / f"{split}_files.txt") for split in frames},
        "depth": "camera_z",
        "allow_shared_scenes": True,
        "height": 96,
        "width": 320,
        "rows_per_shard": 4,
    }
    (tiny_root / "params.yaml").write_text(json.dumps(params))
    return tiny_root


def test_from_raw_drive_to_lidar_scores_and_report(fragment: Path, stage: Stage) -> None:
    variant = ("--variant", "monodepth2-resnet18-ms")
    for name, *options in (
        ("convert", "--dataset", "kitti"),
        ("train", *variant),
        ("evaluate", *variant),
        ("register", *variant),
        ("report",),
    ):
        result = stage(name, *options)
        assert result.returncode == 0, result.stdout + result.stderr
    counts = read_manifest(fragment / "data/shards/kitti").counts
    assert counts == {"train": 10, "val": 0, "test": 1}
    summary = json.loads((fragment / "results" / variant[1] / "metrics.json").read_text())
    assert summary["images"] == 1
    assert 0 < summary["metrics"]["abs_rel"] < 10
    assert "monodepth2-resnet18-ms" in (fragment / "reports/index.html").read_text()

    row = next(read_rows(fragment / "data/shards/kitti", "test"))
    lidar = decode_depth(
        row["gt_depth"], row["gt_height"], row["gt_width"], row["depth_scale"]  # type: ignore[arg-type]
    )  # fmt: skip
    assert lidar.shape == (375, 1242)
    assert 0.03 < (lidar > 0).mean() < 0.06
    assert 2 < lidar[lidar > 0].min() < lidar.max() < 90
    check_stereo_with_lidar(fragment)


def check_stereo_with_lidar(root: Path) -> None:
    """LiDAR depth, K and the signed baseline of a row warp the stereo image onto the target."""
    row = next(
        r for r in read_rows(root / "data/shards/kitti", "train") if r["sample_id"][-1] == "l"
    )
    target, stereo = (
        torch.from_numpy(decode_image(row[key])).permute(2, 0, 1)[None].float() / 255  # type: ignore[literal-required]
        for key in ("image", "image_stereo")
    )
    depth = decode_depth(row["depth"], row["height"], row["width"], row["depth_scale"])  # type: ignore[arg-type]
    K = torch.tensor(row["K"]).view(1, 3, 3)
    known = torch.from_numpy(depth > 0)

    def error(baseline_m: float) -> float:
        T = geometry.stereo_T(torch.tensor([baseline_m]))[:, None]
        filled = torch.from_numpy(np.where(depth > 0, depth, 20))[None, None]
        warped = geometry.warp(stereo[:, None], filled, K, T)
        return float((warped[0, 0] - target[0]).abs().mean(0)[known].mean())

    baseline_m = float(row["baseline_m"] or 0)
    assert baseline_m == pytest.approx(0.5327, abs=1e-3)
    assert error(baseline_m) < 0.75 * error(0.0)
    assert error(baseline_m) < 0.6 * error(-baseline_m)


@pytest.mark.parametrize("side", ["l", "r"])
def test_annotated_depth_agrees_with_the_scan_projected_here(tmp_path: Path, side: str) -> None:
    (tmp_path / "test.txt").write_text(f"2011_09_26/2011_09_26_drive_0001_sync 5 {side}\n")

    def depth(kind: str) -> np.ndarray:
        config = kitti.Config(
            source="kitti",
            raw=str(KITTI),
            height="native",
            width="native",
            test=str(tmp_path / "test.txt"),
            ground_truth=kind,  # type: ignore[arg-type]
            annotated=str(SAMPLES / "kitti/depth"),
        )
        frames = kitti.list_frames(config, KITTI, tmp_path)
        (row,) = kitti.read_frames(config, KITTI, tmp_path, frames, Encoder(None))  # type: ignore[arg-type]
        assert not isinstance(row, Rejected), row
        return decode_depth(row["gt_depth"], 375, 1242, row["depth_scale"])  # type: ignore[arg-type]

    annotated, camera_z, velodyne_x = map(depth, ("annotated", "camera_z", "velodyne_x"))
    assert 0.15 < (annotated > 0).mean() < 0.22
    both = (annotated > 0) & (camera_z > 0)
    error = np.abs(camera_z[both] / annotated[both] - 1)
    # Eleven scans were merged for the annotated depth, and moving points taken out.
    assert both.sum() > 0.3 * (camera_z > 0).sum()
    assert np.median(error) < 0.01
    assert (error < 0.05).mean() > 0.97
    # What published numbers are computed with is longer by about the LiDAR's 0.27 m.
    both = (annotated > 0) & (velodyne_x > 0)
    assert 0.2 < np.median(velodyne_x[both] - annotated[both]) < 0.3
