"""Depth models: one file a family, and the table that builds them."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import nn

from mde.models.densedepth import DenseDepth
from mde.models.depth_model import DepthModel
from mde.models.eigen import Eigen
from mde.models.encoders import Weights, check_encoder
from mde.models.fastdepth import FastDepth
from mde.models.monodepth2 import DisparityDecoder, Monodepth2, PoseNetwork
from mde.models.resfpn import ResFpn

__all__ = ["FAMILIES", "DepthModel", "ModelConfig", "build_mask", "build_model", "build_pose"]

# A family's constructor names the settings of ModelConfig that it has.
FAMILIES: dict[str, type[DepthModel]] = {
    "densedepth": DenseDepth,
    "eigen": Eigen,
    "fastdepth": FastDepth,
    "monodepth2": Monodepth2,
    "resfpn": ResFpn,
}


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and the range of its depth. A setting that a family lacks is refused.

    min_depth, max_depth: model units (metres unless `metres_per_unit` says otherwise).
    metres_per_unit: monodepth2 works in units of its own; 5.4 m for its published weights.
    metric: monodepth2; false when training gives depth up to scale only (monocular videos).
    width: densedepth: multiplies the decoder's channels; eigen: all channels and the fully
        connected layers. 1 is the published network.
    downsample: densedepth; max-pooling of the image, a power of two; 4 is the quarter network.
    inverse: densedepth; the network's map is max_depth / depth; false: depth in m.
    input_size: eigen; H, W that its fully connected layers are made for; 228x304 when not given.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    family: str
    encoder: str
    weights: Weights = "imagenet"
    min_depth: float = 1e-3
    max_depth: float = 10.0
    metres_per_unit: float = 1.0
    metric: bool = True
    width: float = 1.0
    downsample: int = 1
    inverse: bool = True
    input_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family '{self.family}'; known: {_listing(FAMILIES)}")
        self._check_encoder()
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(
                f"0 < min_depth < max_depth must hold, found {self.min_depth}, {self.max_depth}"
            )
        for name in ("metres_per_unit", "width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        if self.downsample < 1 or self.downsample & (self.downsample - 1):
            raise ValueError(f"downsample must be 1, 2, 4, 8, …, found {self.downsample}")
        if self.input_size is not None and min(self.input_size) < 1:
            raise ValueError(f"input_size must be two positive numbers, found {self.input_size}")
        self._check_settings()

    def _check_encoder(self) -> None:
        check_encoder(self.encoder)
        only = FAMILIES[self.family].only_encoder
        if only not in (None, self.encoder):
            raise ValueError(
                f"the encoder of family '{self.family}' is '{only}', found '{self.encoder}'"
            )

    def _check_settings(self) -> None:
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default and field.name not in settings_of(self.family):
                having = _listing(f for f in FAMILIES if field.name in settings_of(f))
                raise ValueError(
                    f"family '{self.family}' has no setting '{field.name}', found {value}; "
                    f"families that have it: {having}"
                )


def settings_of(family: str) -> tuple[str, ...]:
    """Names of the settings of ModelConfig that a family has."""
    return tuple(inspect.signature(FAMILIES[family]).parameters)


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def build_model(config: ModelConfig) -> DepthModel:
    """Build the depth model; raises InputError when ImageNet weights cannot be had."""
    settings = {name: getattr(config, name) for name in settings_of(config.family)}
    return FAMILIES[config.family](**settings)


def build_pose(config: ModelConfig) -> PoseNetwork:
    """Build the pose network of self-supervised training: ResNet-18, whatever the depth encoder."""
    return PoseNetwork("resnet18", config.weights)


def build_mask(model: nn.Module, num_sources: int) -> DisparityDecoder:
    """Build the network of the predictive mask of self-supervised training.

    It reads the features of `model.encoder`: a list of five maps → the maps of four scales
    (B,num_sources,H/2^s,W/2^s) in [0,1], 1 where a source explains the target.
    Raises ValueError for a model that is not monodepth2.
    """
    if not isinstance(model, Monodepth2):
        raise ValueError(
            f"a predictive mask goes with monodepth2, found a {type(model).__name__} model"
        )
    return DisparityDecoder(model.encoder.channels, num_sources)
