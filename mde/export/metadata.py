"""What an exported file says of itself, and whether it is whole and safe to open."""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mde.errors import InputError
from mde.predictor import ModelInfo

if TYPE_CHECKING:
    from onnx import ModelProto

FORMAT = 1
"""Version of the metadata; files of others are refused."""


def pack(model: "ModelProto", metadata: dict[str, Any]) -> bytes:
    """A model with metadata as the content of a file.

    The last bytes are a second message, which readers join to the first: the SHA-256 of the first.
    """
    from onnx import ModelProto, helper

    model.producer_name = "mde"
    content = {key: json.dumps(value) for key, value in metadata.items()}
    helper.set_model_props(model, {"mde_format": str(FORMAT), **content})
    body = model.SerializeToString()
    tail = ModelProto()
    digest = hashlib.sha256(body).hexdigest()
    helper.set_model_props(tail, {"sha256": digest, "sha256_bytes": str(len(body))})
    return body + tail.SerializeToString()


def parse(content: bytes) -> "ModelProto":
    """The graph of an ONNX file's content."""
    from onnx import ModelProto

    return ModelProto.FromString(content)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of an exported file. Raises InputError as `read_file`."""
    return read_file(path)[1]


def read_file(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Content and metadata of a file that `mde export` has written.

    Raises InputError when there is none, when it is damaged or from elsewhere, and when it refers
    to other files: an ONNX file can name any file of the machine as its weights.
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ImportError as error:
        raise InputError(f"{path}: onnx is needed to read it: pip install 'mde[onnx]'") from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    try:
        model = ModelProto.FromString(content)
    except DecodeError as error:
        raise InputError(f"{path}: damaged, or not an ONNX file; export the model again") from error
    found = {entry.key: entry.value for entry in model.metadata_props}
    _check_whole(path, content, found)
    if outside := external_files(model):
        raise InputError(
            f"{path}: refused: it refers to other files ({', '.join(outside[:3])}); files of "
            "`mde export` hold all their weights"
        )
    return content, {key: json.loads(value) for key, value in found.items()}


def _check_whole(path: Path, content: bytes, found: dict[str, str]) -> None:
    if found.get("mde_format") != str(FORMAT):
        raise InputError(
            f"{path}: not a file of `mde export` of format {FORMAT}; "
            "make one with: mde export MODEL OUT.onnx"
        )
    length = int(found.pop("sha256_bytes", "0")) if found.get("sha256_bytes", "0").isdigit() else 0
    digest = hashlib.sha256(content[:length]).hexdigest()
    if found.pop("sha256", None) != digest:
        raise InputError(
            f"{path}: damaged: its content differs from its SHA-256; export the model again"
        )


def external_files(model: "ModelProto") -> list[str]:
    """Names of files that the tensors of a model, wherever they are in it, are stored in."""
    from onnx import TensorProto

    tensors: list[Any] = []
    graphs: list[Any] = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        tensors += getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            tensors += [sparse.values, sparse.indices]
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            tensors += [attribute.t, *attribute.tensors]
            graphs += [attribute.g, *attribute.graphs]
    return [
        next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")
        for tensor in tensors
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data
    ]


def info_of(path: Path, metadata: dict[str, Any]) -> ModelInfo:
    """The ModelInfo of a file's metadata. Raises InputError when something is missing."""
    try:
        values = {field.name: metadata[field.name] for field in fields(ModelInfo)}
    except KeyError as error:
        raise InputError(f"{path}: its metadata lack {error}; export the model again") from error
    return ModelInfo(**{**values, "image_size": tuple(values["image_size"])})


def metadata_of(info: ModelInfo) -> dict[str, Any]:
    """What `info_of` reads, and the unit for those who read with other programs."""
    return {**asdict(info), "unit": info.unit}
