"""Files that `OnnxPredictor` opens, and those that it refuses."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from mde.errors import InputError
from mde.export import OnnxPredictor, onnx_predictor
from mde.export.metadata import pack

METADATA = {
    "variant": "tiny", "is_metric": True, "min_depth": 0.1, "max_depth": 10.0,
    "image_size": [4, 6], "git_commit": "abc", "data_sha256": "def",
}  # fmt: skip
GRAPH = """
<ir_version: 8, opset_import: ["" : 18]>
graph (uint8[n, h, w, 3] image) => (float[n, h, w] depth) <int64[1] axis = {3}, float one = {1}> {
    pixels = Cast<to = 1>(image)
    sum = ReduceSum<keepdims = 0>(pixels, axis)
    depth = Add(sum, one)
}
"""


def write(path: Path, metadata: dict[str, object] = METADATA, graph: str = GRAPH) -> Path:
    path.write_bytes(pack(onnx.parser.parse_model(graph), metadata))
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_whole_file_is_run(runtime: str, tmp_path: Path) -> None:
    predictor = OnnxPredictor(write(tmp_path / "a.onnx"), runtime, threads=1)  # type: ignore[arg-type]
    image = np.arange(3 * 10 * 20 * 3).reshape(3, 10, 20, 3).astype(np.uint8)
    np.testing.assert_array_equal(predictor.predict_batch(image), image.sum(-1, dtype=int) + 1)
    assert (predictor.info.variant, predictor.info.image_size) == ("tiny", (4, 6))


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "a.onnx"))
    onnx.checker.check_model(model)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(found["variant"]) == "tiny"


@pytest.mark.parametrize("at", [0.2, 0.6, 0.95])
def test_a_changed_byte_is_noticed(at: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.onnx: (damaged|not a file of)"):
        OnnxPredictor(path)


def test_a_part_of_a_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a\.onnx: (damaged|not a file of)"):
        OnnxPredictor(path)


def test_a_file_from_elsewhere_is_refused(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(GRAPH), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"not a file of `mde export`.*mde export MODEL"):
        OnnxPredictor(tmp_path / "a.onnx")


def test_a_picture_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match=r"damaged, or not an ONNX file"):
        OnnxPredictor(tmp_path / "a.onnx")


@pytest.mark.parametrize("nested", [False, True])
def test_weights_in_other_files_are_refused(nested: bool, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(GRAPH)
    tensor = onnx.TensorProto(name="x", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    if nested:
        branch = onnx.helper.make_graph([], "branch", [], [], [tensor])
        model.graph.node.append(
            onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        )
    else:
        model.graph.initializer.append(tensor)
    (tmp_path / "a.onnx").write_bytes(pack(model, METADATA))
    with pytest.raises(InputError, match=r"refused: it refers to other files \(\.\./\.\./etc"):
        OnnxPredictor(tmp_path / "a.onnx")


def test_what_the_metadata_lack_is_named(tmp_path: Path) -> None:
    few = {key: value for key, value in METADATA.items() if key != "max_depth"}
    with pytest.raises(InputError, match="metadata lack 'max_depth'"):
        OnnxPredictor(write(tmp_path / "a.onnx", few))


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are auto, onnxruntime, openvino"):
        OnnxPredictor(write(tmp_path / "a.onnx"), "tensorrt")  # type: ignore[arg-type]


def test_a_missing_runtime_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_predictor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"openvino is not installed: pip install 'mde\[onnx\]'"):
        onnx_predictor.choose_runtime("openvino")
    with pytest.raises(InputError, match="onnxruntime is not installed"):
        onnx_predictor.choose_runtime("auto")
