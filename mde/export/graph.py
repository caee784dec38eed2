"""The graph of an exported model: a network with all that stands between images and depth."""

import logging
import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.errors import InputError
from mde.export.shortcut import add_shortcut
from mde.models import DepthModel

OPSET = 18
PIXEL_SCALE = 1 / 255
LARGEST_SIDE, LARGEST_BATCH = 2**14, 2**12


class DepthGraph(nn.Module):
    """Images (N,H,W,3) uint8 RGB of any size → depth (N,H,W), as `mde.predictor.predict_at`.

    size: (H,W) px that images are resized to for the network.
    """

    def __init__(self, model: DepthModel, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model.eval(), size
        # A size that the network does not take is resized once more, as `predict_depth` does.
        fitted = model.fit_size(torch.zeros(1, 3, *size)).shape[-2:]
        self.fitted = (fitted[0], fitted[1])

    def forward(self, image: Tensor) -> Tensor:
        """The depth of the images' size, clamped to the model's range."""
        height, width = image.shape[1:3]
        pixels = resize_antialiased(image.permute(0, 3, 1, 2).float(), self.size, PIXEL_SCALE)
        if self.fitted != self.size:
            pixels = resize_antialiased(pixels, self.fitted)
        native = self.model(pixels)[0]
        native = F.interpolate(native, (height, width), mode="bilinear", align_corners=False)
        depth = self.model.native_to_depth(native)
        return depth.clamp(self.model.min_depth, self.model.max_depth)[:, 0]


def resize_antialiased(image: Tensor, size: tuple[int, int], factor: float = 1.0) -> Tensor:
    """Antialiased bilinear resize (B,C,H,W) → (B,C,*size), times a factor, by two products.

    ONNX has an operator for it, of which OpenVINO drops the antialiasing without a word.
    """
    rows = axis_matrix(image.shape[-2], size[0])
    columns = axis_matrix(image.shape[-1], size[1])
    return rows * factor @ image @ columns.T


def axis_matrix(inputs: int, outputs: int) -> Tensor:
    """One axis of an antialiased bilinear resize: (outputs, inputs), rows of sum 1.

    A tent on each output pixel's centre, as wide as the larger of the two pixels on either side.
    """
    # While it is exported, `inputs` is a symbol.
    scale = cast(float, torch.sym_float(inputs)) / outputs
    widest = cast(float, torch.sym_max(scale, 1.0))
    centres = (torch.arange(outputs) + 0.5) * scale
    pixels = torch.arange(inputs) + 0.5
    distance = (pixels[None] - centres[:, None]).abs()
    tent = (1 - distance / widest).clamp(min=0)
    return tent / tent.sum(1, keepdim=True)


def build_onnx(model: DepthModel, size: tuple[int, int]) -> bytes:
    """The float32 graph as ONNX: `image` (N,H,W,3) uint8 → `depth` (N,H,W), N, H and W free.

    Raises InputError when the libraries are missing, and for a size that the network refuses.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"to export, onnx and onnxscript are needed ({error}): pip install 'mde[onnx]'"
        ) from error
    graph = DepthGraph(model, size)
    try:
        model.check_size(torch.zeros(1, 3, *graph.fitted))
    except ValueError as error:
        raise InputError(f"{error}; give another size") from error
    # Not square, not the network's size: the exporter would take equal sides for one.
    example = torch.zeros(2, size[0] + 13, size[1] + 29, 3, dtype=torch.uint8)
    side = {"min": 2, "max": LARGEST_SIDE}
    free = {
        0: torch.export.Dim("n", min=1, max=LARGEST_BATCH),
        1: torch.export.Dim("h", **side),
        2: torch.export.Dim("w", **side),
    }
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                (example,),
                input_names=["image"],
                output_names=["depth"],
                opset_version=OPSET,
                dynamic_shapes={"image": free},
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    content = program.model_proto
    add_shortcut(content, size, PIXEL_SCALE)
    return content.SerializeToString()
