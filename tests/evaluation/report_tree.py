"""A small root folder as evaluation and registration leave it, for tests of the report."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mde.data.codecs import encode_depth, encode_image
from mde.data.frames import Rejected
from mde.data.shards import Manifest, write_manifest, write_shard
from mde.evaluate import evaluate, write_evaluation
from mde.files import write_json
from mde.layout import Layout
from mde.models import ModelConfig, build_model
from mde.protocols import PROTOCOLS
from mde.schema import Row
from mde.train.checkpoint import save_model

MODEL = ModelConfig("fastdepth", "mobilenet_v1", "scratch", 0.5, 20.0)
NUM_IMAGES = 6


@dataclass(frozen=True)
class Planned:
    """A variant of the tree; its weights are random."""

    name: str
    dataset: str
    protocol: str
    mode: str


def write_tree(root: Path, plan: list[Planned]) -> Layout:
    """Write shards, models, results and registered of what is planned."""
    layout = Layout(root)
    for dataset in {planned.dataset for planned in plan}:
        write_dataset(layout.shards(dataset))
    for seed, planned in enumerate(plan):
        checkpoint = layout.model(planned.name) / "checkpoint"
        write_checkpoint(checkpoint, planned, seed)
        data, protocol = layout.shards(planned.dataset), PROTOCOLS[planned.protocol]
        found = evaluate(checkpoint, data, protocol, num_panels=1, num_extremes=1)
        layout.result(planned.name).mkdir(parents=True)
        write_evaluation(layout.result(planned.name), found)
        write_json(layout.registered(planned.name), registered(planned.name))
    return layout


def registered(variant: str) -> dict[str, Any]:
    """What the registry answers for a first version."""
    name = f"mde-{variant}"
    return {
        "name": name, "version": "1", "alias": "champion", "run_id": "0123456789abcdef",
        "uri": f"models:/{name}@champion", "verdict": "champion", "reason": "the first version",
    }  # fmt: skip


def write_checkpoint(folder: Path, planned: Planned, seed: int = 0) -> None:
    """Write a model of two epochs."""
    torch.manual_seed(seed)
    history = [{"epoch": i, "stage": 0, "train_loss": 1 / i, "val_loss": 2 / i} for i in (1, 2)]
    variant = {"name": planned.name, "model": asdict(MODEL), "objective": {"mode": planned.mode}}
    folder.mkdir(parents=True)
    about = {"variant": variant, "data_sha256": "0" * 64, "git_commit": "f" * 40}
    save_model(folder, build_model(MODEL), {**about, "history": history})


def write_dataset(folder: Path) -> None:
    """Write test images with dense depth, one without, and a rejected frame with an odd name."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(NUM_IMAGES + 1):
        depth = np.random.default_rng(i).uniform(1 + i, 9.5, (48, 64))
        truth = None if i == NUM_IMAGES else encode_depth(depth, 1e-3)
        rows.append(_row(i, truth))
    shards = [write_shard(folder, "test", 0, rows)]
    statistics = {"train": {"rows": 0, "depth_min": 1.0, "depth_max": 9.5, "depth_mean": 5.0}}
    rejected = [Rejected("<b>odd</b> & name", "train", "no depth", "file is empty")]
    write_manifest(folder, Manifest("folder", {}, shards, rejected, statistics))


def _row(i: int, truth: bytes | None) -> Row:
    image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
    return Row(
        sample_id=f"sample_{i:04d}",
        scene=f"scene_{i // 4}",
        height=48,
        width=64,
        image=encode_image(image),
        image_prev=None,
        image_next=None,
        image_stereo=None,
        K=[60.0, 0, 31.5, 0, 60, 23.5, 0, 0, 1],
        baseline_m=None,
        depth=None,
        depth_scale=float(np.float32(1e-3)),
        gt_depth=truth,
        gt_height=48,
        gt_width=64,
    )
