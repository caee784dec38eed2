"""Real images to check an exported model with, and to find the ranges of its activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError, decode_image
from mde.data.pick import pick_rows
from mde.data.shards import Manifest, read_manifest
from mde.errors import InputError
from mde.predictor import as_pixels

Pixels = NDArray[np.uint8]
"""(H,W,3) RGB."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
Source = Path | Sequence[Path]
"""A converted dataset, a folder with pictures, a picture, or some."""


@dataclass(frozen=True)
class Pictures:
    """Real images. check: to compare predictions on. calibrate: others where there are enough.

    dataset: the converted dataset that they are from, if they are.
    """

    check: list[Pixels]
    calibrate: list[Pixels]
    dataset: Path | None = None


def find_pictures(source: Source, num_check: int, num_calibrate: int) -> Pictures:
    """Images of a source; of a dataset they are checked on test and calibrated on train images.

    Raises InputError when there is none, or one is damaged.
    """
    if isinstance(source, Path) and (source / "manifest.json").is_file():
        manifest = read_manifest(source)
        calibrate = _of_split(source, manifest, "train", num_calibrate)
        check = _of_split(source, manifest, "test", num_check) or calibrate
        if not check:
            raise InputError(f"{source}: neither train nor test images are in it")
        return Pictures(check[:num_check], calibrate or check, source)
    files = _spread(_files(source), num_check + num_calibrate)
    images = [as_pixels(file) for file in files]
    # Few images have to do for both.
    calibrate = images[num_check:] if len(images) >= 2 * num_check else images
    return Pictures(images[:num_check], calibrate[:num_calibrate])


def _of_split(place: Path, manifest: Manifest, split: str, count: int) -> list[Pixels]:
    if not manifest.counts[split] or not count:
        return []
    rows = pick_rows(place, manifest, count, split)
    try:
        return [decode_image(row["image"]) for _, row in rows]
    except CodecError as error:
        raise InputError(f"{place}: an image of the {split} split: {error}") from error


def _files(source: Source) -> list[Path]:
    if not isinstance(source, Path):
        return list(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder; --images takes real images")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{source}: no images in it; expected {', '.join(SUFFIXES)}")
    return found


def _spread(files: list[Path], count: int) -> list[Path]:
    chosen = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return [files[i] for i in chosen]
