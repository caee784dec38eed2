"""Graphs of fp16: the network's weights and arithmetic in half, the rest in float32."""

from typing import TYPE_CHECKING, Any

from mde.export.quantize import network_nodes

if TYPE_CHECKING:
    from onnx import ModelProto

SCALES = {("Resize", 1), ("Resize", 2)}
"""Inputs that ONNX wants in float32, whatever the first one is."""


def to_fp16(content: bytes) -> "ModelProto":
    """Weights and arithmetic of the network in float16.

    The resizes stay float32: half cannot number the pixels of a large image. So does the way from
    the network's map to depth.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    graph = model.graph
    weights = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    floats = {
        info.name
        for info in graph.value_info
        if info.type.tensor_type.elem_type == TensorProto.FLOAT
    } - weights.keys()
    network = {node.name for node in network_nodes(model)}
    made_inside = {out for node in graph.node if node.name in network for out in node.output}
    nodes: list[Any] = []
    known: set[str] = set()

    def cast(name: str, suffix: str, to: int) -> str:
        if name + suffix not in known:
            known.add(name + suffix)
            nodes.append(helper.make_node("Cast", [name], [name + suffix], name + suffix, to=to))
        return name + suffix

    def halve(name: str) -> str:
        if name + "_half" not in known:
            known.add(name + "_half")
            values = numpy_helper.to_array(weights[name]).astype("float16")
            graph.initializer.append(numpy_helper.from_array(values, name + "_half"))
        return name + "_half"

    for node in graph.node:
        inside = node.name in network
        for i, name in enumerate(node.input):
            if inside and name in weights and (node.op_type, i) not in SCALES:
                node.input[i] = halve(name)
            elif inside and name in floats - made_inside:
                node.input[i] = cast(name, "_half", TensorProto.FLOAT16)
            elif not inside and name in floats & made_inside:
                node.input[i] = cast(name, "_float", TensorProto.FLOAT)
        nodes.append(node)
    _replace(graph, nodes)
    return model


def _replace(graph: Any, nodes: list[Any]) -> None:
    """Give a graph other nodes, and drop what none of them uses; types are inferred again."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    inside = [inner for node in copies for a in node.attribute for inner in a.g.node]
    used = {name for node in [*copies, *inside] for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(kept)
