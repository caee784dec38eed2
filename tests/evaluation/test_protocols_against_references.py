"""The numbers of `mde score` beside those of published evaluators, written anew with NumPy.

On arrays of the official sizes, with holes and values out of range.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mde.protocols import PROTOCOLS
from mde.score import Submission, guess_kind, score
from mde.score.map_files import Reading, open_maps

Maps = list[NDArray[Any]]
KITTI_SIZES = [(375, 1242), (370, 1226), (376, 1241)]
NYU_SIZE = 480, 640


def scored(
    folder: Path, preds: Any, targets: Maps, protocol: str, *, kind: str = "depth", **others: Any
) -> dict[str, Any]:
    """What `mde score` finds, through the files."""
    name = "disps.npy" if kind == "disparity" else "depths.npy"
    np.save(folder / name, preds)
    ragged = np.empty(len(targets), object)
    ragged[:] = targets
    np.savez(folder / "gt_depths.npz", data=ragged)
    if "flipped" in others:
        np.save(folder / "mirrored.npy", others["flipped"])
        others["flipped"] = open_maps(folder / "mirrored.npy", Reading(1))
    found = open_maps(folder / name, Reading(1))
    submission = Submission(found, guess_kind(folder / name), **others)
    truth = open_maps(folder / "gt_depths.npz", Reading(1))
    return score(submission, truth, PROTOCOLS[protocol]).summary


def agree(summary: dict[str, Any], expected: dict[str, float]) -> None:
    found = {name: summary["metrics"][name] for name in expected}
    assert found == pytest.approx(expected, rel=2e-6, abs=1e-9)


def random_kitti(seed: int) -> tuple[NDArray[np.float32], Maps]:
    """Disparities at network size and sparse depths; some zeros, and some beyond the range."""
    rng = np.random.default_rng(seed)
    disps = rng.uniform(0.008, 1, (len(KITTI_SIZES), 192, 640)).astype(np.float32)
    disps[:, ::50, ::50] = 0
    targets = []
    for size in KITTI_SIZES:
        depth = rng.uniform(0, 110, size).astype(np.float32)
        depth[rng.random(size) < 0.8] = 0
        targets.append(depth)
    return disps, targets


def random_nyu(seed: int, holes: float = 0.2) -> tuple[NDArray[np.float32], Maps]:
    rng = np.random.default_rng(seed)
    targets = rng.uniform(0.3, 12, (3, *NYU_SIZE)).astype(np.float32)
    preds = (targets * rng.uniform(0.6, 1.7, targets.shape)).astype(np.float32)
    targets[rng.random(targets.shape) < holes] = 0
    return preds, list(targets)


def published_errors(gt: NDArray[Any], pred: NDArray[Any]) -> dict[str, float]:
    """The usual numbers of Eigen et al. 2014, those of the KITTI benchmark, and log10."""
    ratio = np.maximum(gt / pred, pred / gt)
    log = np.log(pred) - np.log(gt)
    return {
        "abs_rel": np.mean(np.abs(gt - pred) / gt),
        "sq_rel": np.mean((gt - pred) ** 2 / gt),
        "rmse": np.sqrt(np.mean((gt - pred) ** 2)),
        "rmse_log": np.sqrt(np.mean(log**2)),
        "log10": np.mean(np.abs(np.log10(pred) - np.log10(gt))),
        "silog": 100 * np.sqrt(np.mean(log**2) - np.mean(log) ** 2),
        **{f"a{n}": np.mean(ratio < 1.25**n) for n in (1, 2, 3)},
    }


def mean_of(errors: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([e[name] for e in errors])) for name in errors[0]}


def garg(size: tuple[int, int]) -> NDArray[np.bool]:
    height, width = size
    inside = np.zeros(size, bool)
    inside[
        int(0.40810811 * height) : int(0.99189189 * height),
        int(0.03594771 * width) : int(0.96405229 * width),
    ] = True
    return inside


def monodepth2(
    disps: NDArray[Any], targets: Maps, eigen: bool, scale: float | None
) -> tuple[dict[str, float], list[float]]:
    """Godard et al. 2019: scale is that of stereo, or None for median scaling."""
    errors, ratios = [], []
    for disp, gt in zip(disps, targets, strict=True):
        with np.errstate(divide="ignore"):
            depth = 1 / cv2.resize(disp, gt.shape[::-1])
        mask = (gt > 1e-3) & (gt < 80) & garg(gt.shape) if eigen else gt > 0
        depth, gt = depth[mask], gt[mask]
        ratios.append(float(np.median(gt) / np.median(depth)))
        depth = np.clip(depth * (ratios[-1] if scale is None else scale), 1e-3, 80)
        errors.append(published_errors(gt, depth))
    return mean_of(errors), ratios


@pytest.mark.parametrize(
    ("name", "eigen"), [("kitti_eigen_mono", True), ("kitti_benchmark", False)]
)
def test_monodepth2_with_median_scaling_and_the_ratios_spread(
    tmp_path: Path, name: str, eigen: bool
):
    disps, targets = random_kitti(0)
    expected, ratios = monodepth2(disps, targets, eigen, None)
    summary = scored(tmp_path, disps, targets, name, kind="disparity")
    agree(summary, expected)
    median = np.median(ratios)
    spread = np.std(np.array(ratios) / median)
    assert summary["scale"] == pytest.approx({"median": median, "spread": spread}, 2e-6, 1e-7)


@pytest.mark.parametrize(
    ("name", "eigen"), [("kitti_eigen_stereo", True), ("kitti_benchmark_stereo", False)]
)
def test_monodepth2_with_the_stereo_scale(tmp_path: Path, name: str, eigen: bool):
    disps, targets = random_kitti(1)
    expected, _ = monodepth2(disps, targets, eigen, 5.4)
    summary = scored(tmp_path, disps, targets, name, kind="disparity")
    agree(summary, expected)
    assert summary["metres_per_unit"] == 5.4
    assert summary["clipped"] > 0


def test_monodepth_post_processing_of_mirrored_predictions(tmp_path: Path):
    rng = np.random.default_rng(2)
    disps, targets = random_kitti(2)
    mirrored = rng.uniform(0.01, 1, disps.shape).astype(np.float32)
    x = np.linspace(0, 1, disps.shape[2])
    left = 1 - np.clip(20 * (x - 0.05), 0, 1)
    right = left[::-1]
    back = mirrored[:, :, ::-1]
    joined = right * disps + left * back + (1 - left - right) * (disps + back) / 2
    expected, _ = monodepth2(joined, targets, True, None)
    given = {"kind": "disparity", "flipped": mirrored}
    summary = scored(tmp_path, disps, targets, "kitti_eigen_mono_pp", **given)
    agree(summary, expected)
    assert summary["flip"] == "ramp"
    # Joined by whoever made them, they give the same.
    given = scored(tmp_path, joined, targets, "kitti_eigen_mono_pp", kind="disparity")
    assert given["flip"] == "as given"
    agree(given, expected)


def test_bts_on_kitti_with_predictions_of_the_kb_crop(tmp_path: Path):
    rng = np.random.default_rng(3)
    _, targets = random_kitti(3)
    crops = rng.uniform(-1, 100, (len(targets), 352, 1216)).astype(np.float32)
    errors = []
    for crop, gt in zip(crops, targets, strict=True):
        height, width = gt.shape
        pred, left = np.zeros_like(gt), int((width - 1216) / 2)
        pred[height - 352 :, left : left + 1216] = crop
        mask = (gt > 1e-3) & (gt < 80) & garg(gt.shape)
        errors.append(published_errors(gt[mask], np.clip(pred, 1e-3, 80)[mask]))
    agree(scored(tmp_path, crops, targets, "kitti_eigen_supervised"), mean_of(errors))


def eigen_nyu(preds: NDArray[Any], targets: Maps, median: bool) -> dict[str, float]:
    errors = []
    for pred, gt in zip(preds, targets, strict=True):
        inside = np.zeros(NYU_SIZE, bool)
        inside[45:471, 41:601] = True
        mask = inside & (gt > 1e-3) & (gt < 10)
        pred, gt = pred[mask], gt[mask]
        pred = pred * (np.median(gt) / np.median(pred)) if median else pred
        errors.append(published_errors(gt, np.clip(pred, 1e-3, 10)))
    return mean_of(errors)


@pytest.mark.parametrize("name", ["nyu_eigen", "nyu_eigen_median"])
def test_bts_on_nyu_in_the_eigen_crop(tmp_path: Path, name: str):
    preds, targets = random_nyu(4)
    agree(scored(tmp_path, preds, targets, name), eigen_nyu(preds, targets, "median" in name))


def densedepth(preds: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    """Alhashim and Wonka 2018: the prediction stands where the truth should."""
    # 20 to 459 and 24 to 615, both included.
    pred, gt = (np.clip(x, 1e-3, 10)[..., 20:460, 24:616] for x in (preds, targets))
    of = published_errors(gt=pred, pred=gt)
    return {name: float(of[name]) for name in ("abs_rel", "rmse", "log10", "a1", "a2", "a3")}


def test_densedepth_pools_all_pixels_and_divides_by_the_prediction(tmp_path: Path):
    preds, targets = random_nyu(5, holes=0)
    truth = np.minimum(np.stack(targets), 10)
    summary = scored(tmp_path, preds, list(truth), "nyu_densedepth_pooled")
    agree(summary, densedepth(preds, truth))


def test_densedepth_image_by_image_with_the_mirrored_half_size_predictions(tmp_path: Path):
    rng = np.random.default_rng(6)
    _, targets = random_nyu(6, holes=0)
    plain, mirrored = rng.uniform(0.5, 9, (2, 3, 240, 320)).astype(np.float32)
    errors = []
    for one, other, gt in zip(plain, mirrored, targets, strict=True):
        both = [cv2.resize(x, NYU_SIZE[::-1]) for x in (one, other[:, ::-1])]
        pred = (0.5 * (both[0] + both[1]))[20:460, 24:616]
        errors.append(published_errors(gt[20:460, 24:616], pred))
    summary = scored(tmp_path, plain, targets, "nyu_densedepth", flipped=mirrored)
    agree(summary, mean_of(errors))


def fastdepth_transform(depth: NDArray[Any]) -> NDArray[Any]:
    """To 250 rows, the middle 228x304, to 224x224; always the pixel under the new one's centre."""

    def resize(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
        rows = np.floor((np.arange(height) + 0.5) * image.shape[0] / height).astype(int)
        columns = np.floor((np.arange(width) + 0.5) * image.shape[1] / width).astype(int)
        return image[rows[:, None], columns]

    small = resize(depth, 250, int(640 * (250 / 480)))
    top, left = round((250 - 228) / 2), round((small.shape[1] - 304) / 2)
    return resize(small[top : top + 228, left : left + 304], 224, 224)


@pytest.mark.parametrize("small", [False, True])
def test_fastdepth_metrics_at_224(tmp_path: Path, small: bool):
    preds, targets = random_nyu(7, holes=0)
    views = [
        (fastdepth_transform(p), fastdepth_transform(t))
        for p, t in zip(preds, targets, strict=True)
    ]
    errors = []
    for pred, gt in views:
        pred, gt = pred.astype(np.float64), gt.astype(np.float64)
        inverse = 1 / (1e-3 * pred) - 1 / (1e-3 * gt)
        found = published_errors(gt, pred)
        found |= {"mae": np.mean(np.abs(pred - gt))}
        found |= {"irmse": np.sqrt(np.mean(inverse**2)), "imae": np.mean(np.abs(inverse))}
        errors.append(found)
    # As whole maps, or as those that its loader gives.
    given = np.stack([pred for pred, _ in views]) if small else preds
    truth = [gt for _, gt in views] if small else targets
    agree(scored(tmp_path, given, truth, "nyu_fastdepth"), mean_of(errors))


def test_scale_invariant_rmse_of_eigen_with_predictions_of_another_size(tmp_path: Path):
    """Eigen et al. 2014, eq. 1 by its double sum, of predictions at 109x147."""
    rng = np.random.default_rng(8)
    _, targets = random_nyu(8)
    preds = rng.uniform(0.5, 9, (3, 109, 147)).astype(np.float32)
    found = []
    for pred, gt in zip(preds, targets, strict=True):
        mask = (gt > 1e-3) & (gt < 10)
        large = cv2.resize(pred, NYU_SIZE[::-1]).astype(np.float64)
        d = np.log(large[mask]) - np.log(gt[mask])
        found.append(np.sqrt(np.sum(d**2) / len(d) - np.sum(d) ** 2 / len(d) ** 2))
    summary = scored(tmp_path, preds, targets, "nyu_labeled")
    agree(summary, {"si_rmse": float(np.mean(found)), "silog": 100 * float(np.mean(found))})


def test_thresholds_of_depths_that_were_stored_as_codes(tmp_path: Path):
    """Many ratios are just 1.25: what single precision makes of them decides, as published."""
    rng = np.random.default_rng(9)
    targets = (rng.integers(1, 40, (3, *NYU_SIZE)) / np.float32(5)).astype(np.float32)
    preds = (rng.integers(1, 40, (3, *NYU_SIZE)) / np.float32(5)).astype(np.float32)
    expected = eigen_nyu(preds, list(targets), median=False)
    agree(scored(tmp_path, preds, list(targets), "nyu_eigen"), expected)


def test_ranges_of_depth_average_the_images_that_have_pixels_there(tmp_path: Path):
    disps, targets = random_kitti(10)
    targets[1] = np.where(targets[1] < 25, targets[1], 0)
    expected = []
    for disp, gt in zip(disps, targets, strict=True):
        with np.errstate(divide="ignore"):
            depth = np.clip(5.4 / cv2.resize(disp, gt.shape[::-1]), 1e-3, 80)
        inside = (gt >= 25) & (gt < 50) & garg(gt.shape)
        rel = np.abs(depth - gt)[inside] / gt[inside]
        expected.append(rel.mean() if len(rel) else np.nan)
    summary = scored(tmp_path, disps, targets, "kitti_eigen_stereo", kind="disparity")
    agree(summary, {"abs_rel_25_50m": float(np.nanmean(expected))})
