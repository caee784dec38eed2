"""Named, versioned evaluation protocols: what exactly a published number means.

A protocol fixes ground truth, mask, crop, cap, scaling, flip, size and averaging. Numbers of
different protocols are never comparable; a protocol that changes gets a new version.
"""

import difflib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mde.crops import (
    KB_CROP,
    Crop,
    Kind,
    crop_box,
    fastdepth_view,
    paste_kb_crop,
    resize_prediction,
)
from mde.errors import InputError
from mde.metrics import METRICS, Averaging, bin_metrics, bin_names, depth_metrics
from mde.schema import Flip
from mde.structure import structure_metrics, structure_names

Scaling = Literal["none", "median", "stereo"]
Mask = Literal["range", "positive"]

STEREO_UNIT_M = 5.4
"""Metres per unit of networks that are trained with a stereo baseline of 0.1 units (0.54 m)."""
KITTI_BINS, NYU_BINS = (0.0, 25.0, 50.0, 75.0, 100.0), (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
NUM_ERROR_BINS = 200


@dataclass(frozen=True)
class Protocol:
    """One way to compare a predicted with a true depth map.

    min_depth, max_depth: m; predictions are clipped to them. mask: with `range`, ground truth
    counts between them, both excluded; with `positive`, wherever it is known.
    crop: `garg` (KITTI, Garg et al. 2016), `eigen_nyu` ([45:471, 41:601] of 480x640), `densedepth`
    ([20:460, 24:616] of 480x640) or `none`.
    scaling: `median` multiplies each prediction by median(target) / median(pred); `stereo` takes
    predictions that are not in metres as units of 5.4 m.
    resize: what is resized, bilinearly, when a prediction has not the size of the ground truth.
    fastdepth_view: only the central 91 % of the image are seen and judged, at 224x224.
    kb_crop: predictions of 352x1216 px belong to the middle of the ground truth's lower border.
    flip: what a model's prediction is joined with that of the mirrored image; `mean` of depths, or
    `ramp`, where each has the border that it sees better (Godard et al. 2017, arXiv:1609.03677).
    averaging: `image`, each counts the same, or `pixel`. swapped: relative errors are divided by
    the prediction, as a published evaluator does.
    ground_truth: what numbers under this name are measured against.
    data_ranges: of SSIM, m; none where ground truth is too sparse for structure. bins: edges of
    ranges of true depth, m. error_limit: of the error histogram, m.
    """

    name: str
    version: int
    min_depth: float
    max_depth: float
    crop: Crop
    scaling: Scaling
    ground_truth: str = ""
    mask: Mask = "range"
    resize: Kind = "depth"
    flip: Flip = "none"
    averaging: Averaging = "image"
    swapped: bool = False
    fastdepth_view: bool = False
    kb_crop: bool = False
    depth_png_scale: float = 1000.0
    data_ranges: tuple[float, ...] = ()
    bins: tuple[float, ...] = ()
    error_limit: float = 5.0

    @property
    def id(self) -> str:
        """Name and version, as it is logged with every number."""
        return f"{self.name}@{self.version}"

    @property
    def names(self) -> list[str]:
        """Names of the metrics of an image: METRICS, then structure, then bins."""
        structure = structure_names(self.data_ranges) if self.data_ranges else []
        return [*METRICS, *structure, *bin_names(self.bins)]

    @property
    def metres_per_unit(self) -> float:
        """Of predictions that are not in metres."""
        return STEREO_UNIT_M if self.scaling == "stereo" else 1.0

    @property
    def error_edges(self) -> Tensor:
        """Edges (201,) of the bins of signed errors, m."""
        limit = self.error_limit
        return torch.linspace(-limit, limit, NUM_ERROR_BINS + 1, dtype=torch.float64)

    def valid_mask(self, target: Tensor) -> Tensor:
        """(H,W) bool: pixels of `target` (H,W, m) that count."""
        if self.mask == "range":
            valid = (target > self.min_depth) & (target < self.max_depth)
        else:
            valid = (target > 0) & torch.isfinite(target)
        top, bottom, left, right = crop_box(self.crop, *target.shape)
        inside = torch.zeros_like(valid)
        inside[top:bottom, left:right] = True
        return valid & inside

    def view_target(self, target: Tensor) -> Tensor:
        """The part of a ground truth (H,W), and the size of it, that is judged."""
        return fastdepth_view(target) if self.fastdepth_view else target

    def fit(self, pred: Tensor, size: tuple[int, int], kind: Kind = "depth") -> Tensor:
        """A prediction (h,w), depth or disparity, as depth of the size of what is judged.

        size: (H,W) of the ground truth that `view_target` gave.
        """
        if self.fastdepth_view:
            pred = fastdepth_view(pred)
        if self.kb_crop and pred.shape == KB_CROP != size:
            pred = paste_kb_crop(pred, size)
        return resize_prediction(pred, size, kind, self.resize)

    def align(self, pred: Tensor, target: Tensor, metres_per_unit: float = 1.0) -> "Aligned":
        """Mask, scale and clip.

        pred, target: (H,W) depth at the size of what is judged, target in m, 0 = unknown.
        metres_per_unit: of pred. Raises ValueError for a target of another size, and when a
        prediction is not a number at a pixel that counts.
        """
        if pred.shape != target.shape:
            shapes = f"{tuple(pred.shape)} and {tuple(target.shape)}"
            raise ValueError(f"prediction and ground truth have different sizes: {shapes}")
        valid = self.valid_mask(target)
        # Where nothing is valid, `metrics` says so.
        if bool(torch.isnan(pred[valid]).any()):
            raise ValueError(f"{int(torch.isnan(pred[valid]).sum())} predicted pixels are NaN")
        scale = metres_per_unit
        if self.scaling == "median" and bool(valid.any()):
            scale = float(_median(target[valid]) / _median(pred[valid]))
            if not 0 < scale < float("inf"):
                raise ValueError("median scaling needs predictions with a positive, finite median")
        scaled = pred * scale
        clipped = scaled.clamp(self.min_depth, self.max_depth)
        return Aligned(self, clipped, target, valid, scale, scaled)

    def compare(
        self, pred: Tensor, target: Tensor, metres_per_unit: float = 1.0
    ) -> dict[str, float | None]:
        """What `Aligned.metrics` gives of what `align` gives; raises as both do."""
        return self.align(pred, target, metres_per_unit).metrics()


@dataclass(frozen=True)
class Aligned:
    """A prediction as a protocol sees it.

    pred: (H,W) depth in m, scaled and clipped; target: (H,W), valid: (H,W) bool. scale: what the
    prediction was multiplied with. unclipped: (H,W).
    """

    protocol: Protocol
    pred: Tensor
    target: Tensor
    valid: Tensor
    scale: float
    unclipped: Tensor

    def metrics(self) -> dict[str, float | None]:
        """All metrics of the protocol by name; `scale`, `clipped`, `pixels` and `log_bias`.

        clipped: the share of valid pixels whose prediction was outside the protocol's range.
        Raises ValueError when no pixel of the target counts.
        """
        of = self.protocol
        pair = (self.target, self.pred) if of.swapped else (self.pred, self.target)
        values: dict[str, float | None] = {**depth_metrics(*pair, self.valid)}
        if of.data_ranges:
            top, bottom, left, right = crop_box(of.crop, *self.target.shape)
            pred, target, valid = (
                x[top:bottom, left:right] for x in (self.pred, self.target, self.valid)
            )
            values |= structure_metrics(pred, target, valid, of.data_ranges)
        values |= bin_metrics(self.pred, self.target, self.valid, of.bins)
        clipped = (self.unclipped != self.pred)[self.valid].double().mean()
        return {**values, "scale": self.scale, "clipped": float(clipped)}

    def error_histogram(self) -> Tensor:
        """Counts (200,) int64 of valid pixels by signed error; beyond the limit, at the ends."""
        limit = self.protocol.error_limit
        error = (self.pred - self.target)[self.valid].double()
        bins = ((error + limit) * (NUM_ERROR_BINS / (2 * limit))).floor().long()
        return torch.bincount(bins.clamp(0, NUM_ERROR_BINS - 1), minlength=NUM_ERROR_BINS)


def _median(values: Tensor) -> Tensor:
    # torch.median takes the lower of the two middle values; published numbers take their mean.
    ordered = values.sort().values
    middle = (len(ordered) - 1) // 2
    return ordered[[middle, len(ordered) // 2]].double().mean()


VELODYNE = "projected Velodyne points; published numbers have their forward distance as depth"
ANNOTATED = "annotated depth maps of the KITTI depth benchmark"


def _kitti(name: str, scaling: Scaling, **others: object) -> Protocol:
    settings: dict[str, object] = {
        "ground_truth": VELODYNE, "resize": "disparity", "depth_png_scale": 256.0,
        "bins": KITTI_BINS, "error_limit": 20.0, "crop": "garg", **others,
    }  # fmt: skip
    return Protocol(name, 1, 1e-3, 80.0, scaling=scaling, **settings)  # type: ignore[arg-type]


def _nyu(name: str, ground_truth: str, **others: object) -> Protocol:
    settings: dict[str, object] = {
        "crop": "none", "scaling": "none", "max_depth": 10.0, "bins": NYU_BINS,
        # 10 m is the depth range; 255 is the default of a library that published numbers have used.
        "data_ranges": (10.0, 255.0), **others,
    }  # fmt: skip
    return Protocol(name, 1, 1e-3, ground_truth=ground_truth, **settings)  # type: ignore[arg-type]


FILLED, RAW = "depth with filled holes", "raw depth of the sensor, holes left out"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        _kitti("kitti_eigen_mono", "median"),
        _kitti("kitti_eigen_mono_pp", "median", flip="ramp"),
        _kitti("kitti_eigen_stereo", "stereo"),
        _kitti("kitti_eigen_stereo_pp", "stereo", flip="ramp"),
        _kitti(
            "kitti_benchmark", "median", ground_truth=ANNOTATED, mask="positive", crop="none"
        ),
        _kitti(
            "kitti_benchmark_stereo", "stereo", ground_truth=ANNOTATED, mask="positive", crop="none"
        ),
        _kitti(
            "kitti_eigen_supervised", "none", ground_truth=ANNOTATED, kb_crop=True, resize="depth"
        ),
        _nyu("nyu_labeled", FILLED),
        _nyu("nyu_eigen", RAW, crop="eigen_nyu", flip="mean"),
        _nyu("nyu_eigen_median", RAW, crop="eigen_nyu", flip="mean", scaling="median"),
        _nyu("nyu_densedepth", FILLED, crop="densedepth", flip="mean", mask="positive"),
        # As the published evaluator counts: all pixels pooled, divided by the prediction.
        _nyu(
            "nyu_densedepth_pooled", FILLED, crop="densedepth", flip="mean", mask="positive",
            averaging="pixel", swapped=True,
        ),
        _nyu(
            "nyu_fastdepth", FILLED, fastdepth_view=True, mask="positive", max_depth=float("inf")
        ),
    )
}  # fmt: skip


def find_protocol(name: str) -> Protocol:
    """The protocol of a name such as `nyu_eigen`, or of an id such as `nyu_eigen@1`.

    Raises InputError that names the nearest one, and all of them.
    """
    found = PROTOCOLS.get(name.partition("@")[0])
    if found is None:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ";"
        raise InputError(f"no protocol '{name}'{hint} there are: {', '.join(PROTOCOLS)}")
    if "@" in name and name != found.id:
        raise InputError(f"protocol '{name}': this is another version; here it is {found.id}")
    return found
