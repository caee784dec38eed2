"""What a protocol and its numbers mean, in words for people who read the report."""

from mde.protocol_words import describe
from mde.protocols import PROTOCOLS

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
    return {} if protocol is None or protocol.id != protocol_id else describe(protocol)
