"""Graphs of int8, by static quantisation; which part of a graph the network is."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mde.errors import InputError
from mde.export.pictures import Pixels

if TYPE_CHECKING:
    from onnx import ModelProto

HEAVY = ("Conv", "Gemm", "MatMul")
"""Operators that int8 makes sooner."""


def to_int8(content: bytes, images: Sequence[Pixels], keep_first: bool = False) -> "ModelProto":
    """Quantise the network: weights by channel, activations in the ranges that images give.

    The resizes and the way from the network's map to depth stay float32; with keep_first the first
    convolution too, of which accuracy depends most.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load_from_string(content)
    names = [node.name for node in network_nodes(model) if node.op_type in HEAVY]
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    logging.getLogger().addFilter(_unasked)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize_static(
                model,
                path,
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(HEAVY),
                nodes_to_quantize=[name for name in names if not (keep_first and name == first)],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return onnx.load(path)
    finally:
        logging.getLogger().removeFilter(_unasked)


def network_nodes(model: "ModelProto") -> list[Any]:
    """The nodes from a network's first layers to its last: with such a layer on either side."""
    nodes = list(model.graph.node)
    constant = {tensor.name for tensor in model.graph.initializer}
    makers = {output: node.name for node in nodes for output in node.output}
    layers = {
        node.name
        for node in nodes
        if node.op_type in HEAVY and any(name in constant for name in node.input[1:])
    }
    behind, before = set(layers), set(layers)
    for node in nodes:
        if any(makers.get(name) in behind for name in node.input):
            behind.add(node.name)
    for node in reversed(nodes):
        if node.name in before:
            before |= {makers[name] for name in node.input if name in makers}
    return [node for node in nodes if node.name in behind and node.name in before]


class _Reader:
    """Hands images to the calibration one by one, and again from the start after `rewind`."""

    def __init__(self, images: Sequence[Pixels]) -> None:
        if not images:
            raise InputError("int8 needs images to find the ranges of activations; give --images")
        self.images = images
        self.rewind()

    def rewind(self) -> None:
        """Start again."""
        self.left: Iterator[Pixels] = iter(self.images)

    def get_next(self) -> dict[str, Any] | None:
        """The next input; None at the end."""
        image = next(self.left, None)
        return None if image is None else {"image": image[None]}

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go through these images alone."""
        self.left = iter(self.images[start_index:end_index])

    def __len__(self) -> int:
        return len(self.images)


def _unasked(record: logging.LogRecord) -> bool:
    # The quantiser advises a preprocessing that the exporter's optimiser has done.
    return "quantiz" not in record.getMessage().lower()
