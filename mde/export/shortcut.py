"""Images that have the network's size already go past the resize: it costs a fifth of int8."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto


def add_shortcut(model: "ModelProto", size: tuple[int, int], factor: float) -> None:
    """Put the first resize of a graph of `mde.export.graph` into the branch of an If, in place.

    size: (H,W) that it resizes to; factor: what it multiplies by too. The other branch multiplies
    alone; its reshape tells runtimes that the network's input has the same size either way.
    """
    graph = model.graph
    columns = [node for node in graph.node if node.op_type == "MatMul"][1]
    makers = {output: node for node in graph.node for output in node.output}
    pixels = next(node for node in graph.node if node.op_type == "Transpose").output[0]
    pixels = next(node for node in graph.node if pixels in node.input).output[0]
    resize = _only_for(graph, columns, makers, pixels)
    moved = {node.name for node in resize}
    new = _choice(graph, resize, pixels, size, factor)
    nodes: list[Any] = []
    for node in graph.node:
        if node.name == columns.name:
            nodes += new
        elif node.name not in moved:
            nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _choice(
    graph: Any, resize: list[Any], pixels: str, size: tuple[int, int], factor: float
) -> list[Any]:
    """Nodes that give what `resize` does, but resize only images of another size."""
    from onnx import TensorProto, helper, numpy_helper

    result = resize[-1].output[0]
    constants: dict[str, NDArray[Any]] = {
        "shortcut_factor": np.array([factor], np.float32),
        # 0: as many images as there are.
        "shortcut_shape": np.array([0, 3, *size], np.int64),
        "shortcut_size": np.array(size, np.int64),
    }
    for name, values in constants.items():
        graph.initializer.append(numpy_helper.from_array(values, name))
    shape: list[str | int | None] = ["n", 3, *size]
    same = [
        helper.make_node("Mul", [pixels, "shortcut_factor"], ["scaled"], "shortcut_scale"),
        helper.make_node("Reshape", ["scaled", "shortcut_shape"], ["fits"], "shortcut_fits"),
    ]
    fits = helper.make_tensor_value_info("fits", TensorProto.FLOAT, shape)
    resized = helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)
    branches = {
        "then_branch": helper.make_graph(same, "fits", [], [fits]),
        "else_branch": helper.make_graph(resize, "resize", [], [resized]),
    }
    return [
        helper.make_node("Shape", ["image"], ["sides"], "shortcut_sides", start=1, end=3),
        helper.make_node("Equal", ["sides", "shortcut_size"], ["equal"], "shortcut_equal"),
        helper.make_node("Cast", ["equal"], ["equal_int"], "shortcut_int", to=TensorProto.INT64),
        helper.make_node("ReduceMin", ["equal_int"], ["both"], "shortcut_both", keepdims=0),
        helper.make_node("Cast", ["both"], ["same"], "shortcut_bool", to=TensorProto.BOOL),
        helper.make_node("If", ["same"], [result], "shortcut_if", **branches),
    ]


def _only_for(graph: Any, last: Any, makers: dict[str, Any], pixels: str) -> list[Any]:
    """The nodes, in order, of which nothing but `last` depends, itself included."""
    wanted, pending = {last.name}, [last]
    while pending:
        for name in pending.pop().input:
            node = makers.get(name)
            if node is not None and name != pixels and node.name not in wanted:
                wanted.add(node.name)
                pending.append(node)
    # From the end: what others use as well stays outside, and with it what it is made of.
    users: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.name)
    for node in reversed(graph.node):
        used = {user for output in node.output for user in users.get(output, ())}
        if node.name != last.name and not used <= wanted:
            wanted.discard(node.name)
    return [node for node in graph.node if node.name in wanted]
