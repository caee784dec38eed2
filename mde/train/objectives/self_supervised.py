"""Self-supervised training: the target image is synthesized from other views."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde import geometry, photometric
from mde.schema import Batch
from mde.train.objectives.images import jitter, to_float


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
