"""The KITTI raw fragment with LiDAR: convert, train in MS mode, evaluate, report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mde import geometry
from mde.data.codecs import decode_depth, decode_image
from mde.data.shards import read_manifest, read_rows
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
    (tiny_root / "splits").mkdir()
    for split, lines in frames.items():
        (tiny_root / "splits" / f"{split}_files.txt").write_text("\n".join(lines) + "\n")
    params = PARAMS.replace("splits: data/sample/kitti/splits", "splits: splits")
    raw = f"raw: {KITTI}\n    allow_shared_scenes: true"
    params = params.replace("raw: data/sample/kitti", raw)
    params = params.replace("height: 64\n    width: 128", "height: 96\n    width: 320")
    (tiny_root / "params.yaml").write_text(params)
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
    native = decode_depth(
        row["gt_depth"], row["gt_height"], row["gt_width"], row["depth_scale"]  # type: ignore[arg-type]
    )  # fmt: skip
    height, width = row["height"], row["width"]
    v, u = np.nonzero(native)
    depth = np.zeros((height, width), np.float32)
    depth[(v * height // 375), (u * width // 1242)] = native[v, u]
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
