"""Training modes: what a step computes from a model and a batch, and the table OBJECTIVES.

An objective is a module that owns the networks, so that DDP wraps one thing. It takes a Batch on
the device and returns its loss terms, of which `loss` is differentiated.
"""

from typing import Any

from torch import nn

from mde.train.objectives.objective import Objective
from mde.train.objectives.self_supervised import SelfSupervised, SelfSupervisedConfig
from mde.train.objectives.supervised import Supervised, SupervisedConfig

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ObjectiveConfig",
    "SelfSupervised",
    "SelfSupervisedConfig",
    "Supervised",
    "SupervisedConfig",
    "build_objective",
]

ObjectiveConfig = SupervisedConfig | SelfSupervisedConfig
OBJECTIVES: dict[str, tuple[type[Any], type[Any]]] = {
    "supervised": (SupervisedConfig, Supervised),
    "self_supervised": (SelfSupervisedConfig, SelfSupervised),
}


def build_objective(
    config: ObjectiveConfig,
    model: nn.Module,
    pose: nn.Module | None = None,
    mask: nn.Module | None = None,
) -> Objective:
    """Build a training mode around a depth model.

    pose, mask: networks of the self-supervised mode, where `config.needs_pose` and
    `config.needs_mask` ask for them. Raises ValueError when one that is needed is missing.
    """
    if isinstance(config, SelfSupervisedConfig):
        return SelfSupervised(config, model, pose, mask)
    return Supervised(config, model, None)
