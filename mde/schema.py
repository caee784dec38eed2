"""What travels through the pipeline: the Parquet row and the training batch.

Letters, everywhere: B batch, C channels, H height, W width. Units: metres and pixels.
"""

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:  # Decode tasks import this module and must not pay for torch.
    from torch import Tensor

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")
Flip = Literal["none", "mean", "ramp"]
"""How a prediction is joined with that of the mirrored image; see `DepthModel.predict_depth`."""


class Row(TypedDict):
    """One self-contained training sample, as it is stored in a shard.

    Images are JPEG (or WebP, when lossless) at (height, width), the stored size. K and depth belong
    to that size; `gt_depth` keeps the ground truth as the sensor gave it, for evaluation.
    """

    sample_id: str
    scene: str
    """Room or drive; never in two splits, unless an official split file says so."""
    height: int
    width: int
    image: bytes
    image_prev: bytes | None
    """Frame before, of the same camera."""
    image_next: bytes | None
    """Frame after, of the same camera."""
    image_stereo: bytes | None
    """The other camera of the pair, at the same time."""
    K: list[float]
    """3x3 intrinsics, row by row, px at the stored size; pixel centres are integers."""
    baseline_m: float | None
    """x of the stereo camera in this camera's frame: + when it is on the right."""
    depth: bytes | None
    """(height, width) depth, codes in lz4; 0 = invalid."""
    depth_scale: float
    """Metres per code of `depth` and `gt_depth`; 0: they are float32 metres, without loss."""
    gt_depth: bytes | None
    """(gt_height, gt_width) depth, codes in lz4; 0 = invalid."""
    gt_height: int
    gt_width: int


class Batch(TypedDict, total=False):
    """One training batch of one worker. Images stay uint8 until they are on the device."""

    sample_id: list[str]
    image: "Tensor"
    """(B,3,H,W) uint8 RGB, as the loss sees it."""
    image_prev: "Tensor"
    image_next: "Tensor"
    image_stereo: "Tensor"
    color_matrix: "Tensor"
    """(B,3,4) float32: colour jitter, for the networks' input only."""
    depth: "Tensor"
    """(B,1,H,W) float32 metres; 0 = invalid."""
    K: "Tensor"
    """(B,3,3) float32, px."""
    baseline_m: "Tensor"
    """(B,) float32, signed; 0 where there is no stereo image."""
