"""What fewer bits cost: the accuracy of an exported file next to that of torch in float32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mde.crops import resize_prediction
from mde.data.shards import read_manifest
from mde.export.pictures import Pictures, Pixels
from mde.inference import BatchPredictor, RowGroup, row_groups
from mde.predictor import Predictor
from mde.protocols import Protocol, find_protocol
from mde.scoring import Scorer

MAX_LOSS = 0.01
"""That is usually allowed; see `Loss`."""
NUM_GROUPS = 12
"""Row groups of the test split that are scored at most, spread over it: about 200 images."""


@dataclass(frozen=True)
class Loss:
    """What a file loses against torch in float32.

    value: the relative change of abs_rel on `images` test images, > 0 is worse; without ground
    truth the mean relative difference of depth. by: what it was measured by, for people.
    """

    value: float
    by: str
    images: int
    reference: float | None = None
    found: float | None = None

    def __str__(self) -> str:
        if self.reference is None:
            return f"{self.value:.2%}: {self.by}, {self.images} images"
        change = f"{self.reference:.4f} → {self.found:.4f}"
        return f"{self.value:+.2%}: {self.by} {change}, {self.images} images"


Measure = Callable[[Predictor], Loss]


def loss_measure(reference: Predictor, pictures: Pictures, state: dict[str, Any]) -> Measure:
    """Measures the loss of predictors against `reference`, whose own results are kept.

    By abs_rel with the variant's own protocol where the images are from a dataset with ground
    truth; else by the mean relative difference.
    """
    protocol = _protocol(reference, state)
    groups = _test_groups(pictures.dataset) if pictures.dataset and protocol else []
    if groups and protocol is not None:
        before, count = _abs_rel(reference, groups, protocol)
        if count:

            def by_abs_rel(predictor: Predictor) -> Loss:
                after, _ = _abs_rel(predictor, groups, protocol)
                return Loss(after / before - 1, f"abs_rel ({protocol.id})", count, before, after)

            return by_abs_rel
    return _difference(reference, pictures.check)


def _protocol(reference: Predictor, state: dict[str, Any]) -> Protocol | None:
    name = state["variant"].get("protocol")
    if name is None:
        return None
    protocol = find_protocol(name)
    scorable = reference.info.is_metric or protocol.scaling != "none"
    return protocol if scorable else None


def _test_groups(data: Path) -> list[RowGroup]:
    if not read_manifest(data).counts["test"]:
        return []
    groups = row_groups(data, "test")
    chosen = np.linspace(0, len(groups) - 1, min(NUM_GROUPS, len(groups))).round().astype(int)
    return [groups[i] for i in chosen]


def _abs_rel(predictor: Predictor, groups: list[RowGroup], protocol: Protocol) -> tuple[float, int]:
    """Mean abs_rel, and of how many images."""
    metres_per_unit = 1.0 if predictor.info.is_metric else protocol.metres_per_unit
    # All that a scorer asks of its predictor.
    fitted = cast(BatchPredictor, _AtGroundTruth(predictor, protocol))
    scorer = Scorer(fitted, protocol, {}, metres_per_unit)
    found: list[float] = []
    for group in groups:
        table = scorer(group, torch.device("cpu"))
        found += [value for value in table["abs_rel"].to_pylist() if value is not None]
    return (float(np.mean(found)) if found else float("nan")), len(found)


@dataclass(frozen=True)
class _AtGroundTruth:
    """A predictor for `Scorer`: its depth of the image's size, resized as the protocol says."""

    predictor: Predictor
    protocol: Protocol

    def predict(
        self,
        images: dict[str, NDArray[np.uint8]],
        sizes: dict[str, tuple[int, int]],
        device: torch.device,
    ) -> dict[str, Tensor]:
        """Depths of these sizes by sample_id."""
        return {
            name: resize_prediction(
                torch.from_numpy(self.predictor.predict_batch(image[None])[0]),
                sizes[name],
                "depth",
                self.protocol.resize,
            )
            for name, image in images.items()
        }


def _difference(reference: Predictor, images: Sequence[Pixels]) -> Measure:
    expected = [reference.predict_batch(image[None]) for image in images]

    def by_difference(predictor: Predictor) -> Loss:
        values = [
            float((np.abs(predictor.predict_batch(image[None]) - depth) / depth).mean())
            for image, depth in zip(images, expected, strict=True)
        ]
        return Loss(float(np.mean(values)), "mean relative difference of depth", len(values))

    return by_difference
