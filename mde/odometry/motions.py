"""The pose network of a checkpoint, and the motions that it sees between consecutive frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mde.config import parse_section
from mde.data.augment import Augment
from mde.data.codecs import CodecError, decode_raw_image, resize_image
from mde.errors import InputError
from mde.geometry import pose_to_T
from mde.inference import BATCH_SIZE, ImagesPerSecond
from mde.models import ModelConfig, build_pose
from mde.models.monodepth2 import PoseNetwork
from mde.predictor import default_device
from mde.train.checkpoint import read_state
from mde.trajectory import Poses

PREFIX = "pose."
STRIDE = 32
"""Of the pose network: images must not be smaller."""


@dataclass(frozen=True)
class PoseModel:
    """A pose network in eval mode, and what its images were in training.

    size: (H, W), px. crop: share of height and width that is kept, around the centre.
    metres_per_unit: of its translations; they are m when `is_metric`.
    """

    network: PoseNetwork
    size: tuple[int, int]
    crop: float
    metres_per_unit: float
    is_metric: bool

    @torch.inference_mode()
    def motions(self, images: Tensor) -> Tensor:
        """N consecutive images (N,3,H,W) in [0,1] → T_next_this (N-1,4,4) float64 on the CPU."""
        rotation, translation = self.network(images[:-1], images[1:])
        # In double precision the rotations are orthogonal enough to be multiplied a thousandfold.
        return pose_to_T(rotation.double().cpu(), translation.double().cpu() * self.metres_per_unit)


def load_pose_model(checkpoint: Path, size: tuple[int, int] | None = None) -> PoseModel:
    """Rebuild the pose network of a checkpoint.

    size: (H, W) in place of that of its training. Raises InputError when the checkpoint is not
    whole, has no pose network, or nobody says the size.
    """
    state, state_file = read_state(checkpoint), checkpoint / "state.json"
    variant = state["variant"]
    tensors = _pose_tensors(checkpoint / "model.safetensors")
    if not tensors:
        raise InputError(f"{checkpoint}: there is no pose network in it: {_why(variant)}")
    content = variant["model"] | {"weights": "scratch"}
    config = parse_section(state_file, "variant.model", content, ModelConfig)
    augment = parse_section(state_file, "variant.augment", variant.get("augment", {}), Augment)
    size = size or augment.size
    if size is None and (whole := state.get("image_size")):
        size = round(whole[0] * augment.crop), round(whole[1] * augment.crop)
    if size is None:
        raise InputError(
            f"{checkpoint}: it does not say the size of its training images; give --size "
            "HEIGHTxWIDTH, such as 192x640"
        )
    if min(size) < STRIDE:
        raise InputError(f"--size {size[0]}x{size[1]}: both must be at least {STRIDE} px")
    network = build_pose(config)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{checkpoint}: the checkpoint is of another network: {error}") from error
    return PoseModel(network.eval(), size, augment.crop, config.metres_per_unit, config.metric)


def _pose_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
            return {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a file of tensors: {error}") from error


def _why(variant: dict[str, Any]) -> str:
    objective = variant.get("objective")
    if objective is None:
        found = "it holds imported weights of a depth model alone"
    elif objective.get("kind") == "self_supervised":
        found = f"it was trained self-supervised in mode '{objective.get('mode')}'"
    else:
        found = f"its objective was '{objective.get('kind')}'"
    return f"{found}; self_supervised trains one in the modes m and ms"


def predict_motions(
    model: PoseModel, images: Sequence[Path], batch_size: int = BATCH_SIZE
) -> Poses:
    """T_next_this (N-1,4,4) of N images in the order of time, with a progress bar.

    Translations are in m when the model is metric. batch_size: pairs at a time; it changes
    results by rounding errors alone. Raises InputError that names an image that is damaged or of
    another size than the first.
    """
    device = default_device()
    torch.backends.cudnn.allow_tf32 = False
    model.network.to(device)
    reader, motions = _Reader(model), []
    text = TextColumn("{task.description}")
    with Progress(text, BarColumn(), MofNCompleteColumn(), ImagesPerSecond()) as progress:
        task = progress.add_task("frames", total=len(images))
        batch = [reader.read(images[0])]
        progress.advance(task)
        for start in range(1, len(images), batch_size):
            # The last image of a batch is the first of the next.
            batch = batch[-1:] + [reader.read(path) for path in images[start : start + batch_size]]
            motions.append(model.motions(torch.stack(batch).to(device)).numpy())
            progress.advance(task, len(batch) - 1)
    return np.concatenate(motions)


class _Reader:
    """Reads the images of one camera as training had them."""

    def __init__(self, model: PoseModel) -> None:
        self.model = model
        self.native: tuple[int, ...] | None = None

    def read(self, path: Path) -> Tensor:
        """(3,H,W) in [0,1]."""
        try:
            image = decode_raw_image(path.read_bytes())
        except (CodecError, OSError) as error:
            raise InputError(f"{path}: {error}") from error
        self.native = self.native or image.shape
        if image.shape != self.native:
            found, first = ("{}x{} px".format(*shape) for shape in (image.shape, self.native))
            raise InputError(
                f"{path}: {found}, the first image has {first}; the images of one camera are of "
                "one size"
            )
        height, width = image.shape[:2]
        top, left = (round(side * (1 - self.model.crop) / 2) for side in (height, width))
        kept = np.ascontiguousarray(image[top : height - top, left : width - left])
        resized = resize_image(kept, self.model.size)
        return torch.from_numpy(resized).permute(2, 0, 1).float() / 255
