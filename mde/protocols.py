"""Named, versioned evaluation protocols: what exactly a published number means.

A protocol fixes the mask, the crop, the depth cap, the scaling and the averaging. Numbers of
different protocols are never comparable; a protocol that changes gets a new version.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mde.metrics import depth_metrics

Crop = Literal["none", "garg", "eigen_nyu"]
Scaling = Literal["none", "median"]


@dataclass(frozen=True)
class Protocol:
    """One way to compare a predicted with a true depth map.

    min_depth, max_depth: metres; ground truth outside is masked, predictions are clipped to them.
    crop: `garg` (KITTI, Garg et al. 2016), `eigen_nyu` ([45:471, 41:601] of 480x640) or `none`.
    scaling: `median` multiplies each prediction by median(target) / median(pred).
    Averages are over images: each image counts the same.
    """

    name: str
    version: int
    min_depth: float
    max_depth: float
    crop: Crop
    scaling: Scaling

    @property
    def id(self) -> str:
        """Name and version, as it is logged with every number."""
        return f"{self.name}@{self.version}"

    def valid_mask(self, target: Tensor) -> Tensor:
        """(H,W) bool: pixels of `target` (H,W, m) that count."""
        valid = (target > self.min_depth) & (target < self.max_depth)
        top, bottom, left, right = crop_box(self.crop, *target.shape)
        inside = torch.zeros_like(valid)
        inside[top:bottom, left:right] = True
        return valid & inside

    def compare(self, pred: Tensor, target: Tensor) -> dict[str, float]:
        """Metrics of one image, and under median scaling the `scale` that was applied.

        pred, target: (H,W) depth in m at the ground truth's size; target 0 = unknown.
        Raises ValueError when no pixel of the target counts.
        """
        valid = self.valid_mask(target)
        scale = 1.0
        if self.scaling == "median" and bool(valid.any()):
            scale = float(_median(target[valid]) / _median(pred[valid]))
        pred = (pred * scale).clamp(self.min_depth, self.max_depth)
        return {**depth_metrics(pred, target, valid), "scale": scale}


def _median(values: Tensor) -> Tensor:
    # torch.median takes the lower of the two middle values; published numbers take their mean.
    ordered = values.sort().values
    middle = (len(ordered) - 1) // 2
    return ordered[[middle, len(ordered) // 2]].double().mean()


def crop_box(crop: Crop, height: int, width: int) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right) that a crop keeps of an image."""
    if crop == "garg":
        return (
            int(0.40810811 * height), int(0.99189189 * height),
            int(0.03594771 * width), int(0.96405229 * width),
        )  # fmt: skip
    if crop == "eigen_nyu":
        if (height, width) != (480, 640):
            raise ValueError(f"crop 'eigen_nyu' is defined at 480x640, found {height}x{width}")
        return 45, 471, 41, 601
    return 0, height, 0, width


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("nyu_labeled", 1, 1e-3, 10.0, "none", "none"),
        Protocol("nyu_eigen", 1, 1e-3, 10.0, "eigen_nyu", "none"),
        # Stereo-trained models are metric, so nothing is scaled.
        Protocol("kitti_eigen_stereo", 1, 1e-3, 80.0, "garg", "none"),
        Protocol("kitti_eigen_mono", 1, 1e-3, 80.0, "garg", "median"),
    )
}
