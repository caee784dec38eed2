"""Depth by an exported file, without torch's network code: ONNX Runtime or OpenVINO runs it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mde.errors import InputError
from mde.export.metadata import info_of, read_file
from mde.predictor import BATCH_SIZE, Predictor

Runtime = Literal["auto", "onnxruntime", "openvino"]
RUNTIMES: tuple[Literal["onnxruntime", "openvino"], ...] = ("onnxruntime", "openvino")
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images (N,H,W,3) → depth (N,H,W)."""


class OnnxPredictor(Predictor):
    """A file of `mde export`, ready to use; what is known of the model is read from it alone.

    runtime: `auto` takes a GPU when ONNX Runtime has one, else OpenVINO when it is installed: it is
    the faster one on CPUs. threads: of the CPU; None: as many as the runtime likes.
    `runtime` then tells which it is, `metadata` what the file says of itself.
    Raises InputError for a file that `read_file` refuses, and when the runtime is not installed.
    """

    def __init__(
        self, path: Path | str, runtime: Runtime = "auto", threads: int | None = None
    ) -> None:
        path = Path(path)
        content, self.metadata = read_file(path)
        super().__init__(info_of(path, self.metadata))
        self.runtime = choose_runtime(runtime)
        if self.runtime == "openvino":
            self.device, self._run, self.batch_size = "cpu", _openvino(content, threads), 1
        else:
            self.device, self._run = _onnxruntime(content, threads)
            self.batch_size = BATCH_SIZE

    def predict_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As of `Predictor`."""
        depths = [
            self._run(np.ascontiguousarray(images[start : start + self.batch_size]))
            for start in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(depths) if depths else np.zeros(images.shape[:3], np.float32)


def choose_runtime(wanted: Runtime) -> Literal["onnxruntime", "openvino"]:
    """The runtime to use. Raises InputError for an unknown one, and for one not installed."""
    if wanted not in ("auto", *RUNTIMES):
        raise InputError(f"unknown runtime '{wanted}'; there are auto, {', '.join(RUNTIMES)}")
    there = installed()
    if not there or wanted not in ("auto", *there):
        raise InputError(
            f"{'onnxruntime' if wanted == 'auto' else wanted} is not installed: "
            "pip install 'mde[onnx]'"
        )
    if wanted != "auto":
        return wanted
    if "openvino" in there and not ("onnxruntime" in there and _has_gpu()):
        return "openvino"
    return "onnxruntime"


def installed() -> list[Literal["onnxruntime", "openvino"]]:
    """The runtimes that are there."""
    return [name for name in RUNTIMES if importlib.util.find_spec(name)]


def _has_gpu() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _onnxruntime(content: bytes, threads: int | None) -> tuple[str, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Warnings are about what is not the user's matter; errors come as exceptions.
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    there = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(
        content, options, providers=[name for name in wanted if name in there]
    )
    device = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], session.run(["depth"], {"image": images})[0])

    return device, run


def _openvino(content: bytes, threads: int | None) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(content)
    # One image at a time: the network between the resizes then has fixed shapes, for which
    # OpenVINO has much faster code (1.9 times in int8).
    model.reshape({"image": [1, -1, -1, 3]})
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", settings)

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], compiled({"image": images})["depth"].copy())

    return run
