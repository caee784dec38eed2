"""Score predictions of anyone, in files, by a protocol.

Numbers come from `mde.protocols` and `mde.evaluate`, as those of models that were trained here do.
"""

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mde.crops import Kind
from mde.errors import InputError
from mde.evaluate import summarize
from mde.models.depth_model import join_by_ramp
from mde.protocols import Protocol
from mde.score.map_files import Maps, pair
from mde.scoring import BASELINES, per_image_schema


@dataclass(frozen=True)
class Submission:
    """Predictions, and what their numbers mean.

    flipped: predictions for the mirrored images, not mirrored back; None: `preds` are final.
    metres_per_unit: of the depths. None: 1 where they are known to be in m, else the protocol's.
    """

    preds: Maps
    kind: Kind
    flipped: Maps | None = None
    metres_per_unit: float | None = None


@dataclass(frozen=True)
class Score:
    """What the predictions are worth.

    summary: what `metrics.json` holds. per_image: of `mde.scoring.per_image_schema` without the
    baselines, in the order of the ground truths.
    """

    summary: dict[str, Any]
    per_image: pa.Table


def guess_kind(path: Path) -> Kind:
    """Disparity where the name of the file or folder says so, else depth."""
    return "disparity" if "disp" in path.resolve().name.lower() else "depth"


def score(
    submission: Submission, targets: Maps, protocol: Protocol, by_order: bool = False
) -> Score:
    """Compare predictions with ground truths (in m), with a progress bar.

    by_order: see `mde.score.map_files.pair`. Raises InputError when predictions and ground truths
    do not belong together, none can be scored, or a prediction is not a number where it counts.
    """
    preds, flipped = submission.preds, submission.flipped
    if flipped is not None and protocol.flip == "none":
        raise InputError(
            f"{protocol.id} takes no predictions for mirrored images; leave --flipped out, or take "
            "a protocol that does, such as kitti_eigen_mono_pp"
        )
    judge = _Judge(protocol, submission, _metres_per_unit(submission, protocol))
    pairing = pair(preds, targets, by_order)
    mirrored = dict(pair(flipped, targets, by_order).pairs) if flipped is not None else {}
    rows = []
    console = Console(stderr=True)
    for target, pred in track(pairing.pairs, "score", console=console, transient=True):
        rows.append(judge.row(targets, target, pred, mirrored.get(target)))
    if all(row["skipped"] for row in rows):
        reasons = ", ".join(sorted({row["skipped"] for row in rows}))
        raise InputError(f"{targets.path}: none of {len(rows)} images can be scored: {reasons}")
    summary = {
        "predictions": preds.path.name,
        **summarize(rows, protocol),
        **_reading(judge, targets),
        "unused_predictions": pairing.unused,
    }
    return Score(summary, pa.Table.from_pylist(rows, schema=_schema(protocol)))


def _metres_per_unit(submission: Submission, protocol: Protocol) -> float:
    if submission.metres_per_unit is not None:
        return submission.metres_per_unit
    if submission.preds.is_metric:
        return 1.0
    if submission.preds.is_metric is False and protocol.scaling == "none":
        raise InputError(
            f"{submission.preds.path}: its depths are right up to a factor, and {protocol.id} does "
            "not scale; give --metres-per-unit, or take a protocol that does"
        )
    return protocol.metres_per_unit


def _schema(protocol: Protocol) -> pa.Schema:
    prefixes = tuple(f"{of}_" for of in BASELINES)
    fields = [of for of in per_image_schema(protocol) if not of.name.startswith(prefixes)]
    return pa.schema(fields)


