"""What is measured: one model of every family as published, and a batch that was made for it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from mde.models import ModelConfig, build_model, build_pose
from mde.schema import Batch
from mde.train.objectives import (
    ObjectiveConfig,
    SelfSupervisedConfig,
    SupervisedConfig,
    build_objective,
)
from mde.train.recipe import Stage

ALL = Stage(1)


@dataclass(frozen=True)
class Case:
    """A family as published: network, objective, input size (H, W), batch, optimizer, stage."""

    family: str
    encoder: str
    settings: dict[str, Any]
    objective: ObjectiveConfig
    size: tuple[int, int]
    batch: int
    optimizer: Any
    stage: Stage = ALL


VIDEO = SelfSupervisedConfig("self_supervised", "ms")
L1, MSE, SILOG = (SupervisedConfig("supervised", loss) for loss in ("l1", "mse", "silog"))
INVERSE = SupervisedConfig("supervised", "densedepth", space="inverse", at="native")
STREET = {"min_depth": 0.1, "max_depth": 100.0, "metres_per_unit": 5.4}
ROOM = {"min_depth": 0.1, "max_depth": 10.0}
QUARTER = {**ROOM, "downsample": 4}
# The first of eigen's two stages: it holds nearly all weights.
COARSE = Stage(1, train=("scale1", "scale2"), output=1)

FAMILIES = {
    "monodepth2": Case("monodepth2", "resnet18", STREET, VIDEO, (192, 640), 12, "adam"),
    "densedepth": Case("densedepth", "densenet169", ROOM, INVERSE, (480, 640), 8, "adam"),
    "densedepth-quarter": Case(
        "densedepth", "densenet169", QUARTER, INVERSE, (480, 640), 8, "adam"
    ),
    "fastdepth": Case("fastdepth", "mobilenet_v1", ROOM, L1, (224, 224), 8, "sgd"),
    "eigen": Case("eigen", "vgg16", ROOM, SILOG, (228, 304), 16, "sgd", COARSE),
    "resfpn": Case("resfpn", "resnet18", ROOM, MSE, (480, 640), 8, "adamw"),
}
CASES = {
    "monodepth2-resnet18": FAMILIES["monodepth2"],
    "monodepth2-densenet121": replace(FAMILIES["monodepth2"], encoder="densenet121"),
    "densedepth-densenet169": FAMILIES["densedepth"],
    "densedepth-densenet169-quarter": FAMILIES["densedepth-quarter"],
    "fastdepth-mobilenet": FAMILIES["fastdepth"],
    "eigen-vgg16": FAMILIES["eigen"],
    "resfpn-resnet18": FAMILIES["resfpn"],
}


def model_config(case: Case) -> ModelConfig:
    """The network's configuration, with random weights."""
    fixed: dict[str, Any] = {"input_size": case.size} if case.family == "eigen" else {}
    return ModelConfig(case.family, case.encoder, weights="scratch", **case.settings, **fixed)


def build_case_objective(case: Case) -> Any:
    """The objective and its networks, the pose network too where the mode has one."""
    config = model_config(case)
    needs_pose = getattr(case.objective, "needs_pose", False)
    pose = build_pose(config) if needs_pose else None
    return build_objective(case.objective, build_model(config), pose)


def make_batch(case: Case, device: torch.device) -> Batch:
    """A batch of blurred noise, already on the device: the same for every side."""
    draw = torch.Generator().manual_seed(0)
    size, num = case.size, case.batch

    def blurred(channels: int) -> torch.Tensor:
        noise = torch.rand(num, channels, size[0] // 8, size[1] // 8, generator=draw)
        return F.interpolate(noise, size, mode="bilinear", align_corners=False)

    height, width = size
    K = torch.tensor([[0.58 * width, 0, width / 2], [0, 1.92 * height, height / 2], [0, 0, 1]])
    batch: Any = {name: (blurred(3) * 255).byte() for name in case.objective.images}
    holes = torch.rand(num, 1, *size, generator=draw) < 0.1
    batch |= {
        "color_matrix": torch.eye(3, 4).expand(num, 3, 4).contiguous(),
        "depth": (1 + 8 * blurred(1)).masked_fill(holes, 0),
        "K": K.expand(num, 3, 3).contiguous(),
        "baseline_m": torch.full((num,), 0.54),
    }
    moved = {name: value.to(device) for name, value in batch.items()}
    return {"sample_id": [str(i) for i in range(num)], **moved}
