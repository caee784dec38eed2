"""Depth models: one file a family, and the table that builds them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from mde.models.depth_model import DepthModel
from mde.models.encoders import ENCODERS, Weights
from mde.models.monodepth2 import Monodepth2, PoseNetwork
from mde.models.resfpn import ResFpn

__all__ = ["FAMILIES", "DepthModel", "ModelConfig", "build_model", "build_pose"]


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and the range of its depth.

    min_depth, max_depth: model units (metres unless `metres_per_unit` says otherwise).
    metres_per_unit: monodepth2 works in units of its own; 5.4 m for its published weights.
    metric: false when the training gives depth up to scale only (monocular videos).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    family: str
    encoder: str
    weights: Weights = "imagenet"
    min_depth: float = 1e-3
    max_depth: float = 10.0
    metres_per_unit: float = 1.0
    metric: bool = True

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family; known: {', '.join(sorted(FAMILIES))}")
        if self.encoder not in ENCODERS:
            raise ValueError(f"unknown encoder; known: {', '.join(sorted(ENCODERS))}")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(
                f"0 < min_depth < max_depth must hold, found {self.min_depth}, {self.max_depth}"
            )
        if self.metres_per_unit <= 0:
            raise ValueError(f"metres_per_unit must be positive, found {self.metres_per_unit}")


def _monodepth2(config: ModelConfig) -> DepthModel:
    return Monodepth2(
        config.encoder,
        config.weights,
        config.min_depth,
        config.max_depth,
        config.metres_per_unit,
        config.metric,
    )


def _resfpn(config: ModelConfig) -> DepthModel:
    return ResFpn(config.encoder, config.weights, config.min_depth, config.max_depth)


FAMILIES: dict[str, Callable[[ModelConfig], DepthModel]] = {
    "monodepth2": _monodepth2,
    "resfpn": _resfpn,
}


def build_model(config: ModelConfig) -> DepthModel:
    """Build the depth model; raises ValueError for an unknown encoder or missing weights."""
    return FAMILIES[config.family](config)


def build_pose(config: ModelConfig) -> PoseNetwork:
    """Build the pose network of self-supervised training: ResNet-18, whatever the depth encoder."""
    return PoseNetwork("resnet18", config.weights)
