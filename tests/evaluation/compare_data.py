"""A small dataset and small checkpoints for the tests of comparisons."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mde.data.codecs import encode_depth, encode_image
from mde.data.shards import Manifest, write_manifest, write_shard
from mde.models import ModelConfig, build_model
from mde.schema import Row
from mde.train.checkpoint import save_model

IMAGES = 5
MODEL = ModelConfig("fastdepth", "mobilenet_v1", "scratch", 0.5, 20.0)


def make_row(i: int, height: int = 32, width: int = 96, **changes: object) -> Row:
    """Row i: noise, and sparse ground truth between 1 and 15 m."""
    rng = np.random.default_rng(i)
    depth = rng.uniform(1, 15, (height, width)) * (rng.random((height, width)) < 0.4)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    row = Row(
        sample_id=f"street_{i:04d}",
        scene="street",
        height=height,
        width=width,
        image=encode_image(image),
        image_prev=None,
        image_next=None,
        image_stereo=None,
        K=[20.0, 0, 15.5, 0, 20, 11.5, 0, 0, 1],
        baseline_m=None,
        depth=None,
        depth_scale=float(np.float32(1 / 256)),
        gt_depth=encode_depth(depth, 1 / 256),
        gt_height=height,
        gt_width=width,
    )
    return {**row, **changes}  # type: ignore[typeddict-item]


def write_data(folder: Path) -> Path:
    """IMAGES test images of one scene."""
    folder.mkdir(parents=True)
    shard = write_shard(folder, "test", 0, [make_row(i) for i in range(IMAGES)])
    statistics: dict[str, dict[str, Any]] = {
        "train": {"depth_min": 1.0, "depth_max": 15.0, "depth_mean": 8.0}
    }
    write_manifest(folder, Manifest("folder", {}, [shard], [], statistics))
    return folder


def write_checkpoint(
    folder: Path, name: str, seed: int, contrast: float = 1.0, **changes: Any
) -> Path:
    """A model with random weights, whose depths differ by `contrast`; changes: of its variant."""
    torch.manual_seed(seed)
    model = build_model(MODEL)
    last = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    last.weight.data *= contrast
    variant = {"name": name, "model": asdict(MODEL), "protocol": "kitti_eigen_mono"}
    folder.mkdir(parents=True)
    save_model(folder, model, {"variant": variant | changes, "data_sha256": "0" * 64})
    return folder
