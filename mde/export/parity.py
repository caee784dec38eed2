"""How far the depth of an exported file is from torch's on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mde.data.codecs import resize_image
from mde.export.pictures import Pixels
from mde.predictor import Predictor

LIMIT = 1e-3
"""Largest relative difference of any pixel; float32 gives 1e-6 to 1e-4."""
MEAN_LIMIT = 1e-5
"""Largest mean relative difference."""


@dataclass(frozen=True)
class Parity:
    """Relative differences |a - b| / b over all pixels of `images` images, b torch's depth.

    shapes: (N,H,W) of the batches.
    """

    max: float
    mean: float
    images: int
    shapes: list[tuple[int, ...]]

    @property
    def is_equal(self) -> bool:
        """As far as float32 goes."""
        # Written so that NaN is not equal.
        return self.max <= LIMIT and self.mean <= MEAN_LIMIT


def batches(images: Sequence[Pixels], size: tuple[int, int]) -> list[Pixels]:
    """Batches (N,H,W,3) of several N, H and W: larger and smaller than `size`, and of that size."""
    height, width = size
    whole = [resize_image(image, size) for image in images]
    odd = [resize_image(image, (height * 3 // 4 + 1, width // 2 + 3)) for image in images[:2]]
    large = resize_image(images[-1], (height * 3 // 2 + 1, width * 2 + 1))
    return [images[0][None], np.stack(whole), np.stack(odd), large[None]]


def compare(reference: Predictor, predictor: Predictor, images: Sequence[Pixels]) -> Parity:
    """Compare an exported file with torch on real images, in batches of several shapes."""
    size = reference.info.image_size
    assert size is not None, "the exported network sees one size"
    largest, total, pixels, shapes = 0.0, 0.0, 0, []
    for batch in batches(images, size):
        expected = reference.predict_batch(batch).astype(np.float64)
        found = predictor.predict_batch(batch)
        if found.shape != expected.shape:
            return Parity(float("nan"), float("nan"), 0, [found.shape])
        difference = np.abs(found - expected) / expected
        largest = float(np.maximum(largest, difference.max()))
        total += float(difference.sum())
        pixels += difference.size
        shapes.append(expected.shape)
    return Parity(largest, total / pixels, sum(shape[0] for shape in shapes), shapes)
