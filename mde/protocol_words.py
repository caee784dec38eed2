"""What a protocol fixes, in words."""

import math

from mde.protocols import STEREO_UNIT_M, Protocol

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


def describe(protocol: Protocol) -> dict[str, str]:
    """What a protocol fixes, by aspect."""
    return {
        "Ground truth": protocol.ground_truth,
        "Pixels that count": _mask(protocol),
        "Crop": CROPS[protocol.crop],
        "Range of predictions": _range(protocol),
        "Scaling": SCALINGS[protocol.scaling],
        "Mirrored image": FLIPS[protocol.flip],
        "Size": f"resized to the truth's, bilinear, as {protocol.resize}",
        "Averaging": AVERAGINGS[protocol.averaging],
        **_peculiarities(protocol),
    }


def _range(protocol: Protocol) -> str:
    low, high = protocol.min_depth, protocol.max_depth
    if high == math.inf:
        return f"{low:g} m at least, with no upper limit"
    return f"clipped to {low:g}–{high:g} m"


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
