"""Depth of an image: what a depth model is to those who use it.

A `Predictor` takes images of any size and gives depth of that size. What runs the network, torch or
another runtime, is a subclass's matter.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mde.config import parse_section
from mde.data.codecs import CodecError, decode_raw_image
from mde.errors import InputError
from mde.models import DepthModel, ModelConfig, build_model
from mde.models.depth_model import resize_image
from mde.schema import Flip
from mde.train.checkpoint import load_model, read_state

BATCH_SIZE = 8
"""Images at a time, at most."""
Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelInfo:
    """What has to be known of a depth model to use what it predicts.

    is_metric: depths are in m; else right up to one factor an image. min_depth, max_depth: what
    they are clamped to. image_size: (H,W) px that images are resized to for the network; None: the
    nearest that it takes. data_sha256: of the manifest of the dataset that it was trained on.
    """

    variant: str
    is_metric: bool
    min_depth: float
    max_depth: float
    image_size: tuple[int, int] | None
    git_commit: str
    data_sha256: str

    @classmethod
    def of(cls, model: DepthModel, state: dict[str, Any]) -> "ModelInfo":
        """Of a checkpoint's model and its state."""
        # Checkpoints of earlier versions do not have it.
        size = state.get("image_size")
        return cls(
            variant=state["variant"]["name"],
            is_metric=model.is_metric,
            min_depth=model.min_depth,
            max_depth=model.max_depth,
            image_size=(int(size[0]), int(size[1])) if size else None,
            git_commit=state.get("git_commit", "unknown"),
            data_sha256=state.get("data_sha256", "unknown"),
        )

    @property
    def unit(self) -> str:
        """`m`, or in words that there is none."""
        return "m" if self.is_metric else "up to scale"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the unit among them."""
        return {**asdict(self), "unit": self.unit}


@dataclass(frozen=True)
class DepthMap:
    """The predicted depth of an image.

    depth: (H,W) float32, of the image's size, > 0; in m when `info.is_metric`.
    image: (H,W,3) uint8 RGB, upright.
    """

    depth: NDArray[np.float32]
    image: NDArray[np.uint8]
    info: ModelInfo

    def colorize(self) -> NDArray[np.uint8]:
        """(H,W,3) RGB: near is bright, far is dark."""
        from mde.visualize import colorize, depth_norm

        return colorize(self.depth, depth_norm(self.depth))

    def save(self, path: str | Path, codes: Literal["mm", "kitti"] = "mm") -> None:
        """Write the depth: `.npy` as float32, `.png` as 16-bit codes, 1000 (`mm`) or 256 per unit.

        Raises InputError for another suffix, and for depths that the codes do not reach.
        """
        from mde.depth_files import save_depth

        save_depth(Path(path), self.depth, codes)


Image = str | Path | NDArray[np.uint8]
"""A file, or (H,W,3) uint8 RGB."""


class Predictor(ABC):
    """A depth model, ready to use."""

    def __init__(self, info: ModelInfo) -> None:
        self.info = info

    @abstractmethod
    def predict_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images (N,H,W,3) uint8 RGB of any size → depth (N,H,W), m or up to scale; N may be 0."""

    def predict(self, image: Image) -> DepthMap:
        """The depth of one image. Raises InputError when it is not a readable image."""
        pixels = as_pixels(image)
        return DepthMap(self.predict_batch(pixels[None])[0], pixels, self.info)


def as_pixels(image: Image) -> NDArray[np.uint8]:
    """An image, or a file with one, as (H,W,3) uint8 RGB; upright by its EXIF orientation.

    Raises InputError when there is no such file, when it is damaged, too large or not an image, and
    for arrays of another shape or dtype.
    """
    if isinstance(image, str | Path):
        try:
            return decode_raw_image(Path(image).read_bytes())
        except OSError as error:
            raise InputError(f"{image}: {error.strerror}") from error
        except CodecError as error:
            raise InputError(f"{image}: {error}") from error
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise InputError(
            f"expected an image (H,W,3) of uint8, RGB; found {pixels.shape} of {pixels.dtype}"
        )
    return pixels


class TorchPredictor(Predictor):
    """A depth model that torch runs.

    flip: as of `DepthModel.predict_depth`. precision: of
    convolutions; maps are float32 from the network's output on. channels_last, compile: the same
    results, sooner, on machines that have the means.
    """

    def __init__(
        self,
        model: DepthModel,
        info: ModelInfo,
        device: torch.device | str = "cpu",
        *,
        flip: Flip = "none",
        precision: Precision = "fp32",
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(info)
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.flip, self.precision, self.channels_last = flip, precision, channels_last
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if compile:
            self.model.compile()

    @torch.inference_mode()
    def predict_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As of `Predictor`, at most BATCH_SIZE at a time."""
        depths = [
            # A copy: an image from a file may not be written to, which torch does not like.
            self._predict(torch.from_numpy(images[start : start + BATCH_SIZE].copy()))
            for start in range(0, len(images), BATCH_SIZE)
        ]
        return np.concatenate(depths) if depths else np.zeros(images.shape[:3], np.float32)

    def _predict(self, images: torch.Tensor) -> NDArray[np.float32]:
        batch = images.to(self.device).permute(0, 3, 1, 2).float() / 255
        if self.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        kind = PRECISIONS.get(self.precision)
        with torch.autocast(self.device.type, kind, enabled=kind is not None):
            depth = predict_at(self.model, batch, self.info.image_size, self.flip)
        return depth[:, 0].float().cpu().numpy()


def predict_at(
    model: DepthModel, image: torch.Tensor, size: tuple[int, int] | None, flip: Flip = "none"
) -> torch.Tensor:
    """Image (B,3,H,W) in [0,1] → depth (B,1,H,W), by a network that sees it at `size` (H,W)."""
    seen = image if size is None else resize_image(image, size)
    return model.predict_depth(seen, tuple(image.shape[-2:]), flip)


def load_depth_model(folder: Path) -> tuple[DepthModel, dict[str, Any]]:
    """Rebuild the depth model of a checkpoint, trained or imported, in eval mode; also its state.

    Raises InputError when the folder is not a whole checkpoint.
    """
    state = read_state(folder)
    # Weights come from the checkpoint: nothing is downloaded.
    content = state["variant"]["model"] | {"weights": "scratch"}
    config = parse_section(folder / "state.json", "variant.model", content, ModelConfig)
    model = build_model(config)
    load_model(folder, model)
    return model.eval(), state


def load_predictor(
    folder: Path,
    device: torch.device | str | None = None,
    image_size: tuple[int, int] | None = None,
    **options: Any,
) -> TorchPredictor:
    """The depth model of a checkpoint folder.

    device: a GPU when None and there is one. image_size: (H,W) in place of training's. options: of
    `TorchPredictor`. Raises InputError when the folder is not a whole checkpoint.
    """
    model, state = load_depth_model(folder)
    info = ModelInfo.of(model, state)
    if image_size is not None:
        info = replace(info, image_size=image_size)
    return TorchPredictor(model, info, device or default_device(), **options)


def default_device() -> torch.device:
    """A GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
