"""Supervised training: depth regression against ground truth."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.losses import LOSSES
from mde.schema import Batch
from mde.train.objectives.images import jitter, to_float


@dataclass(frozen=True)
class SupervisedConfig:
    """`loss`: a name of `mde.losses.LOSSES`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kind: Literal["supervised"]
    loss: str = "l1"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss '{self.loss}'; known: {', '.join(sorted(LOSSES))}")

    @property
    def images(self) -> tuple[str, ...]:
        """Batch keys of the images that it needs."""
        return ("image",)


class Supervised(nn.Module):
    """Depth regression; the loss is taken at the ground truth's size.

    The batch needs `image`, `color_matrix` and `depth` (m, 0 = invalid).
    """

    def __init__(self, config: SupervisedConfig, model: nn.Module, pose: nn.Module | None) -> None:
        super().__init__()
        self.model: Any = model
        self.loss = LOSSES[config.loss]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`."""
        native = self.model(jitter(to_float(batch["image"]), batch["color_matrix"]))[0]
        with torch.autocast(native.device.type, enabled=False):
            depth = self.model.native_to_depth(native.float())
            target = batch["depth"]
            # Upsampled, so that every pixel of the ground truth is used.
            pred = F.interpolate(depth, target.shape[-2:], mode="bilinear", align_corners=False)
            return {"loss": self.loss(pred, target, target > 0)}
