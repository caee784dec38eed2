"""What is measured: trained models by any of their names, untrained ones, and pictures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from mde.errors import InputError
from mde.export.pictures import find_pictures
from mde.model_source import find_checkpoint
from mde.models import FAMILIES, ModelConfig, build_model
from mde.models.depth_model import resize_image
from mde.train.checkpoint import read_state, save_model

IMAGES = 4


@dataclass(frozen=True)
class BenchModel:
    """A model to measure. image_size: (H,W) px that it was trained at, if it says so."""

    label: str
    checkpoint: Path
    image_size: tuple[int, int] | None
    is_trained: bool = True


def find_model(root: Path, source: str, into: Path) -> BenchModel:
    """A model as `mde.model_source.KINDS` says, or `family:encoder`, an untrained network.

    into: a folder of its own, for what is downloaded or built. Raises InputError for other sources
    and for a network that there is not.
    """
    if (found := re.fullmatch(r"(\w+):(?!/)(\S+)", source)) and not Path(source).exists():
        if found[1] not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise InputError(f"{source}: unknown family '{found[1]}'; known: {known}")
        return _untrained(source, found[1], found[2], into)
    checkpoint = find_checkpoint(root, source, into / "checkpoint")
    state = read_state(checkpoint)
    size = state.get("image_size")
    return BenchModel(
        state["variant"]["name"], checkpoint, (int(size[0]), int(size[1])) if size else None
    )


def _untrained(source: str, family: str, encoder: str, into: Path) -> BenchModel:
    try:
        config = ModelConfig(family, encoder, "scratch", min_depth=0.1)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error
    folder = into / "checkpoint"
    folder.mkdir(parents=True)
    model = {"family": family, "encoder": encoder, "min_depth": 0.1}
    torch.manual_seed(0)
    save_model(folder, build_model(config), {"variant": {"name": source, "model": model}})
    return BenchModel(f"{source} (untrained)", folder, None, is_trained=False)


def sizes_of(model: BenchModel, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes (H,W) px that are asked for, or else that of training; InputError without both."""
    if sizes:
        return list(sizes)
    if model.image_size is None:
        raise InputError(
            f"{model.label}: does not say at which size it was trained; give one or more, such as "
            "--size 192x640"
        )
    return [model.image_size]


def load_images(source: Path | None, size: tuple[int, int]) -> NDArray[np.uint8]:
    """IMAGES of a source, at most, as (N,H,W,3) RGB of a size; one of made colours without one.

    source: as of `mde.export.pictures.find_pictures`, which says what is raised.
    """
    if source is None:
        return _made_image(size)[None]
    return np.stack([_resized(image, size) for image in find_pictures(source, IMAGES, 0).check])


def save_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image (H,W,3) RGB without loss."""
    Image.fromarray(image).save(path)


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    resized = resize_image(image, size)[0].permute(1, 2, 0)
    return resized.round().clamp(0, 255).byte().numpy()


def _made_image(size: tuple[int, int]) -> NDArray[np.uint8]:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[0]
    return (255 * smooth.clamp(0, 1)).byte().permute(1, 2, 0).contiguous().numpy()
