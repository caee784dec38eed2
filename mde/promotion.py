"""Whether a new model is better than the champion: both scored on the same images.

A pure comparison: no registry, no files but the tables of single images that evaluation wrote. How
the verdict becomes an alias stands in `mde.succession`.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mde.metrics import METRICS, higher_is_better

SEED = 0
CHUNK = 4_000_000
"""Numbers that are drawn at a time."""


@dataclass(frozen=True)
class PromotionConfig:
    """When a new version becomes champion.

    metric: the one that decides, as its mean over images. margin: the share of the champion's value
    by which it must surely be better; 0.01 is one per cent. confidence: how surely, one-sided.
    resamples: of the bootstrap.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    metric: str = "abs_rel"
    margin: float = 0.0
    confidence: float = 0.95
    resamples: int = 10_000

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}; found {self.metric!r}")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin must be at least 0 and below 1, found {self.margin}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must be at least 0.5, below 1, found {self.confidence}")
        if not 1000 <= self.resamples <= 1_000_000:
            raise ValueError(f"resamples must be 1000 to 1000000, found {self.resamples}")


@dataclass(frozen=True)
class Verdict:
    """What was decided, and why.

    improvement: over the champion, as a share of its value; bounds: each of them holds with the
    configured confidence. All are None when nothing was compared.
    """

    promoted: bool
    reason: str
    metric: str | None = None
    improvement: float | None = None
    bounds: tuple[float, float] | None = None
    images: int | None = None

    def numbers(self) -> dict[str, Any]:
        """What it rests on, as plain values."""
        return {key: asdict(self)[key] for key in ("metric", "improvement", "bounds", "images")}


class NotComparableError(Exception):
    """Two evaluations that say nothing about each other; the message says why."""


def compare(
    new: dict[str, float], champion: dict[str, float], config: PromotionConfig, label: str
) -> Verdict:
    """Compare two models on the same images by a paired bootstrap over images.

    new, champion: `config.metric` of each image, by sample_id. label: of the champion, for the
    reason, such as "version 3". The new one is promoted when the lower bound of its improvement is
    above the margin (Efron and Tibshirani 1993, percentile interval).
    Raises NotComparableError when the images are not the same, or a value is not a finite number.
    """
    _check_images(new, champion, config.metric)
    old = np.array([champion[name] for name in new])
    value = np.array(list(new.values()))
    gains = value - old if higher_is_better(config.metric) else old - value
    # A champion at exactly zero has no shares: its improvement is counted as it is.
    gains /= abs(old.mean()) or 1.0
    means = _resampled_means(gains, config.resamples)
    low, high = np.quantile(means, [1 - config.confidence, config.confidence])
    improvement, bounds = float(gains.mean()), (float(low), float(high))
    promoted = bounds[0] > config.margin
    reason = (
        f"{config.metric} {value.mean():.4f}, champion ({label}) {old.mean():.4f}: "
        f"{_in_words(improvement, bounds[0], config)} "
        f"({100 * config.confidence:g} % bounds {_percent(low)} and {_percent(high)})"
    )
    return Verdict(promoted, reason, config.metric, improvement, bounds, len(new))


def _check_images(new: dict[str, float], champion: dict[str, float], metric: str) -> None:
    if different := new.keys() ^ champion.keys():
        raise NotComparableError(
            f"{len(different)} images are scored for one of the two only, such as {min(different)}"
        )
    if not new:
        raise NotComparableError("no image is scored")
    for values in (new, champion):
        if odd := [name for name, value in values.items() if not math.isfinite(value)]:
            raise NotComparableError(f"{metric} of {len(odd)} images is no number, as of {odd[0]}")


def _resampled_means(values: NDArray[np.float64], resamples: int) -> NDArray[np.float64]:
    """Means of `values` over so many draws of as many images, with replacement."""
    random, images = np.random.default_rng(SEED), len(values)
    sizes = [max(1, CHUNK // images)] * math.ceil(resamples / max(1, CHUNK // images))
    draws = (values[random.integers(images, size=(size, images))].mean(1) for size in sizes)
    return np.concatenate(list(draws))[:resamples]


def _in_words(improvement: float, low: float, config: PromotionConfig) -> str:
    if improvement == 0:
        return "as good"
    if improvement < 0:
        return f"worse by {-100 * improvement:.1f} %"
    better = f"better by {100 * improvement:.1f} %"
    return better if low > config.margin else f"{better}, not surely by {100 * config.margin:g} %"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def read_per_image(path: Path, metric: str, protocol: str, test_sha256: str) -> dict[str, float]:
    """A metric of every scored image, by sample_id, from the table `per_image.parquet`.

    Raises NotComparableError when the table is damaged, has no such metric, or is not of this
    protocol and test set.
    """
    try:
        about = json.loads((pq.read_schema(path).metadata or {}).get(b"mde", b"{}"))
        for key, expected in (("protocol", protocol), ("test_sha256", test_sha256)):
            if about.get(key) != expected:
                raise NotComparableError(f"its {key} is {about.get(key)}, expected {expected}")
        table = pq.read_table(path, columns=["sample_id", "skipped", metric])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise NotComparableError(f"it cannot be read: {error}") from error
    rows = [row for row in table.to_pylist() if row["skipped"] is None]
    values = {r["sample_id"]: math.nan if r[metric] is None else r[metric] for r in rows}
    if len(values) < len(rows):
        raise NotComparableError(f"{len(rows) - len(values)} images are in it more than once")
    return values
