"""Supervised training: depth regression against ground truth."""

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.losses import LOSSES, Loss, mirror_below
from mde.schema import Batch
from mde.train.objectives.images import jitter, to_float
from mde.train.objectives.objective import Objective


@dataclass(frozen=True)
class SupervisedConfig:
    """How predictions and ground truth are compared.

    loss: a name of `mde.losses.LOSSES`. silog_lambda: of the loss `silog`, 0 to 1.
    space: `depth` in m, or `inverse`, where both become model.max_depth / depth.
    at: `target` resizes the prediction to the ground truth; `native` averages the ground truth
    over its valid pixels down to the prediction's size.
    freeze_encoder: train the decoder alone; the encoder's batch norm stays in eval mode.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kind: Literal["supervised"]
    loss: str = "l1"
    silog_lambda: float = 0.5
    space: Literal["depth", "inverse"] = "depth"
    at: Literal["target", "native"] = "target"
    freeze_encoder: bool = False

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss '{self.loss}'; known: {', '.join(sorted(LOSSES))}")
        if not 0 <= self.silog_lambda <= 1:
            raise ValueError(f"silog_lambda must be 0 to 1, found {self.silog_lambda}")
        if self.loss != "silog" and self.silog_lambda != type(self).silog_lambda:
            raise ValueError(
                f"silog_lambda belongs to the loss 'silog', found {self.silog_lambda} with the "
                f"loss '{self.loss}'; remove it or set `loss: silog`"
            )

    @property
    def images(self) -> tuple[str, ...]:
        """Batch keys of the images that it needs."""
        return ("image",)


class Supervised(Objective):
    """Depth regression.

    The batch needs `image`, `color_matrix` and `depth` (m, 0 = invalid).
    """

    def __init__(self, config: SupervisedConfig, model: nn.Module, pose: nn.Module | None) -> None:
        super().__init__(model, config.freeze_encoder)
        self.config = config
        self.loss = self._bind_loss()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`; raises ValueError when the model has no native map `self.output`."""
        native = self.predict_native(jitter(to_float(batch["image"]), batch["color_matrix"]))
        with torch.autocast(native.device.type, enabled=False):
            # Into the space of the loss first: what is resized is then what the loss compares.
            pred = self.to_space(self.model.native_to_depth(native.float()))
            valid = batch["depth"] > 0
            target = self.target_to_space(batch["depth"])
            if self.config.at == "native":
                target, valid = masked_area(target, valid, pred.shape[-2:])
            elif pred.shape != target.shape:
                # Upsampled, so that every pixel of the ground truth is used.
                pred = F.interpolate(pred, target.shape[-2:], mode="bilinear", align_corners=False)
            return {"loss": self.loss(pred, target, valid)}

    def predict_native(self, image: Tensor) -> Tensor:
        """The native map that the stage trains; raises ValueError when there is none."""
        natives: list[Tensor] = self.model(image)
        if self.output >= len(natives):
            raise ValueError(
                f"output: the model has {len(natives)} native maps, numbered from 0; "
                f"found {self.output}"
            )
        return natives[self.output]

    def maps(self, batch: Batch) -> dict[str, Tensor]:
        """See `explain`: `image`, `depth` (B,1,H,W) in m, not clamped, of the target's size.

        With depth in the batch also `target`, and `error`: |depth - target| / target, 0 where
        nothing is known. Without it, `depth` has the size of the image.
        """
        image, target = to_float(batch["image"]), batch.get("depth")
        native = self.predict_native(jitter(image, batch["color_matrix"])).float()
        size = image.shape[-2:] if target is None else target.shape[-2:]
        native = F.interpolate(native, list(size), mode="bilinear", align_corners=False)
        depth = self.model.native_to_depth(native)
        if target is None:
            return {"image": image, "depth": depth}
        known = target > 0
        error = (depth - target).abs() / torch.where(known, target, 1.0)
        error = torch.where(known, error, 0.0)
        return {"image": image, "depth": depth, "target": target, "error": error}

    def to_space(self, depth: Tensor) -> Tensor:
        """Depth (B,1,h,w) in m → what the loss compares."""
        if self.config.space == "depth":
            return depth
        # A head without an activation gives depths of 0 and less, whose inverse means nothing.
        return mirror_below(self.model.min_depth, lambda d: self.model.max_depth / d, depth)

    def target_to_space(self, target: Tensor) -> Tensor:
        """Ground truth (B,1,H,W) in m → what the loss compares; nonsense where it is invalid."""
        if self.config.space == "depth":
            return target
        return self.model.max_depth / target.clamp(self.model.min_depth, self.model.max_depth)

    def _bind_loss(self) -> Loss:
        loss = LOSSES[self.config.loss]
        if self.config.loss == "silog":
            return functools.partial(loss, lam=self.config.silog_lambda)
        if self.config.loss == "densedepth":
            inverse = self.config.space == "inverse"
            data_range = self.model.max_depth / (self.model.min_depth if inverse else 1.0)
            return functools.partial(loss, data_range=data_range)
        return loss


def masked_area(values: Tensor, valid: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Average (B,1,H,W) values over the valid pixels of each cell of a grid of `size`.

    Returns the averages, 0 in cells without a valid pixel, and which cells have one.
    """
    height, width = size
    total = F.adaptive_avg_pool2d(torch.where(valid, values, 0.0), (height, width))
    share = F.adaptive_avg_pool2d(valid.float(), (height, width))
    cells = share > 0
    return torch.where(cells, total / torch.where(cells, share, 1.0), 0.0), cells
