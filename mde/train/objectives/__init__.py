"""Training modes: what a step computes from a model and a batch, and the table OBJECTIVES.

An objective is a module that owns the networks, so that DDP wraps one thing. It takes a Batch on
the device and returns its loss terms, of which `loss` is differentiated.
"""

from typing import Any

from torch import nn

from mde.train.objectives.self_supervised import SelfSupervised, SelfSupervisedConfig
from mde.train.objectives.supervised import Supervised, SupervisedConfig

__all__ = [
    "OBJECTIVES",
    "ObjectiveConfig",
    "SelfSupervised",
    "SelfSupervisedConfig",
    "Supervised",
    "SupervisedConfig",
    "build_objective",
]

ObjectiveConfig = SupervisedConfig | SelfSupervisedConfig
OBJECTIVES: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "supervised": (SupervisedConfig, Supervised),
    "self_supervised": (SelfSupervisedConfig, SelfSupervised),
}


def build_objective(
    config: ObjectiveConfig, model: nn.Module, pose: nn.Module | None = None
) -> nn.Module:
    """Build a training mode around a depth model and, where it needs one, a pose network."""
    return OBJECTIVES[config.kind][1](config, model, pose)
