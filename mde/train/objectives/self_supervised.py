"""Self-supervised training: the target image is synthesized from other views.

Source: Godard et al. 2019, arXiv:1806.01260, with the switches of its ablation (table 2).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde import geometry, photometric
from mde.schema import Batch
from mde.train.objectives.images import jitter, to_float
from mde.train.objectives.objective import Objective

Mode = Literal["m", "s", "ms"]
Multiscale = Literal["full", "native"]
MASK_WEIGHT = 0.2


@dataclass(frozen=True)
class SelfSupervisedConfig:
    """The defaults are monodepth2; every switch is a line of its paper's ablation.

    mode: `m` neighbouring frames, `s` the stereo image, `ms` both. smoothness: weight of that
    term. automask: leave out pixels that do not move. reprojection: `min` takes the best source
    of each pixel, `average` their mean. ssim: false leaves plain L1. predictive_mask: a network
    weights the sources' errors instead of the auto-mask (Zhou et al. 2017). multiscale: `full`
    compares every scale at the input's size, `native` at its own (monodepth v1).
    freeze_encoder: train everything but the depth encoder.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kind: Literal["self_supervised"]
    mode: Mode
    smoothness: float = 1e-3
    automask: bool = True
    reprojection: photometric.OverSources = "min"
    ssim: bool = True
    predictive_mask: bool = False
    multiscale: Multiscale = "full"
    freeze_encoder: bool = False

    def __post_init__(self) -> None:
        choices = {
            "mode": Mode,
            "reprojection": photometric.OverSources,
            "multiscale": Multiscale,
        }
        for key, kind in choices.items():
            found, allowed = getattr(self, key), get_args(kind)
            if found not in allowed:
                raise ValueError(f"{key}: found '{found}', allowed: {', '.join(allowed)}")
        if not 0 <= self.smoothness < float("inf"):
            raise ValueError(f"smoothness: found {self.smoothness}, allowed: 0 or more, finite")
        if self.predictive_mask and self.automask:
            raise ValueError("predictive_mask: found true, allowed: only with automask false")

    @property
    def images(self) -> tuple[str, ...]:
        """Batch keys of the images that it needs, the target first."""
        stereo = ("image_stereo",) if "s" in self.mode else ()
        return ("image", *self.neighbours, *stereo)

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Batch keys of the frames whose motion is predicted."""
        return ("image_prev", "image_next") if "m" in self.mode else ()

    @property
    def num_sources(self) -> int:
        """How many images the target is synthesized from."""
        return len(self.images) - 1

    @property
    def needs_pose(self) -> bool:
        """Whether a pose network trains along."""
        return bool(self.neighbours)

    @property
    def needs_mask(self) -> bool:
        """Whether a mask network trains along."""
        return self.predictive_mask


class Views:
    """The target and its sources at one size, and what depends on them alone.

    target: (B,3,H,W) and sources: (B,S,3,H,W) in [0,1]. K: (B,3,3), px at their size.
    """

    def __init__(
        self, target: Tensor, sources: Tensor, K: Tensor, config: SelfSupervisedConfig
    ) -> None:
        self.target, self.sources, self.K, self.config = target, sources, K, config
        self.size = target.shape[-2:]
        self.error_of = photometric.PhotometricError(target, config.ssim)
        self.identity = self.error_of(sources) if config.automask else None

    def shrunk(self, size: torch.Size) -> "Views":
        """The same at a smaller size (H, W); K follows."""
        if size == self.size:
            return self
        target, sources = shrink(self.target, size), shrink(self.sources, size)
        return Views(target, sources, geometry.resize_K(self.K, self.size, size), self.config)


class SelfSupervised(Objective):
    """monodepth2: the target is synthesized from other views.

    The batch needs the images of `config.images`, `color_matrix`, `K`, and `baseline_m` for
    stereo. Everything is in metres: the pose network's model units are converted.
    model: its native maps are disparities. pose: (earlier, later) → rotation vector, translation
    (B,3). mask: the features of `model.encoder` → masks (B,S,h,w) in [0,1] of the native maps'
    sizes. Raises ValueError when a network that the mode needs is missing.
    """

    def __init__(
        self,
        config: SelfSupervisedConfig,
        model: nn.Module,
        pose: nn.Module | None = None,
        mask: nn.Module | None = None,
    ) -> None:
        super().__init__(model, config.freeze_encoder)
        if config.needs_pose and pose is None:
            raise ValueError(f"mode '{config.mode}' needs a pose network")
        if config.needs_mask and mask is None:
            raise ValueError("predictive_mask needs a mask network")
        self.config = config
        # A network without a gradient would make DDP wait for it.
        self.pose = pose if config.needs_pose else None
        self.mask = mask if config.needs_mask else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`, `photometric`, `smoothness`, `automask` and, with a mask, `mask`.

        Scalars, means over scales; `automask` is the share of used pixels, `mask` the penalty.
        `photometric_0`, `smoothness_0`, …: what each scale adds to its mean, 0 the finest.
        """
        natives, masks, views, poses = self.see(batch)
        with torch.autocast(natives[0].device.type, enabled=False):
            return self.view_synthesis(natives, masks, views, poses)

    def see(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], Views, Tensor]:
        """What the networks make of a batch, and its images: the arguments of `view_synthesis`."""
        images = {key: to_float(batch[key]) for key in self.config.images}  # type: ignore[literal-required]
        seen = ("image", *self.config.neighbours)
        inputs = {key: jitter(images[key], batch["color_matrix"]) for key in seen}
        natives, masks = self.natives_and_masks(inputs["image"])
        motions = self.source_motions(inputs)
        with torch.autocast(natives[0].device.type, enabled=False):
            poses = self.source_poses(motions, batch)
            target, *sources = images.values()
            views = Views(target, torch.stack(sources, 1), batch["K"], self.config)
        return natives, masks, views, poses

    def maps(self, batch: Batch) -> dict[str, Tensor]:
        """See `explain`: `image` and `disparity` (B,1,H,W), the finest native map.

        With sources in the batch also `warped_prev`, `warped_next`, `warped_stereo` (B,3,H,W), the
        target as synthesized from each; `automask` (B,1,H,W) bool, True where the warped sources
        win, if it is switched on; `photometric` (B,1,H,W), their error, combined over sources.
        """
        if not all(key in batch for key in self.config.images):
            image = to_float(batch["image"])
            natives, _ = self.natives_and_masks(jitter(image, batch["color_matrix"]))
            return {"image": image, "disparity": natives[0].float()}
        natives, masks, views, poses = self.see(batch)
        disparity = natives[0].float()
        mask = enlarge(masks[0].float(), views.size) if masks else None
        warped, errors = self.reproject(disparity, mask, views, poses)
        shown = {"image": views.target, "disparity": disparity}
        for key, view in zip(self.config.images[1:], warped.unbind(1), strict=True):
            shown[key.replace("image", "warped")] = view
        over_sources = self.config.reprojection
        if views.identity is not None:
            _, used = photometric.reprojection_loss(errors, views.identity, over_sources)
            shown["automask"] = used.unsqueeze(1)
        return shown | {"photometric": photometric.combine(errors, over_sources).unsqueeze(1)}

    def natives_and_masks(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The native maps and, where there is a mask network, the masks of the same sizes."""
        if self.mask is None:
            return self.model(image), []
        self.model.check_size(image)
        # The mask network shares the depth encoder.
        features = self.model.encoder(image)
        return self.model.decoder(features), self.mask(features)

    def source_motions(self, inputs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the pose network sees from previous to target and from target to next frame."""
        if self.pose is None:
            return []
        target = inputs["image"]
        # Pairs are in temporal order, as in training of the published weights. One pass for both
        # would mix their batch norm statistics, which those weights were not trained with.
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
        self, natives: list[Tensor], masks: list[Tensor], views: Views, poses: Tensor
    ) -> dict[str, Tensor]:
        """The loss terms of `forward`. poses: T_source_target (B,S,4,4)."""
        terms: dict[str, list[Tensor]] = {"photometric": [], "smoothness": [], "automask": []}
        for scale, native in enumerate(natives):
            native, size = native.float(), native.shape[-2:]
            at = views if self.config.multiscale == "full" else views.shrunk(size)
            mask = enlarge(masks[scale].float(), at.size) if masks else None
            _, errors = self.reproject(native, mask, at, poses)
            error, used = photometric.reprojection_loss(
                errors, at.identity, self.config.reprojection
            )
            terms["photometric"].append(error)
            small = shrink(at.target, size)
            terms["smoothness"].append(photometric.smoothness(native, small) / 2**scale)
            terms["automask"].append(used.float().mean())
            if mask is not None:
                terms.setdefault("mask", []).append(photometric.mask_penalty(mask))
        means = {name: torch.stack(values).mean() for name, values in terms.items()}
        loss = means["photometric"] + self.config.smoothness * means["smoothness"]
        if masks:
            loss = loss + MASK_WEIGHT * means["mask"]
        scales = {
            f"{name}_{scale}": value.detach()
            for name in ("photometric", "smoothness")
            for scale, value in enumerate(terms[name])
        }
        return {"loss": loss, **means, **scales}

    def reproject(
        self, native: Tensor, mask: Tensor | None, views: Views, poses: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The target as synthesized from each source (B,S,3,H,W), and its errors (B,S,H,W).

        native: (B,1,h,w) of any size. mask: (B,S,H,W), weights of the errors.
        """
        depth = self.model.native_to_depth(enlarge(native, views.size))
        warped = geometry.warp(views.sources, depth, views.K, poses)
        errors = views.error_of(warped)
        return warped, errors if mask is None else errors * mask


def shrink(images: Tensor, size: torch.Size) -> Tensor:
    """Images (…,3,H,W) at a smaller size (h, w): every pixel is the mean of its area."""
    if images.shape[-2:] == size:
        return images
    flat = F.interpolate(images.flatten(0, -4), list(size), mode="area")
    return flat.view(*images.shape[:-2], *size)


def enlarge(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps (B,C,h,w) at a larger size (H, W), bilinear."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=False)
