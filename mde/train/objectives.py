"""Training modes: what a step computes from a model and a batch, and the table OBJECTIVES.

An objective is a module that owns the networks, so that DDP wraps one thing. It takes a Batch on
the device and returns its loss terms, of which `loss` is differentiated.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde import geometry, photometric
from mde.losses import LOSSES
from mde.schema import Batch


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


@dataclass(frozen=True)
class SelfSupervisedConfig:
    """mode: `m` neighbouring frames, `s` the stereo image, `ms` both."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kind: Literal["self_supervised"]
    mode: Literal["m", "s", "ms"]
    smoothness: float = 1e-3
    automask: bool = True

    @property
    def images(self) -> tuple[str, ...]:
        """Batch keys of the images that it needs, the target first."""
        neighbours = ("image_prev", "image_next") if "m" in self.mode else ()
        return ("image", *neighbours, *(("image_stereo",) if "s" in self.mode else ()))


class SelfSupervised(nn.Module):
    """monodepth2: the target is synthesized from other views (arXiv:1806.01260).

    The batch needs the images of `config.images`, `color_matrix`, `K`, and `baseline_m` for
    stereo. Everything is in metres: the pose network's model units are converted.
    """

    def __init__(
        self, config: SelfSupervisedConfig, model: nn.Module, pose: nn.Module | None
    ) -> None:
        super().__init__()
        if "m" in config.mode and pose is None:
            raise ValueError(f"mode '{config.mode}' needs a pose network")
        self.config = config
        self.model: Any = model
        self.pose = pose if "m" in config.mode else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`, `photometric`, `smoothness` and `automask`, the share of used pixels."""
        images = {key: to_float(batch[key]) for key in self.config.images}  # type: ignore[literal-required]
        inputs = {key: jitter(image, batch["color_matrix"]) for key, image in images.items()}
        natives = self.model(inputs["image"])
        motions = self.source_motions(inputs)
        with torch.autocast(natives[0].device.type, enabled=False):
            poses = self.source_poses(motions, batch)
            target, *others = images.values()
            sources = torch.stack(others, 1)
            return self.view_synthesis(natives, target, sources, poses, batch["K"])

    def source_motions(self, inputs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the pose network sees from previous to target and from target to next frame."""
        if self.pose is None:
            return []
        target = inputs["image"]
        # Pairs are in temporal order, as in training of the published weights.
        return [self.pose(inputs["image_prev"], target), self.pose(target, inputs["image_next"])]

    def source_poses(self, motions: list[tuple[Tensor, Tensor]], batch: Batch) -> Tensor:
        """T_source_target (B,S,4,4), translations in m, in the order of `config.images`."""
        poses = [
            geometry.pose_to_T(rotation.float(), translation.float() * self.model.metres_per_unit)
            for rotation, translation in motions
        ]
        if poses:
            # The first motion leads from the source to the target.
            poses[0] = geometry.invert_T(poses[0])
        if "s" in self.config.mode:
            poses.append(geometry.stereo_T(batch["baseline_m"]))
        return torch.stack(poses, 1)

    def view_synthesis(
        self, natives: list[Tensor], target: Tensor, sources: Tensor, poses: Tensor, K: Tensor
    ) -> dict[str, Tensor]:
        """The loss terms of all scales; every scale is warped at full resolution (sec. 3.2)."""
        error_of = photometric.PhotometricError(target)
        identity = error_of(sources) if self.config.automask else None
        terms: dict[str, list[Tensor]] = {"photometric": [], "smoothness": [], "automask": []}
        for scale, native in enumerate(natives):
            full = F.interpolate(
                native.float(), target.shape[-2:], mode="bilinear", align_corners=False
            )
            warped = geometry.warp(sources, self.model.native_to_depth(full), K, poses)
            photometric_term, mask = photometric.min_reprojection(error_of(warped), identity)
            small = F.interpolate(target, native.shape[-2:], mode="area")
            terms["photometric"].append(photometric_term)
            terms["smoothness"].append(photometric.smoothness(native.float(), small) / 2**scale)
            terms["automask"].append(mask.float().mean())
        means = {name: torch.stack(values).mean() for name, values in terms.items()}
        loss = means["photometric"] + self.config.smoothness * means["smoothness"]
        return {"loss": loss, **means}


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


def to_float(image: Tensor) -> Tensor:
    """uint8 (B,3,H,W) → float32 in [0,1]."""
    # Batches come channels last; the losses are faster on planes.
    return image.to(torch.float32, memory_format=torch.contiguous_format) / 255


def jitter(image: Tensor, color_matrix: Tensor) -> Tensor:
    """Apply a (B,3,4) colour matrix to images (B,3,H,W) in [0,1]."""
    mixed = torch.einsum("bij,bjhw->bihw", color_matrix[:, :, :3], image)
    return (mixed + color_matrix[:, :, 3, None, None]).clamp(0, 1)
