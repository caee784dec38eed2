"""Which part of a depth map is judged, and at which size: crops, views and resizing of evaluations.

Sources: `garg`, Garg et al. 2016 (arXiv:1603.04992); `eigen_nyu`, Eigen et al. 2014
(arXiv:1406.2283); `densedepth`, Alhashim and Wonka 2018 (arXiv:1812.11941); the view of FastDepth,
Wofk et al. 2019 (arXiv:1903.03273); KITTI's 352x1216, Uhrig et al. 2017 (arXiv:1708.06500).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Crop = Literal["none", "garg", "eigen_nyu", "densedepth"]
Kind = Literal["depth", "disparity"]

KB_CROP = 352, 1216
FASTDEPTH_SIZE = 224, 224


def crop_box(crop: Crop, height: int, width: int) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right) that a crop keeps of an image."""
    if crop == "garg":
        return (
            int(0.40810811 * height), int(0.99189189 * height),
            int(0.03594771 * width), int(0.96405229 * width),
        )  # fmt: skip
    if crop in ("eigen_nyu", "densedepth"):
        if (height, width) != (480, 640):
            raise ValueError(f"crop '{crop}' is defined at 480x640, found {height}x{width}")
        return (45, 471, 41, 601) if crop == "eigen_nyu" else (20, 460, 24, 616)
    return 0, height, 0, width


def resize_prediction(pred: Tensor, size: tuple[int, int], kind: Kind, resized: Kind) -> Tensor:
    """A prediction (h,w) of a kind → depth (H,W); the `resized` kind is what is interpolated."""
    if kind != resized and pred.shape != size:
        pred, kind = 1 / pred, resized
    if pred.shape != size:
        # In float64: in float32 its positions are a thousandth of a pixel off those of OpenCV,
        # with which published numbers were made.
        wide = pred[None, None].double()
        wide = F.interpolate(wide, size, mode="bilinear", align_corners=False)
        pred = wide[0, 0].to(pred.dtype)
    return 1 / pred if kind == "disparity" else pred


def fastdepth_view(depth: Tensor) -> Tensor:
    """Depth (H,W) → its central part at 224x224, as FastDepth's validation sees it.

    To 250 rows, the central 228x304, to 224x224; always the nearest pixel. A map of 224x224 is
    taken for one that has been through this. Source: Wofk et al. 2019, arXiv:1903.03273.
    """
    if depth.shape == FASTDEPTH_SIZE:
        return depth
    height, width = depth.shape
    rows = _nearest(228, 224) + 11
    columns = _nearest(304, 224) + 14
    return depth[_nearest(height, 250)[rows]][:, _nearest(width, width * 250 // height)[columns]]


def fastdepth_box(height: int, width: int) -> tuple[int, int, int, int]:
    """The central part of an image that `fastdepth_view` keeps: top, bottom, left, right, px."""
    bounds = (11 / 250 * height, 239 / 250 * height, 14 / 333 * width, 318 / 333 * width)
    top, bottom, left, right = (round(bound) for bound in bounds)
    return top, bottom, left, right


def _nearest(old: int, new: int) -> Tensor:
    """Which of `old` pixels each of `new` pixels takes."""
    return ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new).long()


def paste_kb_crop(pred: Tensor, size: tuple[int, int]) -> Tensor:
    """A prediction of 352x1216 at the middle of the lower border of a map of `size` (H,W)."""
    height, width = size
    if height < KB_CROP[0] or width < KB_CROP[1]:
        raise ValueError(f"a prediction of 352x1216 does not fit into {height}x{width}")
    top, left = height - KB_CROP[0], (width - KB_CROP[1]) // 2
    # Outside lies nothing that the Garg crop keeps.
    whole = torch.ones(size, dtype=pred.dtype, device=pred.device)
    whole[top : top + KB_CROP[0], left : left + KB_CROP[1]] = pred
    return whole
