"""Score the images of a row group with a protocol: a model's depth and two baselines'."""

import hashlib
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mde.crops import FASTDEPTH_SIZE, fastdepth_box
from mde.data.codecs import CodecError, decode_depth
from mde.data.place import Place, show
from mde.data.shards import read_manifest
from mde.errors import InputError
from mde.inference import BatchPredictor, RowGroup, decode_row_image
from mde.protocols import Protocol

COLUMNS = [
    "sample_id", "scene", "image", "depth_scale", "gt_depth", "gt_height", "gt_width",
]  # fmt: skip
BASELINES = ("constant", "random")
OTHERS = ("scale", "clipped", "pixels", "log_bias")
"""What a protocol gives for an image beside its metrics."""


def per_image_schema(protocol: Protocol) -> pa.Schema:
    """One row for each image of a split: either `skipped`, the reason, or all values are null.

    `error_histogram` counts pixels by signed error, in the bins of `Protocol.error_edges`;
    `target_sha256` is that of the ground truth. Baselines have columns of their own.
    """
    values = [*protocol.names, *OTHERS]
    return pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("scene", pa.string(), nullable=False),
            pa.field("skipped", pa.string()),
            pa.field("target_sha256", pa.string()),
            *(pa.field(name, pa.float64()) for name in values),
            pa.field("error_histogram", pa.list_(pa.int64())),
            *(pa.field(f"{of}_{name}", pa.float64()) for of in BASELINES for name in values),
        ]
    )


class Baseline(Interface):
    """Depth (h,w) in m that owes nothing to the image."""

    def __call__(self, sample_id: str, size: tuple[int, int]) -> Tensor:
        """size: (h,w) of the ground truth. On CPU, whatever the model runs on."""
        ...


@dataclass(frozen=True)
class ConstantDepth:
    """Baseline: one depth for every pixel of every image."""

    depth: float

    def __call__(self, sample_id: str, size: tuple[int, int]) -> Tensor:
        """The constant."""
        return torch.full(size, self.depth)


@dataclass(frozen=True)
class RandomDepth:
    """Baseline: uniform in the depth range, for each pixel; a function of the sample alone."""

    low: float
    high: float

    def __call__(self, sample_id: str, size: tuple[int, int]) -> Tensor:
        """Noise."""
        digest = hashlib.blake2b(sample_id.encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest))
        return self.low + (self.high - self.low) * torch.rand(size, generator=generator)


def baselines(data: Place, protocol: Protocol) -> dict[str, Baseline]:
    """The BASELINES: the training split's mean depth, and random within its depth range.

    Where training rows have no depth, as in self-supervised datasets, it is the val split's.
    """
    of_split = read_manifest(data).statistics
    statistics = next((of_split[s] for s in ("train", "val") if "depth_mean" in of_split[s]), None)
    if statistics is None:
        raise InputError(f"{show(data)}: neither train nor val has depth to take the mean of")
    low, high = statistics["depth_min"], min(statistics["depth_max"], protocol.max_depth)
    constant = ConstantDepth(statistics["depth_mean"])
    return dict(zip(BASELINES, (constant, RandomDepth(low, high)), strict=True))


@dataclass(frozen=True)
class Scorer:
    """Row group → table of `per_image_schema`; an `mde.inference.Work`.

    metres_per_unit: of the predictions.
    """

    predictor: BatchPredictor
    protocol: Protocol
    baselines: dict[str, Baseline]
    metres_per_unit: float = 1.0

    def __call__(self, group: RowGroup, device: torch.device) -> pa.Table:
        """Score every row; one without a usable ground truth gets the reason instead."""
        rows = group.read(COLUMNS)
        targets = {row["sample_id"]: self.target(group, row) for row in rows}
        usable = {name: found for name, found in targets.items() if isinstance(found, Tensor)}
        depths = self.predict(group, [row for row in rows if row["sample_id"] in usable], device)
        records = []
        for row in rows:
            name, record = row["sample_id"], {"sample_id": row["sample_id"], "scene": row["scene"]}
            if name in usable:
                record |= self._compare(name, depths[name], usable[name])
            else:
                record["skipped"] = targets[name]
            records.append(record)
        return pa.Table.from_pylist(records, schema=per_image_schema(self.protocol))

    def predict(self, group: RowGroup, rows: list[Any], device: torch.device) -> dict[str, Tensor]:
        """Depths of rows by sample_id, on the device, at the size that the protocol judges."""
        images = {row["sample_id"]: self.seen(decode_row_image(group, row)) for row in rows}
        sizes = {row["sample_id"]: (row["gt_height"], row["gt_width"]) for row in rows}
        if self.protocol.fastdepth_view:
            sizes = dict.fromkeys(sizes, FASTDEPTH_SIZE)
        return self.predictor.predict(images, sizes, device)

    def seen(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of an image (H,W,3) that the model sees under the protocol."""
        if not self.protocol.fastdepth_view:
            return image
        top, bottom, left, right = fastdepth_box(*image.shape[:2])
        return image[top:bottom, left:right]

    def target(self, group: RowGroup, row: Any) -> Tensor | str:
        """Ground truth (h,w) in m, 0 = none, on CPU; or the reason why nothing can be scored."""
        if row["gt_depth"] is None:
            return "no ground truth"
        size = row["gt_height"], row["gt_width"]
        try:
            target = torch.from_numpy(decode_depth(row["gt_depth"], *size, row["depth_scale"]))
            target = self.protocol.view_target(target)
            counts = self.protocol.valid_mask(target).any()
        except (CodecError, ValueError) as error:
            raise InputError(f"{show(group.place)}: {row['sample_id']}: {error}") from error
        return target if bool(counts) else f"no pixel that {self.protocol.id} counts"

    def _compare(self, name: str, depth: Tensor, target: Tensor) -> dict[str, Any]:
        digest = hashlib.sha256(target.numpy().tobytes()).hexdigest()
        target, size = target.to(depth.device), (target.shape[0], target.shape[1])
        aligned = self.protocol.align(depth, target, self.metres_per_unit)
        values: dict[str, Any] = {
            "target_sha256": digest,
            "error_histogram": aligned.error_histogram().tolist(),
            **aligned.metrics(),
        }
        for of, baseline in self.baselines.items():
            guess = baseline(name, size).to(depth.device)
            compared = self.protocol.compare(guess, target)
            values |= {f"{of}_{key}": value for key, value in compared.items()}
        return values