@dataclass(frozen=True)
class _Judge:
    protocol: Protocol
    submission: Submission
    metres_per_unit: float

    def row(self, targets: Maps, number: int, pred: int, mirrored: int | None) -> dict[str, Any]:
        """Of the per-image table; indices are those of the image in each of the Maps."""
        name = targets.names[number]
        scene = targets.scenes[number] if targets.scenes else name.rpartition("/")[0]
        row = {"sample_id": name, "scene": scene, "skipped": None}
        found = targets.read(number)
        if found is None:
            return row | {"skipped": "no ground truth"}
        try:
            target = self.protocol.view_target(torch.from_numpy(found))
            counts = bool(self.protocol.valid_mask(target).any())
        except ValueError as error:
            raise InputError(f"{targets.path}: {name}: {error}") from error
        if not counts:
            return row | {"skipped": f"no pixel that {self.protocol.id} counts"}
        return row | self.compare(target, name, pred, mirrored)

    def compare(self, target: Tensor, name: str, pred: int, mirrored: int | None) -> dict[str, Any]:
        """The numbers of an image whose ground truth is (H,W)."""
        preds, flipped = self.submission.preds, self.submission.flipped
        found, kind = _read(preds, pred), self.submission.kind
        try:
            if flipped is not None and mirrored is not None:
                other = _read(flipped, mirrored)
                found, kind = join(found, other.flip(-1), kind, self.protocol)
            depth = self.protocol.fit(found, (target.shape[0], target.shape[1]), kind)
            if self.protocol.scaling == "median":
                # What the ratio is relative to.
                depth = depth * self.metres_per_unit
            aligned = self.protocol.align(depth, target, self.metres_per_unit)
            values = aligned.metrics()
        except ValueError as error:
            raise InputError(f"{preds.path}: {preds.names[pred]}: {error}") from error
        digest = hashlib.sha256(target.float().contiguous().numpy().tobytes()).hexdigest()
        histogram = aligned.error_histogram().tolist()
        return {"target_sha256": digest, "error_histogram": histogram, **values}


def _read(preds: Maps, index: int) -> Tensor:
    found: NDArray[Any] | None = preds.read(index)
    if found is None:
        raise InputError(f"{preds.path}: {preds.names[index]}: no map of this image")
    return torch.from_numpy(found)


def join(pred: Tensor, mirrored: Tensor, kind: Kind, protocol: Protocol) -> tuple[Tensor, Kind]:
    """Join maps (H,W) of an image and its mirror image, mirrored back, by the protocol's rule.

    Returns disparity for a `ramp` and depth for a `mean`, whatever came in. Raises ValueError when
    their sizes differ.
    """
    if pred.shape != mirrored.shape:
        shapes = f"{tuple(pred.shape)} and {tuple(mirrored.shape)}"
        raise ValueError(f"predictions of image and mirrored image have different sizes: {shapes}")
    # The published rule's weights, and with them its results, are of double precision.
    pair, joined = (pred.double(), mirrored.double()), _joined_kind(protocol)
    first, second = pair if kind == joined else (1 / pair[0], 1 / pair[1])
    if joined == "disparity":
        return join_by_ramp(first, second), joined
    return (first + second) / 2, joined


def _joined_kind(protocol: Protocol) -> Kind:
    return "disparity" if protocol.flip == "ramp" else "depth"


def _reading(judge: _Judge, targets: Maps) -> dict[str, Any]:
    protocol, submission = judge.protocol, judge.submission
    definition = {
        # JSON knows no infinity.
        key: None if value == math.inf else value
        for key, value in asdict(protocol).items()
    }
    sources = {"predictions": submission.preds, "flipped": submission.flipped, "truth": targets}
    return {
        "definition": definition,
        "kind": submission.kind,
        "metres_per_unit": judge.metres_per_unit,
        "flip": "as given" if submission.flipped is None else protocol.flip,
        "inputs": {
            role: {"path": str(maps.path), "read": maps.how, "sha256": maps.sha256}
            for role, maps in sources.items()
            if maps is not None
        },
    }


def worst(per_image: pa.Table, number: int = 3) -> list[tuple[str, float]]:
    """sample_id and abs_rel of the images with the largest abs_rel."""
    rows = zip(per_image["sample_id"].to_pylist(), per_image["abs_rel"].to_pylist(), strict=True)
    scored = [(name, value) for name, value in rows if value is not None]
    return sorted(scored, key=lambda pair: -pair[1])[:number]
