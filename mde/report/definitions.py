"""What a protocol and its numbers mean, in words for people who read the report."""

from mde.protocols import PROTOCOLS, STEREO_UNIT_M, Protocol

CROPS = {
    "none": "the whole image",
    "garg": "Garg et al. 2016: rows 41–99 %, columns 4–96 %",
    "eigen_nyu": "Eigen et al. 2014: rows 45–470, columns 41–600 of 480×640",
    "densedepth": "DenseDepth: rows 20–459, columns 24–615 of 480×640",
}
SCALINGS = {
    "none": "none: predictions are taken as metres",
    "median": "each prediction is multiplied by median(truth) / median(prediction)",
    "stereo": f"none for metres; what is in units of the stereo baseline, × {STEREO_UNIT_M} m",
}
FLIPS = {
    "none": "none",
    "mean": "mean with the prediction of the mirrored image",
    "ramp": "joined with the mirrored image's, each at the border that it sees better",
}
AVERAGINGS = {"image": "every image counts the same", "pixel": "every pixel counts the same"}

GLOSSARY = {
    "abs_rel": "mean of |prediction − truth| / truth",
    "sq_rel": "mean of (prediction − truth)² / truth",
    "rmse, rmse_log": "root of the mean squared error, of depths or of their logarithms",
    "log10": "mean of |log₁₀ prediction − log₁₀ truth|",
    "silog, si_rmse": "deviation of the log error, blind to one factor per image; silog × 100",
    "mae": "mean of |prediction − truth|",
    "irmse, imae": "rmse and mae of inverse depth",
    "a1, a2, a3": "share of pixels with max(prediction / truth, truth / prediction) below "
    "1.25, 1.25², 1.25³",
    "mssim": "mean structural similarity of the depth maps, for a data range L",
    "edge": "precision, recall and F1 of depth edges: Sobel magnitude (divided by 8: norm, or "
    "as it is: raw) above a threshold",
    "scale": "ratio of median scaling: its median over images, and the spread, the standard "
    "deviation of ratio / median",
    "clipped": "share of the counted pixels whose prediction left the protocol's range of depths",
    "params": "parameters of the depth model; networks that only help in training are left out",
    "trained on": "M: monocular video, S: stereo pairs, MS: both, supervised: depth",
}


def definition(protocol_id: str) -> dict[str, str]:
    """What a protocol fixes, by aspect; empty for an id that this version does not know."""
    protocol = PROTOCOLS.get(protocol_id.partition("@")[0])
    if protocol is None or protocol.id != protocol_id:
        return {}
    return {
        "Ground truth": protocol.ground_truth,
        "Pixels that count": _mask(protocol),
        "Crop": CROPS[protocol.crop],
        "Range of predictions": f"clipped to {protocol.min_depth:g}–{protocol.max_depth:g} m",
        "Scaling": SCALINGS[protocol.scaling],
        "Mirrored image": FLIPS[protocol.flip],
        "Size": f"resized to the truth's, bilinear, as {protocol.resize}",
        "Averaging": AVERAGINGS[protocol.averaging],
        **_peculiarities(protocol),
    }


def _mask(protocol: Protocol) -> str:
    if protocol.mask == "positive":
        return "all whose true depth is known"
    low, high = protocol.min_depth, protocol.max_depth
    return f"true depth above {low:g}\N{NO-BREAK SPACE}m and below {high:g}\N{NO-BREAK SPACE}m"


def _peculiarities(protocol: Protocol) -> dict[str, str]:
    found = {
        protocol.swapped: "relative errors are divided by the prediction",
        protocol.fastdepth_view: "the central 91 % of the image are seen and judged, at 224×224",
        protocol.kb_crop: "predictions of 352×1216 belong to the middle of the lower border",
    }
    found.pop(False, None)
    return {"Peculiar": "; ".join(found.values())} if found else {}
